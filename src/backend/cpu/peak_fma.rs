//! See `kernels/peak_fma.cl`.

use rayon::prelude::*;

use super::vector_math::{Level, level};
use super::{Arguments, rows};
use crate::backend::ProgramSource;

/// Chains side by side: a vector of AVX-512.
const LANES: usize = 16;

pub fn definition(arguments: &Arguments) {
    let x = arguments.reals("x");
    let [elements, turns] = ["elements", "turns"].map(|name| arguments.size(name));
    let [scale, shift] = ["scale", "shift"].map(|name| f64::from(arguments.float(name)));
    let chain = |first: f64| (0..turns).fold(first, |value, _| value * scale + shift);
    let mut y = arguments.reals_out("y");
    for index in 0..elements {
        let first = f64::from(x.get(index));
        let chains = 0..arguments.parameter("ACCUMULATORS");
        y.set(index, chains.map(|a| chain(first + f64::from(a))).sum());
    }
}

/// Why the fast path does not run a program, if it does not: no Rust vector has arithmetic in f16.
pub fn refused(source: &ProgramSource) -> Option<&'static str> {
    let half = source.kernel == "peak_fma" && source.parameters.contains(&("HALF", 1));
    half.then_some("the CPU backend stores f16 and computes in f32")
}

pub fn fast(arguments: &Arguments) {
    let x = arguments.reals("x");
    let [elements, turns] = ["elements", "turns"].map(|name| arguments.size(name));
    let [scale, shift] = ["scale", "shift"].map(|name| arguments.float(name));
    let run: fn(&mut [f32; LANES], usize, f32, f32) = match arguments.parameter("ACCUMULATORS") {
        4 => chains::<4>,
        8 => chains::<8>,
        12 => chains::<12>,
        16 => chains::<16>,
        other => panic!("peak_fma has no fast path for {other} accumulators"),
    };
    let mut values = vec![0.0; elements.next_multiple_of(LANES)];
    rows::read(&x, 0, &mut values[..elements]);
    values
        .as_chunks_mut()
        .0
        .par_iter_mut()
        .with_max_len(1)
        .for_each(|values| run(values, turns, scale, shift));
    let y = arguments.reals_out("y");
    rows::write(y, elements, 1, |start, y| y.copy_from_slice(&values[start..start + y.len()]));
}

/// Replaces each first value by the sum of its `A` chains.
fn chains<const A: usize>(values: &mut [f32; LANES], turns: usize, scale: f32, shift: f32) {
    match level() {
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::avx512::<A>(values, turns, scale, shift) },
        // SAFETY: the host has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::<A>(values, turns, scale, shift) },
        _ => portable::<A>(values, turns, scale, shift),
    }
}

fn portable<const A: usize>(values: &mut [f32; LANES], turns: usize, scale: f32, shift: f32) {
    // Four lanes of eight chains at a time fit the registers of any host.
    const MOST: usize = 8;
    for values in values.as_chunks_mut::<4>().0 {
        let first = *values;
        *values = [0.0; 4];
        for start in (0..A).step_by(MOST) {
            let mut sums: [[f32; 4]; MOST] =
                std::array::from_fn(|a| first.map(|first| first + (start + a) as f32));
            for _ in 0..turns {
                for sum in sums.as_flattened_mut() {
                    *sum = *sum * scale + shift;
                }
            }
            for sum in &sums[..MOST.min(A - start)] {
                values.iter_mut().zip(sum).for_each(|(value, sum)| *value += sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::LANES;

    #[target_feature(enable = "avx512f")]
    pub fn avx512<const A: usize>(values: &mut [f32; LANES], turns: usize, scale: f32, shift: f32) {
        let (factor, term) = (_mm512_set1_ps(scale), _mm512_set1_ps(shift));
        // SAFETY: 16 floats are there.
        let first = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        let mut sums = [first; A];
        for (a, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_add_ps(first, _mm512_set1_ps(a as f32));
        }
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        let sum = sums[1..].iter().fold(sums[0], |sum, next| _mm512_add_ps(sum, *next));
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), sum) };
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2<const A: usize>(values: &mut [f32; LANES], turns: usize, scale: f32, shift: f32) {
        let (factor, term) = (_mm256_set1_ps(scale), _mm256_set1_ps(shift));
        for values in values.as_chunks_mut::<8>().0 {
            // SAFETY: 8 floats are there.
            let first = unsafe { _mm256_loadu_ps(values.as_ptr()) };
            let mut sums = [first; A];
            for (a, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_add_ps(first, _mm256_set1_ps(a as f32));
            }
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, factor, term);
                }
            }
            let sum = sums[1..].iter().fold(sums[0], |sum, next| _mm256_add_ps(sum, *next));
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Chains = fn(&mut [f32; LANES], usize, f32, f32);

    #[test]
    fn every_level_gives_the_same_chains() {
        for (why, host, other) in [
            ("fewer than a portable block", chains::<4> as Chains, portable::<4> as Chains),
            ("a block and a half", chains::<12>, portable::<12>),
            ("two blocks", chains::<16>, portable::<16>),
        ] {
            let first: [f32; LANES] = std::array::from_fn(|lane| lane as f32 / 8.0 - 1.0);
            let (mut a, mut b) = (first, first);
            host(&mut a, 9, 0.75, 0.25);
            other(&mut b, 9, 0.75, 0.25);
            // A chain contracts, so its error is that of a few roundings of its last values.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 16.0 * f32::EPSILON * b.abs();
            assert!(a.iter().zip(&b).all(close), "{why}: {a:?} {b:?}");
        }
    }
}
