//! The residual layer of UNets and autoencoders.

use super::{Conv2d, GroupNorm, Linear, Loader};
use crate::ops::Activation;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Two convolutions, each after a group norm and SiLU, added to the input.
///
/// Reference: `ResnetBlock2D` in diffusers' `models/resnet.py`.
#[derive(Debug)]
pub struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// From the time embedding to a bias of `conv1` for each sample.
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// Where the numbers of channels differ.
    shortcut: Option<Linear>,
}

/// The sizes of a [`Resnet`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResnetShape {
    /// Channels of the input, or of both inputs together.
    pub inputs: usize,
    /// Channels of the result.
    pub outputs: usize,
    /// Channels of the time embedding, where there is one.
    pub time_channels: Option<usize>,
    /// Groups of both norms.
    pub groups: usize,
    /// Added to the variance in both.
    pub eps: f32,
}

impl Resnet {
    /// Names as diffusers has them.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, shape: &ResnetShape) -> Result<Self> {
        let &ResnetShape { inputs, outputs, time_channels, groups, eps } = shape;
        let norm = |name: &str, channels| {
            GroupNorm::load(&loader.at(name), channels, groups, eps, Activation::Silu)
        };
        let conv1 = loader.at("conv1");
        let (conv1, time) = match time_channels {
            None => (Conv2d::load(&conv1, inputs, outputs)?, None),
            // The convolution's own bias is added to the projection's, once and for all: the
            // projection then gives the whole bias of each sample.
            Some(channels) => {
                let weights = loader.matrices(&["time_emb_proj.weight"], [outputs, channels])?;
                let biases = ["time_emb_proj.bias", "conv1.bias"];
                let bias = loader.sum_of_vectors(biases, outputs)?;
                let conv1 = Conv2d::load_without_bias(&conv1, inputs, outputs)?;
                (conv1, Some(Linear::with_bias(weights, bias)))
            }
        };
        let shortcut = match inputs == outputs {
            true => None,
            false => Some(Linear::load(&loader.at("conv_shortcut"), inputs, outputs)?),
        };
        Ok(Self {
            norm1: norm("norm1", inputs)?,
            conv1,
            time,
            norm2: norm("norm2", outputs)?,
            conv2: Conv2d::load(&loader.at("conv2"), outputs, outputs)?,
            shortcut,
        })
    }

    /// `x` `[N, H, W, C]`, followed channel by channel by `x2` if given; `time` `[N, channels]`,
    /// the time embedding after its SiLU, if and only if the layer was loaded with one.
    ///
    /// The two inputs are never stored as one: the first norm and the shortcut read both.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the inputs do not agree with what was loaded; [`Error::OutOfMemory`],
    /// [`Error::Device`].
    pub fn forward(&self, x: Tensor, x2: Option<Tensor>, time: Option<&Tensor>) -> Result<Tensor> {
        if self.time.is_some() != time.is_some() {
            let [expected, got] = if time.is_none() { ["a", "none"] } else { ["no", "one"] };
            let detail = format!("expected {expected} time embedding, got {got}");
            return Err(Error::shape("resnet", detail));
        }
        if self.shortcut.is_none() && x2.is_some() {
            let detail = "expected one input where the numbers of channels agree, got two";
            return Err(Error::shape("resnet", detail));
        }
        let hidden = match self.time.as_ref().zip(time) {
            Some((projection, time)) => {
                let normed = self.norm1.of_both(&x, x2.as_ref())?;
                self.conv1.biased(&normed, &projection.forward(time)?)?
            }
            None if x2.is_none() => self.conv1.of_normed(&self.norm1, x.clone(), None)?,
            None => self.conv1.forward(&self.norm1.of_both(&x, x2.as_ref())?)?,
        };
        if self.time.is_none() && self.shortcut.is_some() {
            // Such layers run once a picture, and the blocks of as many channels as came in are
            // too large for anything that follows.
            x.device().memory().trim();
        }
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.of_both_at_last(x, x2)?,
            None => x,
        };
        self.conv2.of_normed(&self.norm2, hidden, Some(&residual))
    }
}
