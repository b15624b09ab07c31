//! What a product does with its result before it is stored.

use crate::ops::Activation;
use crate::ops::weights::Storage;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// Applied to every element of a [`gemm`](crate::ops::gemm()) or [`conv2d`](crate::ops::conv2d()) where
/// it is written: `activation(product + bias) + residual`. No launches of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added first.
    pub bias: Option<&'a Tensor>,
    /// Applied second.
    pub activation: Activation,
    /// Added last: the shape and element type of the result.
    pub residual: Option<&'a Tensor>,
}

impl Epilogue<'_> {
    /// That the weight and the residual fit `x` and the result. The bias is the op's to check.
    pub(super) fn check(
        &self,
        op: &'static str,
        x: &Tensor,
        weights: Storage,
        result: &[usize],
    ) -> Result<()> {
        let dtype = x.dtype();
        if let Storage::Values(got) = weights
            && got != dtype
        {
            return Err(Error::shape(op, format!("weights must be {dtype} as x is, got {got}")));
        }
        match self.residual {
            Some(residual) if residual.shape() != result || residual.dtype() != dtype => {
                let (shape, got) = (residual.shape(), residual.dtype());
                let detail = format!("residual must be {result:?} {dtype}, got {shape:?} {got}");
                Err(Error::shape(op, detail))
            }
            _ => Ok(()),
        }
    }
}

/// Whether `bias` has one f32 for each output.
pub(super) fn is_output_bias(bias: &Tensor, outputs: usize) -> bool {
    bias.shape() == [outputs] && bias.dtype() == DType::F32
}
