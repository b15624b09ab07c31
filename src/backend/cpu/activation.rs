//! See `activate` in `kernels/prelude/portable.h` and `ops/activation.rs`, which has the numbers.

use super::product::Tile;

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

/// The activation of that number of every value, in f32 and in code that vectorises.
#[inline(always)]
pub fn apply<T: Tile>(activation: usize, values: &mut [f32]) {
    match activation {
        0 => (),
        1 => values.iter_mut().for_each(|x| *x *= fast_sigmoid::<T>(*x)),
        2 => values.iter_mut().for_each(|x| *x = fast_gelu::<T>(*x)),
        3 => values.iter_mut().for_each(|x| {
            // (1 + tanh u) / 2 is sigmoid 2u, which does not cancel.
            let inner = 1.595_769_1 * (*x + 0.044715 * *x * *x * *x);
            *x *= fast_sigmoid::<T>(inner);
        }),
        4 => values.iter_mut().for_each(|x| *x *= fast_sigmoid::<T>(1.702 * *x)),
        other => panic!("there is no activation {other}"),
    }
}

#[inline(always)]
fn fast_sigmoid<T: Tile>(x: f32) -> f32 {
    1.0 / (1.0 + fast_exp::<T>(-x))
}

#[inline(always)]
fn multiply_add<T: Tile>(a: f32, b: f32, c: f32) -> f32 {
    if T::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// exp within 2 units of the last place; of less than -87 and more than 88, of those.
///
/// 2^n times a polynomial in what is left below half of ln 2, which is subtracted in two parts
/// (Cephes' expf).
#[inline(always)]
fn fast_exp<T: Tile>(x: f32) -> f32 {
    /// Adding this leaves an integer in the low bits of the sum.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add::<T>(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = multiply_add::<T>(n, -0.693_359_4, x);
    let r = multiply_add::<T>(n, 2.121_944_4e-4, r);
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = multiply_add::<T>(sum, r, coefficient);
    }
    let fraction = multiply_add::<T>(sum, r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent)
}

/// x Phi(x) by an error function within 2 units of the last place: a polynomial near zero, one
/// minus an exponential of a polynomial beyond (after N. Juffa's erff).
#[inline(always)]
fn fast_gelu<T: Tile>(x: f32) -> f32 {
    let horner = |variable: f32, coefficients: [f32; 6]| {
        let mut sum = coefficients[0];
        for coefficient in &coefficients[1..] {
            sum = multiply_add::<T>(sum, variable, *coefficient);
        }
        sum
    };
    let a = x * std::f32::consts::FRAC_1_SQRT_2;
    let (t, s) = (a.abs(), a * a);
    let far = [
        -1.728_534_7e-5,
        3.831_979_7e-4,
        -3.883_964_4e-3,
        2.425_462_2e-2,
        -1.067_778_8e-1,
        -6.348_467e-1,
    ];
    let exponent = multiply_add::<T>(horner(t, far), t, -1.287_175_1e-1);
    let exponent = multiply_add::<T>(exponent, t, -t);
    let far = (1.0 - fast_exp::<T>(exponent)).copysign(a);
    let near = [
        -5.967_617e-4,
        4.991_194e-3,
        -2.676_813_5e-2,
        1.128_199_25e-1,
        -3.761_253_4e-1,
        1.283_791_7e-1,
    ];
    let near = multiply_add::<T>(horner(s, near), a, a);
    let erf = if t > 0.927_734_4 { far } else { near };
    0.5 * x * (1.0 + erf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::product::Portable;

    /// Not a tile, but a machine with fused multiply-adds.
    struct Fused;

    impl Tile for Fused {
        const ROWS: usize = 1;
        const FUSED: bool = true;

        fn multiply(_: &[f32], _: &[f32], _: usize, _: &mut [f32], _: bool) {}
    }

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

    #[test]
    fn fast_activations_are_within_a_few_roundings() {
        for activation in 0..5 {
            for step in -2000..=2000 {
                let x = step as f32 / 100.0;
                let (mut fused, mut portable) = ([x], [x]);
                apply::<Fused>(activation, &mut fused);
                apply::<Portable>(activation, &mut portable);
                let expected = define(activation, f64::from(x));
                // Four roundings of the result and of the 1 that a tail is subtracted from.
                let tolerance = 2.0 * f64::from(f32::EPSILON) * expected.abs().max(x.abs().into());
                for [actual] in [fused, portable] {
                    let off = (f64::from(actual) - expected).abs();
                    assert!(off <= tolerance, "{activation} of {x}: {actual}, not {expected}");
                }
            }
        }
    }
}
