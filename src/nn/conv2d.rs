//! A convolution.

use super::{GroupNorm, Loader};
use crate::ops::{self, Activation, Epilogue, Padding, SplitWeights};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A 3×3 convolution, channels last: y = conv(x) + bias + residual.
#[derive(Debug)]
pub struct Conv2d {
    weights: SplitWeights,
    bias: Option<Tensor>,
    params: ops::Conv2d,
}

impl Conv2d {
    /// Stride 1, one pixel of zeros around: the result has the size of `x`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, inputs: usize, outputs: usize) -> Result<Self> {
        let padding = Padding::same(1);
        let bias = Some(loader.vector("bias", outputs)?);
        Self::load_as(loader, [outputs, inputs], bias, 1, padding)
    }

    /// Stride 2 with `padding`: half the size.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load_downsampling(loader: &Loader, channels: usize, padding: Padding) -> Result<Self> {
        let bias = Some(loader.vector("bias", channels)?);
        Self::load_as(loader, [channels, channels], bias, 2, padding)
    }

    /// As [`Conv2d::load`] without its bias, which is in what [`Conv2d::biased`] is given.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub(crate) fn load_without_bias(
        loader: &Loader,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let padding = Padding::same(1);
        Self::load_as(loader, [outputs, inputs], None, 1, padding)
    }

    fn load_as(
        loader: &Loader,
        [outputs, inputs]: [usize; 2],
        bias: Option<Tensor>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let weights = loader.convolution("weight", [outputs, inputs, 3, 3])?;
        let params = ops::Conv2d { kernel: [3, 3], stride, padding, upsample: false, crop: [0, 0] };
        Ok(Self { weights, bias, params })
    }

    /// `x` `[N, H, W, inputs]` to `[N, H', W', outputs]`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::conv2d()`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, self.bias.as_ref(), None)
    }

    /// As [`Conv2d::forward`] of `x` after `norm`; `residual` of the result's shape is added.
    ///
    /// What is parked is normalized as it is read. Anything else is let go of once it is normalized.
    ///
    /// # Errors
    ///
    /// Those of [`ops::group_norm`] and [`ops::conv2d()`].
    pub(crate) fn of_normed(
        &self,
        norm: &GroupNorm,
        x: Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if x.is_parked() {
            let epilogue = self.epilogue(self.bias.as_ref(), residual);
            return self.weights.convolve_normed(&norm.where_read(&x)?, &self.params, epilogue);
        }
        let normed = norm.forward(&x)?;
        drop(x);
        self.run(&normed, self.bias.as_ref(), residual)
    }

    /// As [`Conv2d::forward`] with a bias for each sample, `[N, outputs]`.
    ///
    /// # Errors
    ///
    /// Those of [`ops::conv2d()`].
    pub(crate) fn biased(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.run(x, Some(bias), None)
    }

    fn run(&self, x: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        self.weights.convolve(x, &self.params, self.epilogue(bias, residual))
    }

    fn epilogue<'a>(&self, bias: Option<&'a Tensor>, residual: Option<&'a Tensor>) -> Epilogue<'a> {
        Epilogue { bias, activation: Activation::None, residual }
    }
}

/// A 3×3 convolution of a picture twice as large, each pixel standing for four; the larger one is
/// never stored.
///
/// Reference: `Upsample2D` in diffusers' `models/upsampling.py`.
#[derive(Debug)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// `weight` `[channels, channels, 3, 3]` and `bias` `[channels]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, channels: usize) -> Result<Self> {
        Ok(Self { conv: Conv2d::load(loader, channels, channels)? })
    }

    /// `x` `[N, H, W, channels]` to `[N, height, width, channels]`, where `size` is height and
    /// width: twice those of `x`, or one less, for what was an odd size on the way down.
    ///
    /// # Errors
    ///
    /// Those of [`ops::conv2d()`].
    pub fn forward(&self, x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let &[_, height, width, _] = x.shape() else {
            return Err(Error::shape(
                "upsample",
                format!("x must be [N, H, W, C], got {:?}", x.shape()),
            ));
        };
        let crop = [(2 * height).wrapping_sub(size[0]), (2 * width).wrapping_sub(size[1])];
        if crop.iter().any(|&left_out| left_out > 1) {
            let double = [2 * height, 2 * width];
            let detail = format!("size must be {double:?} or one less, got {size:?}");
            return Err(Error::shape("upsample", detail));
        }
        let params = ops::Conv2d { upsample: true, crop, ..self.conv.params };
        let epilogue = Epilogue { bias: self.conv.bias.as_ref(), ..Epilogue::default() };
        self.conv.weights.convolve(x, &params, epilogue)
    }
}
