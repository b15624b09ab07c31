//! i8: `x = scale * level`; an f32 that all blocks of a row share, then 32 levels of 8 bits with a
//! sign.

/// The bytes of a block.
const BLOCK_BYTES: usize = 36;

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    let (scale, levels) = block.split_first_chunk().expect("a block begins with its scale");
    let scale = f32::from_le_bytes(*scale);
    for (value, &level) in values.iter_mut().zip(levels) {
        *value = scale * f32::from(level as i8);
    }
}

/// All blocks of a row: its largest value takes the last level.
pub(in crate::quant) fn encode(row: &[f32], blocks: &mut [u8]) {
    let scale = row.iter().fold(0.0, |a: f32, b| a.max(b.abs())) / 127.0;
    for (values, block) in row.chunks(32).zip(blocks.chunks_exact_mut(BLOCK_BYTES)) {
        let (of_scale, levels) = block.split_at_mut(4);
        of_scale.copy_from_slice(&scale.to_le_bytes());
        for (level, value) in levels.iter_mut().zip(values) {
            *level = (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        }
    }
}
