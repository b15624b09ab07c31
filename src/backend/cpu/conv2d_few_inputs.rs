//! See `kernels/conv2d_few_inputs.cl`; the definition is `conv2d`'s.

use std::cell::RefCell;
use std::ops::Range;

use super::conv2d::{self, Sizes};
use super::product::tile::{self, Left, Tile, Work};
use super::product::{Epilogue, Line, Output, floats, part};
use super::vector_math::widen;
use super::{Arguments, PANEL, Reals, parallel, rows};

/// Rows of the result in a task.
const TASK_ROWS: usize = 8;

pub fn fast(arguments: &Arguments) {
    let sizes = Sizes::new(arguments);
    let epilogue = conv2d::epilogue(arguments, &sizes);
    let (x, weights) = (arguments.reals("x"), arguments.reals("weights"));
    let y = Output::new(arguments.reals_out("y"), sizes.rows() * sizes.outputs);
    let of_sample = sizes.out_height.div_ceil(TASK_ROWS);
    parallel::for_each(sizes.samples * of_sample, |index| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (sample, rows) =
                (index / of_sample, part(sizes.out_height, of_sample, index % of_sample));
            let (sizes, epilogue, y) = (&sizes, &epilogue, &y);
            tile::with_best(Rows { sizes, x, weights, epilogue, y, sample, rows, scratch });
        });
    });
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Scratch {
    padded: Vec<Line>,
    panel: Vec<Line>,
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Some rows of a sample's result.
struct Rows<'a> {
    sizes: &'a Sizes,
    x: Reals<'a>,
    weights: Reals<'a>,
    epilogue: &'a Epilogue<'a>,
    y: &'a Output<'a>,
    sample: usize,
    rows: Range<usize>,
    scratch: &'a mut Scratch,
}

impl Work for Rows<'_> {
    /// The rows of x are copied with their padding; the windows of neighbouring pixels then lie
    /// `channels` apart, and a tile reads them there.
    #[inline(always)]
    fn run<T: Tile>(self) {
        let Sizes { channels, outputs, out_width, out_height, .. } = *self.sizes;
        let (kernel_rows, kernel_columns) = (self.sizes.kernel_height, self.sizes.kernel_width);
        let line = (out_width + kernel_columns - 1) * channels;
        let padded = floats(&mut self.scratch.padded, (self.rows.len() + kernel_rows - 1) * line);
        for (index, target) in padded.chunks_exact_mut(line).enumerate() {
            pad(self.sizes, self.x, self.sample, self.rows.start + index, target);
        }
        let inputs = kernel_rows * kernel_columns * channels;
        let decoded = floats(&mut self.scratch.panel, inputs * PANEL);
        let sums = floats(&mut self.scratch.sums, T::ROWS * PANEL);
        let tiles = out_width.div_ceil(T::ROWS);
        for panel in 0..outputs.div_ceil(PANEL) {
            let terms = panel * inputs * PANEL..(panel + 1) * inputs * PANEL;
            let terms = match self.weights {
                Reals::F32(weights) => &weights[terms],
                Reals::F16(weights) => {
                    widen(&weights[terms], decoded);
                    &*decoded
                }
            };
            let columns = PANEL.min(outputs - panel * PANEL);
            for (index, row) in self.rows.clone().enumerate() {
                let first = (self.sample * out_height + row) * out_width;
                for tile in 0..tiles {
                    let tile = part(out_width, tiles, tile);
                    let pixels = first + tile.start..first + tile.end;
                    self.epilogue.fetch(pixels.clone(), panel, outputs, self.y);
                    let left = Left {
                        values: &padded[index * line + tile.start * channels..],
                        stride: channels,
                        runs: kernel_rows,
                        run_stride: line,
                    };
                    let sums = &mut sums[..tile.len() * PANEL];
                    T::multiply(left, terms, columns, sums, false, None);
                    self.epilogue.store(sums, pixels.start, panel, outputs, self.y);
                }
            }
        }
    }
}

/// A row of x with its padding, under the `padded_row`th row of windows.
#[inline(always)]
fn pad(sizes: &Sizes, x: Reals, sample: usize, padded_row: usize, target: &mut [f32]) {
    let Some(row) = sizes.row(padded_row, 0) else {
        target.fill(0.0);
        return;
    };
    let (left, channels) = (sizes.left as usize * sizes.channels, sizes.channels);
    let (before, rest) = target.split_at_mut(left.min(target.len()));
    let (values, after) = rest.split_at_mut((sizes.read_width * channels).min(rest.len()));
    before.fill(0.0);
    rows::read(&x, (sample * sizes.height + row) * sizes.width * channels, values);
    after.fill(0.0);
}
