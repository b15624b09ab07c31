//! q5_1: `x = scale * level + least`; two f16, the fifth bits of 32 levels, then 16 bytes of two levels each.

use super::{five_bits, put_five_bits, small};
use crate::quant::search::{affine, half, half_at, levels, put_half};

/// The largest level.
const MOST: f32 = 31.0;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (value, level) in values.iter_mut().zip(five_bits(&block[4..8], &block[8..])) {
        *value = scale * f32::from(level) + least;
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let values = small(values);
    let affine = affine(values, MOST, f32::MAX, half);
    put_half(block, 0, affine.scale);
    put_half(block, 2, affine.least);
    let levels = levels(values, affine, [0.0, MOST]);
    put_five_bits(&mut block[4..], &levels.map(|level| level as u8));
}
