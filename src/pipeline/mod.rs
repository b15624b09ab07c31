//! From a prompt to a picture.
//!
//! ```no_run
//! use ellesmere::{DType, Device, models::{ModelFiles, Variant}, pipeline::{LoadOptions, Pipeline, Request}};
//!
//! let device = Device::open("auto", &Default::default())?;
//! let files = ModelFiles::open("stable-diffusion-v1-5".as_ref(), Variant::F16)?;
//! let request = Request { prompt: "a lighthouse at dusk".into(), ..Request::default() };
//! let (options, plan) = LoadOptions::fitting(&device, &files, DType::F16, &request)?;
//! println!("{plan}");
//! let pipeline = Pipeline::load(&device, &files, DType::F16, &options)?;
//! let pictures = pipeline.generate(&request, &mut |_| std::ops::ControlFlow::Continue(()))?;
//! # Ok::<(), ellesmere::Error>(())
//! ```

pub mod noise;
pub mod scheduler;

mod fewer_bits;
mod ladder;
mod layout;
mod load;
mod plan;
mod rates;
mod recommend;
mod rehearsal;
mod request;
mod residency;
mod rungs;
mod tiling;
mod time;
mod vae;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

pub use crate::device::OffloadTo;
pub use ladder::RungTaken;
pub use load::{Component, LoadOptions};
pub use plan::Plan;
pub use recommend::{Choice, Recommendation, recommend};
use rehearsal::Loading;
pub use request::{InitImage, Request};
use residency::Residency;
use rungs::{Ladder, Ways};
pub use rungs::{Part, Rung};
pub use tiling::VaeTiling;
use tiling::{Half, Tiles, TilesOfHalf};
pub use time::{KernelTimes, PlanTimes, StageTimes, TimesBasis};

use crate::device::Device;
use crate::models::{
    ClipTextEncoder, ModelFiles, Tokenizer, Tokens, UNet, VaeConfig, VaeDecoder, VaeEncoder,
};
use crate::ops::Products;
use crate::pipeline::layout::{channels_first, channels_last};
use crate::pipeline::noise::Generator;
use crate::pipeline::scheduler::{Scheduler, SchedulerConfig, SchedulerKind};
use crate::tensor::Tensor;
use crate::{DType, Error, Format, Result};

/// A Stable Diffusion model on a device, ready to draw.
#[derive(Debug)]
pub struct Pipeline {
    device: Device,
    dtype: DType,
    tokenizer: Tokenizer,
    text_encoder: ClipTextEncoder,
    unet: UNet,
    encoder: Option<VaeEncoder>,
    decoder: VaeDecoder,
    vae: VaeConfig,
    /// What of the VAE is held in blocks, by name.
    vae_formats: BTreeMap<String, Format>,
    /// How that is multiplied.
    vae_products: Products,
    weights: Residency,
    scheduler: SchedulerConfig,
    default_size: [usize; 2],
}

/// A finished picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green and blue in 0..=1, row by row.
    pub rgb: Vec<f32>,
}

impl Picture {
    /// The picture in 8 bits, each value rounded to the nearest.
    pub fn to_rgb8(&self) -> Vec<u8> {
        self.rgb.iter().map(|value| (value * 255.0).round_ties_even() as u8).collect()
    }
}

/// How far a picture has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The prompt was longer than the text encoder reads; this part of it has no effect.
    PromptCut {
        /// The words that were dropped.
        dropped: &'a str,
    },
    /// The VAE works in tiles that are parked on the host: the same picture, in less memory.
    VaeTiled {
        /// The side in pixels of a square with as many pixels as a tile.
        tile: usize,
    },
    /// The VAE works in tiles that overlap, are each computed by themselves and are blended:
    /// another picture than without, in the memory of a tile.
    VaeBlended {
        /// The side of a tile in pixels.
        tile: usize,
    },
    /// One of these tiles is done.
    VaeTile {
        /// Tiles of this picture that are done, from 1.
        done: usize,
        /// Tiles of a picture.
        total: usize,
    },
    /// The device had no room for a part of the work, which is now repeated with less memory. The
    /// picture is the same, to rounding.
    LowMemory {
        /// What is repeated.
        part: Part,
        /// What is done about it.
        rung: Rung,
        /// The size of the allocation that failed.
        requested_bytes: u64,
    },
    /// A call of the UNet is done.
    Step {
        /// Calls done, from 1.
        done: usize,
        /// Calls in all.
        total: usize,
        /// What the scheduler made of the noise so far: `[N, C, h, w]`.
        latents: &'a [f32],
    },
    /// The last step is done and the VAE begins to decode.
    Decoding,
    /// A plan's launches are measured: see [`Plan::time`].
    Timing {
        /// How many are known.
        done: usize,
        /// Of how many that were not.
        total: usize,
    },
}

/// Told of [`Progress`]; a `Break` ends the work with [`Error::Cancelled`].
pub type Observer<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// What the UNet attends to, on the host.
struct Contexts {
    /// One for each half of guidance, the negative one first, and each for every picture:
    /// `[N, tokens, channels]`.
    halves: Vec<Vec<f32>>,
    /// `[tokens, channels]`
    shape: [usize; 2],
}

impl Pipeline {
    /// Loads a model's weights onto `device`, stored as `dtype`, but for those that `options`
    /// leave out or leave on the host.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] and [`Error::File`] for files that are not what the model needs;
    /// [`Error::OutOfMemory`].
    pub fn load(
        device: &Device,
        files: &ModelFiles,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self> {
        let scheduler = SchedulerConfig::from_file(&files.scheduler.path, &files.scheduler.json)?
            .for_stable_diffusion();
        let _stage = device.stage("load");
        let loading = Loading { device, files, dtype, options };
        let mut weights = BTreeMap::new();
        let text_encoder = {
            let _stage = device.stage("text encoder weights");
            let gathering = device.gather_weights();
            let text_encoder = loading.text_encoder()?;
            weights.insert(Component::TextEncoder, gathering.finish());
            text_encoder
        };
        let unet = {
            let _stage = device.stage("unet weights");
            let gathering = device.gather_weights();
            let unet = loading.unet()?;
            weights.insert(Component::UNet, gathering.finish());
            unet
        };
        let _stage = device.stage("vae weights");
        let gathering = device.gather_weights();
        let encoder = options.vae_encoder.then(|| loading.vae_encoder()).transpose()?;
        let decoder = loading.vae_decoder()?;
        weights.insert(Component::Vae, gathering.finish());
        Ok(Self {
            device: device.clone(),
            dtype,
            tokenizer: files.tokenizer.clone(),
            text_encoder,
            unet,
            encoder,
            decoder,
            vae: files.vae.config.clone(),
            vae_formats: files.vae.weights.formats(),
            vae_products: files.products(),
            weights: Residency::new(device, options, weights),
            scheduler,
            default_size: files.default_size(),
        })
    }

    /// What drawing `request` would take, by a dry run: nothing is allocated or run.
    ///
    /// # Errors
    ///
    /// As [`Pipeline::load`] and [`Pipeline::generate`], all but the device's own failures:
    /// [`Error::OutOfMemory`] if the device's budget is too small.
    pub fn plan(
        device: &Device,
        files: &ModelFiles,
        dtype: DType,
        options: &LoadOptions,
        request: &Request,
    ) -> Result<Plan> {
        plan::plan(&device.dry_run(), files, dtype, options, request, Ways::default())
    }

    /// The scheduler that draws a request which names none.
    pub fn default_scheduler(&self) -> Result<SchedulerKind> {
        self.scheduler.kind()
    }

    /// Draws the pictures of a request.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for a request that cannot be drawn, before anything runs;
    /// [`Error::Cancelled`] if `observer` asks for it; [`Error::OutOfMemory`], [`Error::Device`].
    pub fn generate(&self, request: &Request, observer: &mut Observer) -> Result<Vec<Picture>> {
        self.generate_from(request, Ways::default(), observer)
    }

    /// As [`Pipeline::generate`], with parts that run in these ways from the beginning.
    fn generate_from(
        &self,
        request: &Request,
        ways: Ways,
        observer: &mut Observer,
    ) -> Result<Vec<Picture>> {
        request.check()?;
        let factor = self.vae.downscale();
        let [height, width] = request.size(self.default_size, factor)?;
        if request.vae_tiling == VaeTiling::Blend {
            self.blend(request)?;
        }
        let mut scheduler = self.scheduler(request)?;
        let mut generator = Generator::new(request.seed);
        let shape = [request.count, height / factor, width / factor, self.vae.latent_channels];

        // As on a dry run, whatever was drawn before.
        self.device.memory().trim();
        let mut ladder = Ladder::new(&self.device, &self.weights, request.is_guided(), ways);
        let mut latents = match &request.init_image {
            None => {
                let mut noise = generator.normal(shape.iter().product());
                scheduler.scale_initial_noise(&mut noise);
                noise
            }
            Some(image) => {
                scheduler.start_from_strength(image.strength)?;
                // One sample for all pictures, drawn once however often the image is encoded.
                let noise = generator.normal(shape[1..].iter().product());
                let tiles = self.vae_tiling(Half::Encoder, [height, width], request)?;
                tell_tiles(&tiles, observer)?;
                ladder.begin_tiles(tiles.smaller.len());
                let original =
                    self.encode_image(image, shape, &noise, &tiles, &mut ladder, observer)?;
                let noise = generator.normal(shape.iter().product());
                scheduler.add_noise(&original, &noise)?
            }
        };
        let prompts = self.prompts(request, observer)?;
        let encode = |_| self.contexts(&prompts, request.count);
        let contexts = ladder.run(Part::TextEncoding, observer, encode)?;
        let total = scheduler.timesteps().len();
        for index in 0..total {
            let timestep = scheduler.timesteps()[index];
            let input = scheduler.scale_model_input(&latents, index)?;
            let denoise = |ways| self.denoise(&input, shape, timestep, &contexts, request, ways);
            let output = ladder.run(Part::UNet, observer, denoise)?;
            scheduler.step(&output, &mut latents, std::slice::from_mut(&mut generator))?;
            tell(observer, &Progress::Step { done: index + 1, total, latents: &latents })?;
        }
        self.device.memory().trim();
        tell(observer, &Progress::Decoding)?;
        let tiles = self.vae_tiling(Half::Decoder, [height, width], request)?;
        tell_tiles(&tiles, observer)?;
        ladder.begin_tiles(tiles.smaller.len());
        let one = |latent| self.decode(latent, shape, &tiles, &mut ladder, observer);
        latents.chunks_exact(shape[1..].iter().product()).map(one).collect()
    }

    fn scheduler(&self, request: &Request) -> Result<Scheduler> {
        let mut config = self.scheduler.clone();
        if let Some(kind) = request.scheduler {
            config = config.with_kind(kind);
        }
        if let Some(prediction) = request.prediction_type {
            config = config.with("prediction_type", prediction.name());
        }
        Scheduler::new(&config, request.steps)
    }

    /// The negative prompt, if the request is guided, and the prompt.
    fn prompts(&self, request: &Request, observer: &mut Observer) -> Result<Vec<Tokens>> {
        let prompt = self.tokenizer.encode(&request.prompt)?;
        report_cut(&prompt, observer)?;
        let mut prompts = vec![prompt];
        if request.is_guided() {
            let negative = self.tokenizer.encode(&request.negative_prompt)?;
            report_cut(&negative, observer)?;
            prompts.insert(0, negative);
        }
        Ok(prompts)
    }

    /// What the UNet attends to for `count` pictures.
    fn contexts(&self, prompts: &[Tokens], count: usize) -> Result<Contexts> {
        let _stage = self.device.stage("text encoder");
        let ids: Vec<u32> = prompts.iter().flat_map(|tokens| &tokens.ids).copied().collect();
        let encoded = self.text_encoder.encode(&ids)?;
        let &[_, length, width] = encoded.shape() else {
            unreachable!("a context is [N, tokens, channels]");
        };
        let values = encoded.to_vec()?;
        drop(encoded);
        self.device.memory().trim();
        let halves = values.chunks_exact(length * width).map(|half| half.repeat(count)).collect();
        Ok(Contexts { halves, shape: [length, width] })
    }

    /// What the UNet says of `latents`, `[N, C, h, w]` in and out, with guidance.
    fn denoise(
        &self,
        latents: &[f32],
        [count, height, width, channels]: [usize; 4],
        timestep: f32,
        contexts: &Contexts,
        request: &Request,
        ways: Ways,
    ) -> Result<Vec<f32>> {
        let _stage = self.device.stage("unet");
        let input = channels_last(latents, channels, height * width);
        let calls = match ways.guidance_in_turn {
            // In one batch, the weights are read once.
            false => vec![contexts.halves.concat()],
            true => contexts.halves.clone(),
        };
        let [length, context_width] = contexts.shape;
        let mut halves = Vec::new();
        for context in calls {
            let batch = context.len() / (length * context_width);
            let shape = [batch, length, context_width];
            let context = Tensor::from_slice(&self.device, &shape, self.dtype, &context)?;
            let shape = [batch, height, width, channels];
            let input = input.repeat(batch / count);
            let input = Tensor::from_slice(&self.device, &shape, self.dtype, &input)?;
            let timesteps = vec![timestep; batch];
            let output = match ways.park_skips {
                false => self.unet.forward(&input, &timesteps, &context)?,
                true => self.unet.forward_parking_skips(&input, &timesteps, &context)?,
            };
            let output = output.to_vec()?;
            halves.extend(channels_first(&output, channels, height * width));
        }
        if !request.is_guided() {
            return Ok(halves);
        }
        let (negative, positive) = halves.split_at(latents.len());
        let guide = |(n, p): (&f32, &f32)| n + request.guidance_scale * (p - n);
        Ok(negative.iter().zip(positive).map(guide).collect())
    }
}

fn tell(observer: &mut Observer, progress: &Progress) -> Result<()> {
    match observer(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// Says so if a half of the VAE is to work in tiles.
fn tell_tiles(tiles: &TilesOfHalf, observer: &mut Observer) -> Result<()> {
    match tiles.tiles {
        Some(Tiles::Exact(tile, _)) => tell(observer, &Progress::VaeTiled { tile }),
        Some(Tiles::Blended(blend)) => tell(observer, &Progress::VaeBlended { tile: blend.tile() }),
        None => Ok(()),
    }
}

fn report_cut(tokens: &Tokens, observer: &mut Observer) -> Result<()> {
    match &tokens.dropped {
        Some(dropped) => tell(observer, &Progress::PromptCut { dropped }),
        None => Ok(()),
    }
}
