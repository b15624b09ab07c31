//! PNDM: Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds".
//!
//! Linear multistep (PLMS) once there are enough earlier outputs to go by. Those come from three
//! Runge-Kutta steps of four calls each (PRK), or, as Stable Diffusion has it, from shorter
//! formulas, the second call going over the first step again.

use super::prediction::PredictionType;
use super::settings::Settings;
use super::tables::{cumulative_alphas, require_signal, spaced_timesteps};
use super::{Noise, Solver};
use crate::{Error, Result};

/// Calls of the model in Runge-Kutta steps, and how many steps those are.
const PRK_CALLS: usize = 12;
const PRK_STEPS: usize = 3;

#[derive(Debug)]
pub(super) struct Pndm {
    settings: Settings,
    alphas: Vec<f32>,
    timesteps: Vec<f32>,
    /// Between two timesteps.
    distance: i64,
    /// Steps taken. The formulas go by this, wherever in the schedule a picture started.
    taken: usize,
    /// Up to four outputs, the newest last.
    outputs: Vec<Vec<f32>>,
    /// The sample that a step of several calls started from.
    start: Vec<f32>,
    /// What a Runge-Kutta step has added up.
    sum: Vec<f32>,
}

impl Pndm {
    pub(super) fn new(settings: Settings, steps: usize) -> Result<Self> {
        if !settings.skip_prk_steps && steps <= PRK_STEPS {
            let detail =
                format!("expected at least 4 for pndm with skip_prk_steps false, got {steps}");
            return Err(Error::argument("steps", detail));
        }
        let train = settings.num_train_timesteps;
        let alphas = cumulative_alphas(&settings);
        let mut timesteps: Vec<f32> = spaced_timesteps(&settings, steps, steps, train)?
            .iter()
            .map(|timestep| timestep.round_ties_even() as f32)
            .collect();
        let distance = train / steps;
        if !settings.skip_prk_steps {
            let half = (distance / 2) as f32;
            let mut runge_kutta = vec![timesteps[0]];
            for &timestep in &timesteps[1..=PRK_STEPS] {
                let between = timestep + half;
                runge_kutta.extend([between, between, timestep, timestep]);
            }
            runge_kutta.pop();
            timesteps.splice(..PRK_STEPS, runge_kutta);
        } else if let Some(&second) = timesteps.get(1) {
            timesteps.insert(1, second);
        }
        require_signal(&settings, &alphas, &timesteps)?;
        Ok(Pndm {
            settings,
            alphas,
            timesteps,
            distance: distance as i64,
            taken: 0,
            outputs: Vec::new(),
            start: Vec::new(),
            sum: Vec::new(),
        })
    }

    fn alpha(&self, timestep: i64) -> f32 {
        match usize::try_from(timestep) {
            Ok(timestep) => self.alphas[timestep],
            Err(_) if self.settings.set_alpha_to_one => 1.0,
            Err(_) => self.alphas[0],
        }
    }

    /// Formula 9: from `sample` at one timestep to another, as if `outputs` were the noise.
    fn transfer(&self, sample: &mut [f32], timestep: i64, next: i64, outputs: &[f32]) {
        let (alpha, next_alpha) = (self.alpha(timestep), self.alpha(next));
        let (beta, next_beta) = (1.0 - alpha, 1.0 - next_alpha);
        let factor = (next_alpha / alpha).sqrt();
        let divisor = alpha * next_beta.sqrt() + (alpha * beta * next_alpha).sqrt();
        for (sample, &output) in sample.iter_mut().zip(outputs) {
            let epsilon = match self.settings.prediction_type {
                PredictionType::VPrediction => alpha.sqrt() * output + beta.sqrt() * *sample,
                PredictionType::Epsilon | PredictionType::Sample => output,
            };
            *sample = factor * *sample - (next_alpha - alpha) * epsilon / divisor;
        }
    }

    /// One of the four calls of a Runge-Kutta step.
    fn runge_kutta(&mut self, timestep: i64, output: &[f32], sample: &mut [f32]) {
        let half = if self.taken.is_multiple_of(2) { self.distance / 2 } else { 0 };
        let first_timestep = self.timesteps[self.taken / 4 * 4] as i64;
        let mut combined = output.to_vec();
        match self.taken % 4 {
            0 => {
                self.start = sample.to_vec();
                self.sum = output.iter().map(|value| SIXTH * value).collect();
                self.outputs.push(output.to_vec());
            }
            3 => {
                let sums = self.sum.iter().zip(output);
                combined = sums.map(|(sum, value)| sum + SIXTH * value).collect();
            }
            _ => self.sum.iter_mut().zip(output).for_each(|(sum, value)| *sum += THIRD * value),
        }
        sample.copy_from_slice(&self.start);
        self.transfer(sample, first_timestep, timestep - half, &combined);
    }

    /// One call of the linear multistep method.
    fn linear_multistep(&mut self, timestep: i64, output: &[f32], sample: &mut [f32]) {
        if self.taken == 1 {
            // Back to the start of the first step, with the mean of its two ends.
            let ends = output.iter().zip(&self.outputs[0]);
            let mean: Vec<f32> = ends.map(|(end, start)| (end + start) / 2.0).collect();
            sample.copy_from_slice(&self.start);
            return self.transfer(sample, timestep + self.distance, timestep, &mean);
        }
        if self.taken == 0 {
            self.start = sample.to_vec();
        }
        if self.outputs.len() == 4 {
            self.outputs.remove(0);
        }
        self.outputs.push(output.to_vec());
        let combined: Vec<f32> = match self.outputs.as_slice() {
            [a, b] => a.iter().zip(b).map(|(a, b)| (3.0 * b - a) / 2.0).collect(),
            [a, b, c] => {
                let values = a.iter().zip(b).zip(c);
                values.map(|((a, b), c)| (23.0 * c - 16.0 * b + 5.0 * a) / 12.0).collect()
            }
            [a, b, c, d] => {
                let values = a.iter().zip(b).zip(c).zip(d);
                values
                    .map(|(((a, b), c), d)| 55.0 * d - 59.0 * c + 37.0 * b - 9.0 * a)
                    .map(|sum| (1.0 / 24.0) * sum)
                    .collect()
            }
            _ => output.to_vec(),
        };
        self.transfer(sample, timestep, timestep - self.distance, &combined);
    }
}

const SIXTH: f32 = 1.0 / 6.0;
const THIRD: f32 = 1.0 / 3.0;

impl Solver for Pndm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        let alpha = self.alpha(self.timesteps[index] as i64);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], _: &mut Noise<'_>) {
        let timestep = self.timesteps[index] as i64;
        if !self.settings.skip_prk_steps && self.taken < PRK_CALLS {
            self.runge_kutta(timestep, output, sample);
        } else {
            self.linear_multistep(timestep, output, sample);
        }
        self.taken += 1;
    }

    fn reset(&mut self) {
        self.taken = 0;
        self.outputs.clear();
    }
}
