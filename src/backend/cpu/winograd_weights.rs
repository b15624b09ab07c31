//! See `kernels/winograd_weights.cl`.

use super::attention::lanes::Lanes;
use super::winograd::{self, MOST, Target, Task, both_ways, floats, matrices, transform_weights};
use super::{Arguments, PANEL, Reals, Terms};

pub fn definition(arguments: &Arguments) {
    let matrix = matrices(arguments.parameter("TILE") as usize).weights;
    let weights = arguments.weights("weights");
    let (first_panel, panels) = (arguments.size("first_panel"), arguments.size("panels"));
    let run = arguments.size("channels") * PANEL;
    let transformed = arguments.floats_out("transformed");
    for panel in 0..panels {
        for at in 0..run {
            let tap = |tap| f64::from(weights.get(((first_panel + panel) * 9 + tap) * run + at));
            let taps: Vec<f64> = (0..9).map(tap).collect();
            for (place, value) in both_ways(matrix, &taps).into_iter().enumerate() {
                transformed[(place * panels + panel) * run + at] = value as f32;
            }
        }
    }
}

/// Weights of a tap that a part takes: nine such runs are a part of the first cache.
const RUN: usize = 512;

struct Weights<'a> {
    weights: Terms<'a>,
    transformed: Target<'a, f32>,
    tile: usize,
    run: usize,
    first_panel: usize,
    panels: usize,
}

pub fn fast(arguments: &Arguments) {
    let tile = arguments.parameter("TILE") as usize;
    let (first_panel, panels) = (arguments.size("first_panel"), arguments.size("panels"));
    let (run, weights) = (arguments.size("channels") * PANEL, arguments.weights("weights"));
    let transformed = Target::new(arguments.floats_out("transformed"));
    let task = Weights { weights, transformed, tile, run, first_panel, panels };
    winograd::run(&task, panels * run.div_ceil(RUN));
}

impl Task for Weights<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self, index: usize, scratch: &mut Vec<f32>) {
        // SAFETY: as this function's.
        unsafe {
            match self.tile {
                2 => self.transform::<L, 2>(index, scratch),
                _ => self.transform::<L, 4>(index, scratch),
            }
        }
    }
}

impl Weights<'_> {
    /// # Safety
    ///
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn transform<L: Lanes, const TILE: usize>(&self, index: usize, scratch: &mut Vec<f32>) {
        let runs = self.run.div_ceil(RUN);
        let (panel, first) = (index / runs, index % runs * RUN);
        let length = RUN.min(self.run - first);
        let decoded = floats(scratch, 9 * RUN);
        let start = |tap| ((self.first_panel + panel) * 9 + tap) * self.run + first;
        let taps: [&[f32]; 9] = match self.weights {
            Terms::Reals(Reals::F32(values)) => {
                std::array::from_fn(|tap| &values[start(tap)..][..length])
            }
            weights => {
                for (tap, target) in decoded.chunks_exact_mut(RUN).enumerate() {
                    weights.read(start(tap), &mut target[..length]);
                }
                std::array::from_fn(|tap| &decoded[tap * RUN..][..length])
            }
        };
        // SAFETY: no two parts have a panel and a part of its run in common; a run is a number of
        // whole vectors, for a panel is. The instructions are as this function's.
        unsafe {
            let window = TILE + 2;
            let targets: [*mut f32; MOST * MOST] = std::array::from_fn(|place| {
                if place >= window * window {
                    return std::ptr::null_mut();
                }
                let at = (place * self.panels + panel) * self.run + first;
                self.transformed.part(at, length).as_mut_ptr()
            });
            for at in (0..length).step_by(L::COUNT) {
                transform_at::<L, TILE>(&taps, &targets, at);
            }
        }
    }
}

/// # Safety
///
/// As [`Lanes`]; every tap and target has a vector from `at` on.
#[inline(always)]
unsafe fn transform_at<L: Lanes, const TILE: usize>(
    taps: &[&[f32]; 9],
    targets: &[*mut f32; MOST * MOST],
    at: usize,
) {
    let window = TILE + 2;
    // SAFETY: as this function's. Loops, and not closures, which would be compiled without the
    // instructions of `L`.
    unsafe {
        let mut half_done = [[L::splat(0.0); MOST]; 3];
        for (c, half_done) in half_done.iter_mut().enumerate() {
            let mut column = [L::splat(0.0); 3];
            for (r, value) in column.iter_mut().enumerate() {
                *value = L::load(taps[r * 3 + c].as_ptr().add(at));
            }
            *half_done = transform_weights::<L, TILE>(column);
        }
        for r in 0..window {
            let row = [half_done[0][r], half_done[1][r], half_done[2][r]];
            let done = transform_weights::<L, TILE>(row);
            for (c, done) in done.iter().take(window).enumerate() {
                done.store(targets[r * window + c].add(at));
            }
        }
    }
}
