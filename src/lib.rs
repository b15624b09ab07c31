//! Diffusion models through OpenCL, HIP or the CPU.

pub mod dtype;
pub mod error;
pub mod io;
pub mod models;

pub use dtype::DType;
pub use error::{Error, Result};
