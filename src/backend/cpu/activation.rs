//! Activations in f64, for definitions. See `kernels/prelude/portable.h` and `ops::Activation`.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// The activation that `ops::Activation` numbers so.
pub fn activate(x: f64, activation: u32) -> f64 {
    match activation {
        0 => x,
        1 => x / (1.0 + (-x).exp()),
        2 => gelu(x),
        3 => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        4 => x / (1.0 + (-1.702 * x).exp()),
        other => panic!("no activation has the number {other}"),
    }
}

/// x * Phi(x)
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / SQRT_2))
}

/// The error function by a series without cancellation:
/// 2 / sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n+1) / (1 * 3 * .. * (2n+1)).
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1;
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_tabled_values() {
        // Abramowitz and Stegun, table 7.1.
        let table = [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (-1.5, -0.966_105_146_5),
            (7.0, 1.0),
        ];
        for (x, expected) in table {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) is {}", erf(x));
        }
    }

    #[test]
    fn activations_have_values_that_a_pocket_calculator_gives() {
        let table = [
            (0, -2.0),
            (1, -0.238_405_844),
            (2, -0.045_500_264),
            (3, -0.045_402_306),
            (4, -0.064_342_700),
        ];
        for (activation, expected) in table {
            let value = activate(-2.0, activation);
            assert!((value - expected).abs() < 1e-8, "{activation} at -2 is {value}");
        }
    }
}
