//! See `kernels/layer_norm.cl`.

use super::vector_math::{multiply_add, vectorised};
use super::{Arguments, rows};

pub fn definition(arguments: &Arguments) {
    let (x, gamma, beta) =
        (arguments.reals("x"), arguments.floats("gamma"), arguments.floats("beta"));
    let (rows, channels) = (arguments.size("rows"), arguments.size("channels"));
    let eps = f64::from(arguments.float("eps"));
    let mut y = arguments.reals_out("y");
    for row in 0..rows {
        let value = |channel: usize| f64::from(x.get(row * channels + channel));
        let mean = (0..channels).map(value).sum::<f64>() / channels as f64;
        let variance =
            (0..channels).map(|c| (value(c) - mean).powi(2)).sum::<f64>() / channels as f64;
        let scale = 1.0 / (variance + eps).sqrt();
        for channel in 0..channels {
            let normal = (value(channel) - mean) * scale;
            let scaled = normal * f64::from(gamma[channel]) + f64::from(beta[channel]);
            y.set(row * channels + channel, scaled);
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let (x, gamma, beta) =
        (arguments.reals("x"), arguments.floats("gamma"), arguments.floats("beta"));
    let (rows, channels) = (arguments.size("rows"), arguments.size("channels"));
    let eps = arguments.float("eps");
    rows::write(arguments.reals_out("y"), rows, channels, |start, values| {
        // Row by row, so that a row is still in the first cache when it is read again.
        for (index, row) in values.chunks_exact_mut(channels).enumerate() {
            rows::read(&x, start + index * channels, row);
            normalize(row, &gamma[..channels], &beta[..channels], eps);
        }
    });
}

vectorised! {
    fn normalize<FMA>(row: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let channels = gamma.len() as f32;
        let mean = sum(row, |value| value) / channels;
        let squares = sum(row, |value| (value - mean) * (value - mean));
        let scale = 1.0 / (squares / channels + eps).sqrt();
        for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
            *value = multiply_add::<FMA>((*value - mean) * scale, *gamma, *beta);
        }
    }
}

/// The sum of a function of each value, in as many partial sums as fill two wide vectors.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<32>();
    let mut sums = [0.0; 32];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f(*value);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|value| f(*value)).sum::<f32>()
}
