//! q8_0: `x = scale * level`; an f16, then 32 levels of 8 bits with a sign.

use super::small;
use crate::quant::search::{Affine, half, half_at, levels, put_half};

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let scale = half_at(block, 0);
    for (value, &level) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(level as i8);
    }
}

/// The largest value takes the last level: at 8 bits nothing is gained by a search.
pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
    let scale = half(largest / 127.0);
    put_half(block, 0, scale);
    let levels = levels(small(values), Affine { scale, least: 0.0 }, [-128.0, 127.0]);
    for (byte, level) in block[2..].iter_mut().zip(levels) {
        *byte = level as i8 as u8;
    }
}
