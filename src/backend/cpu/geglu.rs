//! See `kernels/geglu.cl`.

use super::activation::define;
use super::vector_math::{gelu_of, vectorised, widen};
use super::{Arguments, Reals, rows};

/// As `ops::Activation` numbers it.
const GELU: usize = 2;

pub fn definition(arguments: &Arguments) {
    let x = arguments.reals("x");
    let (rows, channels) = (arguments.size("rows"), arguments.size("channels"));
    let mut y = arguments.reals_out("y");
    for row in 0..rows {
        for channel in 0..channels {
            let value = f64::from(x.get(row * 2 * channels + channel));
            let gate = f64::from(x.get((row * 2 + 1) * channels + channel));
            y.set(row * channels + channel, value * define(GELU, gate));
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let x = arguments.reals("x");
    let (rows, channels) = (arguments.size("rows"), arguments.size("channels"));
    rows::write(arguments.reals_out("y"), rows, channels, |start, y| {
        let elements = 2 * start..2 * (start + y.len());
        match x {
            Reals::F32(x) => gate(&x[elements], y, channels),
            Reals::F16(x) => {
                let mut floats = vec![0.0; elements.len()];
                widen(&x[elements], &mut floats);
                gate(&floats, y, channels);
            }
        }
    });
}

vectorised! {
    fn gate<FMA>(x: &[f32], y: &mut [f32], channels: usize) {
        for (x, y) in x.chunks_exact(2 * channels).zip(y.chunks_exact_mut(channels)) {
            let (values, gates) = x.split_at(channels);
            for ((y, value), gate) in y.iter_mut().zip(values).zip(gates) {
                *y = value * gelu_of::<FMA>(*gate);
            }
        }
    }
}
