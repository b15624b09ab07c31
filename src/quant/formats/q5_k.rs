//! q5_k: `x = scale * level - least` in parts of 32, with `nested` scales; then
//! 32 bytes of fifth bits, of which each has one of every part, and 128 bytes as in q4_k.

use super::{nibbles, put_nibbles};
use crate::quant::nested::{self, HEADER_BYTES, PART};

/// The largest level.
const MOST: f32 = 31.0;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let affines = nested::affines(block);
    let (fifth, rest) = block[HEADER_BYTES..].split_at(PART);
    let low = rest.chunks_exact(PART).flat_map(nibbles);
    for ((at, value), low) in values.iter_mut().enumerate().zip(low) {
        let (part, index) = (at / PART, at % PART);
        let level = low | (fifth[index] >> part & 1) << 4;
        *value = affines[part].scale * f32::from(level) + affines[part].least;
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let levels = nested::encode(values, MOST, block);
    let (fifth, rest) = block[HEADER_BYTES..].split_at_mut(PART);
    for (part, levels) in levels.chunks_exact(PART).enumerate() {
        for (byte, level) in fifth.iter_mut().zip(levels) {
            *byte |= level >> 4 << part;
        }
    }
    for (pair, levels) in rest.chunks_exact_mut(PART).zip(levels.chunks_exact(2 * PART)) {
        put_nibbles(pair, levels);
    }
}
