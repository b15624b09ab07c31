//! Euler's method with new noise at every step: "ancestral" sampling of k-diffusion.

use super::euler::AddedNoise;
use super::prediction::original_of_added_noise;
use super::settings::Settings;
use super::{Noise, Solver};
use crate::Result;

#[derive(Debug)]
pub(super) struct EulerAncestral {
    schedule: AddedNoise,
}

impl EulerAncestral {
    pub(super) fn new(settings: &Settings, steps: usize) -> Result<Self> {
        Ok(EulerAncestral { schedule: AddedNoise::new(settings, steps)? })
    }
}

impl Solver for EulerAncestral {
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

    /// Down to less than the next sigma, and up to it with new noise, drawn even at the last step
    /// where there is none to add.
    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], noise: &mut Noise<'_>) {
        let (sigma, next) = (self.schedule.sigmas[index], self.schedule.sigmas[index + 1]);
        let (variance, next_variance) = (sigma * sigma, next * next);
        let up = (next_variance * (variance - next_variance) / variance).sqrt();
        let down = (next_variance - up * up).sqrt();
        let noise = noise.draw();
        for ((&output, sample), noise) in output.iter().zip(sample).zip(noise) {
            let original =
                original_of_added_noise(self.schedule.prediction, sigma, output, *sample);
            let stepped = *sample + (*sample - original) / sigma * (down - sigma);
            *sample = stepped + noise * up;
        }
    }
}
