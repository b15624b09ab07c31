//! Every kernel, element type and device against the kernel's definition.

#[path = "../common/mod.rs"]
mod common;

mod conv2d;
mod gemm;
mod attention;
mod cast;
mod embeddings;
mod gaussian_sample;
mod geglu;
mod group_norm;
mod layer_norm;
