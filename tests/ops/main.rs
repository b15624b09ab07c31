//! Every kernel, element type and device against the kernel's definition.

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod common;

#[path = "../common/claiming.rs"]
mod claiming;

mod attention;
mod blocks;
mod cast;
mod conv2d;
mod embeddings;
mod gaussian_sample;
mod geglu;
mod gemm;
mod group_norm;
mod int8;
mod layer_norm;
mod local_tiles;
mod matrix_tiles;
mod peak;
mod split_weights;
mod winograd;
mod winograd_local;
