//! What to draw.

use crate::device::Tiling;
use crate::pipeline::VaeTiling;
use crate::pipeline::scheduler::{PredictionType, SchedulerKind};
use crate::{Error, Result};

/// A picture to draw, as diffusers' `StableDiffusionPipeline` and `StableDiffusionImg2ImgPipeline`
/// take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What should be in the picture.
    pub prompt: String,
    /// What should not.
    pub negative_prompt: String,
    /// Width in pixels, a multiple of 8; the model's own if not given.
    pub width: Option<usize>,
    /// Height in pixels, a multiple of 8; the model's own if not given.
    pub height: Option<usize>,
    /// Steps from noise to picture.
    pub steps: usize,
    /// How much the prompt counts: 1 and less is no guidance, and half the work.
    pub guidance_scale: f32,
    /// The scheduler; the one of the model's files if not given.
    pub scheduler: Option<SchedulerKind>,
    /// What the UNet was trained to predict; what the model's files say if not given. A single-file
    /// checkpoint does not tell, and then `epsilon` is taken.
    pub prediction_type: Option<PredictionType>,
    /// Where the noise starts, as in `torch.Generator("cpu").manual_seed(seed)`.
    pub seed: u64,
    /// How many pictures to draw together, from one sequence of noise.
    pub count: usize,
    /// Start from this picture instead of from noise.
    pub init_image: Option<InitImage>,
    /// Whether the VAE works in tiles.
    pub vae_tiling: VaeTiling,
    /// The side of the VAE's tiles in pixels, a multiple of 8 of at least 64; the largest that is
    /// tried, where tiling is [`VaeTiling::Auto`]. If not given, 512; where tiling is
    /// [`VaeTiling::Blend`], the side of the pictures that the VAE was trained on, as diffusers has
    /// it.
    pub vae_tile: Option<usize>,
}

/// A picture to start from.
#[derive(Clone, Debug, PartialEq)]
pub struct InitImage {
    /// Red, green and blue in 0..1, row by row, of the request's size.
    pub rgb: Vec<f32>,
    /// How much of it is drawn anew, in 0..=1.
    pub strength: f64,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            width: None,
            height: None,
            steps: 20,
            guidance_scale: 7.5,
            scheduler: None,
            prediction_type: None,
            seed: 0,
            count: 1,
            init_image: None,
            vae_tiling: VaeTiling::default(),
            vae_tile: None,
        }
    }
}

impl Request {
    /// Whether the negative prompt takes part.
    pub(super) fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The side of tiles that are not blended.
    pub(super) fn tile(&self) -> usize {
        self.vae_tile.unwrap_or(512)
    }

    /// The size in pixels, `default` where none is given.
    pub(super) fn size(&self, default: [usize; 2], factor: usize) -> Result<[usize; 2]> {
        let size = [self.height.unwrap_or(default[0]), self.width.unwrap_or(default[1])];
        for (name, pixels) in ["height", "width"].into_iter().zip(size) {
            if pixels == 0 || !pixels.is_multiple_of(factor) || pixels > MOST_PIXELS {
                let detail =
                    format!("expected a multiple of {factor} up to {MOST_PIXELS}, got {pixels}");
                return Err(Error::argument(name, detail));
            }
        }
        Ok(size)
    }

    /// Checks what does not depend on the model.
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..=1000.0).contains(&self.guidance_scale) {
            let detail = format!("expected 0 to 1000, got {}", self.guidance_scale);
            return Err(Error::argument("guidance scale", detail));
        }
        if !(1..=64).contains(&self.count) {
            return Err(Error::argument("count", format!("expected 1 to 64, got {}", self.count)));
        }
        // What is wrong with a tile does not depend on the picture.
        Tiling::new([1, 1], 1, self.tile()).map(drop)
    }
}

/// The longest side of a picture.
const MOST_PIXELS: usize = 8192;
