//! What users call: shapes are checked, an algorithm is chosen, kernels are launched.

mod activation;
pub mod conv2d;
mod epilogue;
pub mod gemm;
mod layer_norm;
mod tiles;
mod weights;

pub use activation::Activation;
pub use conv2d::{Conv2d, Padding, conv2d};
pub use epilogue::Epilogue;
pub use gemm::gemm;
pub use layer_norm::layer_norm;
pub use weights::{PANEL, Weights};
