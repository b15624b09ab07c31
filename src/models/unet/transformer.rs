//! Attention of a picture to itself and to the prompt.

use crate::Result;
use crate::models::config::UNetConfig;
use crate::nn::{CrossAttention, FeedForward, GroupNorm, LayerNorm, Linear, Loader, SelfAttention};
use crate::ops::Activation;
use crate::tensor::Tensor;

/// The two epsilons that no configuration names.
const GROUP_NORM_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;

/// One transformer block between two projections, added to the input.
///
/// Channels last, a picture is a sequence as it lies and a 1×1 convolution is a linear layer:
/// `use_linear_projection` makes no difference.
///
/// Reference: `Transformer2DModel` in diffusers' `models/transformers/transformer_2d.py` and
/// `BasicTransformerBlock` in `models/attention.py`.
#[derive(Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    norm1: LayerNorm,
    to_itself: SelfAttention,
    norm2: LayerNorm,
    to_context: CrossAttention,
    norm3: LayerNorm,
    feed_forward: FeedForward,
    proj_out: Linear,
}

impl Transformer {
    pub fn load(loader: &Loader, config: &UNetConfig, level: usize) -> Result<Self> {
        let heads = config.heads_at(level);
        let (channels, context) = (heads.channels(), config.cross_attention_dim);
        let block = loader.at("transformer_blocks.0");
        let layer_norm = |name: &str| LayerNorm::load(&block.at(name), channels, LAYER_NORM_EPS);
        let names = ["to_q", "to_k", "to_v", "to_out.0"];
        let norm = loader.at("norm");
        let (groups, none) = (config.norm_groups, Activation::None);
        Ok(Self {
            norm: GroupNorm::load(&norm, channels, groups, GROUP_NORM_EPS, none)?,
            proj_in: Linear::load(&loader.at("proj_in"), channels, channels)?,
            norm1: layer_norm("norm1")?,
            to_itself: SelfAttention::load(&block.at("attn1"), names, heads, false, false)?,
            norm2: layer_norm("norm2")?,
            to_context: CrossAttention::load(&block.at("attn2"), names, heads, context)?,
            norm3: layer_norm("norm3")?,
            feed_forward: FeedForward::load(&block.at("ff"), channels)?,
            proj_out: Linear::load(&loader.at("proj_out"), channels, channels)?,
        })
    }

    /// `x` `[N, H, W, channels]`, `context` `[N, tokens, cross_attention_dim]`.
    pub fn forward(&self, x: Tensor, context: &Tensor) -> Result<Tensor> {
        let &[batch, height, width, channels] = x.shape() else {
            unreachable!("the UNet runs on pictures");
        };
        let picture = x.reshape(&[batch, height * width, channels])?;
        drop(x);
        let mut tokens = self.proj_in.forward(&self.norm.forward(&picture)?)?;
        tokens = self.to_itself.forward(self.norm1.forward(&tokens)?, &tokens)?;
        tokens = self.to_context.forward(self.norm2.forward(&tokens)?, context, &tokens)?;
        tokens = self.feed_forward.forward(self.norm3.forward(&tokens)?, &tokens)?;
        self.proj_out.added_to(&tokens, &picture)?.reshape(&[batch, height, width, channels])
    }
}
