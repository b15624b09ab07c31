//! Products in bytes: rows are rounded to bytes first.

use super::{Problem, Product};
use crate::Result;
use crate::device::{Call, Grid, Tunable, arguments};
use crate::info::DeviceInfo;
use crate::kernel::Configuration;
use crate::memory::{Block, Lifetime};
use crate::tensor::Tensor;
use crate::tune::Class;

/// Values of a row that have one scale, as ggml's q8_0 has it.
const BLOCK: usize = 32;

/// Rows as bytes.
struct Quantized {
    levels: Block,
    scales: Block,
    sums: Block,
}

impl Product<'_> {
    /// The rows in bytes, then their product with the weight's levels.
    pub(super) fn in_bytes(&self) -> Result<()> {
        let rows = self.quantize()?;
        let Problem { rows: count, outputs, inputs, .. } = self.problem;
        let (device, dtype, class) = (self.device, self.problem.dtype, self.class());
        let suggested = suggested(&self.problem, device.info());
        let format = ("FORMAT", self.format.map_or(0, |format| format.number()));
        let suggested = [&suggested[..], &[format]].concat();
        let configuration = device.configuration("qgemm_i8", dtype, &class, &suggested);
        let grid = |configuration: &Configuration| {
            let [m, n, item_m, item_n] = ["TILE_M", "TILE_N", "ITEM_M", "ITEM_N"]
                .map(|parameter| configuration.size(parameter));
            let groups = [count.div_ceil(m), outputs.div_ceil(n), 1];
            Grid { groups, local: [m / item_m * (n / item_n), 1, 1] }
        };
        let Grid { groups, local } = grid(&configuration);
        let of_rows = count * (inputs + inputs / BLOCK * 8 + outputs * dtype.size());
        device.run_tuned(
            &Call {
                kernel: "qgemm_i8",
                dtype,
                configuration: &configuration,
                arguments: &arguments! {
                    levels: rows.levels.buffer(),
                    scales: rows.scales.buffer(),
                    sums: rows.sums.buffer(),
                    weights: self.weights,
                    bias: self.epilogue.bias.map(Tensor::buffer),
                    residual: self.residual.as_deref(),
                    y: Output(self.y),
                    rows: count as u32,
                    outputs: outputs as u32,
                    inputs: inputs as u32,
                    activation: self.epilogue.activation as u32,
                },
                groups,
                local,
                flop: 2 * (count * outputs) as u64 * inputs as u64,
                bytes: (of_rows + self.weight_bytes) as u64,
            },
            &Tunable { class: &class, output: dtype, grid: &grid },
        )
    }

    fn quantize(&self) -> Result<Quantized> {
        let Problem { rows, inputs, .. } = self.problem;
        let (device, dtype, blocks) = (self.device, self.problem.dtype, rows * inputs / BLOCK);
        let held = |bytes: usize| device.memory().allocate(bytes as u64, Lifetime::Transient);
        let levels = held(rows * inputs)?;
        let scales = held(blocks * size_of::<f32>())?;
        let sums = held(blocks * 2 * size_of::<i16>())?;
        let mut class = Class(vec![("rows", rows), ("inputs", inputs)]);
        class.0.extend(self.x2.as_ref().map(|_| ("columns", self.columns)));
        let configuration = device.configuration("quantize_rows", dtype, &class, &[]);
        let items = configuration.size("WG_SIZE");
        device.run(&Call {
            kernel: "quantize_rows",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                x: &*self.x,
                x2: self.x2.as_deref(),
                levels: Output(levels.buffer()),
                scales: Output(scales.buffer()),
                sums: Output(sums.buffer()),
                blocks: blocks as u32,
                inputs: inputs as u32,
                columns: self.columns as u32,
            },
            groups: [blocks.div_ceil(items), 1, 1],
            local: [items, 1, 1],
            flop: 4 * (rows * inputs) as u64,
            bytes: (rows * inputs * (dtype.size() + 1) + blocks * 8) as u64,
        })?;
        Ok(Quantized { levels, scales, sums })
    }
}

/// The largest tile with which every compute unit has work.
fn suggested(problem: &Problem, info: &DeviceInfo) -> [(&'static str, u32); 4] {
    let units = info.compute_units as usize;
    let groups =
        |[m, n]: [u32; 2]| problem.rows.div_ceil(m as usize) * problem.outputs.div_ceil(n as usize);
    let tiles = [[64, 64], [64, 32], [32, 32]];
    let [m, n] = tiles.into_iter().find(|&tile| groups(tile) >= units).unwrap_or(tiles[2]);
    [("TILE_M", m), ("TILE_N", n), ("ITEM_M", 4), ("ITEM_N", 4)]
}
