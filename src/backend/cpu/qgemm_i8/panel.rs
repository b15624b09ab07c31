//! A part of a panel of weights in blocks, in the order in which bytes are multiplied.

use half::f16;

use crate::Format;
use crate::backend::cpu::PANEL;
use crate::backend::cpu::vector_math::{vectorised, widen};

/// Terms of a group that are 32 wide.
const GROUP: usize = 32;

/// Levels without signs, of four terms of an output side by side, and what they are scaled by.
#[derive(Default)]
pub struct Panel {
    /// `[terms / 4][PANEL][4]`
    pub levels: Vec<Line<u8, 64>>,
    /// `[groups][PANEL]`
    pub scales: Vec<Line<f32, 16>>,
    /// Likewise; empty for formats without least values.
    pub least: Vec<Line<f32, 16>>,
    /// Terms of a scale: 32 or 16.
    pub group_terms: usize,
}

/// A cache line, to which vectors are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line<T, const N: usize>(pub [T; N]);

/// Why no panel is of such a format.
const NUMBERS: &str = "only integers are multiplied in bytes";

/// The level that stands for 0, of a format without least values: so much is added to what a weight's
/// level is in order that it has no sign.
pub fn zero(format: Format) -> i32 {
    match format {
        Format::Q8_0 | Format::I8 => 128,
        Format::Q4_0 => 8,
        Format::Q5_0 => 16,
        Format::Q6K => 32,
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => 0,
        Format::BF16 | Format::F8E4M3 | Format::F8E5M2 => unreachable!("{NUMBERS}"),
    }
}

/// Whether something is added to each scaled level.
pub fn has_least(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K)
}

/// Terms of a scale.
pub fn group_terms(format: Format) -> usize {
    if format == Format::Q6K { 16 } else { GROUP }
}

impl Panel {
    /// The groups of a row that it has scales for.
    pub fn groups(&self) -> usize {
        self.scales.len() / 2
    }

    /// Takes the terms `first..first + depth`, whole blocks, of a panel whose blocks are `blocks`.
    pub fn pack(&mut self, format: Format, blocks: &[u8], first: usize, depth: usize) {
        let (values, bytes) = (format.block_values(), format.held_bytes() * PANEL);
        self.group_terms = group_terms(format);
        let groups = depth / self.group_terms;
        self.levels.resize(depth * PANEL / 64, Line([0; 64]));
        self.scales.resize(groups * 2, Line([0.0; 16]));
        self.least.resize(if has_least(format) { groups * 2 } else { 0 }, Line([0.0; 16]));
        let blocks = &blocks[first / values * bytes..(first + depth) / values * bytes];
        take(self, format, blocks);
    }
}

vectorised! {
    /// All of `blocks` into `panel`, which has their size.
    fn take<FMA>(panel: &mut Panel, format: Format, blocks: &[u8]) {
        let (values, bytes) = (format.block_values(), format.held_bytes() * PANEL);
        let groups = values / GROUP;
        let mut rows = [[0; PANEL]; GROUP];
        for (index, block) in blocks.chunks_exact(bytes).enumerate() {
            for group in 0..groups {
                levels(format, block, group, &mut rows);
                let at = (index * groups + group) * GROUP * PANEL / 64;
                let target = &mut panel.levels[at..at + GROUP * PANEL / 64];
                let quads = target.as_chunks_mut::<2>().0.iter_mut();
                for (lines, rows) in quads.zip(rows.as_chunks::<4>().0) {
                    interleave(rows, lines);
                }
            }
            let per_block = values / panel.group_terms;
            for group in 0..per_block {
                let at = 2 * (index * per_block + group);
                let (scales, least) = scales(format, block, group);
                for half in 0..2 {
                    panel.scales[at + half].0.copy_from_slice(&scales[16 * half..][..16]);
                    if let Some(line) = panel.least.get_mut(at + half) {
                        line.0.copy_from_slice(&least[16 * half..][..16]);
                    }
                }
            }
        }
    }
}

type Bytes = [u8; PANEL];
type Row = [f32; PANEL];

#[inline(always)]
fn row(block: &[u8], row: usize) -> &Bytes {
    block[row * PANEL..(row + 1) * PANEL].try_into().expect("a row is so long")
}

/// Four terms of an output side by side, of two times 16 outputs.
#[inline(always)]
fn interleave(rows: &[Bytes; 4], lines: &mut [Line<u8, 64>; 2]) {
    for (half, line) in lines.iter_mut().enumerate() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every host of this architecture has SSE2; a row has two times 16 bytes, and a line
        // four times as many.
        unsafe {
            use std::arch::x86_64::*;
            let row = |row: &Bytes| _mm_loadu_si128(row.as_ptr().add(16 * half).cast());
            let [a, b, c, d] = [row(&rows[0]), row(&rows[1]), row(&rows[2]), row(&rows[3])];
            let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
            let target = line.0.as_mut_ptr().cast::<__m128i>();
            _mm_store_si128(target, _mm_unpacklo_epi16(ab, cd));
            _mm_store_si128(target.add(1), _mm_unpackhi_epi16(ab, cd));
            _mm_store_si128(target.add(2), _mm_unpacklo_epi16(ab_high, cd_high));
            _mm_store_si128(target.add(3), _mm_unpackhi_epi16(ab_high, cd_high));
        }
        #[cfg(not(target_arch = "x86_64"))]
        for n in 0..16 {
            for (j, row) in rows.iter().enumerate() {
                line.0[4 * n + j] = row[16 * half + n];
            }
        }
    }
}

/// Levels of 32 terms without signs.
#[inline(always)]
fn levels(format: Format, block: &[u8], group: usize, levels: &mut [Bytes; GROUP]) {
    if matches!(format, Format::Q8_0 | Format::I8) {
        for (term, levels) in levels.iter_mut().enumerate() {
            *levels = row(block, term).map(|level| level ^ 0x80);
        }
        return;
    }
    let (low, high) = levels.split_at_mut(GROUP / 2);
    for (term, (low, high)) in low.iter_mut().zip(high).enumerate() {
        let pairs = row(block, 16 * group + term);
        *low = pairs.map(|pair| pair & 15);
        *high = pairs.map(|pair| pair >> 4);
    }
    let fifths = match format {
        Format::Q5_0 | Format::Q5_1 => Some(16),
        Format::Q5K => Some(128 + 4 * group),
        _ => None,
    };
    if let Some(fifths) = fifths {
        for (term, levels) in levels.iter_mut().enumerate() {
            let eight = row(block, fifths + term / 8);
            for (level, eight) in levels.iter_mut().zip(eight) {
                *level |= (eight >> (term % 8) & 1) << 4;
            }
        }
    }
    if format == Format::Q6K {
        for (term, levels) in levels.iter_mut().enumerate() {
            let four = row(block, 128 + 8 * group + term % 8);
            for (level, four) in levels.iter_mut().zip(four) {
                *level |= (four >> (term / 8 * 2) & 3) << 4;
            }
        }
    }
}

/// By what the levels of a group are multiplied, and what is added then.
#[inline(always)]
fn scales(format: Format, block: &[u8], group: usize) -> (Row, Row) {
    let halves = |at: usize| -> Row {
        let bytes = &block[at * PANEL..(at + 2) * PANEL];
        let mut halves = [f16::ZERO; PANEL];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        let mut values = [0.0; PANEL];
        widen(&halves, &mut values);
        values
    };
    let nested = |half: usize, at: usize| -> Row {
        let (halves, bytes) = (halves(half), row(block, at));
        std::array::from_fn(|n| halves[n] * f32::from(bytes[n]))
    };
    let none = [0.0; PANEL];
    match format {
        Format::Q8_0 => (halves(32), none),
        Format::I8 => {
            let scales = &block[32 * PANEL..].as_chunks::<4>().0[..PANEL];
            (std::array::from_fn(|n| f32::from_le_bytes(scales[n])), none)
        }
        Format::Q4_0 => (halves(16), none),
        Format::Q4_1 => (halves(16), halves(18)),
        Format::Q5_0 => (halves(20), none),
        Format::Q5_1 => (halves(20), halves(22)),
        Format::Q4K => (nested(144, 128 + group), nested(146, 136 + group).map(|least| -least)),
        Format::Q5K => (nested(176, 160 + group), nested(178, 168 + group).map(|least| -least)),
        Format::Q6K => {
            let (halves, bytes) = (halves(208), row(block, 192 + group));
            (std::array::from_fn(|n| halves[n] * f32::from(bytes[n] as i8)), none)
        }
        Format::BF16 | Format::F8E4M3 | Format::F8E5M2 => unreachable!("{NUMBERS}"),
    }
}
