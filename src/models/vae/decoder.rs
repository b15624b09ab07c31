//! Latents to pictures.

use super::{COLORS, MidBlock, check};
use crate::models::config::VaeConfig;
use crate::nn::{Conv2d, GroupNorm, Linear, Loader, Resnet, TensorSource, Upsample};
use crate::ops::Activation;
use crate::tensor::Tensor;
use crate::{DType, Device, Result};

/// The decoder of `AutoencoderKL`, with its `post_quant_conv`.
#[derive(Debug)]
pub struct VaeDecoder {
    dtype: DType,
    latent_channels: usize,
    post_quant: Option<Linear>,
    conv_in: Conv2d,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct UpBlock {
    layers: Vec<Resnet>,
    upsample: Option<Upsample>,
}

impl VaeDecoder {
    /// Loads the weights to `device`, matrices stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) for a tensor that is missing or does not fit
    /// `config`; [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn load(
        device: &Device,
        dtype: DType,
        config: &VaeConfig,
        source: &dyn TensorSource,
    ) -> Result<Self> {
        let root = Loader::new(device, dtype, source);
        let decoder = root.at("decoder");
        let (first, latent) = (config.block_out_channels[0], config.latent_channels);
        let norm_out = decoder.at("conv_norm_out");
        Ok(Self {
            dtype,
            latent_channels: latent,
            post_quant: match config.use_post_quant_conv {
                true => Some(Linear::load(&root.at("post_quant_conv"), latent, latent)?),
                false => None,
            },
            conv_in: Conv2d::load(&decoder.at("conv_in"), latent, config.deepest())?,
            mid: MidBlock::load(&decoder.at("mid_block"), config)?,
            up: (0..config.block_out_channels.len())
                .map(|index| UpBlock::load(&decoder.at("up_blocks").at(index), config, index))
                .collect::<Result<_>>()?,
            norm_out: config.norm(&norm_out, first, Activation::Silu)?,
            conv_out: Conv2d::load(&decoder.at("conv_out"), first, COLORS)?,
        })
    }

    /// The picture of a latent.
    ///
    /// # Shapes
    ///
    /// - `latent`: `[N, h, w, latent_channels]`, of the model's element type, already divided by
    ///   the scaling factor
    /// - result: `[N, 8 h, 8 w, 3]`, about -1..1, not clamped
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape) if the shapes do not agree as above;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::Device`](crate::Error::Device).
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        check("vae decoder", latent, self.latent_channels, self.dtype)?;
        let x = match &self.post_quant {
            Some(post_quant) => self.conv_in.forward(&post_quant.forward(latent)?)?,
            None => self.conv_in.forward(latent)?,
        };
        let mut x = self.mid.forward(x)?;
        for block in &self.up {
            x = block.forward(x)?;
            // The blocks of the smaller picture are too small for anything of the larger one.
            x.device().memory().trim();
        }
        self.conv_out.of_normed(&self.norm_out, x, None)
    }
}

impl UpBlock {
    /// `index` counts from the smallest picture to the largest, levels the other way round.
    fn load(loader: &Loader, config: &VaeConfig, index: usize) -> Result<Self> {
        let deepest = config.block_out_channels.len() - 1;
        let level = deepest - index;
        let channels = config.block_out_channels[level];
        let below = config.block_out_channels[(level + 1).min(deepest)];
        Ok(Self {
            layers: config.resnets(loader, config.layers_per_block + 1, below, channels)?,
            upsample: match level > 0 {
                true => Some(Upsample::load(&loader.at("upsamplers.0.conv"), channels)?),
                false => None,
            },
        })
    }

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(x, None, None)?;
        }
        let &[_, height, width, _] = x.shape() else {
            unreachable!("the autoencoder runs on pictures");
        };
        match &self.upsample {
            Some(upsample) => upsample.forward(&x, [2 * height, 2 * width]),
            None => Ok(x),
        }
    }
}
