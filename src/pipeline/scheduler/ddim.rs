//! DDIM: Song et al., "Denoising Diffusion Implicit Models", formulas 12 and 16.

use super::prediction::{PredictionType, original_of_unit_variance};
use super::settings::Settings;
use super::tables::{cumulative_alphas, require_signal, spaced_timesteps};
use super::{Noise, Solver};
use crate::Result;

#[derive(Debug)]
pub(super) struct Ddim {
    settings: Settings,
    alphas: Vec<f32>,
    timesteps: Vec<f32>,
    /// Between two timesteps, for the one after the last.
    distance: usize,
}

impl Ddim {
    pub(super) fn new(settings: Settings, steps: usize) -> Result<Self> {
        let train = settings.num_train_timesteps;
        let alphas = cumulative_alphas(&settings);
        let spaced = spaced_timesteps(&settings, steps, steps, train)?;
        let timesteps: Vec<f32> =
            spaced.iter().map(|timestep| timestep.round_ties_even() as f32).collect();
        require_signal(&settings, &alphas, &timesteps)?;
        Ok(Ddim { settings, alphas, timesteps, distance: train / steps })
    }

    /// The cumulative alphas at a timestep and at the next.
    fn alphas(&self, index: usize) -> (f32, f32) {
        let timestep = self.timesteps[index] as usize;
        let next = match timestep.checked_sub(self.distance) {
            Some(next) => self.alphas[next],
            None if self.settings.set_alpha_to_one => 1.0,
            None => self.alphas[0],
        };
        (self.alphas[timestep], next)
    }
}

impl Solver for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        let (alpha, _) = self.alphas(index);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], noise: &mut Noise<'_>) {
        let prediction = self.settings.prediction_type;
        let (alpha, next) = self.alphas(index);
        let (signal, sigma) = self.mix(index);
        let variance = ((1.0 - next) / (1.0 - alpha)) * (1.0 - alpha / next);
        let deviation = self.settings.eta as f32 * variance.sqrt();
        let next_sigma = (1.0 - next - deviation * deviation).sqrt();
        let clip = self.settings.clip();
        for (&output, sample) in output.iter().zip(sample.iter_mut()) {
            let original = original_of_unit_variance(prediction, (signal, sigma), output, *sample);
            let epsilon = match prediction {
                PredictionType::Epsilon => output,
                PredictionType::Sample => (*sample - signal * original) / sigma,
                PredictionType::VPrediction => signal * output + sigma * *sample,
            };
            *sample = next.sqrt() * original.clamp(-clip, clip) + next_sigma * epsilon;
        }
        if self.settings.eta > 0.0 {
            for (noise, sample) in noise.draw().iter().zip(sample) {
                *sample += deviation * noise;
            }
        }
    }
}
