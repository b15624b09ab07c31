//! The autoencoder between pictures and latents.
//!
//! Encoder and decoder are loaded apart: text to image needs the decoder alone. Both leave the
//! scaling of latents to the caller: latents are multiplied by
//! [`VaeConfig::scaling_factor`](super::config::VaeConfig) after encoding and divided by it
//! before decoding.
//!
//! Reference: `AutoencoderKL` in diffusers' `models/autoencoders/autoencoder_kl.py`, `Encoder` and
//! `Decoder` in `models/autoencoders/vae.py`, and their blocks in
//! `models/unets/unet_2d_blocks.py`.

use super::config::VaeConfig;
use crate::nn::{GroupNorm, Heads, Loader, Resnet, ResnetShape, SelfAttention};
use crate::ops::Activation;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

mod blend;
mod decoder;
mod encoder;

pub use blend::Blend;
pub use decoder::VaeDecoder;
pub use encoder::VaeEncoder;

/// Added to the variance in every norm; no configuration names it.
const EPS: f32 = 1e-6;

/// Channels of a picture.
const COLORS: usize = 3;

/// Attention between two residual layers.
#[derive(Debug)]
struct MidBlock {
    first: Resnet,
    norm: GroupNorm,
    attention: SelfAttention,
    second: Resnet,
}

impl MidBlock {
    fn load(loader: &Loader, config: &VaeConfig) -> Result<Self> {
        let channels = config.deepest();
        let shape = config.resnet(channels, channels);
        let attention = loader.at("attentions.0");
        let names = ["to_q", "to_k", "to_v", "to_out.0"];
        let heads = Heads::of(1, channels);
        Ok(Self {
            first: Resnet::load(&loader.at("resnets.0"), &shape)?,
            norm: config.norm(&attention.at("group_norm"), channels, Activation::None)?,
            attention: SelfAttention::load(&attention, names, heads, true, false)?,
            second: Resnet::load(&loader.at("resnets.1"), &shape)?,
        })
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        // Attention sees all of it at once.
        let x = self.first.forward(x.joined()?, None, None)?;
        let &[batch, height, width, channels] = x.shape() else {
            unreachable!("the autoencoder runs on pictures");
        };
        let tokens = x.reshape(&[batch, height * width, channels])?;
        drop(x);
        let attended = self.attention.forward(self.norm.forward(&tokens)?, &tokens)?;
        drop(tokens);
        let x = attended.reshape(&[batch, height, width, channels])?;
        drop(attended);
        self.second.forward(x, None, None)
    }
}

impl VaeConfig {
    fn deepest(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }

    fn norm(&self, loader: &Loader, channels: usize, activation: Activation) -> Result<GroupNorm> {
        GroupNorm::load(loader, channels, self.norm_groups, EPS, activation)
    }

    fn resnet(&self, inputs: usize, outputs: usize) -> ResnetShape {
        ResnetShape { inputs, outputs, time_channels: None, groups: self.norm_groups, eps: EPS }
    }

    /// `count` residual layers from `inputs` to `outputs` channels.
    fn resnets(
        &self,
        block: &Loader,
        count: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Vec<Resnet>> {
        let load = |index| {
            let inputs = if index == 0 { inputs } else { outputs };
            Resnet::load(&block.at("resnets").at(index), &self.resnet(inputs, outputs))
        };
        (0..count).map(load).collect()
    }
}

/// Refuses a tensor that is not `[N, H, W, channels]` of the model's element type.
fn check(op: &'static str, x: &Tensor, channels: usize, dtype: DType) -> Result<[usize; 2]> {
    match *x.shape() {
        [_, height, width, c] if c == channels && x.dtype() == dtype => Ok([height, width]),
        ref shape => {
            let got = x.dtype();
            let detail = format!("expected [N, H, W, {channels}] {dtype}, got {shape:?} {got}");
            Err(Error::shape(op, detail))
        }
    }
}
