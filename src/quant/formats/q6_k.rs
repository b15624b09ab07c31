//! q6_k: `x = scale * (level - 32)` in parts of 16, whose scales are 8 bits with a sign, times an f16
//! at the end.
//!
//! 128 bytes of lower bits, 64 of upper ones. In each half of a block (128 values, in four runs of 32)
//! 64 bytes have two runs below and two above, and 32 bytes have two upper bits of each run.

use crate::quant::search::{self, Affine, half, half_at, inverse, put_half};

/// What is stored is a level less this.
const ZERO: f32 = 32.0;

const RANGE: [f32; 2] = [-ZERO, ZERO - 1.0];

/// The values of a part.
const PART: usize = 16;

/// The parts of a block.
const PARTS: usize = 16;

/// The values of half a block.
const HALF: usize = 128;

/// The values of a run.
const RUN: usize = 32;

const UPPER: usize = 128;
const SCALES: usize = 192;
const SCALE: usize = 208;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let shared = half_at(block, SCALE);
    for (at, value) in values.iter_mut().enumerate() {
        let (lower, upper, run) = places(at);
        let low = block[lower] >> (run / 2 * 4) & 15;
        let level = low | (block[upper] >> (run * 2) & 3) << 4;
        let scale = shared * f32::from(block[SCALES + at / PART] as i8);
        *value = scale * (f32::from(level) - ZERO);
    }
}

/// The bytes with the lower and the upper bits of a value, and which run of its half it is in.
fn places(at: usize) -> (usize, usize, usize) {
    let (half, run, index) = (at / HALF, at % HALF / RUN, at % RUN);
    (half * 64 + run % 2 * RUN + index, UPPER + half * RUN + index, run)
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    block.fill(0);
    let parts = values.as_chunks::<PART>().0;
    let wanted: [f32; PARTS] =
        std::array::from_fn(|part| search::scale(&parts[part], RANGE, |scale| scale));
    // The largest takes the last level on its side, which is the further.
    let largest = wanted.iter().fold(0.0, |a: f32, b| if b.abs() > a.abs() { *b } else { a });
    let shared = match half(largest / -128.0) {
        // Better one scale too large than all values gone.
        0.0 if largest != 0.0 => half::f16::from_bits(1).to_f32().copysign(-largest),
        shared => shared,
    };
    put_half(block, SCALE, shared);
    for (part, values) in parts.iter().enumerate() {
        let near = (wanted[part] * inverse(shared)).round();
        let mut best = (f32::INFINITY, 0, [0.0; PART]);
        for step in [0.0, -1.0, 1.0, -2.0, 2.0] {
            let number = (near + step).clamp(-128.0, 127.0);
            let affine = Affine { scale: shared * number, least: 0.0 };
            let (error, levels) = search::error(values, affine, RANGE);
            if error < best.0 {
                best = (error, number as i8, levels);
            }
        }
        let (_, number, levels) = best;
        block[SCALES + part] = number as u8;
        for (index, level) in levels.into_iter().enumerate() {
            let (lower, upper, run) = places(part * PART + index);
            let level = (level + ZERO) as u8;
            block[lower] |= (level & 15) << (run / 2 * 4);
            block[upper] |= level >> 4 << (run * 2);
        }
    }
}
