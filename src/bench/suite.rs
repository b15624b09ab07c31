//! What whole models launch, by dry runs: the problems that are worth tuning.

use super::problem::{Problem, dry};
use crate::backend::record::RecordedProblem;
use crate::device::Device;
use crate::info::DeviceInfo;
use crate::models::files::{Configs, Kind};
use crate::models::{
    ClipTextEncoder, TextEncoderConfig, UNet, UNetConfig, VaeConfig, VaeDecoder, VaeEncoder,
};
use crate::nn::TensorSource;
use crate::tensor::Tensor;
use crate::{DType, Result};

/// Calls of the UNet for a picture, as [`Request`](crate::pipeline::Request) has by default.
const STEPS: u64 = 20;

/// A part of a model at the size that it was trained for.
#[derive(Clone, Debug)]
pub enum Part {
    /// A prompt and a negative prompt.
    TextEncoder(TextEncoderConfig),
    /// The steps of a picture with guidance, both halves in one batch.
    UNet(UNetConfig, TextEncoderConfig),
    /// A latent to a picture.
    Decoder(VaeConfig),
    /// A picture to a latent.
    Encoder(VaeConfig),
}

/// What a set of parts launches.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The problems, those first that take most of the time.
    pub problems: Vec<Problem>,
    /// What is launched but cannot be asked for by itself.
    pub left_out: Vec<RecordedProblem>,
}

impl Part {
    /// Text encoder and UNet of Stable Diffusion 1.5, at 512 x 512.
    pub fn sd15() -> Result<Vec<Self>> {
        let Configs { text_encoder, unet, .. } = Configs::of("sd15".as_ref(), Kind::One)?;
        Ok(vec![Part::TextEncoder(text_encoder.clone()), Part::UNet(unet, text_encoder)])
    }

    /// Text encoder and UNet of Stable Diffusion 2.1, at 768 x 768.
    pub fn sd21() -> Result<Vec<Self>> {
        let Configs { text_encoder, unet, .. } = Configs::of("sd21".as_ref(), Kind::Two)?;
        let unet = UNetConfig { sample_size: [96, 96], ..unet };
        Ok(vec![Part::TextEncoder(text_encoder.clone()), Part::UNet(unet, text_encoder)])
    }

    /// The autoencoder of both, at 512 x 512.
    pub fn vae() -> Result<Vec<Self>> {
        let Configs { vae, .. } = Configs::of("vae".as_ref(), Kind::One)?;
        Ok(vec![Part::Decoder(vae.clone()), Part::Encoder(vae)])
    }

    fn run(&self, device: &Device, dtype: DType) -> Result<()> {
        let zeros = |shape: &[usize]| {
            Tensor::from_slice(device, shape, dtype, &vec![0.0; shape.iter().product()])
        };
        match self {
            Part::TextEncoder(config) => {
                let ids = vec![0; 2 * config.max_position_embeddings];
                ClipTextEncoder::load(device, dtype, config, &AnyTensor)?.encode(&ids)?;
            }
            Part::UNet(config, text) => {
                let unet = UNet::load(device, dtype, config, &AnyTensor)?;
                let [height, width] = config.sample_size;
                let latents = zeros(&[2, height, width, config.in_channels])?;
                let context = zeros(&[2, text.max_position_embeddings, text.hidden_size])?;
                unet.forward(&latents, &[999.0; 2], &context)?;
            }
            Part::Decoder(config) => {
                let decoder = VaeDecoder::load(device, dtype, config, &AnyTensor)?;
                let [height, width] = config.sample_size.map(|side| side / config.downscale());
                decoder.decode(&zeros(&[1, height, width, config.latent_channels])?)?;
            }
            Part::Encoder(config) => {
                let encoder = VaeEncoder::load(device, dtype, config, &AnyTensor)?;
                let [height, width] = config.sample_size;
                encoder.encode(&zeros(&[1, height, width, 3])?)?;
            }
        }
        Ok(())
    }

    fn runs(&self) -> u64 {
        if matches!(self, Part::UNet(..)) { STEPS } else { 1 }
    }
}

impl Suite {
    /// What `parts` launch on the device that `info` describes. Nothing is allocated or run, and
    /// no weights are needed.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if an allocation is over the device's
    /// largest.
    pub fn of(parts: &[Part], dtype: DType, info: &DeviceInfo) -> Result<Self> {
        let mut recorded: Vec<RecordedProblem> = Vec::new();
        for part in parts {
            let device = dry(info);
            part.run(&device, dtype)?;
            let runs = part.runs();
            for mut problem in device.recorded().expect("a dry run records").problems {
                problem.launches *= runs;
                problem.flop *= runs;
                problem.bytes *= runs;
                let same = |known: &&mut RecordedProblem| {
                    (known.kernel, known.dtype, &known.class)
                        == (problem.kernel, problem.dtype, &problem.class)
                };
                match recorded.iter_mut().find(same) {
                    Some(known) => {
                        known.launches += problem.launches;
                        known.flop += problem.flop;
                        known.bytes += problem.bytes;
                    }
                    None if problem.launches > 0 => recorded.push(problem),
                    None => {}
                }
            }
        }
        let mut suite = Self { problems: Vec::new(), left_out: Vec::new() };
        for recorded in recorded {
            match Problem::again(&recorded, info) {
                Some(problem) => suite.problems.push(problem),
                None => suite.left_out.push(recorded),
            }
        }
        suite.problems.sort_by_key(|problem| std::cmp::Reverse(problem.weight));
        Ok(suite)
    }
}

/// Has every tensor, and none of their values: a dry run reads none.
struct AnyTensor;

impl TensorSource for AnyTensor {
    fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(vec![0.0; shape.iter().product()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_are_what_the_models_launch() {
        let info = Device::cpu().info().clone();
        let suite = Suite::of(&Part::sd15().unwrap(), DType::F32, &info).unwrap();
        assert_eq!(suite.left_out, [], "every problem can be run by itself");
        let named = |problem: &Problem| (problem.case.op, problem.class.to_string());
        let (op, class) = named(&suite.problems[0]);
        assert_eq!(
            (op, class.as_str()),
            ("attention", "queries=4096,keys=4096,head_width=40,heads=8")
        );
        // Five layers of two UNet levels' first blocks have it, twenty times.
        assert_eq!(suite.problems[0].launches, 100);
        assert!(suite.problems.is_sorted_by_key(|problem| std::cmp::Reverse(problem.weight)));
        let suite = Suite::of(&Part::vae().unwrap(), DType::F16, &info).unwrap();
        assert!(suite.problems.iter().any(|problem| {
            problem.class.0.contains(&("rows", 512 * 512))
                && problem.case.op == "conv2d_few_outputs"
        }));
    }
}
