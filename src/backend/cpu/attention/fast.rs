//! The fast path: queries are the lanes of vectors.
//!
//! A task is a few blocks of queries of one head, each of two vectors. Scores of a tile of keys are
//! made, weighed and spent while they are in the first cache; the sum and the largest score so far
//! are all that is kept of those before. A row of keys or values is read as single numbers, which
//! multiply both vectors, and no sum ever runs across lanes.

use rayon::prelude::*;

use super::super::vector_math::{Level, level, narrow};
use super::super::{Arguments, Reals, RealsMut, rows};
use super::lanes::{Lanes, exp_of_negative};

/// Blocks of a task, which share the tiles of keys and values that it loads.
const BLOCKS: usize = 2;
/// What no score is below, and what hides a key.
const HIDDEN: f32 = -1e30;

pub fn fast(arguments: &Arguments) {
    let part = |name: &'static str, stride: &str, start: &str| Part {
        values: arguments.reals(name),
        stride: arguments.size(stride),
        start: arguments.size(start),
    };
    let problem = Problem {
        q: part("q", "q_stride", "q_start"),
        k: part("k", "k_stride", "k_start"),
        v: part("v", "v_stride", "v_start"),
        queries: arguments.size("queries"),
        keys: arguments.size("keys"),
        heads: arguments.size("heads"),
        head_width: arguments.parameter("HEAD_WIDTH") as usize,
        first_sample: arguments.size("first_sample"),
        first_query: arguments.size("first_query"),
        causal: arguments.size("causal") != 0,
        scale: arguments.float("scale"),
    };
    let samples = arguments.size("samples");
    let y = Output::new(arguments.reals_out("y"));
    let level = level();
    let block = match level {
        Level::Avx512 => 32,
        Level::Avx2 | Level::Portable => 16,
    };
    let blocks = problem.queries.div_ceil(BLOCKS * block);
    // Neighbouring tasks share a head, whose keys and values then stay in a cache.
    (0..samples * problem.heads * blocks).into_par_iter().for_each_init(
        || Scratch::new(&problem, block),
        |scratch, index| {
            let task = Task {
                sample: index / (blocks * problem.heads),
                head: index / blocks % problem.heads,
                first: index % blocks * BLOCKS * block,
            };
            match level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the host has the features.
                Level::Avx512 => unsafe { x86::run_avx512(&problem, &task, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the host has the features.
                Level::Avx2 => unsafe { x86::run_avx2(&problem, &task, scratch) },
                // SAFETY: plain Rust needs no features.
                _ => unsafe { run::<[f32; 8], 4>(&problem, &task, scratch) },
            }
            // SAFETY: tasks differ in their sample, their head or their queries, so no other
            // writes this head's columns of these rows.
            unsafe { scratch.write(&problem, &task, block, &y) };
        },
    );
}

struct Problem<'a> {
    q: Part<'a>,
    k: Part<'a>,
    v: Part<'a>,
    queries: usize,
    keys: usize,
    heads: usize,
    head_width: usize,
    first_sample: usize,
    first_query: usize,
    causal: bool,
    scale: f32,
}

/// Columns of a tensor.
struct Part<'a> {
    values: Reals<'a>,
    stride: usize,
    start: usize,
}

impl Part<'_> {
    /// Columns of a row as floats.
    fn read(&self, row: usize, column: usize, target: &mut [f32]) {
        rows::read(&self.values, row * self.stride + self.start + column, target);
    }
}

struct Task {
    sample: usize,
    head: usize,
    /// The first query.
    first: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// What a thread works in, each part from a cache line on.
struct Scratch {
    lines: Vec<Line>,
    keys_in_tile: usize,
    /// The head's width, in whole lines.
    width: usize,
    block: usize,
}

/// The parts of [`Scratch`].
struct Parts<'a> {
    /// `[BLOCKS, width, block]`: queries, times the scale.
    query: &'a mut [f32],
    /// `[BLOCKS, width, block]`: weighted sums of values.
    sums: &'a mut [f32],
    /// `[BLOCKS, keys, block]`: scores, then weights.
    scores: &'a mut [f32],
    /// `[keys, width]`: keys, then values.
    tile: &'a mut [f32],
    /// One row.
    row: &'a mut [f32],
}

impl Scratch {
    fn new(problem: &Problem, block: usize) -> Self {
        let width = problem.head_width.next_multiple_of(16);
        // A tile of wide heads is kept to what the second cache holds beside the sums.
        let keys_in_tile = if width <= 160 { 64 } else { 32 };
        let floats = BLOCKS * block * (2 * width + keys_in_tile) + keys_in_tile * width + width;
        let lines = vec![Line([0.0; 16]); floats.div_ceil(16)];
        Self { lines, keys_in_tile, width, block }
    }

    fn parts(&mut self) -> Parts<'_> {
        let all = self.lines.as_mut_ptr().cast();
        // SAFETY: a line is 16 floats and nothing else.
        let all = unsafe { std::slice::from_raw_parts_mut(all, self.lines.len() * 16) };
        let (query, all) = all.split_at_mut(BLOCKS * self.width * self.block);
        let (sums, all) = all.split_at_mut(BLOCKS * self.width * self.block);
        let (scores, all) = all.split_at_mut(BLOCKS * self.keys_in_tile * self.block);
        let (tile, all) = all.split_at_mut(self.keys_in_tile * self.width);
        Parts { query, sums, scores, tile, row: &mut all[..self.width] }
    }

    /// Stores the task's sums.
    ///
    /// # Safety
    ///
    /// No other thread writes this head's columns of these rows.
    unsafe fn write(&mut self, problem: &Problem, task: &Task, block: usize, y: &Output) {
        let &Problem { queries, heads, head_width, .. } = problem;
        let width = self.width;
        let Parts { sums, row, .. } = self.parts();
        let row = &mut row[..head_width];
        for lane in 0..(BLOCKS * block).min(queries - task.first) {
            let sums = &sums[lane / block * width * block..][..width * block];
            for (value, sums) in row.iter_mut().zip(sums.chunks_exact(block)) {
                *value = sums[lane % block];
            }
            let index = task.sample * queries + task.first + lane;
            // SAFETY: as this function's.
            unsafe { y.write((index * heads + task.head) * head_width, row) };
        }
    }
}

/// One task, compiled for each kind of vector; `STEP` keys' scores, and then as many columns'
/// sums, are in registers at once.
///
/// # Safety
///
/// The host has the instructions of `L`.
#[inline(always)]
unsafe fn run<L: Lanes, const STEP: usize>(problem: &Problem, task: &Task, scratch: &mut Scratch) {
    let block = 2 * L::COUNT;
    assert_eq!(block, scratch.block);
    let (width, keys_in_tile) = (scratch.width, scratch.keys_in_tile);
    let head_width = problem.head_width;
    let Parts { query, sums, scores, tile, row } = scratch.parts();
    let count = (BLOCKS * block).min(problem.queries - task.first);
    let blocks = count.div_ceil(block);
    let column = task.head * head_width;

    query.fill(0.0);
    sums.fill(0.0);
    for lane in 0..count {
        let row = &mut row[..head_width];
        problem.q.read(task.sample * problem.queries + task.first + lane, column, row);
        let query = &mut query[lane / block * width * block..][..width * block];
        for (value, lanes) in row.iter().zip(query.chunks_exact_mut(block)) {
            lanes[lane % block] = value * problem.scale;
        }
    }

    let first_position = problem.first_query + task.first;
    let seen = if problem.causal { problem.keys.min(first_position + count) } else { problem.keys };
    let context = (problem.first_sample + task.sample) * problem.keys;
    // SAFETY: as this function's; the slices are as long as their names in `Parts` say.
    unsafe {
        let mut most = [[L::splat(HIDDEN); 2]; BLOCKS];
        let mut total = [[L::splat(0.0); 2]; BLOCKS];
        let mut fade = [[L::splat(0.0); 2]; BLOCKS];
        for start in (0..seen).step_by(keys_in_tile) {
            let keys = keys_in_tile.min(seen - start);
            load_tile(&problem.k, context + start, column, keys, head_width, tile, width);
            for index in 0..blocks {
                let scores = &mut scores[index * keys_in_tile * block..][..keys_in_tile * block];
                let query = &query[index * width * block..][..head_width * block];
                for key in (0..keys).step_by(STEP) {
                    score::<L, STEP>(
                        query,
                        &tile[key * width..],
                        width,
                        &mut scores[key * block..],
                    );
                }
                let scores = &mut scores[..keys * block];
                if problem.causal {
                    let position = first_position + index * block;
                    for (key, scores) in scores.chunks_exact_mut(block).enumerate() {
                        let hidden = (start + key).saturating_sub(position).min(block);
                        scores[..hidden].fill(HIDDEN);
                    }
                }
                fade[index] = weigh(scores, &mut most[index], &mut total[index]);
            }
            load_tile(&problem.v, context + start, column, keys, head_width, tile, width);
            for (index, fade) in fade.iter().enumerate().take(blocks) {
                let scores = &scores[index * keys_in_tile * block..][..keys * block];
                let sums = &mut sums[index * width * block..][..width * block];
                for c in (0..head_width).step_by(STEP) {
                    spend::<L, STEP>(scores, &tile[c..], width, &mut sums[c * block..], *fade);
                }
            }
        }
        for (sums, total) in sums.chunks_exact_mut(width * block).zip(total).take(blocks) {
            let mut parts = [[0.0; 16]; 2];
            total[0].store(parts[0].as_mut_ptr());
            total[1].store(parts[1].as_mut_ptr());
            parts.as_flattened_mut().iter_mut().for_each(|part| *part = 1.0 / *part);
            let part = [L::load(parts[0].as_ptr()), L::load(parts[1].as_ptr())];
            for sums in sums.chunks_exact_mut(block) {
                let (left, right) = sums.split_at_mut(L::COUNT);
                L::load(left.as_ptr()).multiply(part[0]).store(left.as_mut_ptr());
                L::load(right.as_ptr()).multiply(part[1]).store(right.as_mut_ptr());
            }
        }
    }
}

/// Rows of a head from `first` on, `width` apart, as floats; those behind them stay as they are.
#[inline(always)]
fn load_tile(
    part: &Part,
    first: usize,
    column: usize,
    rows: usize,
    head_width: usize,
    tile: &mut [f32],
    width: usize,
) {
    for (row, target) in tile.chunks_exact_mut(width).take(rows).enumerate() {
        part.read(first + row, column, &mut target[..head_width]);
    }
}

/// Scores of `STEP` keys, whose rows of the tile are `width` apart.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn score<L: Lanes, const STEP: usize>(
    query: &[f32],
    tile: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    let block = 2 * L::COUNT;
    let columns = query.len() / block;
    assert!(tile.len() >= (STEP - 1) * width + columns && scores.len() >= STEP * block);
    // SAFETY: the lengths have just been seen to hold every offset below.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; STEP];
        let (query, tile) = (query.as_ptr(), tile.as_ptr());
        for column in 0..columns {
            let left = L::load(query.add(column * block));
            let right = L::load(query.add(column * block + L::COUNT));
            for (key, sums) in sums.iter_mut().enumerate() {
                let value = L::splat(*tile.add(key * width + column));
                sums[0] = value.multiply_add(left, sums[0]);
                sums[1] = value.multiply_add(right, sums[1]);
            }
        }
        for (key, [left, right]) in sums.into_iter().enumerate() {
            left.store(scores.as_mut_ptr().add(key * block));
            right.store(scores.as_mut_ptr().add(key * block + L::COUNT));
        }
    }
}

/// Makes weights of a tile's scores, and tells what earlier sums shrink by.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn weigh<L: Lanes>(scores: &mut [f32], most: &mut [L; 2], total: &mut [L; 2]) -> [L; 2] {
    let block = 2 * L::COUNT;
    // SAFETY: as this function's; every chunk is two vectors long.
    unsafe {
        let mut largest = *most;
        for scores in scores.chunks_exact(block) {
            largest[0] = largest[0].max(L::load(scores.as_ptr()));
            largest[1] = largest[1].max(L::load(scores.as_ptr().add(L::COUNT)));
        }
        // No closures: they would not be compiled for these instructions.
        let fade = [
            exp_of_negative(most[0].subtract(largest[0])),
            exp_of_negative(most[1].subtract(largest[1])),
        ];
        *most = largest;
        let mut sums = [total[0].multiply(fade[0]), total[1].multiply(fade[1])];
        for scores in scores.chunks_exact_mut(block) {
            let left = scores.as_mut_ptr();
            let right = left.add(L::COUNT);
            let weight = exp_of_negative(L::load(left).subtract(largest[0]));
            weight.store(left);
            sums[0] = sums[0].add(weight);
            let weight = exp_of_negative(L::load(right).subtract(largest[1]));
            weight.store(right);
            sums[1] = sums[1].add(weight);
        }
        *total = sums;
        fade
    }
}

/// Adds weights x values of `STEP` columns of a tile, whose rows are `width` apart, to their sums,
/// which shrink first.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn spend<L: Lanes, const STEP: usize>(
    weights: &[f32],
    tile: &[f32],
    width: usize,
    sums: &mut [f32],
    fade: [L; 2],
) {
    let block = 2 * L::COUNT;
    let keys = weights.len() / block;
    assert!(tile.len() >= (keys - 1) * width + STEP && sums.len() >= STEP * block);
    // SAFETY: the lengths have just been seen to hold every offset below.
    unsafe {
        let at = sums.as_mut_ptr();
        let mut sums = [[L::splat(0.0); 2]; STEP];
        for (column, sums) in sums.iter_mut().enumerate() {
            sums[0] = L::load(at.add(column * block)).multiply(fade[0]);
            sums[1] = L::load(at.add(column * block + L::COUNT)).multiply(fade[1]);
        }
        let (weights, tile) = (weights.as_ptr(), tile.as_ptr());
        for key in 0..keys {
            let left = L::load(weights.add(key * block));
            let right = L::load(weights.add(key * block + L::COUNT));
            for (column, sums) in sums.iter_mut().enumerate() {
                let value = L::splat(*tile.add(key * width + column));
                sums[0] = value.multiply_add(left, sums[0]);
                sums[1] = value.multiply_add(right, sums[1]);
            }
        }
        for (column, [left, right]) in sums.into_iter().enumerate() {
            left.store(at.add(column * block));
            right.store(at.add(column * block + L::COUNT));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Problem, Scratch, Task, run};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    pub fn run_avx512(problem: &Problem, task: &Task, scratch: &mut Scratch) {
        // SAFETY: this function's features are those of the type.
        unsafe { run::<__m512, 8>(problem, task, scratch) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn run_avx2(problem: &Problem, task: &Task, scratch: &mut Scratch) {
        // SAFETY: this function's features are those of the type.
        unsafe { run::<__m256, 4>(problem, task, scratch) }
    }
}

/// A result that many threads write parts of.
struct Output {
    start: Start,
    length: usize,
}

enum Start {
    F32(*mut f32),
    F16(*mut half::f16),
}

// SAFETY: elements are written through `Output::write` alone, whose callers see to it that no two
// write the same.
unsafe impl Sync for Output {}

impl Output {
    fn new(y: RealsMut) -> Self {
        match y {
            RealsMut::F32(y) => Self { length: y.len(), start: Start::F32(y.as_mut_ptr()) },
            RealsMut::F16(y) => Self { length: y.len(), start: Start::F16(y.as_mut_ptr()) },
        }
    }

    /// Stores `values` from element `at` on.
    ///
    /// # Safety
    ///
    /// No other thread writes these elements.
    unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.length);
        match self.start {
            Start::F32(start) => {
                // SAFETY: the elements lie inside the result, and no one else writes them.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), values.len()) };
                target.copy_from_slice(values);
            }
            Start::F16(start) => {
                // SAFETY: as above.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), values.len()) };
                narrow(values, target);
            }
        }
    }
}
