//! See `activate` in `kernels/prelude/portable.h` and `ops/activation.rs`, which has the numbers.

/// The activation of that number.
pub fn define(activation: usize, x: f64) -> f64 {
    match activation {
        0 => x,
        1 => x * sigmoid(x),
        2 => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        3 => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        4 => x * sigmoid(1.702 * x),
        other => panic!("there is no activation {other}"),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, by a series whose terms all have the sign of `x`, so that none cancels:
/// 2 / sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n+1) / (1 * 3 * .. * (2n+1)).
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_tabled_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)]
        {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) is {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-10, "erf({}) is {}", -x, erf(-x));
        }
        assert!((erf(5.99) - 1.0).abs() < 1e-15);
    }
}
