//! Pictures to latents.

use super::{COLORS, MidBlock, check};
use crate::models::config::VaeConfig;
use crate::nn::{Conv2d, GroupNorm, Linear, Loader, Resnet, TensorSource};
use crate::ops::{Activation, Padding};
use crate::tensor::Tensor;
use crate::{DType, Device, Error, Result};

/// The encoder of `AutoencoderKL`, with its `quant_conv`.
#[derive(Debug)]
pub struct VaeEncoder {
    dtype: DType,
    downscale: usize,
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    mid: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Linear>,
}

#[derive(Debug)]
struct DownBlock {
    layers: Vec<Resnet>,
    downsample: Option<Conv2d>,
}

impl VaeEncoder {
    /// Loads the weights to `device`, matrices stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] for a tensor that is missing or does not fit `config`;
    /// [`Error::OutOfMemory`].
    pub fn load(
        device: &Device,
        dtype: DType,
        config: &VaeConfig,
        source: &dyn TensorSource,
    ) -> Result<Self> {
        let root = Loader::new(device, dtype, source);
        let encoder = root.at("encoder");
        let (first, deepest) = (config.block_out_channels[0], config.deepest());
        let moments = 2 * config.latent_channels;
        let norm_out = encoder.at("conv_norm_out");
        Ok(Self {
            dtype,
            downscale: config.downscale(),
            conv_in: Conv2d::load(&encoder.at("conv_in"), COLORS, first)?,
            down: (0..config.block_out_channels.len())
                .map(|level| DownBlock::load(&encoder.at("down_blocks").at(level), config, level))
                .collect::<Result<_>>()?,
            mid: MidBlock::load(&encoder.at("mid_block"), config)?,
            norm_out: config.norm(&norm_out, deepest, Activation::Silu)?,
            conv_out: Conv2d::load(&encoder.at("conv_out"), deepest, moments)?,
            quant: match config.use_quant_conv {
                true => Some(Linear::load(&root.at("quant_conv"), moments, moments)?),
                false => None,
            },
        })
    }

    /// Mean and logarithm of the variance of the latents of a picture.
    ///
    /// # Shapes
    ///
    /// - `image`: `[N, H, W, 3]` in -1..1, of the model's element type, height and width
    ///   multiples of [`VaeConfig::downscale`]
    /// - result: `[N, H / 8, W / 8, 2 * latent_channels]`, means first, not scaled, the logarithms
    ///   not clamped
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`],
    /// [`Error::Device`].
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        let size = check("vae encoder", image, COLORS, self.dtype)?;
        if let Some(side) = size.iter().find(|side| !side.is_multiple_of(self.downscale)) {
            let factor = self.downscale;
            let detail = format!("height and width must be multiples of {factor}, got {side}");
            return Err(Error::shape("vae encoder", detail));
        }
        let mut x = self.conv_in.forward(image)?;
        for block in &self.down {
            x = block.forward(x)?;
        }
        let moments = self.conv_out.of_normed(&self.norm_out, self.mid.forward(x)?, None)?;
        match &self.quant {
            Some(quant) => quant.forward(&moments),
            None => Ok(moments),
        }
    }
}

impl DownBlock {
    fn load(loader: &Loader, config: &VaeConfig, level: usize) -> Result<Self> {
        let channels = config.block_out_channels[level];
        let before = config.block_out_channels[level.saturating_sub(1)];
        // Zeros below and to the right alone: `Downsample2D` with a padding of 0.
        let padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };
        let conv = loader.at("downsamplers.0.conv");
        Ok(Self {
            layers: config.resnets(loader, config.layers_per_block, before, channels)?,
            downsample: match level + 1 < config.block_out_channels.len() {
                true => Some(Conv2d::load_downsampling(&conv, channels, padding)?),
                false => None,
            },
        })
    }

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(x, None, None)?;
        }
        match &self.downsample {
            Some(downsample) => downsample.forward(&x),
            None => Ok(x),
        }
    }
}
