//! Diffusion models through OpenCL, HIP or the CPU.

pub mod backend;
pub mod device;
pub mod dtype;
pub mod error;
pub mod hardware;
pub mod info;
pub mod kernel;
pub mod knob;
pub mod memory;
pub mod ops;
pub mod profile;
pub mod tensor;

pub use device::{Device, DeviceOptions, Stage};
pub use dtype::DType;
pub use error::{Error, Result};
pub use tensor::Tensor;
