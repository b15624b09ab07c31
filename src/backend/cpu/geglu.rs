//! See `kernels/geglu.cl`.

use super::Arguments;
use super::activation::define;

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
