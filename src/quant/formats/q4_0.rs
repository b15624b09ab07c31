//! q4_0: `x = scale * (level - 8)`; an f16, then 16 bytes of two levels each.

use super::{nibbles, put_nibbles, small};
use crate::quant::search::{Affine, half, half_at, levels, put_half, scale};

/// What is stored is a level less this.
const ZERO: f32 = 8.0;

const RANGE: [f32; 2] = [-ZERO, ZERO - 1.0];

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (value, level) in values.iter_mut().zip(nibbles(&block[2..])) {
        *value = scale * (f32::from(level) - ZERO);
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let values = small(values);
    let scale = scale(values, RANGE, half);
    put_half(block, 0, scale);
    let levels = levels(values, Affine { scale, least: 0.0 }, RANGE);
    put_nibbles(&mut block[2..], &levels.map(|level| (level + ZERO) as u8));
}
