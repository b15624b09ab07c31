//! Every kernel, element type and device against the kernel's definition.

#[path = "../common/mod.rs"]
mod common;

mod layer_norm;
