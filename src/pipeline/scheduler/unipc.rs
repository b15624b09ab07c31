//! UniPC, predicting originals: Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for
//! Fast Sampling of Diffusion Models".

use std::collections::VecDeque;

use super::dpm_multistep::UnitVariance;
use super::prediction::original_of_unit_variance;
use super::settings::{FinalSigmas, Settings, SolverType};
use super::tables::{Sigmas, exp_m1};
use super::{Noise, Solver};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct UniPc {
    settings: Settings,
    schedule: UnitVariance,
    /// The originals that the model's outputs mean, the newest first, `solver_order` at most.
    originals: VecDeque<Vec<f32>>,
    last: Option<LastStep>,
}

/// What the corrector goes back to.
#[derive(Debug)]
struct LastStep {
    sample: Vec<f32>,
    order: usize,
}

impl UniPc {
    pub(super) fn new(settings: Settings, steps: usize) -> Result<Self> {
        let ends_at_zero = settings.final_sigmas_type == FinalSigmas::Zero;
        if ends_at_zero && !settings.lower_order_final && settings.solver_order > 1 {
            let detail = "expected true, got false: with final_sigmas_type zero the last step has \
                          infinite length, which only order 1 can take";
            return Err(Error::argument("lower_order_final", detail));
        }
        let table = Sigmas::new(&settings);
        let end = settings.num_train_timesteps;
        let mut schedule = UnitVariance::new(&settings, &table, steps, end, f64::round_ties_even)?;
        if settings.use_karras_sigmas && !ends_at_zero {
            // Even where `sigma_min` of the configuration is not that of training.
            schedule.end_at_last_step();
        }
        Ok(UniPc { settings, schedule, originals: VecDeque::new(), last: None })
    }

    /// UniP: from the newest original and those before it.
    fn predict(&self, index: usize, order: usize, sample: &mut [f32]) {
        let step = self.step_between(index, order);
        let weights = match order {
            1 => Vec::new(),
            // Simpler than what the equations answer, as the paper proposes.
            2 => vec![0.5],
            _ => step.solve(order - 1),
        };
        self.advance(&step, &weights, sample, |_| 0.0);
    }

    /// UniC: the last step again, now knowing the original that it led to.
    fn correct(&self, index: usize, last: &LastStep, original: &[f32], sample: &mut [f32]) {
        let step = self.step_between(index - 1, last.order);
        let weights = if last.order == 1 { vec![0.5] } else { step.solve(last.order) };
        let (&newest_weight, weights) = weights.split_last().expect("one weight an order");
        sample.copy_from_slice(&last.sample);
        let newest = &self.originals[0];
        self.advance(&step, weights, sample, |place| {
            newest_weight * (original[place] - newest[place])
        });
    }

    fn advance(
        &self,
        step: &Step,
        weights: &[f32],
        sample: &mut [f32],
        correction: impl Fn(usize) -> f32,
    ) {
        let newest = &self.originals[0];
        for (place, sample) in sample.iter_mut().enumerate() {
            let differences = self
                .originals
                .iter()
                .skip(1)
                .zip(&step.ratios)
                .map(|(older, &ratio)| (older[place] - newest[place]) / ratio);
            let sum: f32 = weights.iter().zip(differences).map(|(weight, d)| weight * d).sum();
            let residual = sum + correction(place);
            let linear = step.sigma_ratio * *sample - (step.alpha * step.phi) * newest[place];
            // Without a residual its factor may be infinite, at the last step of `bh1`.
            *sample = if residual == 0.0 {
                linear
            } else {
                linear - (step.alpha * step.scale) * residual
            };
        }
    }

    fn step_between(&self, index: usize, order: usize) -> Step {
        let (_, sigma) = self.schedule.factors(index);
        let (alpha, next_sigma) = self.schedule.factors(index + 1);
        let lambda = self.schedule.lambda(index);
        let h = self.schedule.lambda(index + 1) - lambda;
        let ratios =
            (1..order).map(|back| (self.schedule.lambda(index - back) - lambda) / h).collect();
        let phi = exp_m1(-h);
        let scale = if self.settings.solver_type == SolverType::Bh1 { -h } else { phi };
        Step { sigma_ratio: next_sigma / sigma, alpha, h, phi, scale, ratios }
    }
}

/// A step from one timestep to the next, in the paper's terms.
struct Step {
    /// The next sigma over this one.
    sigma_ratio: f32,
    /// The next alpha.
    alpha: f32,
    /// Its length in lambda.
    h: f32,
    /// `e^-h - 1`.
    phi: f32,
    /// `B(h)`.
    scale: f32,
    /// How far back earlier timesteps are, in steps: negative.
    ratios: Vec<f32>,
}

impl Step {
    /// The weights of as many differences that make the method exact to this order.
    fn solve(&self, count: usize) -> Vec<f32> {
        let ratios: Vec<f32> = self.ratios.iter().copied().chain([1.0]).take(count).collect();
        let hh = -self.h;
        let mut phi = self.phi / hh - 1.0;
        let mut factorial = 1.0;
        let mut powers = vec![1.0; count];
        let mut equations = Vec::with_capacity(count);
        for row in 1..=count {
            let mut equation = powers.clone();
            equation.push(phi * factorial / self.scale);
            equations.push(equation);
            factorial *= (row + 1) as f32;
            phi = phi / hh - 1.0 / factorial;
            powers.iter_mut().zip(&ratios).for_each(|(power, ratio)| *power *= ratio);
        }
        solve(equations)
    }
}

/// Gaussian elimination with the largest pivot of each column; each row ends with its right side.
fn solve(mut rows: Vec<Vec<f32>>) -> Vec<f32> {
    let count = rows.len();
    for column in 0..count {
        let largest = (column..count)
            .max_by(|&one, &other| rows[one][column].abs().total_cmp(&rows[other][column].abs()))
            .unwrap_or(column);
        rows.swap(column, largest);
        let (pivot, below) = rows[column..].split_first_mut().expect("a row for each column");
        for row in below {
            let factor = row[column] / pivot[column];
            row.iter_mut().zip(pivot.iter()).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    let mut solution = vec![0.0; count];
    for row in (0..count).rev() {
        let known: f32 = (row + 1..count).map(|column| rows[row][column] * solution[column]).sum();
        solution[row] = (rows[row][count] - known) / rows[row][row];
    }
    solution
}

impl Solver for UniPc {
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
        let original: Vec<f32> = here
            .map(|(&output, &sample)| {
                original_of_unit_variance(prediction, factors, output, sample)
            })
            .collect();
        if let Some(last) = self.last.take()
            && !self.settings.disable_corrector.contains(&(index - 1))
        {
            self.correct(index, &last, &original, sample);
        }
        self.originals.truncate(self.settings.solver_order - 1);
        self.originals.push_front(original);
        let left = self.schedule.timesteps.len() - index;
        let most = if self.settings.lower_order_final { left } else { usize::MAX };
        let order = self.settings.solver_order.min(most).min(self.originals.len());
        self.last = Some(LastStep { sample: sample.to_vec(), order });
        if !self.schedule.stands_still(index) {
            self.predict(index, order, sample);
        }
    }

    fn reset(&mut self) {
        self.originals.clear();
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved_with_the_largest_pivot() {
        // y = 2, x + y = 3; the first column starts with 0.
        assert_eq!(solve(vec![vec![0.0, 1.0, 2.0], vec![1.0, 1.0, 3.0]]), [1.0, 2.0]);
        assert_eq!(solve(vec![vec![4.0, 2.0]]), [0.5]);
    }

    #[test]
    fn weights_make_the_method_exact_for_steps_that_are_small() {
        // For h to 0 the equations are those of Adams and Moulton: from points at -1 and 1 the
        // integral of a difference that grows as t is 1/2 and as t^2 is 1/3.
        let h = 1e-2f32;
        let phi = exp_m1(-h);
        let step = Step { sigma_ratio: 1.0, alpha: 1.0, h, phi, scale: phi, ratios: vec![-1.0] };
        let weights = step.solve(2);
        // sum of w_k = 1/2 and of w_k r_k = 1/3, to the first order in h and to the cancellation
        // of f32 in phi, which is divided by h twice.
        let tolerance = h + 4.0 * f32::EPSILON / (h * h);
        assert!((weights[0] + weights[1] - 0.5).abs() < tolerance, "{weights:?}");
        assert!((weights[1] - weights[0] - 1.0 / 3.0).abs() < tolerance, "{weights:?}");
    }
}
