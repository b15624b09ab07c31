//! Weights as kernels read them: stored as `REAL`, or in blocks of few bits.
//!
//! The blocks are those of `kernels/quant/`: a block of terms of a panel, levels first, then scales.

use std::ops::Range;

use half::{bf16, f16};

use super::arguments::addresses;
use super::vector_math::{Level, level, widen};
use super::{PANEL, Reals, rows};
use crate::Format;

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Weights in panels, known by their index among the values: `[panels][inputs][PANEL]`.
#[derive(Clone, Copy)]
pub enum Terms<'a> {
    /// As activations are stored.
    Reals(Reals<'a>),
    /// In blocks.
    Blocks(Format, &'a [u8]),
}

impl Terms<'_> {
    /// The weight at `index`, by what its format says.
    pub fn get(&self, index: usize) -> f32 {
        let (format, blocks) = match self {
            Terms::Reals(values) => return values.get(index),
            Terms::Blocks(format, blocks) => (*format, *blocks),
        };
        let (block, term, output) = place(format, index);
        let block = &blocks[block..block + format.held_bytes() * PANEL];
        let byte = |row: usize| block[row * PANEL + output];
        let half = |row: usize| {
            let at = row * PANEL + 2 * output;
            f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
        };
        // Of 32 terms, from a row on.
        let nibble = |row: usize, term: usize| byte(row + term % 16) >> (term / 16 * 4) & 15;
        let fifth = |row: usize, term: usize| (byte(row + term / 8) >> (term % 8) & 1) << 4;
        let (group, of_group) = (term / 32, term % 32);
        match format {
            Format::Q8_0 => half(32) * f32::from(byte(term) as i8),
            Format::Q4_0 => half(16) * (f32::from(nibble(0, term)) - 8.0),
            Format::Q4_1 => half(16) * f32::from(nibble(0, term)) + half(18),
            Format::Q5_0 => half(20) * (f32::from(nibble(0, term) | fifth(16, term)) - 16.0),
            Format::Q5_1 => half(20) * f32::from(nibble(0, term) | fifth(16, term)) + half(22),
            Format::Q4K => {
                let level = f32::from(nibble(16 * group, of_group));
                let (scale, least) = (f32::from(byte(128 + group)), f32::from(byte(136 + group)));
                half(144) * scale * level - half(146) * least
            }
            Format::Q5K => {
                let fifth = fifth(128 + 4 * group, of_group);
                let level = f32::from(nibble(16 * group, of_group) | fifth);
                let (scale, least) = (f32::from(byte(160 + group)), f32::from(byte(168 + group)));
                half(176) * scale * level - half(178) * least
            }
            Format::Q6K => {
                let upper = byte(128 + 8 * group + of_group % 8) >> (of_group / 8 * 2) & 3;
                let level = f32::from(nibble(16 * group, of_group) | upper << 4) - 32.0;
                half(208) * f32::from(byte(192 + term / 16) as i8) * level
            }
            Format::BF16 => {
                let at = 2 * (term * PANEL + output);
                bf16::from_le_bytes([block[at], block[at + 1]]).to_f32()
            }
            Format::F8E4M3 => E4M3_SCALE * f16::from_bits(e4m3_bits(byte(term))).to_f32(),
            Format::F8E5M2 => f16::from_bits(u16::from(byte(term)) << 8).to_f32(),
            Format::I8 => {
                let at = 32 * PANEL + 4 * output;
                let scale = block[at..at + 4].try_into().expect("4 bytes");
                f32::from_le_bytes(scale) * f32::from(byte(term) as i8)
            }
        }
    }

    /// sums = the products of `x` with a panel of as many terms, if these are blocks and the host has
    /// the vectors that multiply them as they are; whether that is so.
    pub fn multiply(&self, panel: usize, x: &[f32], sums: &mut [f32; PANEL]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let (Terms::Blocks(format, blocks), Level::Avx512) = (*self, level()) {
            let bytes = x.len() / format.block_values() * format.held_bytes() * PANEL;
            let blocks = &blocks[panel * bytes..(panel + 1) * bytes];
            // SAFETY: the host has the instructions.
            unsafe { avx512::multiply(format, blocks, x, sums) };
            return true;
        }
        let _ = (panel, x, sums);
        false
    }

    /// Where so many weights from `start` on lie; those that are not there are none.
    pub fn bytes(&self, start: usize, count: usize) -> Range<*const u8> {
        match *self {
            Terms::Reals(reals) => reals.bytes(start, count),
            Terms::Blocks(format, blocks) => {
                // Of a block of many terms, as many of its bytes.
                let bytes = |weights: usize| weights / format.block_values() * format.held_bytes();
                addresses(blocks, bytes(start)..bytes(start + count))
            }
        }
    }

    /// Has the processor fetch so many weights from `start` on; those that are not there are none.
    pub fn fetch(&self, start: usize, count: usize) {
        let Range { start, end } = self.bytes(start, count);
        for offset in (0..end.addr() - start.addr()).step_by(64) {
            rows::fetch_line(start.wrapping_add(offset));
        }
    }

    /// The weights from `start` on, whole rows of a panel.
    pub fn read(&self, start: usize, target: &mut [f32]) {
        match *self {
            Terms::Reals(values) => rows::read(&values, start, target),
            Terms::Blocks(format, blocks) => {
                let rows = target.as_chunks_mut::<PANEL>().0;
                let mut done = 0;
                while done < rows.len() {
                    let (block, term, _) = place(format, start + done * PANEL);
                    // Terms of one scale.
                    let left = group_terms(format) - term % group_terms(format);
                    let count = left.min(rows.len() - done);
                    let block = &blocks[block..block + format.held_bytes() * PANEL];
                    decode(format, block, term, &mut rows[done..done + count]);
                    done += count;
                }
            }
        }
    }
}

/// Where the block of a weight begins, and its term and output there.
#[inline(always)]
fn place(format: Format, index: usize) -> (usize, usize, usize) {
    let (row, output) = (index / PANEL, index % PANEL);
    let terms = format.block_values();
    (row / terms * format.held_bytes() * PANEL, row % terms, output)
}

/// By what the bits of f8_e4m3 have to be multiplied, once they are taken for those of an f16.
const E4M3_SCALE: f32 = 256.0;

/// See `kernels/quant/f8_e4m3.h`.
#[inline(always)]
fn e4m3_bits(byte: u8) -> u16 {
    u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7
}

/// How many terms have one scale.
#[inline(always)]
fn group_terms(format: Format) -> usize {
    if format == Format::Q6K { 16 } else { 32 }
}

type Row = [f32; PANEL];

/// The terms from `first` on, of one scale.
fn decode(format: Format, block: &[u8], first: usize, rows: &mut [Row]) {
    match level() {
        // SAFETY: the host has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::decode_512(format, block, first, rows) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::decode_256(format, block, first, rows) },
        _ => decode_rows(format, block, first, rows),
    }
}

/// [`decode_rows`], compiled for more instructions than every host has.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub fn decode_512(format: Format, block: &[u8], first: usize, rows: &mut [Row]) {
        decode_rows(format, block, first, rows);
    }

    #[target_feature(enable = "avx2")]
    pub fn decode_256(format: Format, block: &[u8], first: usize, rows: &mut [Row]) {
        decode_rows(format, block, first, rows);
    }
}

#[inline(always)]
fn decode_rows(format: Format, block: &[u8], first: usize, rows: &mut [Row]) {
    let row = |row: usize| -> &[u8; PANEL] {
        block[row * PANEL..(row + 1) * PANEL].try_into().expect("a row is so long")
    };
    let halves = |row: usize| -> Row {
        let bytes = &block[row * PANEL..(row + 2) * PANEL];
        let mut halves = [f16::ZERO; PANEL];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        let mut values = [0.0; PANEL];
        widen(&halves, &mut values);
        values
    };
    let bytes = |at: usize| -> Row { row(at).map(f32::from) };
    let times = |a: Row, b: Row| -> Row { std::array::from_fn(|n| a[n] * b[n]) };
    let (group, of_group) = (first / 32, first % 32);
    match format {
        Format::Q8_0 => {
            let scale = halves(32);
            for (k, target) in rows.iter_mut().enumerate() {
                let levels = row(first + k);
                for n in 0..PANEL {
                    target[n] = scale[n] * f32::from(levels[n] as i8);
                }
            }
        }
        Format::Q4_0 => nibbles(block, of_group, None, 8, &halves(16), None, rows),
        Format::Q4_1 => nibbles(block, of_group, None, 0, &halves(16), Some(&halves(18)), rows),
        Format::Q5_0 => {
            nibbles(block, of_group, Some(16), 16, &halves(20), None, rows);
        }
        Format::Q5_1 => {
            nibbles(block, of_group, Some(16), 0, &halves(20), Some(&halves(22)), rows);
        }
        Format::Q4K => {
            let scale = times(halves(144), bytes(128 + group));
            let least = times(halves(146), bytes(136 + group)).map(|least| -least);
            let levels = &block[16 * group * PANEL..];
            nibbles(levels, of_group, None, 0, &scale, Some(&least), rows);
        }
        Format::Q5K => {
            let scale = times(halves(176), bytes(160 + group));
            let least = times(halves(178), bytes(168 + group)).map(|least| -least);
            let levels = &block[16 * group * PANEL..];
            let fifth = 128 + 4 * group - 16 * group;
            nibbles(levels, of_group, Some(fifth), 0, &scale, Some(&least), rows);
        }
        Format::Q6K => {
            let scales = row(192 + first / 16).map(|byte| f32::from(byte as i8));
            let scale = times(halves(208), scales);
            for (k, target) in rows.iter_mut().enumerate() {
                let term = of_group + k;
                let lower = row(16 * group + term % 16);
                let upper = row(128 + 8 * group + term % 8);
                let (low_shift, high_shift) = (term / 16 * 4, term / 8 * 2);
                for n in 0..PANEL {
                    let level = lower[n] >> low_shift & 15 | (upper[n] >> high_shift & 3) << 4;
                    target[n] = scale[n] * f32::from(level as i8 - 32);
                }
            }
        }
        Format::BF16 => {
            for (k, target) in rows.iter_mut().enumerate() {
                let bits = &block[2 * (first + k) * PANEL..][..2 * PANEL];
                for (value, bits) in target.iter_mut().zip(bits.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bits)) << 16);
                }
            }
        }
        Format::F8E4M3 => {
            for (k, target) in rows.iter_mut().enumerate() {
                widen(&row(first + k).map(|byte| f16::from_bits(e4m3_bits(byte))), target);
                target.iter_mut().for_each(|value| *value *= E4M3_SCALE);
            }
        }
        Format::F8E5M2 => {
            for (k, target) in rows.iter_mut().enumerate() {
                let halves = row(first + k).map(|byte| f16::from_bits(u16::from(byte) << 8));
                widen(&halves, target);
            }
        }
        Format::I8 => {
            let scale = &block[32 * PANEL..].as_chunks::<4>().0[..PANEL];
            for (k, target) in rows.iter_mut().enumerate() {
                let levels = row(first + k);
                for n in 0..PANEL {
                    target[n] = f32::from_le_bytes(scale[n]) * f32::from(levels[n] as i8);
                }
            }
        }
    }
}

/// Levels of 4 bits in pairs from the beginning on, with fifth bits from a row on; `zero` is the
/// level that stands for 0.
#[inline(always)]
fn nibbles(
    levels: &[u8],
    first: usize,
    fifths: Option<usize>,
    zero: i8,
    scale: &Row,
    least: Option<&Row>,
    rows: &mut [Row],
) {
    for (k, target) in rows.iter_mut().enumerate() {
        let term = first + k;
        let pairs = &levels[term % 16 * PANEL..][..PANEL];
        let shift = term / 16 * 4;
        let mut level = [0; PANEL];
        for n in 0..PANEL {
            level[n] = (pairs[n] >> shift & 15) as i8;
        }
        if let Some(fifths) = fifths {
            let bits = &levels[(fifths + term / 8) * PANEL..][..PANEL];
            for n in 0..PANEL {
                level[n] |= ((bits[n] >> (term % 8) & 1) << 4) as i8;
            }
        }
        for n in 0..PANEL {
            let value = scale[n] * f32::from(level[n] - zero);
            target[n] = least.map_or(value, |least| value + least[n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_decoded_and_multiplied_as_single_weights_are() {
        for format in Format::ALL {
            let terms = format.block_values() * 2;
            let mut state = 1u32;
            let mut blocks: Vec<u8> = (0..terms * PANEL / format.block_values()
                * format.held_bytes())
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    (state >> 24) as u8
                })
                .collect();
            // No scale that is infinite or not a number.
            blocks.iter_mut().for_each(|byte| *byte &= 0xbb);
            let weights = Terms::Blocks(format, &blocks);
            for (start, count) in [(0, terms), (16, terms - 16), (7, 50), (terms - 1, 1)] {
                let mut values = vec![0.0; count * PANEL];
                weights.read(start * PANEL, &mut values);
                for (index, value) in values.into_iter().enumerate() {
                    assert_eq!(value, weights.get(start * PANEL + index), "{format} {index}");
                }
            }
            let x: Vec<f32> = (0..terms).map(|k| (k % 7) as f32 - 3.0).collect();
            let mut sums = [0.0; PANEL];
            if !weights.multiply(0, &x, &mut sums) {
                continue;
            }
            for (n, sum) in sums.into_iter().enumerate() {
                let weight = |k: usize| f64::from(weights.get(k * PANEL + n));
                let expected: f64 = (0..terms).map(|k| f64::from(x[k]) * weight(k)).sum();
                let largest = (0..terms).map(|k| weight(k).abs()).fold(0.0, f64::max);
                // A rounding for each term and a few for each scale, of sums that are at most all terms
                // together: of scaled levels and of least values, neither of which is over twice
                // the largest weight, for levels are drawn.
                let all = 4.0 * largest * x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                let tolerance = f64::from(f32::EPSILON) / 2.0 * 1.25 * terms as f64 * all;
                assert!((f64::from(sum) - expected).abs() <= tolerance, "{format} {n}");
            }
        }
    }
}
