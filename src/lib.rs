//! Diffusion models through OpenCL, HIP or the CPU.

pub mod dtype;
pub mod error;

pub use dtype::DType;
pub use error::{Error, Result};
