//! Whether the VAE works in tiles.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::rungs::Ways;
use super::{Component, Pipeline, Request};
use crate::device::{Device, Tiling};
use crate::memory::MemoryStats;
use crate::models::vae::{Blend, VaeDecoder, VaeEncoder};
use crate::nn::TensorSource;
use crate::ops::Products;
use crate::tensor::Tensor;
use crate::{Error, Format, Result};

/// Whether the VAE cuts pictures into tiles.
///
/// But for [`VaeTiling::Blend`] these are bands that are parked on the host while they are not
/// used, and the picture is the same: see [`Device::tile`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VaeTiling {
    /// Only where the picture does not fit the device's budget, and then in the largest tiles with
    /// which it does.
    #[default]
    Auto,
    /// Wherever a picture is larger than a tile.
    Exact,
    /// Wherever a picture is larger than a tile, into tiles that overlap, are each computed by
    /// themselves and are blended: diffusers' picture with `enable_tiling`, which is another one. See
    /// [`Blend`].
    Blend,
    /// Never.
    Off,
}

impl FromStr for VaeTiling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "exact" => Ok(Self::Exact),
            "blend" => Ok(Self::Blend),
            "off" => Ok(Self::Off),
            _ => {
                let detail = format!("expected auto, exact, blend or off, got {text:?}");
                Err(Error::argument("vae tiling", detail))
            }
        }
    }
}

/// The tiles that are tried one after the other, as far as they are smaller than the request's.
const SMALLER_TILES: [usize; 5] = [384, 256, 192, 128, Tiling::LEAST_TILE];

/// How a half of the VAE works on a picture that it does not take whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tiles {
    /// In bands, and the side of a square with as many pixels as one.
    Exact(usize, Tiling),
    Blended(Blend),
}

/// The tiles of a half of the VAE, and smaller ones for when the device has less room than thought.
#[derive(Clone, Debug, Default)]
pub(super) struct TilesOfHalf {
    /// None where the picture is taken whole.
    pub tiles: Option<Tiles>,
    /// None unless tiling is the pipeline's to choose.
    pub smaller: Vec<Tiling>,
}

impl TilesOfHalf {
    /// The bands after so many rungs; `None` where the picture is taken whole, or in blended tiles.
    pub fn exact(&self, ways: Ways) -> Option<Tiling> {
        match (ways.smaller_tiles, self.tiles) {
            (0, Some(Tiles::Exact(_, tiling))) => Some(tiling),
            (0, _) => None,
            (rungs, _) => Some(self.smaller[rungs - 1]),
        }
    }
}

/// Which half of the VAE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Encoder,
    Decoder,
}

/// Stands for weights on a dry run, which reads none: what is held in blocks, by name, and how that is
/// multiplied.
struct NoWeights<'a>(&'a BTreeMap<String, Format>, Products);

impl TensorSource for NoWeights<'_> {
    fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, name: &str, _shape: &[usize]) -> Result<Vec<f32>> {
        unreachable!("a dry run reads {name}")
    }

    fn format(&self, name: &str, _shape: &[usize]) -> Option<Format> {
        self.0.get(name).copied()
    }

    fn products(&self) -> Products {
        self.1
    }
}

impl Pipeline {
    /// The tiles in which a half of the VAE works on a picture of `size`; `None` where it takes the
    /// picture whole. Gives the pool's unused blocks back first.
    pub(super) fn vae_tiling(
        &self,
        half: Half,
        size: [usize; 2],
        request: &Request,
    ) -> Result<TilesOfHalf> {
        let of = |tile| {
            let tiling = Tiling::new(size, self.vae.downscale(), tile)?;
            Ok::<_, Error>(tiling.map(|tiling| (tile, tiling)))
        };
        let exact = |(tile, tiling)| Tiles::Exact(tile, tiling);
        self.device.memory().trim();
        let fixed = |tiles| Ok(TilesOfHalf { tiles, smaller: Vec::new() });
        match request.vae_tiling {
            VaeTiling::Off => return fixed(None),
            VaeTiling::Exact => return fixed(of(request.tile())?.map(exact)),
            VaeTiling::Blend => {
                let blend = self.blend(request)?;
                return fixed((blend.count(size) > 1).then_some(Tiles::Blended(blend)));
            }
            VaeTiling::Auto => {}
        }
        let smaller = SMALLER_TILES.into_iter().filter(|&tile| tile < request.tile());
        let mut bands = Vec::new();
        for tile in [request.tile()].into_iter().chain(smaller) {
            bands.extend(of(tile)?);
        }
        let smaller =
            |from: usize| bands[from..].iter().map(|(_, tiling)| *tiling).collect::<Vec<_>>();
        let room_bytes = self.room_bytes(half)?;
        if self.fits(half, size, None, room_bytes)? {
            return Ok(TilesOfHalf { tiles: None, smaller: smaller(0) });
        }
        for (place, &(tile, tiling)) in bands.iter().enumerate() {
            if self.fits(half, size, Some(tiling), room_bytes)? {
                let tiles = Some(exact((tile, tiling)));
                return Ok(TilesOfHalf { tiles, smaller: smaller(place + 1) });
            }
        }
        // If not even the least tiles fit, the device says by how much.
        fixed(bands.last().copied().map(exact))
    }

    /// The tiles of a request that are blended, which nothing but the VAE decides.
    pub(super) fn blend(&self, request: &Request) -> Result<Blend> {
        let tile = request.vae_tile.unwrap_or(self.vae.sample_size[0]);
        Blend::new(tile, self.vae.downscale())
    }

    /// What the budget leaves for a half of the VAE, its weights included, beside what else the
    /// device holds.
    fn room_bytes(&self, half: Half) -> Result<u64> {
        // Its own weights, if they are on the device, are part of what is held.
        let weights = self.device.dry_run_within(u64::MAX / 2);
        let loaded = self.load_dry(half, &weights)?;
        let weight_bytes = weights.memory_stats().held_bytes;
        drop(loaded);
        let MemoryStats { budget_bytes, held_bytes, .. } = self.device.memory_stats();
        Ok(budget_bytes.saturating_sub(held_bytes.saturating_sub(weight_bytes)))
    }

    /// Whether there is room for it, by a dry run.
    fn fits(
        &self,
        half: Half,
        size: [usize; 2],
        tiling: Option<Tiling>,
        room_bytes: u64,
    ) -> Result<bool> {
        match self.run_dry(half, &self.device.dry_run_within(room_bytes), size, tiling) {
            Ok(()) => Ok(true),
            Err(Error::OutOfMemory { .. } | Error::Allocation { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn load_dry(
        &self,
        half: Half,
        dry: &Device,
    ) -> Result<(Option<VaeEncoder>, Option<VaeDecoder>)> {
        let (dtype, config) = (self.dtype, &self.vae);
        let source = NoWeights(&self.vae_formats, self.vae_products);
        let _place = self.weights.options().place(dry, Component::Vae);
        Ok(match half {
            Half::Encoder => (Some(VaeEncoder::load(dry, dtype, config, &source)?), None),
            Half::Decoder => (None, Some(VaeDecoder::load(dry, dtype, config, &source)?)),
        })
    }

    fn run_dry(
        &self,
        half: Half,
        dry: &Device,
        [height, width]: [usize; 2],
        tiling: Option<Tiling>,
    ) -> Result<()> {
        let (encoder, decoder) = self.load_dry(half, dry)?;
        let _tiled = tiling.map(|tiling| dry.tile(tiling));
        let zeros = |shape: [usize; 4]| {
            Tensor::from_slice(dry, &shape, self.dtype, &vec![0.0; shape.iter().product()])
        };
        if let Some(encoder) = encoder {
            encoder.encode(&zeros([1, height, width, 3])?)?;
        }
        if let Some(decoder) = decoder {
            let factor = self.vae.downscale();
            let latent = [1, height / factor, width / factor, self.vae.latent_channels];
            decoder.decode(&zeros(latent)?)?;
        }
        Ok(())
    }
}
