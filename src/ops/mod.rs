//! What users call: shapes are checked, an algorithm is chosen, kernels are launched.

mod activation;
mod layer_norm;
mod weights;

pub use activation::Activation;
pub use layer_norm::layer_norm;
pub use weights::{PANEL, Weights};
