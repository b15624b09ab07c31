//! Weights packed for kernels: panels of values, or of blocks.

use rayon::prelude::*;

use super::PANEL;
use crate::memory::zeros;
use crate::tensor::write_bytes;
use crate::{DType, Format, Result};

/// `[O, I, taps]` to panels.
pub(super) fn of_values(
    values: &[f32],
    dtype: DType,
    outputs: usize,
    channels: usize,
    taps: usize,
) -> Result<Vec<u8>> {
    let inputs = channels * taps;
    let panel_bytes = inputs * PANEL * dtype.size();
    let mut packed = zeros(outputs.div_ceil(PANEL) * panel_bytes)?;
    packed.par_chunks_mut(panel_bytes).enumerate().for_each(|(index, bytes)| {
        let first = index * PANEL;
        let mut panel = vec![0.0; inputs * PANEL];
        for output in first..outputs.min(first + PANEL) {
            let row = &values[output * inputs..][..inputs];
            for channel in 0..channels {
                for tap in 0..taps {
                    let k = tap * channels + channel;
                    panel[k * PANEL + output - first] = row[channel * taps + tap];
                }
            }
        }
        write_bytes(&panel, dtype, bytes);
    });
    Ok(packed)
}

/// Rows of blocks as files have them, K in the order of panels, to the blocks of
/// `kernels/quant/`: those of 32 outputs beside each other, each part of theirs for itself.
pub(super) fn of_blocks(
    rows: &[u8],
    format: Format,
    outputs: usize,
    inputs: usize,
) -> Result<Vec<u8>> {
    let blocks = inputs / format.block_values();
    let (row_bytes, held_bytes) = (blocks * format.block_bytes(), format.held_bytes() * PANEL);
    let mut packed = zeros(outputs.div_ceil(PANEL) * blocks * held_bytes)?;
    packed.par_chunks_mut(held_bytes).enumerate().for_each(|(index, held)| {
        let (panel, block) = (index / blocks, index % blocks);
        let outputs = panel * PANEL..outputs.min((panel + 1) * PANEL);
        for (output, row) in outputs.enumerate() {
            let start = row * row_bytes + block * format.block_bytes();
            let block = &rows[start..start + format.block_bytes()];
            interleave(format, block, &mut Held { bytes: held, output });
        }
    });
    Ok(packed)
}

/// A block for a panel's outputs, in rows of a byte for each, of which one output is filled.
struct Held<'a> {
    bytes: &'a mut [u8],
    output: usize,
}

impl Held<'_> {
    /// Bytes of this output into the rows from `first` on.
    fn rows(&mut self, first: usize, bytes: &[u8]) {
        for (row, byte) in bytes.iter().enumerate() {
            self.bytes[(first + row) * PANEL + self.output] = *byte;
        }
    }

    /// An f16 of this output into a pair of rows.
    fn half(&mut self, row: usize, bytes: &[u8]) {
        let at = row * PANEL + 2 * self.output;
        self.bytes[at..at + 2].copy_from_slice(&bytes[..2]);
    }

    /// An f32 of this output into four rows.
    fn float(&mut self, row: usize, bytes: &[u8]) {
        let at = row * PANEL + 4 * self.output;
        self.bytes[at..at + 4].copy_from_slice(&bytes[..4]);
    }

    /// The low 4 bits of 32 levels, in pairs 16 apart.
    fn pairs(&mut self, first: usize, levels: [u8; 32]) {
        let pair = |j: usize| (levels[j] & 15) | (levels[j + 16] & 15) << 4;
        self.rows(first, &std::array::from_fn::<u8, 16, _>(pair));
    }
}

fn interleave(format: Format, block: &[u8], held: &mut Held) {
    match format {
        Format::Q8_0 => {
            held.rows(0, &block[2..]);
            held.half(32, block);
        }
        Format::Q4_0 => {
            held.rows(0, &block[2..]);
            held.half(16, block);
        }
        Format::Q4_1 => {
            held.rows(0, &block[4..]);
            held.half(16, block);
            held.half(18, &block[2..]);
        }
        // The fifth bits of 32 levels are a little-endian number: eight of them in a byte.
        Format::Q5_0 => {
            held.rows(0, &block[6..]);
            held.rows(16, &block[2..6]);
            held.half(20, block);
        }
        Format::Q5_1 => {
            held.rows(0, &block[8..]);
            held.rows(16, &block[4..8]);
            held.half(20, block);
            held.half(22, &block[2..]);
        }
        Format::Q4K => {
            let levels = &block[16..];
            for group in 0..8 {
                held.pairs(16 * group, of_pair(levels, group));
            }
            let (scales, least) = six_bits(&block[4..16]);
            held.rows(128, &scales);
            held.rows(136, &least);
            held.half(144, block);
            held.half(146, &block[2..]);
        }
        Format::Q5K => {
            let (fifths, levels) = (&block[16..48], &block[48..]);
            for group in 0..8 {
                held.pairs(16 * group, of_pair(levels, group));
                let eight = |r: usize| {
                    (0..8).map(|bit| (fifths[8 * r + bit] >> group & 1) << bit).sum::<u8>()
                };
                held.rows(128 + 4 * group, &std::array::from_fn::<u8, 4, _>(eight));
            }
            let (scales, least) = six_bits(&block[4..16]);
            held.rows(160, &scales);
            held.rows(168, &least);
            held.half(176, block);
            held.half(178, &block[2..]);
        }
        Format::Q6K => {
            // Halves of 128 terms, each of four groups: two share the low bits of a byte and two
            // its high ones, and all four share a byte of upper bits.
            let (lower, upper) = (&block[..128], &block[128..192]);
            for group in 0..8 {
                let (half, part) = (group / 4, group % 4);
                let level = |t: usize| lower[64 * half + 32 * (part % 2) + t] >> (part / 2 * 4);
                held.pairs(16 * group, std::array::from_fn(level));
                let upper = |t: usize| upper[32 * half + t] >> (2 * part) & 3;
                let four = |r: usize| (0..4).map(|q| upper(r + 8 * q) << (2 * q)).sum::<u8>();
                held.rows(128 + 8 * group, &std::array::from_fn::<u8, 8, _>(four));
            }
            held.rows(192, &block[192..208]);
            held.half(208, &block[208..]);
        }
        Format::BF16 => {
            for (term, bits) in block.chunks_exact(2).enumerate() {
                held.half(2 * term, bits);
            }
        }
        Format::F8E4M3 | Format::F8E5M2 => held.rows(0, block),
        Format::I8 => {
            held.rows(0, &block[4..]);
            held.float(32, block);
        }
    }
}

/// The levels of a group of 32: two groups share bytes, the first of them the low bits.
fn of_pair(levels: &[u8], group: usize) -> [u8; 32] {
    std::array::from_fn(|t| levels[group / 2 * 32 + t] >> (group % 2 * 4) & 15)
}

/// Eight scales and eight least values of 6 bits in 12 bytes: those of the first four groups are the
/// low bits of the first eight bytes, whose upper bits complete those of the last four.
fn six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let scale = |group: usize| match group {
        0..4 => bytes[group] & 63,
        _ => bytes[group + 4] & 15 | bytes[group - 4] >> 6 << 4,
    };
    let least = |group: usize| match group {
        0..4 => bytes[group + 4] & 63,
        _ => bytes[group + 4] >> 4 | bytes[group] >> 6 << 4,
    };
    (std::array::from_fn(scale), std::array::from_fn(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_holds_the_window_row_by_row_with_channels_contiguous() {
        // Two outputs, two channels, a window of 1 x 3.
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let packed = of_values(&values, DType::F32, 2, 2, 3).unwrap();
        let value = |k: usize, output: usize| {
            let start = (k * PANEL + output) * 4;
            f32::from_ne_bytes(packed[start..start + 4].try_into().unwrap())
        };
        assert_eq!((0..6).map(|k| value(k, 0)).collect::<Vec<_>>(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!((0..6).map(|k| value(k, 1)).collect::<Vec<_>>(), [6., 9., 7., 10., 8., 11.]);
        assert_eq!(value(0, 2), 0.0);
    }

    #[test]
    fn a_panel_of_blocks_has_every_byte_of_its_rows() {
        // Bits are neither lost nor added: levels and scales move, K formats' scales are widened.
        for format in Format::ALL {
            let row: Vec<u8> = (0..format.block_bytes()).map(|at| (at * 37 + 11) as u8).collect();
            let packed = of_blocks(&row, format, 1, format.block_values()).unwrap();
            assert_eq!(packed.len(), format.held_bytes() * PANEL, "{format}");
            let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert_eq!(ones(&packed), ones(&row), "{format}");
        }
    }
}
