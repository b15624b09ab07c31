//! Winograd's F(2,3) in one pass behind the transform of the weights, for GPUs.

use std::ops::Range;

use super::super::{Job, Problem};
use super::{Blocks, MOST_BYTES, Pass, evenly, winograd_error};
use crate::Result;
use crate::device::{Call, arguments};
use crate::info::DeviceInfo;
use crate::memory::Block;
use crate::ops::PANEL;
use crate::ops::group_norm::Kept;
use crate::tensor::Tensor;
use crate::tune::Class;

/// Outputs of a tile each way.
pub const TILE: usize = 2;

/// Work-items of a group, `WG_SIZE` in the kernel.
const ITEMS: usize = 256;

/// What channels must be a multiple of: the most that the kernel takes at a time.
pub const CHANNELS: usize = 8;

/// Whether the kernel computes a convolution at all.
pub fn applies(problem: &Problem) -> bool {
    problem.params.is_3x3_of_stride_1() && problem.channels.is_multiple_of(CHANNELS)
}

/// Whether it is faster than the direct convolution.
///
/// A product of its takes 1.2 times as long as one of those by the static report, but there are
/// 2.25 times fewer. Passes of larger tiles, with half of the products again, write and read the
/// transformed windows and products: that pays from a depth of about 80 on where a card has 24
/// operations for each byte of its memory.
pub fn pays(problem: &Problem, info: &DeviceInfo) -> bool {
    let &Problem { samples, channels, output: [height, width], outputs, .. } = problem;
    let tiles = samples * height.div_ceil(TILE) * width.div_ceil(TILE);
    let depth = channels * outputs / (channels + outputs);
    !info.prefers_register_tiles()
        && info.max_work_group >= ITEMS
        && depth >= 32
        && tiles >= 64
        && winograd_error(TILE, channels) <= super::MOST_ERROR
}

/// Runs both kernels for each band of the result.
pub fn run(job: &Job) -> Result<Tensor> {
    let result = Kept::new(job.result()?)?;
    let Problem { channels, outputs, output: [_, width], .. } = job.problem;
    let places = (TILE + 2) * (TILE + 2);
    let panel_bytes = places * channels * PANEL * size_of::<f32>();
    let most_bytes = job.x.device().memory().max_allocation_bytes() as usize;
    let panels = evenly(outputs.div_ceil(PANEL), MOST_BYTES.min(most_bytes) / panel_bytes);
    for band in result.tensor().bands() {
        let (tile_rows, tile_columns) = (band.rows.len().div_ceil(TILE), width.div_ceil(TILE));
        let tiles = band.samples.len() * tile_rows * tile_columns;
        let y_band = result.tensor().output(&band)?;
        let pass = Pass {
            job,
            part: job.part(&band)?,
            band: &band,
            y: &y_band,
            tile: TILE,
            places,
            tile_rows,
            tile_columns,
            blocks: Blocks { tiles, panels },
        };
        let transformed = pass.scratch(panels * PANEL * channels)?;
        let all = outputs.div_ceil(PANEL);
        for first in (0..all).step_by(panels) {
            let block = first..all.min(first + panels);
            pass.transform_weights(&block, &transformed)?;
            pass.convolve(&block, &transformed)?;
        }
        drop((pass, transformed));
        result.keep(&band, y_band)?;
    }
    Ok(result.whole())
}

impl Pass<'_> {
    /// The outputs of some panels.
    fn convolve(&self, panels: &Range<usize>, transformed: &Block) -> Result<()> {
        let Problem { input, channels, output, outputs, params, .. } = self.job.problem;
        let (part, dtype, tiles) = (&self.part, self.job.x.dtype(), self.blocks.tiles);
        let class = Class(vec![("tiles", tiles), ("outputs", outputs), ("channels", channels)]);
        let configuration = self.device().configuration("winograd_local", dtype, &class, &[]);
        let products = self.places * tiles * panels.len() * PANEL * channels;
        let written = tiles * TILE * TILE * panels.len() * PANEL;
        self.device().run(&Call {
            kernel: "winograd_local",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                x: &*part.x,
                transformed: transformed.buffer(),
                bias: part.bias.map(Tensor::buffer),
                sample_bias: part.sample_bias.as_deref(),
                residual: part.residual.as_deref(),
                y: Output(self.y),
                samples: self.band.samples.len() as u32,
                height: part.window.rows.len() as u32,
                width: input[1] as u32,
                channels: channels as u32,
                out_height: self.band.rows.len() as u32,
                out_width: output[1] as u32,
                outputs: outputs as u32,
                first_panel: panels.start as u32,
                panels: panels.len() as u32,
                top: part.window.top,
                left: params.padding.left as i32,
                read_height: part.window.read_height as u32,
                read_width: params.read_size(input)[1] as u32,
                enlarge: u32::from(params.upsample),
                activation: self.job.epilogue.activation as u32,
            },
            groups: [tiles.div_ceil(configuration.size("TILES")), panels.len(), 1],
            local: [ITEMS, 1, 1],
            flop: 2 * products as u64,
            bytes: ((part.x_elements + written) * dtype.size()) as u64,
        })
    }
}
