//! A linear layer.

use super::Loader;
use crate::Result;
use crate::ops::{Activation, Epilogue, SplitWeights};
use crate::tensor::Tensor;

/// y = activation(x W^T + bias) + residual.
#[derive(Debug)]
pub struct Linear {
    weights: SplitWeights,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` `[outputs, inputs]`, or `[outputs, inputs, 1, 1]`, and `bias` `[outputs]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weights: loader.matrices(&["weight"], [outputs, inputs])?,
            bias: Some(loader.vector("bias", outputs)?),
        })
    }

    /// Several layers of the same input and `outputs` outputs each, computed as one: their
    /// results stand beside each other in the columns of one tensor.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load_fused(
        loader: &Loader,
        names: &[&str],
        inputs: usize,
        outputs: usize,
        has_bias: bool,
    ) -> Result<Self> {
        let of_all = |tensor| names.iter().map(|name| format!("{name}.{tensor}")).collect();
        let (weights, biases): (Vec<String>, Vec<String>) = (of_all("weight"), of_all("bias"));
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
        Ok(Self {
            weights: loader.matrices(&weights, [outputs, inputs])?,
            bias: if has_bias { Some(loader.vectors(&biases, outputs)?) } else { None },
        })
    }

    /// A layer with a bias of its own making, `[outputs]` f32.
    pub(crate) fn with_bias(weights: SplitWeights, bias: Tensor) -> Self {
        Self { weights, bias: Some(bias) }
    }

    /// `x` `[.., inputs]` to `[.., outputs]`.
    ///
    /// # Errors
    ///
    /// Those of [`crate::ops::gemm()`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, Activation::None, None)
    }

    /// As [`Linear::forward`], with an activation.
    ///
    /// # Errors
    ///
    /// Those of [`crate::ops::gemm()`].
    pub fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, None, activation, None)
    }

    /// As [`Linear::forward`], and `residual` of the result's shape is added.
    ///
    /// # Errors
    ///
    /// Those of [`crate::ops::gemm()`].
    pub fn added_to(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, None, Activation::None, Some(residual))
    }

    /// As [`Linear::forward`] of the channels of `x` followed by those of `x2`.
    ///
    /// # Errors
    ///
    /// Those of [`crate::ops::gemm()`].
    pub fn of_both(&self, x: &Tensor, x2: Option<&Tensor>) -> Result<Tensor> {
        self.run(x, x2, Activation::None, None)
    }

    /// As [`Linear::of_both`], of what nobody reads afterwards: what is parked of it on the host makes
    /// room for the result.
    ///
    /// # Errors
    ///
    /// As [`Linear::of_both`].
    pub(crate) fn of_both_at_last(&self, x: Tensor, x2: Option<Tensor>) -> Result<Tensor> {
        match self.weights.pieces() {
            [_] => self.of_both(&x.read_once(), x2.map(Tensor::read_once).as_ref()),
            // Each piece reads all of it.
            _ => self.of_both(&x, x2.as_ref()),
        }
    }

    fn run(
        &self,
        x: &Tensor,
        x2: Option<&Tensor>,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let epilogue = Epilogue { bias: self.bias.as_ref(), activation, residual };
        self.weights.multiply(x, x2, epilogue)
    }
}
