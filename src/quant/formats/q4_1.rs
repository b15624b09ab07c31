//! q4_1: `x = scale * level + least`; two f16, then 16 bytes of two levels each.

use super::{nibbles, put_nibbles, small};
use crate::quant::search::{affine, half, half_at, levels, put_half};

/// The largest level.
const MOST: f32 = 15.0;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (value, level) in values.iter_mut().zip(nibbles(&block[4..])) {
        *value = scale * f32::from(level) + least;
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let values = small(values);
    let affine = affine(values, MOST, f32::MAX, half);
    put_half(block, 0, affine.scale);
    put_half(block, 2, affine.least);
    let levels = levels(values, affine, [0.0, MOST]);
    put_nibbles(&mut block[4..], &levels.map(|level| level as u8));
}
