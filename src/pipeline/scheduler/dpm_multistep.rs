//! DPM-Solver++, multistep: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
//! Probabilistic Models".

use std::collections::VecDeque;

use super::prediction::{original_of_unit_variance, unit_variance};
use super::settings::{BetaSchedule, FinalSigmas, Settings, SolverType};
use super::tables::{Sigmas, exp, karras_sigmas, ln, spaced_timesteps};
use super::{Noise, Solver};
use crate::Result;

/// The timesteps and sigmas of the methods that work on `alpha * original + sigma * noise` of
/// variance 1, and the logarithms of `alpha / sigma` that they count steps in.
#[derive(Debug)]
pub(super) struct UnitVariance {
    pub(super) timesteps: Vec<f32>,
    /// Noise over signal. One more than there are timesteps: the last is that of the picture.
    sigmas: Vec<f32>,
}

impl UnitVariance {
    /// `end` is the timestep after the highest that may be visited, `round` what becomes of
    /// timesteps that Karras' sigmas fall on.
    pub(super) fn new(
        settings: &Settings,
        table: &Sigmas,
        steps: usize,
        end: usize,
        round: impl Fn(f64) -> f64,
    ) -> Result<Self> {
        // The lowest of one point more than there are steps is the picture itself.
        let spaced = spaced_timesteps(settings, steps, steps + 1, end)?;
        let mut timesteps: Vec<f32> =
            spaced.iter().map(|timestep| timestep.round_ties_even() as f32).collect();
        let mut sigmas: Vec<f64> =
            timesteps.iter().map(|&timestep| table.at(timestep.into())).collect();
        if settings.use_karras_sigmas {
            sigmas = karras_sigmas(settings, table.largest(), table.smallest(), steps);
            let nearest = |&sigma: &f64| round(table.timestep_of(sigma)) as f32;
            timesteps = sigmas.iter().map(nearest).collect();
        }
        let mut sigmas: Vec<f32> = sigmas.iter().map(|&sigma| sigma as f32).collect();
        sigmas.push(match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => table.smallest() as f32,
        });
        Ok(UnitVariance { timesteps, sigmas })
    }

    /// Ends where the last step starts, so that it goes nowhere.
    pub(super) fn end_at_last_step(&mut self) {
        if let [.., last, end] = self.sigmas.as_mut_slice() {
            *end = *last;
        }
    }

    /// The factors of signal and noise.
    pub(super) fn factors(&self, index: usize) -> (f32, f32) {
        unit_variance(self.sigmas[index])
    }

    /// The logarithm of `alpha / sigma`: infinite for the picture.
    pub(super) fn lambda(&self, index: usize) -> f32 {
        let (alpha, sigma) = self.factors(index);
        ln(alpha) - ln(sigma)
    }

    /// Whether a step goes nowhere, as the last may where `final_sigmas_type` is `sigma_min`; the
    /// formulas would divide by its length.
    pub(super) fn stands_still(&self, index: usize) -> bool {
        self.sigmas[index] == self.sigmas[index + 1]
    }
}

#[derive(Debug)]
pub(super) struct DpmMultistep {
    settings: Settings,
    schedule: UnitVariance,
    /// The originals that the model's outputs mean, the newest first, `solver_order` at most.
    originals: VecDeque<Vec<f32>>,
}

impl DpmMultistep {
    pub(super) fn new(settings: Settings, steps: usize) -> Result<Self> {
        let table = Sigmas::new(&settings);
        let end = table.count_above(settings.lambda_min_clipped).max(1);
        let round = match settings.beta_schedule {
            BetaSchedule::SquaredCosine => f64::trunc,
            BetaSchedule::Linear | BetaSchedule::ScaledLinear => f64::round_ties_even,
        };
        let schedule = UnitVariance::new(&settings, &table, steps, end, round)?;
        Ok(DpmMultistep { settings, schedule, originals: VecDeque::new() })
    }

    /// Lower at the start, where there is no history, and at the end, where it is more stable.
    fn order(&self, index: usize, history: usize) -> usize {
        let settings = &self.settings;
        let steps = self.schedule.timesteps.len();
        let is_short = settings.lower_order_final && steps < 15;
        let ends_at_zero = settings.final_sigmas_type == FinalSigmas::Zero;
        let at_the_end = match steps - index {
            1 if is_short || settings.euler_at_final || ends_at_zero => 1,
            2 if is_short => 2,
            _ => 3,
        };
        settings.solver_order.min(history).min(at_the_end)
    }

    fn first_order(&self, index: usize, sample: &mut [f32]) {
        let factors = Factors::new(&self.schedule, index);
        for (sample, &newest) in sample.iter_mut().zip(&self.originals[0]) {
            *sample = factors.ratio * *sample - (factors.alpha * factors.decay) * newest;
        }
    }

    fn second_order(&self, index: usize, sample: &mut [f32]) {
        let Factors { ratio, alpha, h, decay } = Factors::new(&self.schedule, index);
        let (current, before) = (self.schedule.lambda(index), self.schedule.lambda(index - 1));
        let inverse = 1.0 / ((current - before) / h);
        let slope_factor = match self.settings.solver_type {
            SolverType::Heun => alpha * (decay / h + 1.0),
            _ => -(0.5 * (alpha * decay)),
        };
        let originals = self.originals[0].iter().zip(&self.originals[1]);
        for (sample, (&newest, &older)) in sample.iter_mut().zip(originals) {
            let slope = inverse * (newest - older);
            *sample = ratio * *sample - (alpha * decay) * newest + slope_factor * slope;
        }
    }

    fn third_order(&self, index: usize, sample: &mut [f32]) {
        let Factors { ratio, alpha, h, decay } = Factors::new(&self.schedule, index);
        let [current, before, earlier] =
            [index, index - 1, index - 2].map(|index| self.schedule.lambda(index));
        let (r0, r1) = ((current - before) / h, (before - earlier) / h);
        let slope_factor = alpha * (decay / h + 1.0);
        let curve_factor = alpha * ((decay + h) / (h * h) - 0.5);
        let originals = self.originals[0].iter().zip(&self.originals[1]).zip(&self.originals[2]);
        for (sample, ((&newest, &older), &oldest)) in sample.iter_mut().zip(originals) {
            let (late, early) = ((1.0 / r0) * (newest - older), (1.0 / r1) * (older - oldest));
            let slope = late + (r0 / (r0 + r1)) * (late - early);
            let curve = (1.0 / (r0 + r1)) * (late - early);
            *sample = ratio * *sample - (alpha * decay) * newest + slope_factor * slope
                - curve_factor * curve;
        }
    }
}

/// What all orders need of the step to the next timestep.
struct Factors {
    /// The next sigma over this one.
    ratio: f32,
    /// The next alpha.
    alpha: f32,
    /// The length of the step in lambda.
    h: f32,
    /// `e^-h - 1`.
    decay: f32,
}

impl Factors {
    fn new(schedule: &UnitVariance, index: usize) -> Self {
        let (_, sigma) = schedule.factors(index);
        let (alpha, next_sigma) = schedule.factors(index + 1);
        let h = schedule.lambda(index + 1) - schedule.lambda(index);
        Factors { ratio: next_sigma / sigma, alpha, h, decay: exp(-h) - 1.0 }
    }
}

impl Solver for DpmMultistep {
    fn timesteps(&self) -> &[f32] {
        &self.schedule.timesteps
    }

    fn mix(&self, index: usize) -> (f32, f32) {
        self.schedule.factors(index)
    }

    fn step(&mut self, index: usize, output: &[f32], sample: &mut [f32], _: &mut Noise<'_>) {
        let factors = self.schedule.factors(index);
        let prediction = self.settings.prediction_type;
        let here = output.iter().zip(sample.iter());
        let original = here
            .map(|(&output, &sample)| {
                original_of_unit_variance(prediction, factors, output, sample)
            })
            .collect();
        self.originals.truncate(self.settings.solver_order - 1);
        self.originals.push_front(original);
        if self.schedule.stands_still(index) {
            return;
        }
        match self.order(index, self.originals.len()) {
            1 => self.first_order(index, sample),
            2 => self.second_order(index, sample),
            _ => self.third_order(index, sample),
        }
    }

    fn reset(&mut self) {
        self.originals.clear();
    }
}
