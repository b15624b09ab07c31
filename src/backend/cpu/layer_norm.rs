//! See `kernels/layer_norm.cl`.

use super::Arguments;

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
