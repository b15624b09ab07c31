//! See `kernels/quantize_rows.cl`.

use super::vector_math::{Level, level};
use super::{Arguments, Reals, parallel, rows};

/// The values of a block.
pub const BLOCK: usize = 32;

/// The values of a sum.
pub const SUMMED: usize = 16;

/// A block whose values are all nearer to 0 than this counts as zeros.
const LEAST: f32 = 1e-30;

pub fn definition(arguments: &Arguments) {
    let [blocks, inputs, columns] =
        ["blocks", "inputs", "columns"].map(|name| arguments.size(name));
    let rows = blocks * BLOCK / inputs;
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let levels = arguments.signed_bytes_out("levels");
    let (scales, sums) = (arguments.floats_out("scales"), arguments.shorts_out("sums"));
    for row in 0..rows {
        for block in 0..inputs / BLOCK {
            let value = |k: usize| match x2 {
                Some(x2) if k >= columns => x2.get(row * (inputs - columns) + k - columns),
                _ => x.get(row * columns + k),
            };
            let values: [f32; BLOCK] = std::array::from_fn(|at| value(block * BLOCK + at));
            let index = row * (inputs / BLOCK) + block;
            let levels = &mut levels.as_chunks_mut::<BLOCK>().0[index];
            // The operations of the kernel, one by one: levels are the same everywhere.
            scales[index] = self::block(&values, levels, &mut sums.as_chunks_mut::<2>().0[index]);
        }
    }
}

/// Rows at a time of a thread.
const ROWS: usize = 8;

pub fn fast(arguments: &Arguments) {
    let [blocks, inputs, columns] =
        ["blocks", "inputs", "columns"].map(|name| arguments.size(name));
    let rows = blocks * BLOCK / inputs;
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let blocks = inputs / BLOCK;
    let levels = &mut arguments.signed_bytes_out("levels")[..rows * inputs];
    let scales = &mut arguments.floats_out("scales")[..rows * blocks];
    let sums = &mut arguments.shorts_out("sums")[..rows * blocks * 2];
    let levels = levels.chunks_mut(ROWS * inputs.max(1));
    let scales = scales.chunks_mut(ROWS * blocks.max(1));
    let sums = sums.chunks_mut(ROWS * 2 * blocks.max(1));
    let parts: Vec<_> = levels.zip(scales).zip(sums).map(std::sync::Mutex::new).collect();
    let columns2 = inputs - columns;
    parallel::for_each_init(parts.len(), Vec::new, |values: &mut Vec<f32>, part| {
        let mut targets = parts[part].lock().expect("a part is quantised once");
        let ((levels, scales), sums) = &mut *targets;
        values.resize(inputs, 0.0);
        for row in 0..scales.len() / blocks {
            let index = part * ROWS + row;
            let (first, second) = values.split_at_mut(columns);
            let values = match (x, x2) {
                (Reals::F32(x), None) => &x[index * columns..(index + 1) * columns],
                _ => {
                    rows::read(&x, index * columns, first);
                    if let Some(x2) = x2 {
                        rows::read(&x2, index * columns2, second);
                    }
                    &values[..]
                }
            };
            let levels = &mut levels[row * inputs..(row + 1) * inputs];
            let scales = &mut scales[row * blocks..(row + 1) * blocks];
            quantize(values, levels, scales, &mut sums[row * 2 * blocks..(row + 1) * 2 * blocks]);
        }
    });
}

/// Whole blocks.
fn quantize(values: &[f32], levels: &mut [i8], scales: &mut [f32], sums: &mut [i16]) {
    let blocks = values.as_chunks::<BLOCK>().0;
    let targets = levels.as_chunks_mut::<BLOCK>().0.iter_mut();
    let targets = targets.zip(scales).zip(sums.as_chunks_mut::<2>().0);
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        for (values, ((levels, scale), sums)) in blocks.iter().zip(targets) {
            // SAFETY: the host has the instructions.
            *scale = unsafe { x86::block(values, levels, sums) };
        }
        return;
    }
    for (values, ((levels, scale), sums)) in blocks.iter().zip(targets) {
        *scale = block(values, levels, sums);
    }
}

/// The scale of a block and its inverse.
#[inline(always)]
fn scale_of(largest: f32) -> [f32; 2] {
    match largest * (1.0 / 127.0) {
        _ if largest < LEAST => [0.0; 2],
        scale => [scale, 1.0 / scale],
    }
}

/// Rounds a block, and gives its scale.
fn block(values: &[f32; BLOCK], levels: &mut [i8; BLOCK], sums: &mut [i16; 2]) -> f32 {
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let [scale, inverse] = scale_of(largest);
    for (level, value) in levels.iter_mut().zip(values) {
        *level = (value * inverse).round_ties_even() as i8;
    }
    for (sum, levels) in sums.iter_mut().zip(levels.as_chunks::<SUMMED>().0) {
        *sum = levels.iter().map(|&level| i16::from(level)).sum();
    }
    scale
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, scale_of};

    /// [`super::block`] in vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn block(values: &[f32; BLOCK], levels: &mut [i8; BLOCK], sums: &mut [i16; 2]) -> f32 {
        // SAFETY: a block is two vectors of floats, and of bytes.
        unsafe {
            let values = [0, 16].map(|first| _mm512_loadu_ps(values.as_ptr().add(first)));
            let magnitudes = _mm512_max_ps(_mm512_abs_ps(values[0]), _mm512_abs_ps(values[1]));
            let [scale, inverse] = scale_of(_mm512_reduce_max_ps(magnitudes));
            let inverse = _mm512_set1_ps(inverse);
            for half in 0..2 {
                // Conversions round to the nearest, of two to the even one.
                let words = _mm512_cvtps_epi32(_mm512_mul_ps(values[half], inverse));
                let bytes = _mm512_cvtepi32_epi8(words);
                _mm_storeu_si128(levels.as_mut_ptr().add(16 * half).cast(), bytes);
                // Levels as numbers without signs, whose sums one instruction gives for each eight.
                let unsigned = _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN));
                let eights = _mm_sad_epu8(unsigned, _mm_setzero_si128());
                let all = _mm_cvtsi128_si32(eights) + _mm_extract_epi16::<4>(eights);
                sums[half] = (all - 16 * 128) as i16;
            }
            scale
        }
    }
}

/// Rows that were quantised: as many terms each, in blocks.
#[derive(Clone, Copy)]
pub struct Quantized<'a> {
    pub levels: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [i16],
    /// The terms of a row.
    pub inputs: usize,
}

impl<'a> Quantized<'a> {
    /// The arguments of a kernel that reads them.
    pub fn of(arguments: &Arguments<'a>, inputs: usize) -> Self {
        let (levels, scales) = (arguments.signed_bytes("levels"), arguments.floats("scales"));
        Self { levels, scales, sums: arguments.shorts("sums"), inputs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_nearest_of_two_the_even_one() {
        let mut values = [0.0f32; 3 * BLOCK];
        // A scale of 1, with ties; zeros; values too small to have an inverse.
        values[..6].copy_from_slice(&[127.0, 0.5, 1.5, -2.5, -127.0, 3.2]);
        values[2 * BLOCK] = 1e-38;
        let (mut levels, mut scales, mut sums) = ([9; 3 * BLOCK], [9.0; 3], [9; 6]);
        quantize(&values, &mut levels, &mut scales, &mut sums);
        assert_eq!(levels[..6], [127, 0, 2, -2, -127, 3]);
        assert!(levels[6..].iter().all(|&level| level == 0));
        assert_eq!((scales, sums), ([1.0, 0.0, 0.0], [3, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn vectors_round_as_single_numbers_do() {
        let values: Vec<f32> = (0..64 * BLOCK)
            .map(|i| ((i * 7919 % 1000) as f32 - 500.0) / (1 + i / 3) as f32)
            .collect();
        let (mut levels, mut scales, mut sums) = ([0; 64 * BLOCK], [0.0; 64], [0; 128]);
        quantize(&values, &mut levels, &mut scales, &mut sums);
        for (index, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (mut expected, mut of_halves) = ([0; BLOCK], [0; 2]);
            assert_eq!(scales[index], block(values, &mut expected, &mut of_halves));
            assert_eq!(levels[index * BLOCK..][..BLOCK], expected);
            assert_eq!(sums[2 * index..][..2], of_halves);
        }
    }
}
