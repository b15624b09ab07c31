//! Normalizations.

use super::Loader;
use crate::Result;
use crate::ops::{self, Activation};
use crate::tensor::Tensor;

/// Normalizes groups of channels over all positions of a sample.
#[derive(Debug)]
pub struct GroupNorm {
    gamma: Tensor,
    beta: Tensor,
    params: ops::GroupNorm,
}

impl GroupNorm {
    /// `weight` and `bias` `[channels]`; `activation` is applied to the result.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(
        loader: &Loader,
        channels: usize,
        groups: usize,
        eps: f32,
        activation: Activation,
    ) -> Result<Self> {
        Ok(Self {
            gamma: loader.vector("weight", channels)?,
            beta: loader.vector("bias", channels)?,
            params: ops::GroupNorm { groups, eps, activation },
        })
    }

    /// `x` `[N, .., channels]`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::group_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.of_both(x, None)
    }

    /// As [`GroupNorm::forward`], wherever rows are read.
    pub(crate) fn where_read<'a>(&'a self, x: &'a Tensor) -> Result<ops::Normed<'a>> {
        ops::Normed::new(x, &self.gamma, &self.beta, &self.params)
    }

    /// As [`GroupNorm::forward`] of the channels of `x` followed by those of `x2`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::group_norm`].
    pub fn of_both(&self, x: &Tensor, x2: Option<&Tensor>) -> Result<Tensor> {
        ops::group_norm(x, x2, &self.gamma, &self.beta, &self.params)
    }
}

/// Normalizes each row.
#[derive(Debug)]
pub struct LayerNorm {
    gamma: Tensor,
    beta: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// `weight` and `bias` `[channels]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, channels: usize, eps: f32) -> Result<Self> {
        Ok(Self {
            gamma: loader.vector("weight", channels)?,
            beta: loader.vector("bias", channels)?,
            eps,
        })
    }

    /// `x` `[.., channels]`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::layer_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.gamma, &self.beta, self.eps)
    }
}
