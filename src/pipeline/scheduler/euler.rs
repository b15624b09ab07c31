//! Euler's method: algorithm 2 of Karras et al., "Elucidating the Design Space of Diffusion-Based
//! Generative Models", without churn.

use super::prediction::{PredictionType, original_of_added_noise};
use super::settings::{FinalSigmas, Settings, TimestepSpacing, TimestepType};
use super::tables::{Sigmas, karras_sigmas, ln, spaced_timesteps};
use super::{Noise, Solver};
use crate::Result;

/// The timesteps and sigmas of the methods that work on `original + sigma * noise`.
#[derive(Debug)]
pub(super) struct AddedNoise {
    pub(super) timesteps: Vec<f32>,
    /// One more than there are timesteps: the last is that of the picture.
    pub(super) sigmas: Vec<f32>,
    pub(super) prediction: PredictionType,
    pub(super) init_noise_sigma: f32,
}

impl AddedNoise {
    pub(super) fn new(settings: &Settings, steps: usize) -> Result<Self> {
        let train = settings.num_train_timesteps;
        let table = Sigmas::new(settings);
        let spaced = spaced_timesteps(settings, steps, steps, train)?;
        let mut timesteps: Vec<f32> = spaced.iter().map(|&timestep| timestep as f32).collect();
        let mut sigmas: Vec<f64> =
            timesteps.iter().map(|&timestep| table.at(timestep.into())).collect();
        if settings.use_karras_sigmas {
            // Between the sigmas of these timesteps, not those of training.
            sigmas = karras_sigmas(settings, sigmas[0], sigmas[steps - 1], steps);
            timesteps = sigmas.iter().map(|&sigma| table.timestep_of(sigma) as f32).collect();
        }
        sigmas.push(match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => table.smallest(),
        });
        let sigmas: Vec<f32> = sigmas.iter().map(|&sigma| sigma as f32).collect();
        let is_velocity = settings.prediction_type == PredictionType::VPrediction;
        if settings.timestep_type == TimestepType::Continuous && is_velocity {
            timesteps = sigmas[..steps].iter().map(|&sigma| 0.25 * ln(sigma)).collect();
        }
        let largest = sigmas.iter().copied().fold(0.0, f32::max);
        let init_noise_sigma = match settings.timestep_spacing {
            TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
        };
        let prediction = settings.prediction_type;
        Ok(AddedNoise { timesteps, sigmas, prediction, init_noise_sigma })
    }

    /// What makes a sample of variance `sigma^2 + 1` one of variance 1.
    pub(super) fn input_divisor(&self, index: usize) -> f32 {
        let sigma = self.sigmas[index];
        (sigma * sigma + 1.0).sqrt()
    }
}

#[derive(Debug)]
pub(super) struct Euler {
    schedule: AddedNoise,
}

impl Euler {
    pub(super) fn new(settings: &Settings, steps: usize) -> Result<Self> {
        Ok(Euler { schedule: AddedNoise::new(settings, steps)? })
    }
}

impl Solver for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.schedule.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.schedule.input_divisor(index)
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], _: &mut Noise<'_>) {
        let (sigma, next) = (self.schedule.sigmas[index], self.schedule.sigmas[index + 1]);
        for (&output, sample) in output.iter().zip(sample) {
            let original =
                original_of_added_noise(self.schedule.prediction, sigma, output, *sample);
            *sample += (*sample - original) / sigma * (next - sigma);
        }
    }
}
