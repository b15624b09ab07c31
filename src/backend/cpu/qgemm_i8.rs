//! See `kernels/qgemm_i8.cl`.
//!
//! The fast path cuts the result into tasks of some rows by some panels, as `product` does. A task
//! takes K in parts; of each panel it brings a part's levels into the order of the instruction that
//! multiplies four of them at once, and multiplies all its rows with that.

use std::cell::RefCell;

use rayon::prelude::*;

use super::product::{Epilogue, Output, part};
use super::quantize_rows::{BLOCK, Quantized};
use super::{Arguments, PANEL, Terms, activation, parallel};
use crate::Format;

mod panel;
mod tile;

use panel::Panel;
use tile::Tile;

pub fn definition(arguments: &Arguments) {
    let [rows, outputs, inputs] = ["rows", "outputs", "inputs"].map(|name| arguments.size(name));
    let x = Quantized::of(arguments, inputs);
    let (weights, residual) = (arguments.weights("weights"), arguments.optional_reals("residual"));
    let bias = arguments.optional_floats("bias");
    let activation = arguments.size("activation");
    let result = |index: usize| {
        let (row, output) = (index / outputs, index % outputs);
        let mut sum = 0.0;
        for block in 0..inputs / BLOCK {
            let scale = f64::from(x.scales[row * (inputs / BLOCK) + block]);
            for k in block * BLOCK..(block + 1) * BLOCK {
                let weight = weights.get((output / PANEL * inputs + k) * PANEL + output % PANEL);
                sum += scale * f64::from(x.levels[row * inputs + k]) * f64::from(weight);
            }
        }
        let biased = sum + bias.map_or(0.0, |bias| f64::from(bias[output]));
        let residual = residual.map_or(0.0, |residual| f64::from(residual.get(index)));
        activation::define(activation, biased) + residual
    };
    let results: Vec<f64> = (0..rows * outputs).into_par_iter().map(result).collect();
    let mut y = arguments.reals_out("y");
    for (index, value) in results.into_iter().enumerate() {
        y.set(index, value);
    }
}

/// The most terms of a part of K: such a part of a panel stays in the first cache.
const DEPTH: usize = 512;
/// The most rows of a task, all of which a panel's part is brought into order for once.
const TASK_ROWS: usize = 256;
/// The most panels of a task.
const TASK_PANELS: usize = 16;

pub fn fast(arguments: &Arguments) {
    let [rows, outputs, inputs] = ["rows", "outputs", "inputs"].map(|name| arguments.size(name));
    let Terms::Blocks(format, blocks) = arguments.weights("weights") else {
        panic!("weights that are multiplied in bytes lie in blocks");
    };
    let epilogue = Epilogue {
        bias: arguments.optional_floats("bias"),
        sample_bias: None,
        sample_rows: rows,
        activation: arguments.size("activation") as u32,
        residual: arguments.optional_reals("residual"),
    };
    let y = Output::new(arguments.reals_out("y"), rows * outputs);
    let x = Quantized::of(arguments, inputs);
    let product = Product { x, outputs, format, blocks, epilogue, y };
    run(&product, rows, tile::best());
}

/// All rows by a tile that this host runs.
fn run(product: &Product, rows: usize, tile: Tile) {
    let (panels, threads) = (product.outputs.div_ceil(PANEL), rayon::current_num_threads());
    // As many tasks for each thread, and several, so that the last ones end together.
    let row_tasks = match rows.div_ceil(TASK_ROWS) {
        1 => 1,
        several => several.next_multiple_of(threads),
    };
    let wanted = (4 * threads).div_ceil(row_tasks).min(panels.div_ceil(2));
    let panel_tasks = panels.div_ceil(TASK_PANELS).max(wanted);
    parallel::for_each(row_tasks * panel_tasks, |index| {
        let rows = part(rows, row_tasks, index % row_tasks);
        let panels = part(panels, panel_tasks, index / row_tasks);
        SCRATCH.with_borrow_mut(|scratch| product.run(tile, rows, panels, scratch));
    });
}

struct Product<'a> {
    x: Quantized<'a>,
    outputs: usize,
    format: Format,
    blocks: &'a [u8],
    epilogue: Epilogue<'a>,
    y: Output<'a>,
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Scratch {
    panel: Panel,
    /// What sums of integers begin with, where levels are less than what is multiplied.
    starts: Vec<i32>,
    /// Sums of the rows' blocks as numbers, where weights have least values.
    sums_x: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Product<'_> {
    fn run(
        &self,
        tile: Tile,
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (inputs, format) = (self.x.inputs, self.format);
        let parts = inputs.div_ceil(DEPTH);
        let depth = inputs.div_ceil(parts).next_multiple_of(format.block_values());
        let panel_sums = rows.len() * PANEL;
        scratch.sums.resize(panels.len() * panel_sums, 0.0);
        for first in (0..inputs).step_by(depth) {
            let depth = depth.min(inputs - first);
            self.begin(rows.clone(), first, depth, scratch);
            for panel in panels.clone() {
                let bytes = inputs / format.block_values() * format.held_bytes() * PANEL;
                let of_panel = &self.blocks[panel * bytes..(panel + 1) * bytes];
                scratch.panel.pack(format, of_panel, first, depth);
                let sums = &mut scratch.sums[(panel - panels.start) * panel_sums..][..panel_sums];
                for (index, sums) in sums.chunks_mut(tile.rows * PANEL).enumerate() {
                    let first_row = index * tile.rows;
                    let left = tile::Left {
                        x: self.x,
                        row: rows.start + first_row,
                        first,
                        starts: scratch.starts.get(first_row * scratch.panel.groups()..),
                        sums_x: scratch.sums_x.get(first_row * (depth / BLOCK)..),
                    };
                    (tile.multiply)(&left, &scratch.panel, sums, first > 0);
                }
                if first + depth == inputs {
                    self.epilogue.store(sums, rows.start, panel, self.outputs, &self.y);
                }
            }
        }
    }

    /// What does not depend on the panel.
    fn begin(
        &self,
        rows: std::ops::Range<usize>,
        first: usize,
        depth: usize,
        scratch: &mut Scratch,
    ) {
        scratch.starts.clear();
        scratch.sums_x.clear();
        let zero = panel::zero(self.format);
        for row in rows {
            let start = (row * self.x.inputs + first) / BLOCK;
            let blocks = start..start + depth / BLOCK;
            if panel::has_least(self.format) {
                scratch.sums_x.extend(blocks.map(|block| {
                    let sum = self.x.sums[2 * block] + self.x.sums[2 * block + 1];
                    self.x.scales[block] * f32::from(sum)
                }));
                continue;
            }
            let sums = &self.x.sums[2 * blocks.start..2 * blocks.end];
            match panel::group_terms(self.format) {
                BLOCK => scratch.starts.extend(
                    sums.as_chunks::<2>().0.iter().map(|sums| -zero * i32::from(sums[0] + sums[1])),
                ),
                _ => scratch.starts.extend(sums.iter().map(|&sum| -zero * i32::from(sum))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::RealsMut;

    #[test]
    fn every_instruction_set_gives_the_sums_of_what_blocks_stand_for() {
        // Rows that fill no tile, outputs that fill no panel, several parts of K.
        let (rows, outputs, inputs) = (15, 45, 768);
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        let levels: Vec<i8> = (0..rows * inputs).map(|_| (byte() as i8).max(-127)).collect();
        let scales: Vec<f32> =
            (0..rows * inputs / BLOCK).map(|_| f32::from(byte()) / 64.0).collect();
        let sums: Vec<i16> = levels
            .chunks_exact(16)
            .map(|levels| levels.iter().map(|&level| i16::from(level)).sum())
            .collect();
        let x = Quantized { levels: &levels, scales: &scales, sums: &sums, inputs };
        for format in Format::ALL.into_iter().filter(|format| format.has_integer_levels()) {
            let blocks = 2 * inputs / format.block_values() * format.held_bytes() * PANEL;
            // No scale that is infinite or not a number.
            let blocks: Vec<u8> = (0..blocks).map(|_| byte() & 0xbb).collect();
            let weights = Terms::Blocks(format, &blocks);
            let term = |index: usize, k: usize| {
                let (row, output) = (index / outputs, index % outputs);
                let weight = weights.get((output / PANEL * inputs + k) * PANEL + output % PANEL);
                let scale = f64::from(scales[(row * inputs + k) / BLOCK]);
                scale * f64::from(levels[row * inputs + k]) * f64::from(weight)
            };
            for tile in tile::all() {
                let mut y = vec![f32::NAN; rows * outputs];
                let epilogue = Epilogue {
                    bias: None,
                    sample_bias: None,
                    sample_rows: rows,
                    activation: 0,
                    residual: None,
                };
                let output = Output::new(RealsMut::F32(&mut y), rows * outputs);
                let product = Product { x, outputs, format, blocks: &blocks, epilogue, y: output };
                run(&product, rows, tile);
                for (index, value) in y.into_iter().enumerate() {
                    let expected: f64 = (0..inputs).map(|k| term(index, k)).sum();
                    // Integers are exact. Of floats there are a few roundings a group, of sums that are
                    // at most all terms together; least values, of which levels are taken off again,
                    // are at most as large as the largest weight, which is drawn.
                    let all: f64 = (0..inputs).map(|k| term(index, k).abs()).sum();
                    let tolerance = f64::from(f32::EPSILON) * (4 * inputs / 16) as f64 * all;
                    let off = (f64::from(value) - expected).abs();
                    assert!(off <= tolerance, "{format}, {} rows, {index}: {off}", tile.rows);
                }
            }
        }
    }
}
