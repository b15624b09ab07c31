//! Diffusion models through OpenCL, HIP or the CPU.

pub mod dtype;
pub mod error;
pub mod pipeline;

pub use dtype::DType;
pub use error::{Error, Result};
