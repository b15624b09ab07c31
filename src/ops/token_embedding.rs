//! Tokens as vectors.

use crate::device::{Call, Grid, Tunable, arguments};
use crate::kernel::Configuration;
use crate::memory::Lifetime;
use crate::ops::tiles::{format_class, format_value};
use crate::ops::{Storage, Vocabulary};
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{Error, Result};

/// Each token's vector plus its position's.
///
/// # Shapes
///
/// - `ids`: N sequences of `length` tokens, one after the other
/// - `tokens`: `[V, C]`, stored as `positions` are, or in blocks
/// - `positions`: `[P, C]` with `P >= length`
/// - result: `[N, length, C]`, of the element type of `positions`
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above or an id is not below V;
/// [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// The sum is f32 for every element type, rounded once.
pub fn token_embedding(
    ids: &[u32],
    length: usize,
    tokens: &Vocabulary,
    positions: &Tensor,
) -> Result<Tensor> {
    let samples = check(ids, length, tokens, positions)?;
    let (device, dtype, channels) = (tokens.device(), positions.dtype(), tokens.shape()[1]);
    let format = tokens.storage().format();
    let y = Tensor::empty(device, &[samples, length, channels], dtype)?;
    for band in y.bands() {
        let (rows, count) = (band.rows.clone(), band.row_count());
        let ids_block = device.upload(count * size_of::<u32>(), Lifetime::Transient, || {
            let samples = band.samples.clone();
            let of_sample = |sample: usize| &ids[sample * length..][rows.clone()];
            Ok(samples.flat_map(of_sample).flat_map(|id| id.to_ne_bytes()).collect())
        })?;
        let mut class = Class(vec![("rows", count), ("channels", channels)]);
        class.0.extend(format_class(format));
        let given = [format_value(&class)];
        let configuration = device.configuration("token_embedding", dtype, &class, &given);
        let grid = |configuration: &Configuration| {
            let items = configuration.size("WG_SIZE");
            Grid {
                groups: [channels.div_ceil(items), rows.len(), band.samples.len()],
                local: [items, 1, 1],
            }
        };
        let Grid { groups, local } = grid(&configuration);
        let y_band = y.output(&band)?;
        device.run_tuned(
            &Call {
                kernel: "token_embedding",
                dtype,
                configuration: &configuration,
                arguments: &arguments! {
                    ids: ids_block.buffer(),
                    tokens: tokens.buffer(),
                    positions: positions.buffer(),
                    y: Output(&y_band),
                    samples: band.samples.len() as u32,
                    rows: rows.len() as u32,
                    first_row: rows.start as u32,
                    channels: channels as u32,
                },
                groups,
                local,
                flop: (count * channels) as u64,
                bytes: (3 * count * channels * dtype.size()) as u64,
            },
            &Tunable { class: &class, output: dtype, grid: &grid },
        )?;
        y_band.keep()?;
    }
    Ok(y)
}

/// N, if everything agrees.
fn check(ids: &[u32], length: usize, tokens: &Vocabulary, positions: &Tensor) -> Result<usize> {
    let error = |detail: String| Err(Error::shape("token_embedding", detail));
    if length == 0 || ids.is_empty() || !ids.len().is_multiple_of(length) {
        return error(format!(
            "ids must be whole sequences of {length} tokens, got {} ids",
            ids.len()
        ));
    }
    let [vocabulary, channels] = tokens.shape();
    let (shape, dtype) = (positions.shape(), positions.dtype());
    let wanted = match tokens.storage() {
        Storage::Values(dtype) => dtype,
        Storage::Blocks(_) => dtype,
    };
    if shape.len() != 2 || shape[0] < length || shape[1] != channels || dtype != wanted {
        return error(format!(
            "positions must be [at least {length}, {channels}] {wanted}, got {shape:?} {dtype}"
        ));
    }
    if positions.bands().len() > 1 {
        let most_bytes = positions.device().memory().max_allocation_bytes();
        return error(format!(
            "positions must fit one allocation of {most_bytes} B, got {shape:?}"
        ));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return error(format!("ids must be below {vocabulary}, got {id}"));
    }
    Ok(ids.len() / length)
}
