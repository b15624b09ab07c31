//! From what a model says to the picture that it means.

use std::str::FromStr;

use serde::Deserialize;

use crate::Error;

/// What the model's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// `epsilon`: the noise.
    Epsilon,
    /// `v_prediction`: the velocity `alpha * noise - sigma * original`.
    VPrediction,
    /// `sample`: the original sample.
    Sample,
}

impl PredictionType {
    /// Every type.
    pub const ALL: [PredictionType; 3] =
        [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample];

    /// The name in a `scheduler_config.json`.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }
}

impl FromStr for PredictionType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        PredictionType::ALL.into_iter().find(|prediction| prediction.name() == text).ok_or_else(
            || {
                let detail = format!("expected epsilon, v_prediction or sample, got {text:?}");
                Error::argument("prediction type", detail)
            },
        )
    }
}

/// The original sample behind a noisy one of variance 1, `alpha * original + sigma * noise`.
pub(super) fn original_of_unit_variance(
    prediction: PredictionType,
    (alpha, sigma): (f32, f32),
    output: f32,
    sample: f32,
) -> f32 {
    match prediction {
        PredictionType::Epsilon => (sample - sigma * output) / alpha,
        PredictionType::VPrediction => alpha * sample - sigma * output,
        PredictionType::Sample => output,
    }
}

/// The original sample behind `original + sigma * noise`.
pub(super) fn original_of_added_noise(
    prediction: PredictionType,
    sigma: f32,
    output: f32,
    sample: f32,
) -> f32 {
    match prediction {
        PredictionType::Epsilon => sample - sigma * output,
        PredictionType::VPrediction => {
            let variance = sigma * sigma + 1.0;
            output * (-sigma / variance.sqrt()) + sample / variance
        }
        PredictionType::Sample => output,
    }
}

/// The factors of a sample of variance 1 whose noise is `sigma` times its signal:
/// `(1, sigma) / sqrt(sigma^2 + 1)`.
pub(super) fn unit_variance(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prediction_type_leads_to_the_same_picture() {
        let (original, noise) = (0.75f32, -1.25f32);
        for sigma in [0.03f32, 1.0, 14.6] {
            let (alpha, scaled) = unit_variance(sigma);
            let cases = [
                (PredictionType::Epsilon, noise),
                (PredictionType::VPrediction, alpha * noise - scaled * original),
                (PredictionType::Sample, original),
            ];
            // The difference that is left over was rounded at the size of the noise.
            let tolerance = 4.0 * f32::EPSILON * (1.0 + sigma) * noise.abs();
            for (prediction, output) in cases {
                let sample = alpha * original + scaled * noise;
                let found = original_of_unit_variance(prediction, (alpha, scaled), output, sample);
                assert!((found - original).abs() <= tolerance, "{prediction:?} {sigma}: {found}");
                let sample = original + sigma * noise;
                let found = original_of_added_noise(prediction, sigma, output, sample);
                assert!((found - original).abs() <= tolerance, "{prediction:?} {sigma}: {found}");
            }
        }
    }
}
