//! Weights in blocks: to numbers and back, bit for bit as ggml has them where it does.
//!
//! ```
//! use ellesmere::{Format, quant};
//!
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 8.0).collect();
//! let mut blocks = vec![0; quant::bytes(Format::Q4_0, row.len())?];
//! quant::encode(Format::Q4_0, &row, &mut blocks)?;
//! let mut decoded = vec![0.0; row.len()];
//! quant::decode(Format::Q4_0, &blocks, &mut decoded)?;
//! assert!(row.iter().zip(&decoded).all(|(a, b)| (a - b).abs() < 0.3));
//! # Ok::<(), ellesmere::Error>(())
//! ```
//!
//! | part | has |
//! |---|---|
//! | `formats/` | one file a format: what a block's bytes mean, and how they are chosen |
//! | `search` | scales (and least values) of the least squared error |
//! | `nested` | blocks of 256 whose 8 scales and least values have scales of their own: q4_k, q5_k |

use rayon::prelude::*;

use crate::{Error, Format, Result};

mod formats;
mod nested;
mod search;

use formats::{bf16, f8_e4m3, f8_e5m2, i8, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};
pub(crate) use formats::{f8_e4m3::number as f8_e4m3, f8_e5m2::number as f8_e5m2};

/// The values that a thread takes at a time: many small blocks, or a few large ones.
const PART_VALUES: usize = 4096;

/// The bytes of `values` values in blocks.
///
/// # Errors
///
/// [`Error::Shape`] if they are not whole blocks.
pub fn bytes(format: Format, values: usize) -> Result<usize> {
    let whole = values.is_multiple_of(format.block_values());
    let bytes = (values / format.block_values()).checked_mul(format.block_bytes());
    bytes.filter(|_| whole).ok_or_else(|| {
        let block = format.block_values();
        Error::shape("quant", format!("{format}: expected a multiple of {block}, got {values}"))
    })
}

/// The numbers that blocks stand for, each the f32 that ggml gives.
///
/// # Errors
///
/// [`Error::Shape`] if `values` is not whole blocks or `blocks` is not their size.
pub fn decode(format: Format, blocks: &[u8], values: &mut [f32]) -> Result<()> {
    check(format, values.len(), blocks.len())?;
    let (decode, _) = codec(format);
    let (block_values, block_bytes) = (format.block_values(), format.block_bytes());
    let part = PART_VALUES / block_values;
    let parts = values.par_chunks_mut(part * block_values);
    parts.zip(blocks.par_chunks(part * block_bytes)).for_each(|(values, blocks)| {
        let values = values.chunks_exact_mut(block_values);
        blocks.chunks_exact(block_bytes).zip(values).for_each(|(block, values)| {
            decode(block, values);
        });
    });
    Ok(())
}

/// Blocks for `values`, with scales that were searched for the least squared error; all of one row, if
/// the format has a scale for each.
///
/// The same values give the same blocks on every machine. What is over the range of a format's
/// numbers or scales is cut to it; numbers without a scale are the nearest, half to even.
///
/// # Errors
///
/// [`Error::Shape`] if `values` is not whole blocks or `blocks` is not their size;
/// [`Error::Argument`] for a value that is infinite or no number.
pub fn encode(format: Format, values: &[f32], blocks: &mut [u8]) -> Result<()> {
    encode_rows(format, values.len(), values, blocks)
}

/// As [`encode`], of rows of `row` values each.
///
/// # Errors
///
/// As [`encode`]; [`Error::Shape`] too if `values` is not whole rows, or a row not whole blocks.
pub fn encode_rows(format: Format, row: usize, values: &[f32], blocks: &mut [u8]) -> Result<()> {
    check(format, values.len(), blocks.len())?;
    if !values.len().is_multiple_of(row.max(1)) || bytes(format, row).is_err() {
        let detail =
            format!("{format}: expected whole blocks in rows of {row}, got {}", values.len());
        return Err(Error::shape("quant", detail));
    }
    if values.is_empty() {
        return Ok(());
    }
    if let Some(at) = values.par_iter().position_first(|value| !value.is_finite()) {
        let detail = format!("{format}: expected finite values, got {} at {at}", values[at]);
        return Err(Error::argument("values", detail));
    }
    let (_, encode) = codec(format);
    // What is encoded at a time.
    let unit_values = if format == Format::I8 { row } else { format.block_values() };
    let unit_bytes = bytes(format, unit_values)?;
    let part = (PART_VALUES / unit_values).max(1);
    let parts = blocks.par_chunks_mut(part * unit_bytes);
    parts.zip(values.par_chunks(part * unit_values)).for_each(|(blocks, values)| {
        let values = values.chunks_exact(unit_values);
        blocks.chunks_exact_mut(unit_bytes).zip(values).for_each(|(block, values)| {
            encode(values, block);
        });
    });
    Ok(())
}

fn check(format: Format, values: usize, blocks: usize) -> Result<()> {
    let expected = bytes(format, values)?;
    if blocks != expected {
        let detail = format!("{format}: expected {expected} B for {values} values, got {blocks} B");
        return Err(Error::shape("quant", detail));
    }
    Ok(())
}

/// Of one block each, but for the encoder of a format whose rows share a scale.
type Codec = (fn(&[u8], &mut [f32]), fn(&[f32], &mut [u8]));

fn codec(format: Format) -> Codec {
    match format {
        Format::Q8_0 => (q8_0::decode, q8_0::encode),
        Format::Q4_0 => (q4_0::decode, q4_0::encode),
        Format::Q4_1 => (q4_1::decode, q4_1::encode),
        Format::Q5_0 => (q5_0::decode, q5_0::encode),
        Format::Q5_1 => (q5_1::decode, q5_1::encode),
        Format::Q4K => (q4_k::decode, q4_k::encode),
        Format::Q5K => (q5_k::decode, q5_k::encode),
        Format::Q6K => (q6_k::decode, q6_k::encode),
        Format::BF16 => (bf16::decode, bf16::encode),
        Format::F8E4M3 => (f8_e4m3::decode, f8_e4m3::encode),
        Format::F8E5M2 => (f8_e5m2::decode, f8_e5m2::encode),
        Format::I8 => (i8::decode, i8::encode),
    }
}
