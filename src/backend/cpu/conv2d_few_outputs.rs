//! See `kernels/conv2d_few_outputs.cl`; the definition is `conv2d`'s.

use std::cell::RefCell;
use std::ops::Range;

use super::conv2d::{self, Sizes};
use super::product::tile::{self, Ahead, Left, Tile, Work};
use super::product::{DEPTH, Epilogue, Line, Output, STRIDE, floats, part};
use super::{Arguments, PANEL, Reals, parallel, rows};

/// Pixels of the result that are gathered at once.
const GATHERED: usize = 16;

pub fn fast(arguments: &Arguments) {
    let sizes = Sizes::new(arguments);
    let epilogue = conv2d::epilogue(arguments, &sizes);
    let x = arguments.reals("x");
    let taps = Taps::new(&sizes, arguments.reals("weights"));
    let y = Output::new(arguments.reals_out("y"), sizes.rows() * sizes.outputs);
    // Neighbouring tasks both compute the rows at their border: few tasks, of many rows.
    let threads = rayon::current_num_threads();
    let of_sample = threads * (sizes.out_height / (16 * threads)).clamp(1, 4);
    let of_sample = of_sample.min(sizes.out_height);
    parallel::for_each(sizes.samples * of_sample, |index| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (sample, rows) =
                (index / of_sample, part(sizes.out_height, of_sample, index % of_sample));
            let (sizes, taps, epilogue, y) = (&sizes, &taps, &epilogue, &y);
            tile::with_best((Rows { sizes, x, taps, epilogue, y, sample, rows }, scratch));
        });
    });
}

/// The weight with its taps side by side: `[panels][channels][PANEL]`, each tap's outputs
/// together in one panel.
struct Taps {
    panels: usize,
    per_panel: usize,
    weights: Vec<f32>,
}

impl Taps {
    fn new(sizes: &Sizes, weights: Reals) -> Self {
        let Sizes { channels, outputs, .. } = *sizes;
        let taps = sizes.kernel_height * sizes.kernel_width;
        let per_panel = PANEL / outputs;
        let panels = taps.div_ceil(per_panel);
        let mut side_by_side = vec![0.0; panels * channels * PANEL];
        for tap in 0..taps {
            let first = (tap / per_panel) * channels * PANEL + tap % per_panel * outputs;
            for channel in 0..channels {
                let target = &mut side_by_side[first + channel * PANEL..][..outputs];
                rows::read(&weights, (tap * channels + channel) * PANEL, target);
            }
        }
        Self { panels, per_panel, weights: side_by_side }
    }

    /// The panel of a tap, and where its outputs begin there.
    fn place(&self, tap: usize, outputs: usize) -> (usize, usize) {
        (tap / self.per_panel, tap % self.per_panel * outputs)
    }
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Scratch {
    packed: Vec<Line>,
    products: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Some rows of a sample's result.
struct Rows<'a> {
    sizes: &'a Sizes,
    x: Reals<'a>,
    taps: &'a Taps,
    epilogue: &'a Epilogue<'a>,
    y: &'a Output<'a>,
    sample: usize,
    rows: Range<usize>,
}

impl Work for (Rows<'_>, &mut Scratch) {
    /// A row of x is multiplied by all taps at once; a row of the result gathers its windows from
    /// the products of as many rows as a window has.
    #[inline(always)]
    fn run<T: Tile>(self) {
        let (rows, scratch) = self;
        let (sizes, kernel_rows) = (rows.sizes, rows.sizes.kernel_height);
        let row_length = rows.taps.panels * sizes.width * PANEL;
        let products = floats(&mut scratch.products, kernel_rows * row_length + PANEL);
        let packed = floats(&mut scratch.packed, T::ROWS * STRIDE);
        let mut next = rows.rows.start;
        for row in rows.rows.clone() {
            // The row of products under row r of the windows is the r % kernel_rows-th.
            for padded in next..row + kernel_rows {
                let place = padded % kernel_rows * row_length;
                let target = &mut products[place..place + row_length];
                if let Some(x_row) = sizes.row(padded, 0) {
                    let first = (rows.sample * sizes.height + x_row) * sizes.width;
                    multiply_row::<T>(sizes, rows.x, rows.taps, first, packed, target);
                }
            }
            next = row + kernel_rows;
            match sizes.outputs {
                ..=4 => rows.gather::<4>(row, products, row_length),
                _ => rows.gather::<8>(row, products, row_length),
            }
        }
    }
}

/// The products of a row of pixels, `first` on, with every tap: `[panels][width][PANEL]`. The next
/// tile's pixels are fetched meanwhile, those of the next row at last, as memory takes about as long
/// as the products.
#[inline(always)]
fn multiply_row<T: Tile>(
    sizes: &Sizes,
    x: Reals,
    taps: &Taps,
    first: usize,
    packed: &mut [f32],
    target: &mut [f32],
) {
    let Sizes { width, channels, .. } = *sizes;
    let in_all = sizes.kernel_height * sizes.kernel_width;
    let tiles = width.div_ceil(T::ROWS);
    for tile in 0..tiles {
        let tile = part(width, tiles, tile);
        for from in (0..channels).step_by(DEPTH) {
            let depth = DEPTH.min(channels - from);
            for (pixel, target) in tile.clone().zip(packed.chunks_exact_mut(STRIDE)) {
                rows::read(&x, (first + pixel) * channels + from, &mut target[..depth]);
            }
            let left = Left::rows(packed, STRIDE);
            let next = (first + tile.end) * channels + from * tile.len();
            let next = x.bytes(next, depth * tile.len());
            for panel in 0..taps.panels {
                let terms = &taps.weights[(panel * channels + from) * PANEL..][..depth * PANEL];
                let start = (panel * width + tile.start) * PANEL;
                let sums = &mut target[start..start + tile.len() * PANEL];
                let used = taps.per_panel.min(in_all - panel * taps.per_panel);
                let ahead = Ahead::part(&next, panel, taps.panels, depth);
                T::multiply(left, terms, used * sizes.outputs, sums, from > 0, Some(ahead));
            }
        }
    }
}

impl Rows<'_> {
    /// A row of the result. `LANES` are a pixel's outputs and some more, which are not stored.
    #[inline(always)]
    fn gather<const LANES: usize>(&self, row: usize, products: &[f32], row_length: usize) {
        let Sizes { width, outputs, out_width, kernel_height, kernel_width, .. } = *self.sizes;
        let left = self.sizes.left as usize;
        let mut sums = [0.0; GATHERED * PANEL];
        for first in (0..out_width).step_by(GATHERED) {
            let pixels = first..out_width.min(first + GATHERED);
            sums.fill(0.0);
            for tap in 0..kernel_height * kernel_width {
                let (kernel_row, kernel_column) = (tap / kernel_width, tap % kernel_width);
                if self.sizes.row(row, kernel_row).is_none() {
                    continue;
                }
                let (panel, column) = self.taps.place(tap, outputs);
                let start = (row + kernel_row) % kernel_height * row_length;
                let products = &products[start + panel * width * PANEL + column..];
                // Pixels whose window has a pixel of x there.
                let from = pixels.start.max(left.saturating_sub(kernel_column));
                let end =
                    pixels.end.min((self.sizes.read_width + left).saturating_sub(kernel_column));
                for pixel in from..end {
                    let products = &products[(pixel + kernel_column - left) * PANEL..][..LANES];
                    let sum = &mut sums[(pixel - first) * PANEL..][..LANES];
                    for (sum, product) in sum.iter_mut().zip(products) {
                        *sum += product;
                    }
                }
            }
            let row = (self.sample * self.sizes.out_height + row) * out_width;
            let sums = &sums[..pixels.len() * PANEL];
            self.epilogue.store(sums, row + first, 0, outputs, self.y);
        }
    }
}
