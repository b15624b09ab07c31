//! q4_k: `x = scale * level - least` in parts of 32, with `nested` scales; then
//! 128 bytes of two levels each: 32 bytes have one part below and the next above.

use super::{nibbles, put_nibbles};
use crate::quant::nested::{self, HEADER_BYTES, PART};

/// The largest level.
const MOST: f32 = 15.0;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let affines = nested::affines(block);
    let pairs = block[HEADER_BYTES..].chunks_exact(PART);
    let levels = pairs.flat_map(nibbles);
    for ((at, value), level) in values.iter_mut().enumerate().zip(levels) {
        let affine = affines[at / PART];
        *value = affine.scale * f32::from(level) + affine.least;
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let levels = nested::encode(values, MOST, block);
    let pairs = block[HEADER_BYTES..].chunks_exact_mut(PART);
    for (pair, levels) in pairs.zip(levels.chunks_exact(2 * PART)) {
        put_nibbles(pair, levels);
    }
}
