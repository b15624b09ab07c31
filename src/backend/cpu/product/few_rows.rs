//! Products of few rows: the weight is read once, and nothing else takes time.
//!
//! A task takes panels one after the other. Of each, a few terms at a time are decoded into the first
//! cache and multiplied with all rows there, while those that follow are fetched: the processor's own
//! look ahead ends at every page.

use super::tile::{Left, Tile, Work, with_best};
use super::{Line, Output, PANEL, Product, Rows, floats, panel_terms, parallel, part};
use crate::backend::cpu::RealsMut;

/// The most rows that are few; every tile has as many, or takes them in turn.
pub const MOST: usize = 8;

/// Terms at a time: of blocks, those of one scale.
const DEPTH: usize = 32;

/// The most rows that are multiplied with levels one after the other, each of which reads the panel's
/// blocks for itself: from the cache, but for the first.
const MOST_BY_LEVELS: usize = 2;

/// How far ahead weights are fetched, in terms.
const AHEAD: usize = 4 * DEPTH;

pub fn run(product: &Product, source: &impl Rows, y: RealsMut) {
    let (rows, inputs) = (product.rows, product.inputs);
    let mut x = vec![0.0; rows * inputs];
    for (row, target) in x.chunks_exact_mut(inputs.max(1)).enumerate() {
        source.pack(row, 0, target);
    }
    let y = Output::new(y, rows * product.outputs);
    let panels = product.outputs.div_ceil(PANEL);
    // Several for each thread, so that the last ones end together.
    let tasks = (8 * rayon::current_num_threads()).min(panels);
    parallel::for_each(tasks, |task| {
        with_best(Panels { product, x: &x, y: &y, panels: part(panels, tasks, task) });
    });
}

struct Panels<'a> {
    product: &'a Product<'a>,
    x: &'a [f32],
    y: &'a Output<'a>,
    panels: std::ops::Range<usize>,
}

impl Panels<'_> {
    /// A panel's sums, without decoding it first; whether that can be.
    fn by_levels(&self, panel: usize, sums: &mut [f32]) -> bool {
        let Product { inputs, weights, .. } = *self.product;
        let rows = self.x.chunks_exact(inputs).zip(sums.as_chunks_mut::<PANEL>().0);
        rows.fold(true, |done, (x, sums)| done && weights.multiply(panel, x, sums))
    }
}

impl Work for Panels<'_> {
    #[inline(always)]
    fn run<T: Tile>(self) {
        let Product { rows, inputs, outputs, weights, ref epilogue, .. } = *self.product;
        let (mut decoded, mut sums) = (Vec::<Line>::new(), Vec::<Line>::new());
        let decoded = floats(&mut decoded, DEPTH * PANEL);
        let sums = floats(&mut sums, MOST * PANEL);
        for panel in self.panels.clone() {
            if rows <= MOST_BY_LEVELS && self.by_levels(panel, sums) {
                epilogue.store(&sums[..rows * PANEL], 0, panel, outputs, self.y);
                continue;
            }
            for first in (0..inputs).step_by(DEPTH) {
                let depth = DEPTH.min(inputs - first);
                let start = (panel * inputs + first) * PANEL;
                weights.fetch(start + AHEAD * PANEL, depth * PANEL);
                let terms = panel_terms(self.product, panel, first, depth, decoded);
                for row in (0..rows).step_by(T::ROWS) {
                    let of_tile = T::ROWS.min(rows - row);
                    let sums = &mut sums[row * PANEL..(row + of_tile) * PANEL];
                    let left = Left::rows(&self.x[row * inputs + first..], inputs);
                    let columns = PANEL.min(outputs - panel * PANEL);
                    T::multiply(left, terms, columns, sums, first > 0, None);
                }
            }
            epilogue.store(&sums[..rows * PANEL], 0, panel, outputs, self.y);
        }
    }
}
