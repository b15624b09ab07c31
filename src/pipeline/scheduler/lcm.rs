//! LCM: Luo et al., "Latent Consistency Models", multistep sampling.

use super::prediction::original_of_unit_variance;
use super::settings::Settings;
use super::tables::{cumulative_alphas, require_signal};
use super::{Noise, Solver};
use crate::{Error, Result};

/// The deviation of the data that consistency models are trained for.
const DATA_SIGMA: f32 = 0.5;

#[derive(Debug)]
pub(super) struct Lcm {
    settings: Settings,
    alphas: Vec<f32>,
    timesteps: Vec<f32>,
}

impl Lcm {
    /// Timesteps are picked evenly from the `original_inference_steps` of distillation, whatever
    /// the spacing says.
    pub(super) fn new(settings: Settings, steps: usize) -> Result<Self> {
        let original = settings.original_inference_steps;
        if steps > original {
            let detail = format!("expected at most {original} for lcm, got {steps}");
            return Err(Error::argument("steps", detail));
        }
        let distance = settings.num_train_timesteps / original;
        let part = original as f64 / steps as f64;
        let timesteps: Vec<f32> = (0..steps)
            .map(|step| (step as f64 * part).floor() as usize)
            .map(|place| ((original - place) * distance - 1) as f32)
            .collect();
        let alphas = cumulative_alphas(&settings);
        require_signal(&settings, &alphas, &timesteps)?;
        Ok(Lcm { settings, alphas, timesteps })
    }
}

impl Solver for Lcm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        let alpha = self.alphas[self.timesteps[index] as usize];
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], noise: &mut Noise<'_>) {
        let prediction = self.settings.prediction_type;
        let factors = self.mix(index);
        let clip = self.settings.clip();
        let timestep = self.timesteps[index] * self.settings.timestep_scaling as f32;
        let sum = timestep * timestep + DATA_SIGMA * DATA_SIGMA;
        let (skip, out) = (DATA_SIGMA * DATA_SIGMA / sum, timestep / sum.sqrt());
        for (&output, sample) in output.iter().zip(sample.iter_mut()) {
            let original = original_of_unit_variance(prediction, factors, output, *sample);
            *sample = out * original.clamp(-clip, clip) + skip * *sample;
        }
        if index + 1 < self.timesteps.len() {
            let (signal, sigma) = self.mix(index + 1);
            for (noise, sample) in noise.draw().iter().zip(sample) {
                *sample = signal * *sample + sigma * noise;
            }
        }
    }
}
