//! Winograd's algorithm in passes: transforms of the weights and of the windows of x, a batch of
//! products, and the transform of their results.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, 2015.
//!
//! Windows and products are made for as many tiles at a time as a cache holds, and the transformed
//! weights for as many outputs at a time as [`Blocks`] says: all of them are scratch. Transformed
//! weights are four times as many values as the weights, so they are not kept: making them anew is
//! 3 % of the time of 320 -> 320 channels at 64 x 64 and 10 % of 640 -> 640 at 32 x 32, on a
//! processor with PoCL.

pub(super) mod local;

use std::ops::Range;

use super::{Job, Part, Problem};
use crate::backend::Buffer;
use crate::device::{Call, Device, Tunable, arguments};
use crate::info::DeviceInfo;
use crate::memory::{Block, Lifetime};
use crate::ops::group_norm::Kept;
use crate::ops::tiles::{format_class, format_value, local_tiling, register_tiling_of};
use crate::ops::{Activation, PANEL};
use crate::tensor::{Band, Tensor};
use crate::tune::Class;
use crate::{DType, Result};

/// A part of the last cache of a processor: what is written and soon read should not be more.
const CACHED_BYTES: usize = 16 << 20;

/// What transformed weights may take, and windows and products together.
const MOST_BYTES: usize = 48 << 20;

/// The error that Winograd's algorithm may bring, relative to the largest result.
const MOST_ERROR: f32 = 1e-3;

/// The largest error of a result by tiles of `tile` outputs each way, relative to the largest
/// result, in f32; the rounding to another element type comes on top.
///
/// The transforms and the sums round values that the matrices have made larger than the result's,
/// and over the channels these roundings add up as a random walk does: a factor times epsilon times
/// sqrt(channels). Measured on drawn data of 16 to 2,560 channels the factor is 0.6 at most for
/// tiles of 2 and 7.2 for tiles of 4, and less where the mean is far from zero, for the result is
/// then larger. This is four to six times as much.
///
/// With f16 storage the same holds: windows, transformed weights and products are f32 there too,
/// and f16 values are f32 values, so the only further rounding is that of the result.
pub fn winograd_error(tile: usize, channels: usize) -> f32 {
    let roundings = if tile == 2 { 4.0 } else { 32.0 };
    roundings * f32::EPSILON * (channels as f32).sqrt()
}

/// What the transformed weights of one panel take: the largest scratch that blocks cannot make less.
pub(super) fn panel_bytes(tile: usize, channels: usize) -> usize {
    (tile + 2) * (tile + 2) * channels * PANEL * size_of::<f32>()
}

/// The tiles for a convolution that is faster by Winograd's algorithm than directly.
///
/// For each tile of 4 it saves 216 flop for each pair of channels, of which there are C * O, and
/// moves 288 bytes of windows and products for each channel, of which there are C + O; so it pays
/// from some C * O / (C + O) on. It moves 324 bytes of weights for each pair, once; so it pays from
/// some number of tiles on. On a processor both were measured: 128 -> 128 channels at 512 x 512 are
/// 2.2 times as fast, and 1280 -> 1280 at 16 x 16 are 1.6 times as fast with PoCL and 2.1 times
/// without. On a GPU they are reckoned, for 5.2 TFLOP/s and 150 GB/s as a target for Polaris cards:
/// break-even is at 46, and at 52 tiles, of which these are twice and more.
pub(super) fn best_tile(problem: &Problem, info: &DeviceInfo) -> Option<usize> {
    let Problem { samples, channels, output: [height, width], outputs, params, .. } = *problem;
    let tile = [4, 2].into_iter().find(|&tile| winograd_error(tile, channels) <= MOST_ERROR)?;
    let tiles = samples * height.div_ceil(tile) * width.div_ceil(tile);
    let depth = channels * outputs / (channels + outputs);
    let [least_depth, least_tiles] =
        if info.prefers_register_tiles() { [64, 16] } else { [96, 128] };
    let pays = depth >= least_depth && tiles >= least_tiles;
    (params.is_3x3_of_stride_1() && pays).then_some(tile)
}

/// Runs all four kernels for each band of the result.
pub(super) fn run(job: &Job, tile: usize) -> Result<Tensor> {
    let result = Kept::new(job.result()?)?;
    for band in result.tensor().bands() {
        let part = job.part(&band)?;
        let tile_rows = band.rows.len().div_ceil(tile);
        let tile_columns = job.problem.output[1].div_ceil(tile);
        let places = (tile + 2) * (tile + 2);
        let tiles = band.samples.len() * tile_rows * tile_columns;
        let blocks = Blocks::new(&job.problem, places, tiles, job.x.device());
        let y_band = result.tensor().output(&band)?;
        let (y, band) = (&*y_band, &band);
        let pass = Pass { job, part, band, y, tile, places, tile_rows, tile_columns, blocks };
        pass.run(tiles)?;
        drop(pass);
        result.keep(band, y_band)?;
    }
    Ok(result.whole())
}

/// How much is done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    tiles: usize,
    panels: usize,
}

impl Blocks {
    fn new(problem: &Problem, places: usize, tiles: usize, device: &Device) -> Self {
        let &Problem { channels, outputs, .. } = problem;
        let most_bytes = device.memory().max_allocation_bytes() as usize;
        let float = size_of::<f32>();
        let panels = outputs.div_ceil(PANEL);
        let panel_bytes = places * channels * PANEL * float;
        // Weights go through the cache where all windows stay there. Where these do not, weights
        // are transformed once if they can be held, and read for no fewer tiles than take as much;
        // else they are transformed anew for as many tiles as may be.
        let windows_stay = tiles * places * channels * float <= CACHED_BYTES;
        let weight_bytes = if windows_stay { CACHED_BYTES } else { MOST_BYTES };
        let block_panels = evenly(panels, weight_bytes.min(most_bytes) / panel_bytes);
        let block_outputs = outputs.min(block_panels * PANEL);
        let tile_bytes = places * (channels + block_outputs) * float;
        let block_bytes = match block_panels == panels {
            true => CACHED_BYTES.max(panels * panel_bytes),
            false => MOST_BYTES,
        };
        let row_bytes = places * channels.max(block_outputs) * float;
        let most_tiles = (block_bytes / tile_bytes).min(most_bytes / row_bytes);
        Self { tiles: evenly(tiles, most_tiles), panels: block_panels }
    }
}

/// The size of blocks that are as even as may be, of `count` things and at most `most`.
fn evenly(count: usize, most: usize) -> usize {
    count.div_ceil(count.div_ceil(most.max(1)))
}

/// One band of the result.
struct Pass<'a> {
    job: &'a Job<'a>,
    part: Part<'a>,
    band: &'a Band,
    y: &'a Buffer,
    tile: usize,
    /// Places of a tile's window: products in a batch.
    places: usize,
    tile_rows: usize,
    tile_columns: usize,
    blocks: Blocks,
}

impl Pass<'_> {
    fn run(&self, tiles: usize) -> Result<()> {
        let Problem { channels, outputs, .. } = self.job.problem;
        let panels = outputs.div_ceil(PANEL);
        let block_outputs = outputs.min(self.blocks.panels * PANEL);
        let windows = self.scratch(self.blocks.tiles * channels)?;
        let products = self.scratch(self.blocks.tiles * block_outputs)?;
        let transformed = self.scratch(self.blocks.panels * PANEL * channels)?;
        for first_tile in (0..tiles).step_by(self.blocks.tiles) {
            let tiles = first_tile..tiles.min(first_tile + self.blocks.tiles);
            self.transform_windows(&tiles, &windows)?;
            for first_panel in (0..panels).step_by(self.blocks.panels) {
                let panels = first_panel..panels.min(first_panel + self.blocks.panels);
                // Where one block has them all, they are still there.
                if first_tile == 0 || self.blocks.panels < outputs.div_ceil(PANEL) {
                    self.transform_weights(&panels, &transformed)?;
                }
                let block = panels.start * PANEL..outputs.min(panels.end * PANEL);
                self.multiply(tiles.len(), block.len(), &windows, &transformed, &products)?;
                self.transform_products(&tiles, &block, &products)?;
            }
        }
        Ok(())
    }

    fn device(&self) -> &Device {
        self.job.x.device()
    }

    /// A matrix of so many elements for each product of a batch.
    fn scratch(&self, elements: usize) -> Result<Block> {
        let bytes = self.places * elements * size_of::<f32>();
        self.device().memory().allocate(bytes as u64, Lifetime::Transient)
    }

    /// Work-items are the lanes on a GPU; on a CPU one of them takes a whole tile in wide vectors,
    /// of which there must be a whole number in `size`.
    fn suggested(&self, size: usize) -> [(&'static str, u32); 3] {
        let info = self.device().info();
        let wide = info.prefers_register_tiles();
        let lanes = if wide { info.vector_width } else { 1 };
        let vector = [16, 8, 4]
            .into_iter()
            .find(|&lanes_of| lanes_of <= lanes && size.is_multiple_of(lanes_of as usize));
        let items = if wide { 1 } else { 64 };
        [("TILE", self.tile as u32), ("VECTOR", vector.unwrap_or(1)), ("WG_SIZE", items)]
    }

    fn transform_windows(&self, tiles: &Range<usize>, windows: &Block) -> Result<()> {
        let Problem { input, channels, params, .. } = self.job.problem;
        let (part, dtype) = (&self.part, self.job.x.dtype());
        let class =
            Class(vec![("tiles", tiles.len()), ("channels", channels), ("tile", self.tile)]);
        let suggested = self.suggested(channels);
        let configuration =
            self.device().configuration("winograd_input", dtype, &class, &suggested);
        let written = self.places * tiles.len() * channels;
        let read = self.tile * self.tile * tiles.len() * channels;
        self.device().run(&Call {
            kernel: "winograd_input",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                x: &*part.x,
                windows: Output(windows.buffer()),
                height: part.window.rows.len() as u32,
                width: input[1] as u32,
                channels: channels as u32,
                first_tile: tiles.start as u32,
                tiles: tiles.len() as u32,
                tile_rows: self.tile_rows as u32,
                tile_columns: self.tile_columns as u32,
                top: part.window.top,
                left: params.padding.left as i32,
                read_height: part.window.read_height as u32,
                read_width: params.read_size(input)[1] as u32,
                enlarge: u32::from(params.upsample),
            },
            groups: [tiles.len(), 1, 1],
            local: [configuration.size("WG_SIZE"), 1, 1],
            flop: 4 * written as u64,
            bytes: (written * size_of::<f32>() + read * dtype.size()) as u64,
        })
    }

    fn transform_weights(&self, panels: &Range<usize>, transformed: &Block) -> Result<()> {
        let (channels, dtype) = (self.job.problem.channels, self.job.x.dtype());
        let run = channels * PANEL;
        let mut class =
            Class(vec![("panels", panels.len()), ("channels", channels), ("tile", self.tile)]);
        let format = self.job.storage.format();
        class.0.extend(format_class(format));
        let mut suggested = self.suggested(PANEL).to_vec();
        suggested.push(format_value(&class));
        if format.is_some() {
            // 4 or 16 at a time.
            let wide = self.device().info().prefers_register_tiles();
            suggested.push(("VECTOR", if wide { 16 } else { 4 }));
        }
        suggested
            .push(("ROUNDS", if self.device().info().prefers_register_tiles() { 64 } else { 4 }));
        let configuration =
            self.device().configuration("winograd_weights", dtype, &class, &suggested);
        let group = ["WG_SIZE", "VECTOR", "ROUNDS"].map(|name| configuration.size(name));
        let written = self.places * panels.len() * run;
        let read_bytes = panels.len() * self.job.storage.panel_bytes(9 * channels);
        self.device().run(&Call {
            kernel: "winograd_weights",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                weights: &*self.job.panels,
                transformed: Output(transformed.buffer()),
                channels: channels as u32,
                first_panel: panels.start as u32,
                panels: panels.len() as u32,
            },
            groups: [run.div_ceil(group.iter().product()), panels.len(), 1],
            local: [group[0], 1, 1],
            flop: 3 * written as u64,
            bytes: (written * size_of::<f32>() + read_bytes) as u64,
        })
    }

    /// products = windows * transformed, of each place of the window.
    fn multiply(
        &self,
        rows: usize,
        outputs: usize,
        windows: &Block,
        transformed: &Block,
        products: &Block,
    ) -> Result<()> {
        let (device, inputs, batch) = (self.device(), self.job.problem.channels, self.places);
        let class =
            Class(vec![("rows", rows), ("outputs", outputs), ("inputs", inputs), ("batch", batch)]);
        let (kernel, tiling) = if device.info().prefers_register_tiles() {
            let suggested = suggested_tiles(device.info(), rows, outputs);
            let kernel = "gemm_register";
            (kernel, register_tiling_of(device, kernel, DType::F32, &class, &suggested))
        } else {
            ("gemm_local", local_tiling(device, "gemm_local", DType::F32, &class))
        };
        let elements = rows * inputs + outputs * inputs + rows * outputs;
        device.run_tuned(
            &Call {
                kernel,
                dtype: DType::F32,
                configuration: &tiling.configuration,
                arguments: &arguments! {
                    x: windows.buffer(),
                    x2: None,
                    weights: transformed.buffer(),
                    bias: None,
                    residual: None,
                    y: Output(products.buffer()),
                    rows: rows as u32,
                    outputs: outputs as u32,
                    inputs: inputs as u32,
                    columns: inputs as u32,
                    batch: batch as u32,
                    activation: Activation::None as u32,
                },
                groups: tiling.groups,
                local: tiling.local,
                flop: 2 * (batch * rows * outputs) as u64 * inputs as u64,
                bytes: (batch * elements * size_of::<f32>()) as u64,
            },
            &Tunable {
                class: &class,
                output: DType::F32,
                grid: &|configuration| (tiling.grid)(device.info(), &class, configuration),
            },
        )
    }

    fn transform_products(
        &self,
        tiles: &Range<usize>,
        block: &Range<usize>,
        products: &Block,
    ) -> Result<()> {
        let Problem { output, outputs, .. } = self.job.problem;
        let (part, dtype) = (&self.part, self.job.x.dtype());
        let class =
            Class(vec![("tiles", tiles.len()), ("outputs", block.len()), ("tile", self.tile)]);
        let suggested = self.suggested(outputs);
        let configuration =
            self.device().configuration("winograd_output", dtype, &class, &suggested);
        let read = self.places * tiles.len() * block.len();
        let written = self.tile * self.tile * tiles.len() * block.len();
        self.device().run(&Call {
            kernel: "winograd_output",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                products: products.buffer(),
                bias: part.bias.map(Tensor::buffer),
                sample_bias: part.sample_bias.as_deref(),
                residual: part.residual.as_deref(),
                y: Output(self.y),
                out_height: self.band.rows.len() as u32,
                out_width: output[1] as u32,
                outputs: outputs as u32,
                first_output: block.start as u32,
                block_outputs: block.len() as u32,
                first_tile: tiles.start as u32,
                tiles: tiles.len() as u32,
                tile_rows: self.tile_rows as u32,
                tile_columns: self.tile_columns as u32,
                activation: self.job.epilogue.activation as u32,
            },
            groups: [tiles.len(), 1, 1],
            local: [configuration.size("WG_SIZE"), 1, 1],
            flop: 4 * read as u64,
            bytes: (read * size_of::<f32>() + written * dtype.size()) as u64,
        })
    }
}

/// Blocks of a batch of products: it has work for every core however large they are, so they are
/// as even as may be, and the last tile of rows is as full as may be.
fn suggested_tiles(info: &DeviceInfo, rows: usize, outputs: usize) -> Vec<(&'static str, u32)> {
    let (vector, heights): (u32, &[usize]) = match info.vector_width {
        16.. => (16, &[12, 14, 8]),
        8..16 => (8, &[6]),
        _ => (4, &[6]),
    };
    let height = heights.iter().copied().min_by_key(|&height| rows.next_multiple_of(height));
    let height = height.expect("there are heights");
    let panels = evenly(outputs.div_ceil(PANEL), 10);
    vec![
        ("VECTOR", vector),
        ("TILE_M", height as u32),
        ("TILES", 96 / height as u32),
        ("PANELS", panels as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv2d::tests::layer;
    use crate::ops::tiles::tests::{cpu, gpu};

    #[test]
    fn blocks_are_even_and_their_scratch_stays_small() {
        let device = Device::definitions(Some(gpu()));
        for (name, problem) in [
            ("unet, 64x64", layer(320, 320, 64)),
            ("unet, 32x32", layer(1280, 640, 32)),
            ("unet, 16x16", layer(2560, 1280, 16)),
            ("vae, 128x128", layer(512, 512, 128)),
            ("vae, 512x512", layer(128, 128, 512)),
        ] {
            let tiles = (problem.output[0] / 4).pow(2);
            let blocks = Blocks::new(&problem, 36, tiles, &device);
            let panels = problem.outputs.div_ceil(PANEL);
            assert!(blocks.panels == panels || tiles <= 64, "{name}: {blocks:?}");
            for (count, size) in [(tiles, blocks.tiles), (panels, blocks.panels)] {
                assert!((1..=count).contains(&size), "{name}: {blocks:?}");
                let rest = count - (count.div_ceil(size) - 1) * size;
                assert!(size - rest < count.div_ceil(size), "{name}: {blocks:?} leave {rest}");
            }
            let floats = 36 * problem.channels * (blocks.tiles + blocks.panels * PANEL)
                + 36 * blocks.tiles * blocks.panels * PANEL;
            assert!(4 * floats <= 2 * MOST_BYTES, "{name}: {blocks:?}");
        }
    }

    #[test]
    fn rows_of_a_batch_fill_their_tiles() {
        for (rows, outputs, tile_rows, panels) in
            [(64, 640, 8, 10), (256, 320, 8, 10), (120, 512, 12, 8), (16, 96, 8, 3)]
        {
            let suggested = suggested_tiles(&cpu(16), rows, outputs);
            assert!(suggested.contains(&("TILE_M", tile_rows)), "{rows}: {suggested:?}");
            assert!(suggested.contains(&("PANELS", panels)), "{outputs}: {suggested:?}");
        }
    }
}
