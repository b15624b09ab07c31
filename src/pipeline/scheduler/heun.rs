//! Heun's method: Euler's step, then again with the mean of the directions at both its ends.

use super::euler::AddedNoise;
use super::prediction::original_of_added_noise;
use super::settings::Settings;
use super::{Noise, Solver};
use crate::Result;

#[derive(Debug)]
pub(super) struct Heun {
    /// Each timestep but the first and each sigma between comes twice.
    schedule: AddedNoise,
    clip: f32,
    /// Between the two halves of a step.
    first_half: Option<FirstHalf>,
}

#[derive(Debug)]
struct FirstHalf {
    sample: Vec<f32>,
    direction: Vec<f32>,
    distance: f32,
}

impl Heun {
    pub(super) fn new(settings: &Settings, steps: usize) -> Result<Self> {
        let once = AddedNoise::new(settings, steps)?;
        let twice =
            |values: &[f32]| values.iter().flat_map(|&value| [value; 2]).collect::<Vec<_>>();
        let timesteps = twice(&once.timesteps).split_off(1);
        let mut sigmas = twice(&once.sigmas[..steps]).split_off(1);
        sigmas.extend(&once.sigmas[steps..]);
        let schedule = AddedNoise { timesteps, sigmas, ..once };
        Ok(Heun { schedule, clip: settings.clip(), first_half: None })
    }

    fn direction(&self, sigma: f32, output: f32, sample: f32) -> f32 {
        let original = original_of_added_noise(self.schedule.prediction, sigma, output, sample);
        (sample - original.clamp(-self.clip, self.clip)) / sigma
    }
}

impl Solver for Heun {
    fn timesteps(&self) -> &[f32] {
        &self.schedule.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn order(&self) -> usize {
        2
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.schedule.input_divisor(index)
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], _: &mut Noise<'_>) {
        let sigma = self.schedule.sigmas[index];
        let here = output.iter().zip(sample.iter());
        let direction: Vec<f32> =
            here.map(|(&output, &sample)| self.direction(sigma, output, sample)).collect();
        match self.first_half.take() {
            None => {
                let start = sample.to_vec();
                let distance = self.schedule.sigmas[index + 1] - sigma;
                for (sample, slope) in sample.iter_mut().zip(&direction) {
                    *sample += slope * distance;
                }
                self.first_half = Some(FirstHalf { sample: start, direction, distance });
            }
            Some(FirstHalf { sample: start, direction: first, distance }) => {
                let slopes = first.iter().zip(&direction).map(|(one, other)| (one + other) / 2.0);
                for ((sample, start), slope) in sample.iter_mut().zip(&start).zip(slopes) {
                    *sample = start + slope * distance;
                }
            }
        }
    }

    fn reset(&mut self) {
        self.first_half = None;
    }
}
