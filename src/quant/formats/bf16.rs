//! bf16: numbers of 16 bits, each the upper half of an f32.

use half::bf16;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(block.as_chunks().0) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

/// To the nearest, half to even; the largest where that were infinite.
pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    for (bytes, value) in block.as_chunks_mut().0.iter_mut().zip(values) {
        let nearest = bf16::from_f32(*value);
        *bytes = nearest.clamp(bf16::MIN, bf16::MAX).to_le_bytes();
    }
}
