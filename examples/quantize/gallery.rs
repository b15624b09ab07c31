//! What other weights make of a fixed set of pictures.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use ellesmere::info::DeviceKind;
use ellesmere::io::tensors::StoredType;
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::pipeline::{Component, InitImage, LoadOptions, Pipeline, Progress, Request};
use ellesmere::{DType, Device, Error, Result};

use crate::stop;

/// What is drawn, each with the seed of its place: what small models of landscapes know, and others
/// too. The last picture of a set starts from the first.
const PROMPTS: [&str; 8] = [
    "sunset over the sea with a white boat",
    "a red house in the snow at night",
    "mountains at dawn with a green tree",
    "a tower in the desert at day",
    "a city at night in a storm",
    "hills at sunset with a blue house",
    "a boat on the sea at day",
    "a tree on a hill in the snow",
];

/// The most pictures of a set.
pub const MOST_PICTURES: usize = PROMPTS.len() + 1;

/// How much the prompts count.
const GUIDANCE: f32 = 4.0;

/// How much of the picture that is started from is drawn anew.
const STRENGTH: f64 = 0.5;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub pictures: usize,
    pub steps: usize,
    /// Width and height; the model's own if not given.
    pub size: Option<[usize; 2]>,
}

/// A model whose tensors can be held as other types, and the pictures that it draws as it is.
pub struct Gallery {
    device: Device,
    dtype: DType,
    files: ModelFiles,
    options: LoadOptions,
    requests: Vec<Request>,
    expected: Vec<Drawn>,
    /// The tensors of the model by their names in the file that is written.
    places: BTreeMap<String, Vec<(Component, String)>>,
    /// How long loading and drawing all pictures took.
    pub seconds: f64,
}

/// A picture, and the latents that it was decoded from.
struct Drawn {
    latents: Vec<f32>,
    rgb: Vec<f32>,
}

/// How far pictures are from those of the model as it is.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// The root of the mean squared error of all latents, over that of the latents themselves.
    pub latents: f64,
    /// The mean squared error of all pixels in 0..=1.
    pub mean_square: f64,
    /// That of the worst picture.
    pub worst: f64,
}

impl Effect {
    /// Peak signal to noise of all pixels together, in dB.
    pub fn psnr_db(&self) -> f64 {
        psnr_db(self.mean_square)
    }

    /// That of the worst picture.
    pub fn worst_db(&self) -> f64 {
        psnr_db(self.worst)
    }
}

/// Infinite where nothing differs.
pub fn psnr_db(mean_square: f64) -> f64 {
    -10.0 * mean_square.log10()
}

impl Gallery {
    /// Opens a model and draws its pictures.
    pub fn open(model: &Path, device: &Device, settings: Settings) -> Result<Self> {
        let dtype = match device.info().kind {
            DeviceKind::Gpu => DType::F16,
            DeviceKind::Cpu => DType::F32,
        };
        let mut files = ModelFiles::open(model, Variant::Any)?;
        let folder = !files.values().is_empty();
        let mut places: BTreeMap<String, Vec<(Component, String)>> = BTreeMap::new();
        for component in Component::ALL {
            let (prefix, weights) = weights_of(&mut files, component);
            weights.keep_loaded();
            for name in weights.names() {
                let full = match folder {
                    true => format!("{prefix}{name}"),
                    false => weights.stored_name(name).expect("it has this name").to_string(),
                };
                places.entry(full).or_default().push((component, name.to_string()));
            }
        }
        let request = |index: usize| Request {
            prompt: PROMPTS[index % PROMPTS.len()].to_string(),
            seed: index as u64 + 1,
            steps: settings.steps,
            guidance_scale: GUIDANCE,
            width: settings.size.map(|[width, _]| width),
            height: settings.size.map(|[_, height]| height),
            ..Request::default()
        };
        let requests: Vec<Request> = (0..settings.pictures - 1).map(request).collect();
        let options = LoadOptions { vae_encoder: true, ..LoadOptions::default() };
        let (options, _) = options.fitted(device, &files, dtype, &requests[0])?;
        let device = device.clone();
        let (expected, seconds) = (Vec::new(), 0.0);
        let mut gallery =
            Self { device, dtype, files, options, requests, expected, places, seconds };
        gallery.expected = gallery.draw(&gallery.requests)?;
        let rgb = gallery.expected[0].rgb.clone();
        let again = Request {
            init_image: Some(InitImage { rgb, strength: STRENGTH }),
            ..request(settings.pictures - 1)
        };
        let start = Instant::now();
        gallery.expected.extend(gallery.draw(std::slice::from_ref(&again))?);
        gallery.requests.push(again);
        gallery.seconds = start.elapsed().as_secs_f64() * settings.pictures as f64;
        Ok(gallery)
    }

    /// Has a tensor, by its name in the file that is written, be as that type; as it is in the model with
    /// `None`. Of tensors that the model does not use, nothing.
    pub fn hold_as(&mut self, name: &str, stored: Option<StoredType>) -> Result<()> {
        for (component, name) in self.places.get(name).into_iter().flatten() {
            weights_of(&mut self.files, *component).1.hold_as(name, stored)?;
        }
        Ok(())
    }

    /// How far the pictures are now from what they were. If only tensors in which `only_encodes` have
    /// changed, pictures that start from noise are as they were.
    pub fn compare(&self, only_encodes: bool) -> Result<Effect> {
        let first = if only_encodes { self.requests.len() - 1 } else { 0 };
        let drawn = self.draw(&self.requests[first..])?;
        let (mut latents, mut of_latents) = (0.0, 0.0);
        let (mut pixels, mut worst) = (0.0, 0.0_f64);
        for expected in &self.expected {
            of_latents +=
                expected.latents.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        }
        for (got, expected) in drawn.iter().zip(&self.expected[first..]) {
            latents += squares(&got.latents, &expected.latents);
            let mean = squares(&got.rgb, &expected.rgb) / expected.rgb.len() as f64;
            // What is no picture at all is not near.
            let mean = if mean.is_finite() { mean } else { 1.0 };
            pixels += mean;
            worst = worst.max(mean);
        }
        let mean_square = pixels / self.expected.len() as f64;
        Ok(Effect { latents: (latents / of_latents).sqrt(), mean_square, worst })
    }

    /// Whether a tensor is only used to encode the picture that is started from.
    pub fn only_encodes(&self, name: &str) -> bool {
        let places = self.places.get(name).map_or(&[][..], Vec::as_slice);
        let encodes = |name: &str| ["encoder.", "quant_conv."].iter().any(|p| name.starts_with(p));
        places.iter().all(|(component, name)| *component == Component::Vae && encodes(name))
    }

    fn draw(&self, requests: &[Request]) -> Result<Vec<Drawn>> {
        let pipeline = Pipeline::load(&self.device, &self.files, self.dtype, &self.options)?;
        let draw = |request: &Request| {
            let mut last = Vec::new();
            let mut observe = |progress: &Progress| {
                if let Progress::Step { latents, .. } = progress {
                    last = latents.to_vec();
                }
                match stop::is_asked_for() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let mut pictures = pipeline.generate(request, &mut observe)?;
            // Also where it was pressed in the last step.
            match stop::is_asked_for() {
                true => Err(Error::Cancelled),
                false => Ok(Drawn { latents: last, rgb: pictures.remove(0).rgb }),
            }
        };
        requests.iter().map(draw).collect()
    }
}

/// The weights of a component, and what their names start with in a file of all.
fn weights_of(
    files: &mut ModelFiles,
    component: Component,
) -> (&'static str, &mut ellesmere::models::Checkpoint) {
    match component {
        Component::TextEncoder => ("text_encoder.", &mut files.text_encoder.weights),
        Component::UNet => ("unet.", &mut files.unet.weights),
        Component::Vae => ("vae.", &mut files.vae.weights),
    }
}

fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
