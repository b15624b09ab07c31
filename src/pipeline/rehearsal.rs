//! In which order components use their weights, by dry runs when they are loaded.

use super::load::{Component, LoadOptions};
use crate::device::Device;
use crate::models::{ClipTextEncoder, ModelFiles, UNet, VaeDecoder, VaeEncoder};
use crate::tensor::Tensor;
use crate::{DType, Result};

/// Loads components of one model.
pub(super) struct Loading<'a> {
    pub device: &'a Device,
    pub files: &'a ModelFiles,
    pub dtype: DType,
    pub options: &'a LoadOptions,
}

impl Loading<'_> {
    pub fn text_encoder(&self) -> Result<ClipTextEncoder> {
        let part = &self.files.text_encoder;
        let load = |device: &Device| {
            ClipTextEncoder::load(device, self.dtype, &part.config, &part.weights)
        };
        self.load(Component::TextEncoder, load, |encoder, _| {
            encoder.encode(&vec![0; part.config.max_position_embeddings]).map(drop)
        })
    }

    pub fn unet(&self) -> Result<UNet> {
        let part = &self.files.unet;
        let load = |device: &Device| UNet::load(device, self.dtype, &part.config, &part.weights);
        self.load(Component::UNet, load, |unet, dry| {
            let [height, width] = part.config.sample_size;
            let latents = self.zeros(dry, &[1, height, width, part.config.in_channels])?;
            let tokens = self.files.text_encoder.config.max_position_embeddings;
            let context = self.zeros(dry, &[1, tokens, part.config.cross_attention_dim])?;
            unet.forward(&latents, &[0.0], &context).map(drop)
        })
    }

    pub fn vae_encoder(&self) -> Result<VaeEncoder> {
        let part = &self.files.vae;
        let load =
            |device: &Device| VaeEncoder::load(device, self.dtype, &part.config, &part.weights);
        self.load(Component::Vae, load, |encoder, dry| {
            let [height, width] = self.files.default_size();
            encoder.encode(&self.zeros(dry, &[1, height, width, 3])?).map(drop)
        })
    }

    pub fn vae_decoder(&self) -> Result<VaeDecoder> {
        let part = &self.files.vae;
        let load =
            |device: &Device| VaeDecoder::load(device, self.dtype, &part.config, &part.weights);
        self.load(Component::Vae, load, |decoder, dry| {
            let [height, width] = self.files.unet.config.sample_size;
            let latent = self.zeros(dry, &[1, height, width, part.config.latent_channels])?;
            decoder.decode(&latent).map(drop)
        })
    }

    /// Loads a component to where it belongs. If its weights stay on the host, and copies of them
    /// can run beside launches, a dry run of it on any input tells the device what to copy ahead:
    /// the order does not depend on sizes.
    fn load<T>(
        &self,
        component: Component,
        load: impl Fn(&Device) -> Result<T>,
        run: impl Fn(&T, &Device) -> Result<()>,
    ) -> Result<T> {
        if !self.options.offload.contains(&component) {
            return load(self.device);
        }
        let memory = self.device.memory();
        let first = memory.host_blocks();
        let loaded = {
            let _place = self.options.place(self.device, component);
            load(self.device)?
        };
        if memory.copies_ahead() {
            let dry = self.device.dry_run_within(u64::MAX / 2);
            let _place = self.options.place(&dry, component);
            run(&load(&dry)?, &dry)?;
            let order: Vec<u64> =
                dry.memory().brought().iter().map(|index| first + index).collect();
            memory.expect(&order);
        }
        Ok(loaded)
    }

    fn zeros(&self, dry: &Device, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(dry, shape, self.dtype, &vec![0.0; shape.iter().product()])
    }
}
