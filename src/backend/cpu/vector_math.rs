//! Elementary functions of whole slices, in the widest vectors that the host has.
//!
//! The functions of one number are polynomials without branches, so that a loop over them becomes
//! vector code wherever it is compiled for vectors: [`vectorised!`] compiles a function for
//! AVX-512, for AVX2 and for any host, and calls the best that this host runs. `FMA` says whether
//! a fused multiply-add is one instruction there; elsewhere it would be a call.

use std::sync::OnceLock;

use half::f16;

use crate::knob;

/// Defines a function three times over, and calls the version for this host.
///
/// The body is written for any constant `FMA`, and must inline what it calls.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident<$fma:ident>(
        $($argument:ident: $type:ty),* $(,)?
    ) $body:block) => {
        $(#[$meta])*
        $visibility fn $name($($argument: $type),*) {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn body<const $fma: bool>($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
                fn avx512($($argument: $type),*) {
                    body::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($argument: $type),*) {
                    body::<true>($($argument),*)
                }
                match $crate::backend::cpu::vector_math::level() {
                    $crate::backend::cpu::vector_math::Level::Avx512 => {
                        // SAFETY: the host has the features.
                        return unsafe { avx512($($argument),*) };
                    }
                    $crate::backend::cpu::vector_math::Level::Avx2 => {
                        // SAFETY: the host has the features.
                        return unsafe { avx2($($argument),*) };
                    }
                    $crate::backend::cpu::vector_math::Level::Portable => {}
                }
            }
            body::<false>($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// The vector instructions that this host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 16 lanes: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// 8 lanes, with FMA and F16C.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Level {
    /// f32 lanes of a vector.
    pub fn lanes(self) -> u32 {
        match self {
            Level::Avx512 => 16,
            Level::Avx2 => 8,
            Level::Portable => 4,
        }
    }
}

/// What is used of the instructions that this host has: see [`knob::cpu_lanes`].
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        // A knob that is malformed is an error where a device is opened.
        let most = knob::cpu_lanes().ok().flatten().unwrap_or(u32::MAX);
        match host_level() {
            Level::Avx512 if most < Level::Avx512.lanes() && most >= Level::Avx2.lanes() => {
                Level::Avx2
            }
            widest if most < widest.lanes() => Level::Portable,
            widest => widest,
        }
    })
}

fn host_level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let common = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        if common
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Level::Avx512;
        }
        if common && is_x86_feature_detected!("avx2") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// a * b + c
#[inline(always)]
pub fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The polynomial with these coefficients, the highest power first.
#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[0];
    for coefficient in &coefficients[1..] {
        value = multiply_add::<FMA>(value, x, *coefficient);
    }
    value
}

/// e^x within 2 ulp for x in -87.3..88.3; the value at the nearest of those outside.
#[inline(always)]
pub fn exp_of<const FMA: bool>(x: f32) -> f32 {
    /// Adding this leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // A comparison keeps NaN, which `f32::clamp` would too, in one instruction.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let turns = shifted - ROUND;
    // ln 2 in two parts, the first short enough that its product is exact.
    let rest = multiply_add::<FMA>(turns, -0.693_359_4, x);
    let rest = multiply_add::<FMA>(turns, 2.121_944_4e-4, rest);
    // (e^r - 1 - r) / r^2 on |r| < ln(2) / 2, a minimax fit.
    let tail = polynomial::<FMA, 6>(
        rest,
        [1.978_926_1e-4, 1.394_575_2e-3, 8.333_504e-3, 4.166_628e-2, 1.666_666_6e-1, 0.5],
    );
    let value = multiply_add::<FMA>(tail, rest * rest, rest) + 1.0;
    let exponent = shifted.to_bits() << 23;
    value * f32::from_bits(exponent.wrapping_add(0x3f80_0000))
}

/// erf(x) within 2 ulp.
#[inline(always)]
pub fn erf_of<const FMA: bool>(x: f32) -> f32 {
    let square = x * x;
    // erf(x) / x - 1 on |x| < 0.95.
    let near = polynomial::<FMA, 7>(
        square,
        [
            8.185_117_6e-5,
            -8.097_711e-4,
            5.196_953e-3,
            -2.685_770_6e-2,
            1.128_366_4e-1,
            -3.761_263e-1,
            1.283_791_7e-1,
        ],
    );
    let near = multiply_add::<FMA>(near, x, x);
    // -ln(1 - erf(x)) / x on 0.95 < x < 4, where erf is 1 but for the rounding.
    let far = if x.abs() > 4.0 { 4.0 } else { x.abs() };
    let exponent = polynomial::<FMA, 7>(
        far,
        [
            1.233_933_8e-5,
            -3.339_591_7e-4,
            3.688_104e-3,
            -2.385_926_4e-2,
            1.063_505_6e-1,
            6.350_821e-1,
            1.128_665_7,
        ],
    );
    let far = (1.0 - exp_of::<FMA>(-exponent * far)).copysign(x);
    if x.abs() < 0.95 { near } else { far }
}

/// x * sigmoid(factor * x)
#[inline(always)]
fn gated<const FMA: bool>(x: f32, factor: f32) -> f32 {
    x / (1.0 + exp_of::<FMA>(-factor * x))
}

/// x * sigmoid(x)
#[inline(always)]
pub fn silu_of<const FMA: bool>(x: f32) -> f32 {
    gated::<FMA>(x, 1.0)
}

/// x * Phi(x)
#[inline(always)]
pub fn gelu_of<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf_of::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// GELU's approximation by tanh, which is a sigmoid of twice its argument.
#[inline(always)]
pub fn gelu_tanh_of<const FMA: bool>(x: f32) -> f32 {
    // 2 * sqrt(2 / pi)
    let inner = 1.595_769_2 * multiply_add::<FMA>(0.044_715 * x * x, x, x);
    x / (1.0 + exp_of::<FMA>(-inner))
}

/// x * sigmoid(1.702 x)
#[inline(always)]
pub fn quick_gelu_of<const FMA: bool>(x: f32) -> f32 {
    gated::<FMA>(x, 1.702)
}

vectorised! {
    /// x * sigmoid(x) of each.
    pub fn silu<FMA>(values: &mut [f32]) {
        for value in values {
            *value = silu_of::<FMA>(*value);
        }
    }
}

vectorised! {
    /// x * Phi(x) of each.
    pub fn gelu<FMA>(values: &mut [f32]) {
        for value in values {
            *value = gelu_of::<FMA>(*value);
        }
    }
}

vectorised! {
    /// GELU by tanh of each.
    pub fn gelu_tanh<FMA>(values: &mut [f32]) {
        for value in values {
            *value = gelu_tanh_of::<FMA>(*value);
        }
    }
}

vectorised! {
    /// x * sigmoid(1.702 x) of each.
    pub fn quick_gelu<FMA>(values: &mut [f32]) {
        for value in values {
            *value = quick_gelu_of::<FMA>(*value);
        }
    }
}

/// The activation that `ops::Activation` numbers so, of each.
pub fn activate(values: &mut [f32], activation: u32) {
    match activation {
        0 => {}
        1 => silu(values),
        2 => gelu(values),
        3 => gelu_tanh(values),
        4 => quick_gelu(values),
        other => panic!("there is no activation {other}"),
    }
}

/// Halves as floats; both slices are of one length.
pub fn widen(halves: &[f16], floats: &mut [f32]) {
    assert_eq!(halves.len(), floats.len());
    let done = match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the host has AVX-512F.
        Level::Avx512 => unsafe { x86::widen_512(halves, floats) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the host has AVX and F16C.
        Level::Avx2 => unsafe { x86::widen_256(halves, floats) },
        _ => 0,
    };
    for (half, float) in halves[done..].iter().zip(&mut floats[done..]) {
        *float = half.to_f32();
    }
}

/// Floats as the nearest halves; both slices are of one length.
pub fn narrow(floats: &[f32], halves: &mut [f16]) {
    assert_eq!(halves.len(), floats.len());
    let done = match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the host has AVX-512F.
        Level::Avx512 => unsafe { x86::narrow_512(floats, halves) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the host has AVX and F16C.
        Level::Avx2 => unsafe { x86::narrow_256(floats, halves) },
        _ => 0,
    };
    for (float, half) in floats[done..].iter().zip(&mut halves[done..]) {
        *half = f16::from_f32(*float);
    }
}

/// Conversions by instructions that the compiler does not choose by itself. Each tells how many
/// elements it has done: all but a rest shorter than a vector.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    #[target_feature(enable = "avx512f")]
    pub fn widen_512(halves: &[f16], floats: &mut [f32]) -> usize {
        let (from, to) = (halves.as_chunks::<16>().0, floats.as_chunks_mut::<16>().0);
        for (from, to) in from.iter().zip(&mut *to) {
            // SAFETY: both are 16 elements long.
            unsafe {
                let bits = _mm256_loadu_si256(from.as_ptr().cast());
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(bits));
            }
        }
        16 * to.len()
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn widen_256(halves: &[f16], floats: &mut [f32]) -> usize {
        let (from, to) = (halves.as_chunks::<8>().0, floats.as_chunks_mut::<8>().0);
        for (from, to) in from.iter().zip(&mut *to) {
            // SAFETY: both are 8 elements long.
            unsafe {
                let bits = _mm_loadu_si128(from.as_ptr().cast());
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(bits));
            }
        }
        8 * to.len()
    }

    #[target_feature(enable = "avx512f")]
    pub fn narrow_512(floats: &[f32], halves: &mut [f16]) -> usize {
        let (from, to) = (floats.as_chunks::<16>().0, halves.as_chunks_mut::<16>().0);
        for (from, to) in from.iter().zip(&mut *to) {
            // SAFETY: both are 16 elements long.
            unsafe {
                let values = _mm512_loadu_ps(from.as_ptr());
                let bits = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
                _mm256_storeu_si256(to.as_mut_ptr().cast(), bits);
            }
        }
        16 * to.len()
    }

    #[target_feature(enable = "avx,f16c")]
    pub fn narrow_256(floats: &[f32], halves: &mut [f16]) -> usize {
        let (from, to) = (floats.as_chunks::<8>().0, halves.as_chunks_mut::<8>().0);
        for (from, to) in from.iter().zip(&mut *to) {
            // SAFETY: both are 8 elements long.
            unsafe {
                let values = _mm256_loadu_ps(from.as_ptr());
                let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
                _mm_storeu_si128(to.as_mut_ptr().cast(), bits);
            }
        }
        8 * to.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::activation;

    /// The distance from `exact` in units of the last place of its rounding.
    fn ulps(value: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        let ulp = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
        (f64::from(value) - exact).abs() / ulp
    }

    fn range(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..200_000).map(move |step| from + (to - from) * step as f32 / 200_000.0)
    }

    fn worst(values: impl Iterator<Item = f32>, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        values.map(|x| ulps(f(x), exact(f64::from(x)))).fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_within_two_ulp() {
        let found = worst(range(-87.0, 88.0), exp_of::<true>, f64::exp);
        assert!(found < 2.0, "{found}");
        let found = worst(range(-87.0, 88.0), exp_of::<false>, f64::exp);
        assert!(found < 2.0, "{found}");
    }

    #[test]
    fn an_exponential_below_the_range_is_next_to_nothing_and_never_a_nan() {
        assert!(exp_of::<true>(-1e30) < 1.3e-38);
        assert!(exp_of::<true>(1e30).is_finite());
        assert!(exp_of::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn error_functions_are_within_two_ulp() {
        for f in [erf_of::<true>, erf_of::<false>] {
            let found = worst(range(-5.0, 5.0).filter(|x| x.abs() > 1e-3), f, activation::erf);
            assert!(found < 2.0, "{found}");
        }
    }

    #[test]
    fn activations_of_slices_agree_with_their_definitions() {
        // An odd length, so that a rest shorter than a vector is there.
        let x: Vec<f32> = range(-12.0, 12.0).chain([0.0, -200.0, 200.0]).collect();
        for number in 0..5 {
            let mut values = x.clone();
            activate(&mut values, number);
            for (x, value) in x.iter().zip(values) {
                let exact = activation::define(number as usize, f64::from(*x));
                // Two ulp of 1 where 1 + erf cancels, times x; two of the result beside.
                let tolerance = 2.5 * f64::from(f32::EPSILON) * (exact.abs() + f64::from(x.abs()));
                let found = (f64::from(value) - exact).abs();
                assert!(found <= tolerance, "activation {number} of {x}: {value}, not {exact}");
            }
        }
    }

    #[test]
    fn halves_survive_both_conversions() {
        let halves: Vec<f16> = (0..31_743).map(f16::from_bits).collect();
        let mut floats = vec![0.0; halves.len()];
        widen(&halves, &mut floats);
        assert!(halves.iter().zip(&floats).all(|(half, float)| half.to_f32() == *float));
        let mut back = vec![f16::ZERO; halves.len()];
        narrow(&floats, &mut back);
        assert_eq!(halves, back);
        // Between two halves, to the even one.
        let mut tie = [f16::ZERO; 17];
        narrow(&[1.0 + 1.0 / 2048.0; 17], &mut tie);
        assert_eq!(tie, [f16::ONE; 17]);
    }
}
