//! The tables that schedulers start from: cumulative alphas and sigmas of training, and the
//! timesteps picked from them.
//!
//! Values are rounded to f32 exactly where diffusers rounds them: near timestep 0 a cumulative
//! alpha differs from 1 by less than 0.001, so that one unit in its last place is already 1e-4 of
//! the noise.

use super::prediction::PredictionType;
use super::settings::{BetaSchedule, Settings, TimestepSpacing};
use crate::{Error, Result};

/// The product of `1 - beta` up to each training timestep: how much of the variance is signal.
pub(super) fn cumulative_alphas(settings: &Settings) -> Vec<f32> {
    let betas = match &settings.trained_betas {
        Some(betas) => betas.clone(),
        None => betas(settings),
    };
    let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
    let products = cumulative_products(&alphas);
    if !settings.rescale_betas_zero_snr {
        return products;
    }
    cumulative_products(&zero_terminal_alphas(&products))
}

fn betas(settings: &Settings) -> Vec<f32> {
    let count = settings.num_train_timesteps;
    match settings.beta_schedule {
        BetaSchedule::Linear => evenly(settings.beta_start, settings.beta_end, count),
        BetaSchedule::ScaledLinear => {
            let roots = evenly(settings.beta_start.sqrt(), settings.beta_end.sqrt(), count);
            roots.iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => {
            let signal =
                |part: f64| ((part + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
            let part = |index: usize| index as f64 / count as f64;
            (0..count)
                .map(|index| 1.0 - signal(part(index + 1)) / signal(part(index)))
                .map(|beta| beta.min(0.999) as f32)
                .collect()
        }
    }
}

/// `torch.linspace` in f32: from both ends to the middle.
fn evenly(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|index| match index < count / 2 {
            true => start + step * index as f32,
            false => end - step * (count - 1 - index) as f32,
        })
        .collect()
}

fn cumulative_products(alphas: &[f32]) -> Vec<f32> {
    let multiply = |product: &mut f64, &alpha: &f32| {
        *product *= f64::from(alpha);
        Some(*product as f32)
    };
    alphas.iter().scan(1.0, multiply).collect()
}

/// Alphas whose product ends at 0, so that training's last timestep is noise alone: algorithm 1
/// of Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed".
fn zero_terminal_alphas(products: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = products.iter().map(|product| product.sqrt()).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    let scale = first / (first - last);
    let squares: Vec<f32> =
        roots.iter().map(|root| (root - last) * scale).map(|root| root * root).collect();
    let later = squares.windows(2).map(|pair| pair[1] / pair[0]);
    // By way of betas, as diffusers does: that rounds once more.
    squares[..1].iter().copied().chain(later).map(|alpha| 1.0 - (1.0 - alpha)).collect()
}

/// The timesteps that inference visits, from noise to picture, not rounded where spacing is
/// `linspace`.
///
/// Of `points` evenly spaced ones from `end - 1` (`end` is where training ended, or less) the
/// first `steps` are taken: with one point more than steps the lowest is left out.
///
/// Where diffusers' `trailing` comes to one timestep too many, which would be -1, from a rounding
/// of `train / steps` (61 steps of 1,000 are such a case), that one is not taken.
///
/// # Errors
///
/// [`crate::Error::Argument`] if `leading` has no whole distance between so many steps.
pub(super) fn spaced_timesteps(
    settings: &Settings,
    steps: usize,
    points: usize,
    end: usize,
) -> Result<Vec<f64>> {
    let timesteps: Vec<f64> = match settings.timestep_spacing {
        TimestepSpacing::Linspace if points == 1 => vec![0.0],
        TimestepSpacing::Linspace => {
            let last = (end - 1) as f64;
            let step = last / (points - 1) as f64;
            let inner = (0..points - 1).rev().map(|index| index as f64 * step);
            std::iter::once(last).chain(inner).collect()
        }
        TimestepSpacing::Leading => {
            let ratio = end / points;
            if ratio == 0 {
                return Err(Error::argument(
                    "steps",
                    format!("expected fewer than {end} for leading timesteps, got {steps}"),
                ));
            }
            (0..points).rev().map(|index| (index * ratio + settings.steps_offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            let (start, ratio) = (end as f64, settings.num_train_timesteps as f64 / steps as f64);
            // The distance that numpy's arange uses: of its first two values.
            let distance = start - (start - ratio);
            (0..(start / ratio).ceil() as usize)
                .map(|index| (start - index as f64 * distance).round_ties_even() - 1.0)
                .filter(|&timestep| timestep >= 0.0)
                .collect()
        }
    };
    Ok(timesteps.into_iter().take(steps).collect())
}

/// Checks that every timestep is one of training, and has a signal where it is divided by.
///
/// # Errors
///
/// [`crate::Error::Argument`] about the field that leads there.
pub(super) fn require_signal(settings: &Settings, alphas: &[f32], timesteps: &[f32]) -> Result<()> {
    let highest = timesteps.iter().copied().fold(0.0, f32::max);
    let Some(&alpha) = alphas.get(highest as usize) else {
        let last = alphas.len() - 1;
        let detail = format!("expected timesteps of at most {last}, got {highest}");
        return Err(Error::argument("steps_offset", detail));
    };
    if alpha == 0.0 && settings.prediction_type == PredictionType::Epsilon {
        let detail = format!(
            "expected v_prediction or sample: with rescale_betas_zero_snr timestep {highest} has \
             no signal, got epsilon"
        );
        return Err(Error::argument("prediction_type", detail));
    }
    Ok(())
}

/// Sigmas of training: the deviation of the noise on a sample of deviation 1.
pub(super) struct Sigmas {
    /// Rising with the timestep.
    table: Vec<f32>,
    logarithms: Vec<f32>,
}

impl Sigmas {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut alphas = cumulative_alphas(settings);
        if let Some(last) = alphas.last_mut().filter(|_| settings.rescale_betas_zero_snr) {
            // Not 0, so that sigma is finite: the smallest f16.
            *last = 2f32.powi(-24);
        }
        let table: Vec<f32> = alphas.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
        let logarithms = table.iter().map(|&sigma| ln(sigma)).collect();
        Sigmas { table, logarithms }
    }

    pub(super) fn smallest(&self) -> f64 {
        self.table[0].into()
    }

    pub(super) fn largest(&self) -> f64 {
        self.table[self.table.len() - 1].into()
    }

    /// How many timesteps from 0 on have `ln(alpha / sigma)` of at least `bound`.
    pub(super) fn count_above(&self, bound: f64) -> usize {
        // ln(alpha) - ln(sigma) of a sample of variance 1, which is -ln of the sigma here.
        self.logarithms.iter().take_while(|&&logarithm| f64::from(-logarithm) >= bound).count()
    }

    /// Sigma at a timestep between those of training, linearly.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.table.len() - 1;
        let low = timestep.max(0.0).floor() as usize;
        if low >= last {
            return self.largest();
        }
        let (below, above) = (f64::from(self.table[low]), f64::from(self.table[low + 1]));
        (above - below) * (timestep.max(0.0) - low as f64) + below
    }

    /// The timestep at which sigma has this value, linearly in its logarithm.
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let logarithm = sigma.max(1e-10).ln();
        let (Some(last), table) = (self.logarithms.len().checked_sub(2), &self.logarithms) else {
            return 0.0;
        };
        let reached = table.iter().rposition(|&entry| f64::from(entry) <= logarithm);
        let low = reached.unwrap_or(0).min(last);
        let distance = f64::from(table[low] - table[low + 1]);
        let part = ((f64::from(table[low]) - logarithm) / distance).clamp(0.0, 1.0);
        (1.0 - part) * low as f64 + part * (low + 1) as f64
    }
}

/// `steps` sigmas from `largest` to `smallest` with even distances of their 7th roots: equation 5
/// of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models".
///
/// `sigma_max` and `sigma_min` of the settings go before.
pub(super) fn karras_sigmas(
    settings: &Settings,
    largest: f64,
    smallest: f64,
    steps: usize,
) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let first = settings.sigma_max.unwrap_or(largest).powf(1.0 / RHO);
    let last = settings.sigma_min.unwrap_or(smallest).powf(1.0 / RHO);
    let distance = 1.0 / (steps.max(2) - 1) as f64;
    (0..steps).map(|index| (first + index as f64 * distance * (last - first)).powf(RHO)).collect()
}

/// The natural logarithm of an f32, rounded once on every machine.
pub(super) fn ln(value: f32) -> f32 {
    f64::from(value).ln() as f32
}

/// `e^value` of an f32, rounded once on every machine.
pub(super) fn exp(value: f32) -> f32 {
    f64::from(value).exp() as f32
}

/// `e^value - 1` of an f32, rounded once on every machine.
pub(super) fn exp_m1(value: f32) -> f32 {
    f64::from(value).exp_m1() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::scheduler::{SchedulerConfig, SchedulerKind};

    fn settings(changes: &[(&str, serde_json::Value)]) -> Settings {
        let config = SchedulerConfig::new(SchedulerKind::Ddim);
        let change = |config: SchedulerConfig, (field, value): &(&str, serde_json::Value)| {
            config.with(field, value.clone())
        };
        changes.iter().fold(config, change).settings().unwrap()
    }

    #[test]
    fn alphas_multiply_up() {
        let betas = serde_json::json!([0.5, 0.5, 0.75]);
        let settings = settings(&[("num_train_timesteps", 3.into()), ("trained_betas", betas)]);
        assert_eq!(cumulative_alphas(&settings), [0.5, 0.25, 0.0625]);
        let sigmas = Sigmas::new(&settings);
        assert_eq!(sigmas.table, [1.0, 3f32.sqrt(), 15f32.sqrt()]);
        // Halfway between two, at the ends and beyond them.
        assert_eq!(sigmas.at(0.5), (1.0 + f64::from(3f32.sqrt())) / 2.0);
        assert_eq!((sigmas.at(-1.0), sigmas.at(2.0), sigmas.at(9.0)), {
            let largest = f64::from(15f32.sqrt());
            (1.0, largest, largest)
        });
        assert_eq!(sigmas.timestep_of(1.0), 0.0);
        assert_eq!(sigmas.timestep_of(100.0), 2.0);
        assert!((sigmas.timestep_of(3f64.powf(0.25)) - 0.5).abs() < 1e-6);
        // ln(alpha / sigma) is 0, -0.55, -1.35.
        assert_eq!([1.0, -0.1, -0.6, -9.0].map(|bound| sigmas.count_above(bound)), [0, 1, 2, 3]);
    }

    #[test]
    fn betas_follow_their_schedule() {
        let three = |schedule: &str| {
            betas(&settings(&[
                ("num_train_timesteps", 3.into()),
                ("beta_start", 0.01.into()),
                ("beta_end", 0.09.into()),
                ("beta_schedule", schedule.into()),
            ]))
        };
        // Squares of 0.1, 0.2, 0.3.
        let cases = [("linear", [0.01f32, 0.05, 0.09]), ("scaled_linear", [0.01, 0.04, 0.09])];
        for (schedule, expected) in cases {
            for (beta, expected) in three(schedule).iter().zip(expected) {
                assert!((beta - expected).abs() < 1e-8, "{schedule}: {beta} for {expected}");
            }
        }
        // cos^2 falls to almost 0 at the end, where beta is capped.
        assert_eq!(three("squaredcos_cap_v2")[2], 0.999);
    }

    #[test]
    fn rescaled_alphas_end_at_zero_and_start_where_they_did() {
        let plain = cumulative_alphas(&settings(&[]));
        let changed = settings(&[("rescale_betas_zero_snr", true.into())]);
        let rescaled = cumulative_alphas(&changed);
        assert_eq!(rescaled[999], 0.0);
        assert!((rescaled[0] - plain[0]).abs() <= 2.0 * f32::EPSILON);
        assert!(rescaled.windows(2).all(|pair| pair[1] < pair[0]));
        // (1 - 2^-24) / 2^-24 is exact in f32.
        let variance = 2f32.powi(24) - 1.0;
        assert_eq!(Sigmas::new(&changed).largest(), f64::from(variance.sqrt()));
    }

    #[test]
    fn timesteps_are_spaced_as_table_2_has_them() {
        let spaced = |spacing: &str, offset: usize, steps, points| {
            let changes = [("timestep_spacing", spacing.into()), ("steps_offset", offset.into())];
            spaced_timesteps(&settings(&changes), steps, points, 1000).unwrap()
        };
        assert_eq!(spaced("leading", 1, 4, 4), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(spaced("leading", 0, 4, 5), [800.0, 600.0, 400.0, 200.0]);
        assert_eq!(spaced("linspace", 1, 4, 4), [999.0, 666.0, 333.0, 0.0]);
        assert_eq!(spaced("linspace", 1, 1, 1), [0.0]);
        assert_eq!(spaced("linspace", 1, 1, 2), [999.0]);
        assert_eq!(spaced("trailing", 1, 4, 5), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(spaced("trailing", 1, 3, 3), [999.0, 666.0, 332.0]);
        // numpy's arange answers 62 values here, the last of them 0 and so timestep -1.
        let many = spaced("trailing", 0, 61, 61);
        assert_eq!((many.len(), many[60]), (61, 15.0));
    }

    #[test]
    fn leading_timesteps_need_a_whole_distance() {
        let settings = settings(&[]);
        assert_eq!(spaced_timesteps(&settings, 1000, 1000, 1000).unwrap()[0], 999.0);
        let error = spaced_timesteps(&settings, 1000, 1001, 1000).unwrap_err();
        let expected = "steps: expected fewer than 1000 for leading timesteps, got 1000";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn karras_sigmas_reach_both_ends() {
        // 7th roots 2, 1.5, 1.
        let sigmas = karras_sigmas(&settings(&[]), 128.0, 1.0, 3);
        for (sigma, expected) in sigmas.iter().zip([128.0, 17.0859375, 1.0]) {
            assert!((sigma - expected).abs() < 1e-12 * expected, "{sigma} for {expected}");
        }
        assert_eq!(karras_sigmas(&settings(&[]), 1.0, 0.5, 1), [1.0]);
    }
}
