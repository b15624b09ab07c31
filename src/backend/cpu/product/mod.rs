//! The blocked matrix product behind the fast paths of gemm and conv2d.
//!
//! The result is cut into tasks of some tiles of rows by some panels of weights. A task takes K in
//! blocks: the rows' part is packed as f32, which gathers a convolution's windows on the way; a
//! panel's part is read where it lies, or decoded once if it is not f32; and a register tile adds
//! the product of the two to its sums, which stay in the core's cache until the last block of K.
//! There the epilogue takes them to the result. Meanwhile the next panel's part comes to the cache.

use std::cell::RefCell;
use std::ops::Range;

use super::vector_math::{Level, level};
use super::{PANEL, Reals, RealsMut, Terms, parallel};

mod epilogue;
mod few_rows;
pub mod tile;

pub use epilogue::{Epilogue, Output};
#[cfg(test)]
pub use tile::has;
use tile::{Ahead, Left, Tile};

/// The most terms of a block of K: such rows of a tile and such a panel stay in the second cache.
pub const DEPTH: usize = 640;
/// Floats between packed rows: no power of two, so that the rows do not contend for one cache set.
pub const STRIDE: usize = DEPTH + 16;
/// The most rows in a task: all of them packed are less than a third of a second cache of 1 MiB.
const TASK_ROWS: usize = 72;
/// The most panels in a task: their sums are as much. Few rows by many panels are packed less often
/// than the other way round, and a panel can come from further, for it is fetched ahead.
const TASK_PANELS: usize = 32;

/// Where the left side's rows come from.
pub trait Rows: Sync {
    /// Writes the terms from `first` on of a row, as many as `target` takes.
    fn pack(&self, row: usize, first: usize, target: &mut [f32]);
}

/// A product's sizes, its weight and what becomes of its sums.
///
/// With a batch, so many products of these sizes: weights, rows and results of all of them, one
/// after the other.
pub struct Product<'a> {
    pub batch: usize,
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
    /// `[batch][ceil(outputs / PANEL)][inputs][PANEL]`
    pub weights: Terms<'a>,
    pub epilogue: Epilogue<'a>,
}

/// Computes the product of `source` and the weight into `y`.
pub fn run(product: &Product, source: &impl Rows, y: RealsMut) {
    match product.rows {
        0..=few_rows::MOST if product.batch == 1 => few_rows::run(product, source, y),
        _ => run_on(level(), product, source, y),
    }
}

fn run_on(level: Level, product: &Product, source: &impl Rows, y: RealsMut) {
    let grid = Grid::new(product, tile::tile_rows(level), rayon::current_num_threads());
    let y = Output::new(y, product.batch * product.rows * product.outputs);
    let tasks = grid.row_tasks * grid.panel_tasks;
    parallel::for_each(product.batch * tasks, |index| {
        SCRATCH.with_borrow_mut(|scratch| {
            // Neighbours share their panels, the larger side where it matters.
            let (product_index, index) = (index / tasks, index % tasks);
            let task = grid.task(product_index, index % grid.row_tasks, index / grid.row_tasks);
            tile::run(level, product, source, &y, &task, scratch);
        });
    });
}

/// How a product is cut into tasks: as evenly as may be.
struct Grid {
    rows: usize,
    tiles: usize,
    panels: usize,
    row_tasks: usize,
    panel_tasks: usize,
}

pub struct Task {
    /// Which product of the batch.
    product: usize,
    rows: usize,
    tiles_in_all: usize,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Grid {
    fn new(product: &Product, tile_rows: usize, threads: usize) -> Self {
        let tiles = product.rows.div_ceil(tile_rows);
        let panels = product.outputs.div_ceil(PANEL);
        // As many for each thread, so that the last ones end together.
        let row_tasks = match product.rows.div_ceil(TASK_ROWS) {
            1 => 1,
            several => several.next_multiple_of(threads).min(tiles),
        };
        // More tasks than threads, so that the last ones end together; but packing a task's rows
        // should stay small beside using them.
        let wanted = (4 * threads).div_ceil(row_tasks * product.batch).min(panels.div_ceil(2));
        let panel_tasks = panels.div_ceil(TASK_PANELS).max(wanted);
        Self { rows: product.rows, tiles, panels, row_tasks, panel_tasks }
    }

    fn task(&self, product: usize, row_task: usize, panel_task: usize) -> Task {
        Task {
            product,
            rows: self.rows,
            tiles_in_all: self.tiles,
            tiles: part(self.tiles, self.row_tasks, row_task),
            panels: part(self.panels, self.panel_tasks, panel_task),
        }
    }
}

impl Task {
    /// Among the rows of all products. Tiles differ by one row at most, so none is nearly empty.
    fn tile(&self, index: usize) -> Range<usize> {
        let (first, tile) = (self.product * self.rows, part(self.rows, self.tiles_in_all, index));
        first + tile.start..first + tile.end
    }

    fn rows(&self) -> Range<usize> {
        self.tile(self.tiles.start).start..self.tile(self.tiles.end - 1).end
    }
}

/// The `index`th of `parts` parts of `count` things.
pub fn part(count: usize, parts: usize, index: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// What a thread keeps from task to task.
#[derive(Default)]
pub struct Scratch {
    packed: Vec<Line>,
    panel: Vec<Line>,
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A cache line, to which the vectors of panels and sums are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line([f32; 16]);

/// `count` floats of `lines`, with whatever values they have.
pub fn floats(lines: &mut Vec<Line>, count: usize) -> &mut [f32] {
    let length = count.div_ceil(16);
    if lines.len() < length {
        lines.resize(length, Line([0.0; 16]));
    }
    // SAFETY: a `Line` is 16 floats and nothing else, and there are at least `count / 16`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), count) }
}

/// One task, compiled once for every instruction set.
#[inline(always)]
fn run_task<T: Tile>(
    product: &Product,
    source: &impl Rows,
    y: &Output,
    task: &Task,
    scratch: &mut Scratch,
) {
    let rows = task.rows();
    let blocks = product.inputs.div_ceil(DEPTH);
    let depth = product.inputs.div_ceil(blocks).next_multiple_of(16);
    let packed = floats(&mut scratch.packed, rows.len() * STRIDE);
    let decoded = floats(&mut scratch.panel, DEPTH * PANEL);
    // With one block of K sums are used up at once, and one panel's place does for all.
    let panel_sums = if blocks == 1 { 0 } else { rows.len() * PANEL };
    let kept = if blocks == 1 { 1 } else { task.panels.len() };
    let sums = floats(&mut scratch.sums, kept * rows.len() * PANEL);
    for first in (0..product.inputs).step_by(depth) {
        let depth = depth.min(product.inputs - first);
        for (target, row) in packed.chunks_exact_mut(STRIDE).zip(rows.clone()) {
            source.pack(row, first, &mut target[..depth]);
        }
        for panel in task.panels.clone() {
            let of_batch = task.product * product.outputs.div_ceil(PANEL) + panel;
            let weights = panel_terms(product, of_batch, first, depth, decoded);
            let columns = PANEL.min(product.outputs - panel * PANEL);
            let next = next_part(product, task, panel, first, depth);
            let next = product.weights.bytes(next, depth * PANEL);
            for (index, tile) in task.tiles.clone().enumerate() {
                let tile = task.tile(tile);
                let start = tile.start - rows.start;
                let place = (panel - task.panels.start) * panel_sums + start * PANEL;
                let sums = &mut sums[place..place + tile.len() * PANEL];
                let is_last = first + depth == product.inputs;
                if is_last {
                    product.epilogue.fetch(tile.clone(), panel, product.outputs, y);
                }
                let left = Left::rows(&packed[start * STRIDE..], STRIDE);
                let ahead = Ahead::part(&next, index, task.tiles.len(), depth);
                T::multiply(left, weights, columns, sums, first > 0, Some(ahead));
                if is_last {
                    product.epilogue.store(sums, tile.start, panel, product.outputs, y);
                }
            }
        }
    }
}

/// Where the weights begin that a task multiplies after the part from `first` on of a panel: at its
/// end those of the next task, which most often has the same panels.
#[inline(always)]
fn next_part(product: &Product, task: &Task, panel: usize, first: usize, depth: usize) -> usize {
    let of_batch = task.product * product.outputs.div_ceil(PANEL);
    let (panel, first) = match () {
        _ if panel + 1 < task.panels.end => (panel + 1, first),
        _ if first + depth < product.inputs => (task.panels.start, first + depth),
        _ => (task.panels.start, 0),
    };
    ((of_batch + panel) * product.inputs + first) * PANEL
}

/// The terms `first..first + depth` of a panel of the batch, as they lie or decoded.
#[inline(always)]
fn panel_terms<'a>(
    product: &Product<'a>,
    panel: usize,
    first: usize,
    depth: usize,
    decoded: &'a mut [f32],
) -> &'a [f32] {
    let start = (panel * product.inputs + first) * PANEL;
    match product.weights {
        Terms::Reals(Reals::F32(values)) => &values[start..start + depth * PANEL],
        weights => {
            let decoded = &mut decoded[..depth * PANEL];
            weights.read(start, decoded);
            decoded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (count, parts) in [(7, 3), (77, 7), (1, 1), (4096, 342)] {
            let mut next = 0;
            for index in 0..parts {
                let part = part(count, parts, index);
                assert_eq!(part.start, next, "part {index} of {parts} of {count}");
                assert!(part.len().abs_diff(count / parts) <= 1);
                next = part.end;
            }
            assert_eq!(next, count);
        }
    }

    struct Matrix<'a>(&'a [f32], usize);

    impl Rows for Matrix<'_> {
        fn pack(&self, row: usize, first: usize, target: &mut [f32]) {
            target.copy_from_slice(&self.0[row * self.1 + first..][..target.len()]);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        // Small integers, whose sums are exact. Rows and outputs that fill no tile and no panel,
        // either half of a panel, one and several blocks of K.
        for (batch, rows, outputs, inputs) in [
            (1usize, 1usize, 1usize, 1usize),
            (1, 13, 33, 100),
            (1, 29, 80, 600),
            (1, 150, 4, 513),
            (3, 14, 40, 70),
        ] {
            let x: Vec<f32> =
                (0..batch * rows * inputs).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let panels = outputs.div_ceil(PANEL);
            let weights: Vec<f32> =
                (0..batch * panels * inputs * PANEL).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
            let bias: Vec<f32> = (0..outputs).map(|output| output as f32).collect();
            let expected: Vec<f32> = (0..batch * rows * outputs)
                .map(|index| {
                    let (row, output) = (index / outputs, index % outputs);
                    let panel = row / rows * panels + output / PANEL;
                    let start = panel * inputs * PANEL + output % PANEL;
                    let terms =
                        (0..inputs).map(|k| x[row * inputs + k] * weights[start + k * PANEL]);
                    terms.sum::<f32>() + bias[output]
                })
                .collect();
            for level in [Level::Avx512, Level::Avx2, Level::Portable] {
                if !tile::has(level) {
                    continue;
                }
                let mut y = vec![f32::NAN; batch * rows * outputs];
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    sample_bias: None,
                    sample_rows: rows,
                    activation: 0,
                    residual: None,
                };
                let weights = Terms::Reals(Reals::F32(&weights));
                let product = Product { batch, rows, outputs, inputs, weights, epilogue };
                run_on(level, &product, &Matrix(&x, inputs), RealsMut::F32(&mut y));
                assert!(y == expected, "{batch} of {rows} x {outputs} x {inputs} by {level:?}");
            }
        }
    }
}
