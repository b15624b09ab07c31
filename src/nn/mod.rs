//! Layers: weights and the ops that use them.
//!
//! A layer is loaded through a [`Loader`], which knows the device, how matrices are stored and
//! under which names the layer's tensors are found. Every tensor is asked for by name *and
//! shape*, so a checkpoint that does not fit the configuration is refused before anything runs.
//! On a dry run tensors are looked up and checked but not read.
//!
//! Matrices and tables are stored in the model's element type; biases and the weights of norms
//! are f32: they are small, and kernels add them to f32 sums.
//!
//! Layers take tensors by value where that is the last use of them: what is dropped early goes
//! back to the pool and is the next op's output.

mod attention;
mod conv2d;
mod feed_forward;
mod kept;
mod linear;
mod loader;
mod norm;
mod resnet;
mod table;

pub use attention::{CrossAttention, Heads, SelfAttention};
pub use conv2d::{Conv2d, Upsample};
pub use feed_forward::FeedForward;
pub use kept::KeptWeights;
pub use linear::Linear;
pub use loader::{BlocksReader, Loader, Reader, TensorSource};
pub(crate) use loader::{decoded, encoded};
pub use norm::{GroupNorm, LayerNorm};
pub use resnet::{Resnet, ResnetShape};
pub use table::Table;
