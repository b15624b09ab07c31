//! Normalization of each row.

use crate::device::{Call, Grid, Tunable, arguments};
use crate::kernel::Configuration;
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{DType, Error, Result};

/// Normalizes the last axis to mean 0 and variance 1, then scales by `gamma` and shifts by `beta`.
///
/// # Shapes
///
/// - `x`: `[.., C]`
/// - `gamma`, `beta`: `[C]`, f32
/// - result: the shape and element type of `x`
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// Statistics are f32 for every element type, in two passes.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    let &[.., channels] = x.shape() else {
        return Err(Error::shape("layer_norm", "x must be [.., C], got no axes"));
    };
    for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
        if tensor.shape() != [channels] || tensor.dtype() != DType::F32 {
            let (shape, dtype) = (tensor.shape(), tensor.dtype());
            let detail = format!("{name} must be [{channels}] f32, got {shape:?} {dtype}");
            return Err(Error::shape("layer_norm", detail));
        }
    }
    let y = Tensor::empty_like(x, x.shape(), x.dtype())?;
    for band in y.bands() {
        let rows = y.elements(&band) / channels;
        let x_band = x.band(&band)?;
        let class = Class(vec![("rows", rows), ("channels", channels)]);
        // One work-item with wide vectors has several rows on a CPU.
        let wide = [("WG_SIZE", 1), ("VECTOR", 16), ("ROUNDS", 16)];
        let suggested = if x.device().info().prefers_register_tiles() { &wide[..] } else { &[] };
        let configuration = x.device().configuration("layer_norm", x.dtype(), &class, suggested);
        let grid = |configuration: &Configuration| Grid {
            groups: [rows.div_ceil(configuration.size("ROUNDS")), 1, 1],
            local: [configuration.size("WG_SIZE"), 1, 1],
        };
        let Grid { groups, local } = grid(&configuration);
        let y_band = y.output(&band)?;
        x.device().run_tuned(
            &Call {
                kernel: "layer_norm",
                dtype: x.dtype(),
                configuration: &configuration,
                arguments: &arguments! {
                    x: &*x_band,
                    gamma: gamma.buffer(),
                    beta: beta.buffer(),
                    y: Output(&y_band),
                    rows: rows as u32,
                    channels: channels as u32,
                    eps: eps,
                },
                groups,
                local,
                flop: 8 * (rows * channels) as u64,
                bytes: (2 * rows * channels * x.dtype().size()) as u64,
            },
            &Tunable { class: &class, output: x.dtype(), grid: &grid },
        )?;
        y_band.keep()?;
    }
    Ok(y)
}
