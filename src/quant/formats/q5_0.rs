//! q5_0: `x = scale * (level - 16)`; an f16, the fifth bits of 32 levels, then 16 bytes of two levels each.

use super::{five_bits, put_five_bits, small};
use crate::quant::search::{Affine, half, half_at, levels, put_half, scale};

/// What is stored is a level less this.
const ZERO: f32 = 16.0;

const RANGE: [f32; 2] = [-ZERO, ZERO - 1.0];

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (value, level) in values.iter_mut().zip(five_bits(&block[2..6], &block[6..])) {
        *value = scale * (f32::from(level) - ZERO);
    }
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let values = small(values);
    let scale = scale(values, RANGE, half);
    put_half(block, 0, scale);
    let levels = levels(values, Affine { scale, least: 0.0 }, RANGE);
    put_five_bits(&mut block[2..], &levels.map(|level| (level + ZERO) as u8));
}
