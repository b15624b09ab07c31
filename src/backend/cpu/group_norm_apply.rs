//! See `kernels/group_norm_apply.cl`.

use super::Arguments;
use super::activation::define;

pub fn definition(arguments: &Arguments) {
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (factors, beta) = (arguments.floats("factors"), arguments.floats("beta"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let (x_channels, first_sample) = (arguments.size("x_channels"), arguments.size("first_sample"));
    let activation = arguments.size("activation");
    let mut y = arguments.reals_out("y");
    for sample in 0..arguments.size("samples") {
        for pixel in sample * pixels..(sample + 1) * pixels {
            for channel in 0..channels {
                let value = match x2 {
                    Some(x2) if channel >= x_channels => {
                        x2.get(pixel * (channels - x_channels) + channel - x_channels)
                    }
                    _ => x.get(pixel * x_channels + channel),
                };
                let start = (first_sample + sample) * 2 * channels + channel;
                let [mean, scale] = [start, start + channels].map(|at| f64::from(factors[at]));
                let normal = (f64::from(value) - mean) * scale + f64::from(beta[channel]);
                y.set(pixel * channels + channel, define(activation, normal));
            }
        }
    }
}
