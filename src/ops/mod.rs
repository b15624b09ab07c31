//! What users call: shapes are checked, an algorithm is chosen, kernels are launched.

mod activation;
pub mod attention;
mod cast;
pub mod conv2d;
mod elementwise;
mod epilogue;
mod gaussian_sample;
mod geglu;
pub mod gemm;
mod group_norm;
mod layer_norm;
mod matrix_tiles;
mod panels;
mod peak;
mod split_weights;
mod tiles;
mod timestep_embedding;
mod token_embedding;
mod weights;

pub use activation::Activation;
pub use attention::{Attention, Columns, attention};
pub use cast::cast;
pub use conv2d::{Conv2d, Padding, conv2d, winograd, winograd_error, winograd_local};
pub use epilogue::Epilogue;
pub use gaussian_sample::gaussian_sample;
pub use geglu::geglu;
pub use gemm::{gemm, gemm_split};
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::layer_norm;
pub use matrix_tiles::matrix_configurations;
pub use peak::{Action, peak_fma, peak_int8, peak_launch, peak_local, peak_memory};
pub use split_weights::SplitWeights;
pub use tiles::local_configurations;
pub use timestep_embedding::{TimestepEmbedding, timestep_embedding};
pub use token_embedding::token_embedding;
pub use weights::{PANEL, Products, Storage, Weights};
