//! Convolutions as products whose rows are windows of x: implicit GEMM.

use super::{Job, Problem};
use crate::Result;
use crate::device::{Call, Tunable, arguments};
use crate::ops::group_norm::Kept;
use crate::ops::tiles::{Tile, format_class};
use crate::tensor::Tensor;
use crate::tune::Class;

/// Runs `kernel`, cut into work-groups by `tile`.
pub(super) fn run(job: &Job, kernel: &'static str, tile: Tile) -> Result<Tensor> {
    let x = job.x;
    let Problem { input, channels, output, outputs, params, .. } = job.problem;
    let terms = params.kernel[0] * params.kernel[1] * channels;
    let result = Kept::new(job.result()?)?;
    let y = result.tensor();
    for band in y.bands() {
        let part = job.part(&band)?;
        let rows = y.elements(&band) / outputs;
        let mut class = Class(vec![
            ("rows", rows),
            ("outputs", outputs),
            ("channels", channels),
            ("taps", params.kernel[0] * params.kernel[1]),
            ("stride", params.stride),
        ]);
        class.0.extend(format_class(job.storage.format()));
        let tiling = tile(x.device(), kernel, x.dtype(), &class);
        let moved = part.x_elements + rows * outputs;
        let y_band = y.output(&band)?;
        x.device().run_tuned(
            &Call {
                kernel,
                dtype: x.dtype(),
                configuration: &tiling.configuration,
                arguments: &arguments! {
                    x: &*part.x,
                    weights: &*job.panels,
                    bias: part.bias.map(Tensor::buffer),
                    sample_bias: part.sample_bias.as_deref(),
                    residual: part.residual.as_deref(),
                    y: Output(&y_band),
                    samples: band.samples.len() as u32,
                    height: part.window.rows.len() as u32,
                    width: input[1] as u32,
                    channels: channels as u32,
                    out_height: band.rows.len() as u32,
                    out_width: output[1] as u32,
                    outputs: outputs as u32,
                    kernel_height: params.kernel[0] as u32,
                    kernel_width: params.kernel[1] as u32,
                    stride: params.stride as u32,
                    top: part.window.top,
                    left: params.padding.left as i32,
                    read_height: part.window.read_height as u32,
                    read_width: params.read_size(input)[1] as u32,
                    enlarge: u32::from(params.upsample),
                    activation: job.epilogue.activation as u32,
                },
                groups: tiling.groups,
                local: tiling.local,
                flop: 2 * (rows * outputs) as u64 * terms as u64,
                bytes: (moved * x.dtype().size() + job.weight_bytes) as u64,
            },
            &Tunable {
                class: &class,
                output: x.dtype(),
                grid: &|configuration| (tiling.grid)(x.device().info(), &class, configuration),
            },
        )?;
        result.keep(&band, y_band)?;
    }
    Ok(result.whole())
}
