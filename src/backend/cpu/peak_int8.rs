//! See `kernels/peak_int8.cl`.

use rayon::prelude::*;

use super::Arguments;
use super::vector_math::{Level, level};
use crate::backend::ProgramSource;

/// Words side by side: a vector of AVX-512.
const LANES: usize = 16;

pub fn definition(arguments: &Arguments) {
    let (x, y) = (arguments.uints("x"), arguments.floats_out("y"));
    let [elements, turns, step] =
        ["elements", "turns", "increment"].map(|name| arguments.size(name));
    for (x, y) in x[..elements].iter().zip(y) {
        *y = low_bits(word(*x, arguments.parameter("ACCUMULATORS"), turns, step as u32));
    }
}

/// The sum of a word's dot products, modulo 2^32.
fn word(x: u32, accumulators: u32, turns: usize, step: u32) -> i32 {
    let mut sum = 0i32;
    for a in 0..accumulators {
        let right = x.wrapping_mul(2 * a + 1);
        let mut left = x;
        for _ in 0..turns {
            sum = sum.wrapping_add(dot(left, right));
            left = left.wrapping_add(step);
        }
    }
    sum
}

fn dot(left: u32, right: u32) -> i32 {
    let products = left.to_ne_bytes().into_iter().zip(right.to_ne_bytes());
    products.map(|(a, b)| i32::from(a as i8) * i32::from(b as i8)).sum()
}

fn low_bits(sum: i32) -> f32 {
    (sum & 0xffff) as f32
}

/// Sums of a vector's words, by the instructions of this host.
type Words = fn(&[u32; LANES], usize, u32) -> [i32; LANES];

pub fn fast(arguments: &Arguments) {
    let (x, y) = (arguments.uints("x"), arguments.floats_out("y"));
    let [elements, turns, step] =
        ["elements", "turns", "increment"].map(|name| arguments.size(name));
    let words: Words = match arguments.parameter("ACCUMULATORS") {
        4 => words::<4>,
        8 => words::<8>,
        12 => words::<12>,
        other => panic!("peak_int8 has no fast path for {other} accumulators"),
    };
    let (x, y) = (x[..elements].par_chunks(LANES), y[..elements].par_chunks_mut(LANES));
    x.zip(y).with_max_len(1).for_each(|(x, y)| {
        let mut padded = [0; LANES];
        padded[..x.len()].copy_from_slice(x);
        let sums = words(&padded, turns, step as u32);
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = low_bits(sum));
    });
}

/// Why the fast path does not run a program, if it does not: one that wants an instruction for the
/// dot product of four bytes, on a host that has none.
pub fn refused(source: &ProgramSource) -> Option<&'static str> {
    let wants_dot = source.kernel == "peak_int8" && source.parameters.contains(&("DOT", 1));
    (wants_dot && !has_dot()).then_some("this processor has no dot product of bytes")
}

fn has_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level() == Level::Avx512 && is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn words<const A: usize>(x: &[u32; LANES], turns: usize, step: u32) -> [i32; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        if has_dot() {
            // SAFETY: the host has the features.
            return unsafe { x86::vnni::<A>(x, turns, step) };
        }
        if level() != Level::Portable {
            // SAFETY: the host has the feature.
            return unsafe { x86::avx2::<A>(x, turns, step) };
        }
    }
    x.map(|x| word(x, A as u32, turns, step))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::LANES;

    /// The instruction takes unsigned bytes by signed ones. 128 added to a byte makes it unsigned;
    /// what that adds to the sums is the same in every turn and is taken off at the end.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni<const A: usize>(x: &[u32; LANES], turns: usize, step: u32) -> [i32; LANES] {
        // SAFETY: 16 words are there.
        let first = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        let step = _mm512_set1_epi32(step as i32);
        let sign = _mm512_set1_epi32(0x8080_8080u32 as i32);
        let mut right = [first; A];
        for (a, right) in right.iter_mut().enumerate() {
            *right = _mm512_mullo_epi32(first, _mm512_set1_epi32(2 * a as i32 + 1));
        }
        let (mut left, mut sums) = (first, [_mm512_setzero_si512(); A]);
        for _ in 0..turns {
            let unsigned = _mm512_xor_si512(left, sign);
            for (sum, right) in sums.iter_mut().zip(&right) {
                *sum = _mm512_dpbusd_epi32(*sum, unsigned, *right);
            }
            left = _mm512_add_epi32(left, step);
        }
        let mut total = _mm512_setzero_si512();
        let turns = _mm512_set1_epi32(turns as i32);
        for (sum, right) in sums.iter().zip(&right) {
            let extra = _mm512_dpbusd_epi32(_mm512_setzero_si512(), sign, *right);
            let sum = _mm512_sub_epi32(*sum, _mm512_mullo_epi32(extra, turns));
            total = _mm512_add_epi32(total, sum);
        }
        let mut result = [0; LANES];
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(result.as_mut_ptr().cast(), total) };
        result
    }

    /// Even and odd bytes widened to shorts, whose products one instruction adds in pairs.
    #[target_feature(enable = "avx2")]
    pub fn avx2<const A: usize>(x: &[u32; LANES], turns: usize, step: u32) -> [i32; LANES] {
        let step = _mm256_set1_epi32(step as i32);
        let mut result = [0; LANES];
        for (x, result) in x.as_chunks::<8>().0.iter().zip(result.as_chunks_mut::<8>().0) {
            // SAFETY: 8 words are there.
            let first = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            let mut right = [first; A];
            for (a, right) in right.iter_mut().enumerate() {
                *right = _mm256_mullo_epi32(first, _mm256_set1_epi32(2 * a as i32 + 1));
            }
            let (mut left, mut sums) = (first, [_mm256_setzero_si256(); A]);
            for _ in 0..turns {
                let low = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(left));
                let high = _mm256_srai_epi16::<8>(left);
                for (sum, right) in sums.iter_mut().zip(&right) {
                    let right_low = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(*right));
                    let right_high = _mm256_srai_epi16::<8>(*right);
                    let low = _mm256_madd_epi16(low, right_low);
                    let high = _mm256_madd_epi16(high, right_high);
                    *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(low, high));
                }
                left = _mm256_add_epi32(left, step);
            }
            let zero = _mm256_setzero_si256();
            let total = sums.iter().fold(zero, |total, sum| _mm256_add_epi32(total, *sum));
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(result.as_mut_ptr().cast(), total) };
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_the_same_sums() {
        let x: [u32; LANES] =
            std::array::from_fn(|lane| 0x80ff_7f01u32.rotate_left(3 * lane as u32));
        let expected = x.map(|x| word(x, 8, 21, 0x0102_0305));
        assert_eq!(words::<8>(&x, 21, 0x0102_0305), expected);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the host has the feature.
            assert_eq!(unsafe { x86::avx2::<8>(&x, 21, 0x0102_0305) }, expected);
        }
    }
}
