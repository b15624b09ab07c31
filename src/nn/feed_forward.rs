//! The gated perceptron of a transformer block.

use super::{Linear, Loader};
use crate::Result;
use crate::ops;
use crate::tensor::Tensor;

/// y = (h · gelu(g)) W₂^T + bias + residual, where h and g are the halves of x W₁^T + bias.
///
/// Reference: `FeedForward` with `GEGLU` in diffusers' `models/attention.py`.
#[derive(Debug)]
pub struct FeedForward {
    widen: Linear,
    narrow: Linear,
}

impl FeedForward {
    /// Four times as wide within as `channels`; names as diffusers has them.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, channels: usize) -> Result<Self> {
        let inner = 4 * channels;
        Ok(Self {
            widen: Linear::load(&loader.at("net.0.proj"), channels, 2 * inner)?,
            narrow: Linear::load(&loader.at("net.2"), inner, channels)?,
        })
    }

    /// `x` `[.., channels]`; the result is added to `residual` of the same shape.
    ///
    /// # Errors
    ///
    /// Those of [`ops::gemm()`] and [`ops::geglu`].
    pub fn forward(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        let wide = self.widen.forward(&x)?;
        drop(x);
        let gated = ops::geglu(&wide)?;
        drop(wide);
        self.narrow.added_to(&gated, residual)
    }
}
