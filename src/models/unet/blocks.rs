//! The blocks of the UNet: down, middle, up.
//!
//! Reference: diffusers' `models/unets/unet_2d_blocks.py`.

use super::skips::Skips;
use super::transformer::Transformer;
use crate::Result;
use crate::models::config::{BlockKind, UNetConfig};
use crate::nn::{Conv2d, Loader, Resnet, Upsample};
use crate::ops::Padding;
use crate::tensor::Tensor;

/// What every layer of one step reads.
pub(super) struct Step<'a> {
    /// `[N, time channels]`, after its SiLU.
    pub time: &'a Tensor,
    /// `[N, tokens, cross_attention_dim]`.
    pub context: &'a Tensor,
}

/// A residual layer, followed by attention in blocks that have it.
#[derive(Debug)]
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
}

impl Layer {
    fn load(
        block: &Loader,
        index: usize,
        config: &UNetConfig,
        kind: BlockKind,
        [level, inputs]: [usize; 2],
    ) -> Result<Self> {
        let shape = config.resnet(inputs, config.channels(level));
        let attention = block.at("attentions").at(index);
        Ok(Self {
            resnet: Resnet::load(&block.at("resnets").at(index), &shape)?,
            transformer: match kind {
                BlockKind::Plain => None,
                BlockKind::CrossAttention => Some(Transformer::load(&attention, config, level)?),
            },
        })
    }

    fn forward(&self, x: Tensor, skip: Option<Tensor>, step: &Step) -> Result<Tensor> {
        let x = self.resnet.forward(x, skip, Some(step.time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(x, step.context),
            None => Ok(x),
        }
    }
}

/// `DownBlock2D`, `CrossAttnDownBlock2D`: layers, then half the size but at the last level.
#[derive(Debug)]
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Conv2d>,
}

impl DownBlock {
    pub fn load(loader: &Loader, config: &UNetConfig, level: usize) -> Result<Self> {
        let channels = config.channels(level);
        let before = config.channels(level.saturating_sub(1));
        let layers = (0..config.layers_per_block[level]).map(|index| {
            let inputs = if index == 0 { before } else { channels };
            Layer::load(loader, index, config, config.down_blocks[level], [level, inputs])
        });
        let layers = layers.collect::<Result<_>>()?;
        let padding = Padding::same(1);
        let conv = loader.at("downsamplers.0.conv");
        let downsample = match level + 1 < config.levels() {
            true => Some(Conv2d::load_downsampling(&conv, channels, padding)?),
            false => None,
        };
        Ok(Self { layers, downsample })
    }

    /// The result of each layer is also pushed to `skips`.
    pub fn forward(&self, mut x: Tensor, step: &Step, skips: &mut Skips) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(x, None, step)?;
            skips.push(&x)?;
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(&x)?;
        }
        Ok(x)
    }
}

/// `UNetMidBlock2DCrossAttn`: attention between two residual layers.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: Layer,
    second: Resnet,
}

impl MidBlock {
    pub fn load(loader: &Loader, config: &UNetConfig) -> Result<Self> {
        let level = config.levels() - 1;
        let channels = config.channels(level);
        let shape = config.resnet(channels, channels);
        let place = [level, channels];
        Ok(Self {
            first: Layer::load(loader, 0, config, BlockKind::CrossAttention, place)?,
            second: Resnet::load(&loader.at("resnets.1"), &shape)?,
        })
    }

    pub fn forward(&self, x: Tensor, step: &Step) -> Result<Tensor> {
        let x = self.first.forward(x, None, step)?;
        self.second.forward(x, None, Some(step.time))
    }
}

/// `UpBlock2D`, `CrossAttnUpBlock2D`: layers that read a skip each, then twice the size but at
/// the last block.
#[derive(Debug)]
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// `index` counts from the smallest picture to the largest, levels the other way round.
    pub fn load(loader: &Loader, config: &UNetConfig, index: usize) -> Result<Self> {
        let level = config.levels() - 1 - index;
        let channels = config.channels(level);
        let below = config.channels((level + 1).min(config.levels() - 1));
        // The last skip of a level is what came into it on the way down.
        let above = config.channels(level.saturating_sub(1));
        let last = config.layers_per_block[level];
        let layers = (0..=last).map(|layer| {
            let from = if layer == 0 { below } else { channels };
            let skip = if layer == last { above } else { channels };
            Layer::load(loader, layer, config, config.up_blocks[index], [level, from + skip])
        });
        let layers = layers.collect::<Result<_>>()?;
        let upsample = match level > 0 {
            true => Some(Upsample::load(&loader.at("upsamplers.0.conv"), channels)?),
            false => None,
        };
        Ok(Self { layers, upsample })
    }

    /// Each layer pops its skip. The size after the block is that of the next skip: where a size
    /// was odd on the way down, twice the size is one too many.
    pub fn forward(&self, mut x: Tensor, step: &Step, skips: &mut Skips) -> Result<Tensor> {
        for layer in &self.layers {
            let skip = skips.pop()?;
            x = layer.forward(x, Some(skip), step)?;
        }
        if let (Some(upsample), Some(size)) = (&self.upsample, skips.next_size()) {
            x = upsample.forward(&x, size)?;
        }
        Ok(x)
    }
}
