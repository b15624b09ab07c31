//! Every kernel, element type and device against the kernel's definition.

#[path = "../common/mod.rs"]
mod common;

mod conv2d;
mod gemm;
mod layer_norm;
