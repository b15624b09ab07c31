//! See `kernels/group_norm_apply.cl`.

use super::activation::define;
use super::vector_math::{activate, multiply_add, vectorised};
use super::{Arguments, rows};

pub fn definition(arguments: &Arguments) {
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (factors, beta) = (arguments.floats("factors"), arguments.floats("beta"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let (x_channels, first_sample) = (arguments.size("x_channels"), arguments.size("first_sample"));
    let activation = arguments.size("activation");
    let mut y = arguments.reals_out("y");
    for sample in 0..arguments.size("samples") {
        for pixel in sample * pixels..(sample + 1) * pixels {
            for (channel, beta) in beta[..channels].iter().enumerate() {
                let value = match x2 {
                    Some(x2) if channel >= x_channels => {
                        x2.get(pixel * (channels - x_channels) + channel - x_channels)
                    }
                    _ => x.get(pixel * x_channels + channel),
                };
                let start = (first_sample + sample) * 2 * channels + channel;
                let [mean, scale] = [start, start + channels].map(|at| f64::from(factors[at]));
                let normal = (f64::from(value) - mean) * scale + f64::from(*beta);
                y.set(pixel * channels + channel, define(activation, normal));
            }
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (factors, beta) = (arguments.floats("factors"), arguments.floats("beta"));
    let (pixels, channels) = (arguments.size("pixels"), arguments.size("channels"));
    let (x_channels, first_sample) = (arguments.size("x_channels"), arguments.size("first_sample"));
    let activation = arguments.size("activation") as u32;
    let rows = arguments.size("samples") * pixels;
    rows::write(arguments.reals_out("y"), rows, channels, |start, values| {
        match &x2 {
            None => rows::read(&x, start, values),
            Some(x2) => {
                for (index, row) in values.chunks_exact_mut(channels).enumerate() {
                    let pixel = start / channels + index;
                    let (left, right) = row.split_at_mut(x_channels);
                    rows::read(&x, pixel * x_channels, left);
                    rows::read(x2, pixel * (channels - x_channels), right);
                }
            }
        }
        let (mut pixel, mut rest) = (start / channels, &mut values[..]);
        while !rest.is_empty() {
            let sample = pixel / pixels;
            let count = ((sample + 1) * pixels - pixel).min(rest.len() / channels);
            let (of_sample, others) = rest.split_at_mut(count * channels);
            let factors = &factors[2 * (first_sample + sample) * channels..][..2 * channels];
            normalize(of_sample, factors, &beta[..channels]);
            (pixel, rest) = (pixel + count, others);
        }
        activate(values, activation);
    });
}

vectorised! {
    fn normalize<FMA>(values: &mut [f32], factors: &[f32], beta: &[f32]) {
        let (means, scales) = factors.split_at(beta.len());
        for row in values.chunks_exact_mut(beta.len()) {
            for (((value, mean), scale), beta) in row.iter_mut().zip(means).zip(scales).zip(beta) {
                *value = multiply_add::<FMA>(*value - mean, *scale, *beta);
            }
        }
    }
}
