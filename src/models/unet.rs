//! The noise predictor.

use super::config::UNetConfig;
use crate::nn::{Conv2d, GroupNorm, Heads, Linear, Loader, ResnetShape, TensorSource};
use crate::ops::{self, Activation, TimestepEmbedding};
use crate::tensor::Tensor;
use crate::{DType, Device, Error, Result};

mod blocks;
mod skips;
mod transformer;

use blocks::{DownBlock, MidBlock, Step, UpBlock};
use skips::Skips;

/// The UNet of Stable Diffusion 1.x and 2.x and of the models distilled from them.
///
/// What a tensor is needed for last gives it back: a skip lives from its layer on the way down to
/// its twin on the way up.
///
/// Reference: `UNet2DConditionModel` in diffusers' `models/unets/unet_2d_condition.py`.
#[derive(Debug)]
pub struct UNet {
    device: Device,
    dtype: DType,
    config: UNetConfig,
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    mid: Option<MidBlock>,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    /// Loads the weights to `device`, matrices stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] for a tensor that is missing or does not fit `config`;
    /// [`Error::OutOfMemory`].
    pub fn load(
        device: &Device,
        dtype: DType,
        config: &UNetConfig,
        source: &dyn TensorSource,
    ) -> Result<Self> {
        let root = Loader::new(device, dtype, source);
        let (first, last) = (config.channels(0), config.levels() - 1);
        let time_channels = config.time_channels();
        let time = root.at("time_embedding");
        let (groups, eps) = (config.norm_groups, config.norm_eps as f32);
        let norm_out = root.at("conv_norm_out");
        Ok(Self {
            device: device.clone(),
            dtype,
            time1: Linear::load(&time.at("linear_1"), first, time_channels)?,
            time2: Linear::load(&time.at("linear_2"), time_channels, time_channels)?,
            conv_in: Conv2d::load(&root.at("conv_in"), config.in_channels, first)?,
            down: (0..=last)
                .map(|level| DownBlock::load(&root.at("down_blocks").at(level), config, level))
                .collect::<Result<_>>()?,
            mid: match config.mid_block {
                true => Some(MidBlock::load(&root.at("mid_block"), config)?),
                false => None,
            },
            up: (0..=last)
                .map(|index| UpBlock::load(&root.at("up_blocks").at(index), config, index))
                .collect::<Result<_>>()?,
            norm_out: GroupNorm::load(&norm_out, first, groups, eps, Activation::Silu)?,
            conv_out: Conv2d::load(&root.at("conv_out"), first, config.out_channels)?,
            config: config.clone(),
        })
    }

    /// What it was loaded by.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The prediction for noisy latents: of their noise, or of v, as the model was trained.
    ///
    /// # Shapes
    ///
    /// - `latents`: `[N, H, W, in_channels]`, of the model's element type; any height and width
    /// - `timesteps`: N of them
    /// - `context`: `[N, tokens, cross_attention_dim]`, as `latents`
    /// - result: `[N, H, W, out_channels]`, as `latents`
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`],
    /// [`Error::Device`].
    pub fn forward(&self, latents: &Tensor, timesteps: &[f32], context: &Tensor) -> Result<Tensor> {
        self.run(latents, timesteps, context, Skips::on_device())
    }

    /// As [`UNet::forward`], to the bit, with the skips on the host while the levels below them are
    /// computed: less memory for copies both ways, which are counted in
    /// [`MemoryStats::parked_bytes`](crate::memory::MemoryStats::parked_bytes).
    ///
    /// # Errors
    ///
    /// Those of [`UNet::forward`]; [`Error::Argument`] if the host has no room.
    pub fn forward_parking_skips(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        context: &Tensor,
    ) -> Result<Tensor> {
        self.run(latents, timesteps, context, Skips::parked())
    }

    fn run(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        context: &Tensor,
        mut skips: Skips,
    ) -> Result<Tensor> {
        self.check(latents, timesteps, context)?;
        let time = self.embed(timesteps)?;
        let step = Step { time: &time, context };
        let mut x = self.conv_in.forward(latents)?;
        skips.push(&x)?;
        for block in &self.down {
            x = block.forward(x, &step, &mut skips)?;
        }
        if let Some(mid) = &self.mid {
            x = mid.forward(x, &step)?;
        }
        for block in &self.up {
            x = block.forward(x, &step, &mut skips)?;
        }
        let normed = self.norm_out.forward(&x)?;
        drop(x);
        self.conv_out.forward(&normed)
    }

    fn check(&self, latents: &Tensor, timesteps: &[f32], context: &Tensor) -> Result<()> {
        let (channels, width) = (self.config.in_channels, self.config.cross_attention_dim);
        let refuse = |detail| Err(Error::shape("unet", detail));
        let dtype = self.dtype;
        let got = |tensor: &Tensor| format!("{:?} {}", tensor.shape(), tensor.dtype());
        let &[batch, _, _, latent_channels] = latents.shape() else {
            return refuse(format!("latents must be [N, H, W, C], got {}", got(latents)));
        };
        if latent_channels != channels || latents.dtype() != dtype {
            let got = got(latents);
            return refuse(format!("latents must be [N, H, W, {channels}] {dtype}, got {got}"));
        }
        if timesteps.len() != batch {
            return refuse(format!("timesteps must be {batch}, got {}", timesteps.len()));
        }
        let fits = matches!(*context.shape(), [n, _, c] if n == batch && c == width);
        if !fits || context.dtype() != dtype {
            let got = got(context);
            let expected = format!("[{batch}, tokens, {width}] {dtype}");
            return refuse(format!("context must be {expected}, got {got}"));
        }
        Ok(())
    }

    /// The time embedding after its SiLU, `[N, time channels]`: every layer that reads it applies
    /// one first, so it is applied once.
    fn embed(&self, timesteps: &[f32]) -> Result<Tensor> {
        let params = TimestepEmbedding {
            width: self.config.channels(0),
            flip_sin_to_cos: self.config.flip_sin_to_cos,
            freq_shift: self.config.freq_shift as f32,
        };
        let waves = ops::timestep_embedding(&self.device, self.dtype, timesteps, &params)?;
        let hidden = self.time1.activated(&waves, Activation::Silu)?;
        self.time2.activated(&hidden, Activation::Silu)
    }
}

impl UNetConfig {
    fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    fn channels(&self, level: usize) -> usize {
        self.block_out_channels[level]
    }

    fn time_channels(&self) -> usize {
        4 * self.channels(0)
    }

    fn heads_at(&self, level: usize) -> Heads {
        Heads::of(self.heads[level], self.channels(level))
    }

    fn resnet(&self, inputs: usize, outputs: usize) -> ResnetShape {
        ResnetShape {
            inputs,
            outputs,
            time_channels: Some(self.time_channels()),
            groups: self.norm_groups,
            eps: self.norm_eps as f32,
        }
    }
}
