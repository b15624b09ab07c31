//! Pictures to latents and back, whole or in tiles.

use super::layout::{channels_first, channels_last};
use super::rungs::{Ladder, Ways};
use super::tiling::{Tiles, TilesOfHalf};
use super::{InitImage, Observer, Part, Picture, Pipeline, Progress, tell};
use crate::device::Tiling;
use crate::ops;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// Counts the tiles of a picture, and gives the pool's unused blocks back where another size begins:
/// those of a whole tile are too many beside one at the edge.
struct Count {
    done: usize,
    total: usize,
    size: [usize; 2],
}

impl Pipeline {
    /// A picture's latents, `[N, C, h, w]`: one sample of the posterior, by `noise`, `[C, h, w]`,
    /// for all of them.
    pub(super) fn encode_image(
        &self,
        image: &InitImage,
        [count, height, width, channels]: [usize; 4],
        noise: &[f32],
        tiles: &TilesOfHalf,
        ladder: &mut Ladder,
        observer: &mut Observer,
    ) -> Result<Vec<f32>> {
        if self.encoder.is_none() {
            let detail = "the pipeline was loaded without the VAE's encoder";
            return Err(Error::argument("init image", detail));
        }
        let factor = self.vae.downscale();
        let size = [height * factor, width * factor];
        let expected = size[0] * size[1] * 3;
        if image.rgb.len() != expected {
            let detail = format!("expected {expected} values, got {}", image.rgb.len());
            return Err(Error::argument("init image", detail));
        }
        let signed: Vec<f32> = image.rgb.iter().map(|value| 2.0 * value - 1.0).collect();
        let noise = channels_last(noise, channels, height * width);
        let blended = match tiles.tiles {
            Some(Tiles::Blended(blend)) => {
                let mut tiles = Count::new(blend.count(size));
                Some(blend.encode(&signed, size, |pixels, size| {
                    self.begin(&mut tiles, size);
                    let encode = |_| self.moments(pixels, size, None)?.to_vec();
                    let moments = ladder.run(Part::Encoding, observer, encode)?;
                    tiles.tell(observer)?;
                    Ok(moments)
                })?)
            }
            _ => None,
        };
        let sample = |ways: Ways| {
            let moments = match &blended {
                Some(moments) => {
                    let _stage = self.device.stage("vae encode");
                    let shape = [1, height, width, 2 * channels];
                    Tensor::from_slice(&self.device, &shape, self.dtype, moments)?
                }
                None => self.moments(&signed, size, tiles.exact(ways))?,
            };
            self.sample(&moments, &noise)
        };
        let sample = ladder.run(Part::Encoding, observer, sample)?;
        self.device.memory().trim();
        Ok(channels_first(&sample, channels, height * width).repeat(count))
    }

    /// Mean and logarithm of the variance of `pixels`, `[H, W, 3]` with `size` its height and
    /// width.
    fn moments(
        &self,
        pixels: &[f32],
        [height, width]: [usize; 2],
        tiling: Option<Tiling>,
    ) -> Result<Tensor> {
        let _stage = self.device.stage("vae encode");
        let _tiled = tiling.map(|tiling| self.device.tile(tiling));
        let shape = [1, height, width, 3];
        let pixels = Tensor::from_slice(&self.device, &shape, self.dtype, pixels)?;
        let encoder = self.encoder.as_ref().expect("an image is encoded with an encoder");
        encoder.encode(&pixels)
    }

    /// The sample of the posterior that `noise`, of its shape, names.
    fn sample(&self, moments: &Tensor, noise: &[f32]) -> Result<Vec<f32>> {
        let _stage = self.device.stage("vae encode");
        let mut shape = moments.shape().to_vec();
        shape[3] /= 2;
        let noise = Tensor::from_slice(&self.device, &shape, DType::F32, noise)?;
        ops::gaussian_sample(moments, &noise, self.vae.scaling_factor as f32)?.to_vec()
    }

    /// The picture of `latent`, `[C, h, w]`.
    pub(super) fn decode(
        &self,
        latent: &[f32],
        [_, height, width, channels]: [usize; 4],
        tiles: &TilesOfHalf,
        ladder: &mut Ladder,
        observer: &mut Observer,
    ) -> Result<Picture> {
        let factor = self.vae.downscale();
        let scaled: Vec<f32> = latent.iter().map(|v| v / self.vae.scaling_factor as f32).collect();
        let scaled = channels_last(&scaled, channels, height * width);
        let [size, pixels] = [[height, width], [height * factor, width * factor]];
        let decoded = match tiles.tiles {
            Some(Tiles::Blended(blend)) => {
                let mut tiles = Count::new(blend.count(pixels));
                blend.decode(&scaled, size, |latent, size| {
                    self.begin(&mut tiles, size);
                    let decode = |_| self.pixels(latent, size, None);
                    let decoded = ladder.run(Part::Decoding, observer, decode)?;
                    tiles.tell(observer)?;
                    Ok(decoded)
                })?
            }
            _ => {
                let decode = |ways: Ways| self.pixels(&scaled, size, tiles.exact(ways));
                ladder.run(Part::Decoding, observer, decode)?
            }
        };
        let rgb = decoded.iter().map(|value| (value / 2.0 + 0.5).clamp(0.0, 1.0)).collect();
        Ok(Picture { width: pixels[1], height: pixels[0], rgb })
    }

    /// What the decoder makes of `latent`, `[h, w, C]` with `size` its height and width.
    fn pixels(
        &self,
        latent: &[f32],
        [height, width]: [usize; 2],
        tiling: Option<Tiling>,
    ) -> Result<Vec<f32>> {
        let _stage = self.device.stage("vae decode");
        let _tiled = tiling.map(|tiling| self.device.tile(tiling));
        let shape = [1, height, width, self.vae.latent_channels];
        let latent = Tensor::from_slice(&self.device, &shape, self.dtype, latent)?;
        self.decoder.decode(&latent)?.to_vec()
    }

    fn begin(&self, tiles: &mut Count, size: [usize; 2]) {
        if tiles.size != size {
            self.device.memory().trim();
            tiles.size = size;
        }
    }
}

impl Count {
    fn new(total: usize) -> Self {
        Self { done: 0, total, size: [0, 0] }
    }

    fn tell(&mut self, observer: &mut Observer) -> Result<()> {
        self.done += 1;
        tell(observer, &Progress::VaeTile { done: self.done, total: self.total })
    }
}
