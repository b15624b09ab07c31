//! The fast path: queries are the lanes of vectors.
//!
//! A task is a few blocks of queries of one head, each of two vectors. It takes the keys in tiles:
//! a tile's keys and values are read once for all blocks; each block's scores of it are made,
//! weighed and spent while they are in a cache, and only the sum and the largest score so far are
//! kept of those before. A row of keys or values is read as single numbers, which multiply both
//! vectors, so that no width of a head leaves lanes empty and no sum ever runs across lanes.

use std::cell::RefCell;
use std::ops::Range;

use super::super::vector_math::{Level, level};
use super::super::{Arguments, RealsMut, parallel};
use super::lanes::{Lanes, exp2_of_negative};
use super::places::{Output, Part, Problem};
use super::tile::{CHUNK, largest, multiply, score, spend, weigh};

/// The most keys in a tile: their scores, of one block, stay in the first cache.
const KEYS: usize = 128;
/// The most keys in a tile of heads wider than [`WIDE`], whose keys and values are to stay in the
/// second cache beside the sums.
const KEYS_OF_WIDE: usize = 64;
/// The widest heads of a UNet.
const WIDE: usize = 160;
/// The most blocks in a task, which share the tiles that it reads.
const BLOCKS: usize = 32;
/// Floats that a task's queries and sums are to take at most, a third of the second cache.
const TASK_FLOATS: usize = 112 << 10;
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
        samples: arguments.size("samples"),
        first_query: arguments.size("first_query"),
        causal: arguments.size("causal") != 0,
        scale: arguments.float("scale"),
    };
    run_on(level(), &problem, arguments.reals_out("y"));
}

/// Computes `y` with the instructions of `level`, which this host has.
fn run_on(level: Level, problem: &Problem, y: RealsMut) {
    let tiling = Tiling::new(problem, level, rayon::current_num_threads());
    let y = Output::new(y);
    let parts = problem.queries.div_ceil(tiling.task_queries);
    // Neighbouring tasks share a head, whose keys and values then stay in a cache.
    let tasks = problem.samples * problem.heads * parts;
    parallel::for_each(tasks, |index| {
        let first = index % parts * tiling.task_queries;
        let task = Task {
            sample: index / (parts * problem.heads),
            head: index / parts % problem.heads,
            queries: first..(first + tiling.task_queries).min(problem.queries),
        };
        SCRATCH.with_borrow_mut(|lines| {
            let scratch = tiling.scratch(lines);
            match level {
                // SAFETY: the host has the features. Tasks differ in their sample, their head or
                // their queries, so no other writes this head's columns of these rows.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { x86::run_avx512(problem, &tiling, &task, scratch, &y) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { x86::run_avx2(problem, &tiling, &task, scratch, &y) },
                // SAFETY: as above.
                _ => unsafe { run::<[f32; 8]>(problem, &tiling, &task, scratch, &y) },
            }
        });
    });
}

struct Task {
    sample: usize,
    head: usize,
    queries: Range<usize>,
}

/// How a problem is cut.
struct Tiling {
    /// Queries of a block: two vectors.
    block: usize,
    /// The most blocks of a task.
    blocks: usize,
    /// The most queries of a task: whole blocks.
    task_queries: usize,
    /// The most keys of a tile.
    keys: usize,
    /// The head's width in whole chunks.
    width: usize,
    /// Floats between a tile's rows of values: an odd number of cache lines, so that the rows do
    /// not contend for one cache set.
    stride: usize,
}

impl Tiling {
    fn new(problem: &Problem, level: Level, threads: usize) -> Self {
        let block = if level == Level::Avx512 { 32 } else { 16 };
        let width = problem.head_width.next_multiple_of(CHUNK);
        let most_keys = if problem.head_width > WIDE { KEYS_OF_WIDE } else { KEYS };
        let tiles = problem.keys.div_ceil(most_keys);
        // As many blocks as a cache holds; fewer where the last tasks would not end together.
        let blocks = problem.queries.div_ceil(block);
        let even = (blocks * problem.samples * problem.heads).div_ceil(4 * threads);
        let cached = TASK_FLOATS / (2 * block * width);
        let blocks = cached.clamp(1, BLOCKS).min(blocks).min(even);
        Self {
            block,
            blocks,
            task_queries: blocks * block,
            keys: problem.keys.div_ceil(tiles),
            width,
            stride: ((width / CHUNK) | 1) * CHUNK,
        }
    }

    fn scratch<'a>(&self, lines: &'a mut Vec<Line>) -> Scratch<'a> {
        let &Self { block, blocks, keys, width, stride, .. } = self;
        let columns = blocks * width * block;
        let floats = 2 * columns + keys * (block + width + stride) + block * width;
        let length = floats.div_ceil(CHUNK);
        if lines.len() < length {
            lines.resize(length, Line([0.0; CHUNK]));
        }
        // SAFETY: a line is 16 floats and nothing else.
        let all: &mut [f32] =
            unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), floats) };
        let (query, all) = all.split_at_mut(columns);
        let (sums, all) = all.split_at_mut(columns);
        let (scores, all) = all.split_at_mut(keys * block);
        let (k, all) = all.split_at_mut(keys * width);
        let (v, rows) = all.split_at_mut(keys * stride);
        Scratch { query, sums, scores, k, v, rows }
    }
}

impl Task {
    /// The queries of a block; none behind the last.
    fn block(&self, tiling: &Tiling, index: usize) -> Range<usize> {
        let end = self.queries.end;
        let first = end.min(self.queries.start + index * tiling.block);
        first..end.min(first + tiling.block)
    }
}

/// The `index`th of the fewest even parts of `count` things that have at most `most` each.
fn part(count: usize, most: usize, index: usize) -> Range<usize> {
    let parts = count.div_ceil(most);
    count * index / parts..count * (index + 1) / parts
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; CHUNK]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = RefCell::default();
}

/// What a thread works in, each part from a cache line on, with whatever values were left there.
struct Scratch<'a> {
    /// `[blocks, width, block]`: queries, times the scale and log2 e.
    query: &'a mut [f32],
    /// `[blocks, width, block]`: weighted sums of values.
    sums: &'a mut [f32],
    /// `[keys, block]`: scores, then weights.
    scores: &'a mut [f32],
    /// Keys in register tiles, one behind the other: `[width / CHUNK, rows, CHUNK]`.
    k: &'a mut [f32],
    /// `[keys, stride]`
    v: &'a mut [f32],
    /// `[block, width]`: rows of queries, or of the result.
    rows: &'a mut [f32],
}

/// One task, compiled for each kind of vector.
///
/// # Safety
///
/// The host has the instructions of `L`, and no other thread writes the task's part of `y`.
#[inline(always)]
unsafe fn run<L: Lanes>(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    mut scratch: Scratch,
    y: &Output,
) {
    let &Tiling { block, width, .. } = tiling;
    assert_eq!(block, 2 * L::COUNT);
    let blocks = task.queries.len().div_ceil(block);
    let last = problem.first_query + task.queries.end;
    let seen = if problem.causal { problem.keys.min(last) } else { problem.keys };
    scratch.sums[..blocks * width * block].fill(0.0);
    // SAFETY: as this function's; the slices are as long as `Scratch` says.
    unsafe {
        let start = Running { most: [L::splat(HIDDEN); 2], total: [L::splat(0.0); 2] };
        let mut running = [start; BLOCKS];
        let mut lines = Vec::new();
        for start in (0..seen).step_by(tiling.keys) {
            let end = seen.min(start + tiling.keys);
            load_tile::<L>(problem, tiling, task, start..end, &mut scratch);
            for (index, running) in running.iter_mut().enumerate().take(blocks) {
                if start == 0 {
                    load_queries::<L>(problem, tiling, task, index, &mut scratch);
                }
                let pair = Pair { index, keys: start..end, first: start == 0, last: end == seen };
                let next = seen.min(end + tiling.keys) - end;
                let next = end + next * index / blocks..end + next * (index + 1) / blocks;
                find_lines(problem, tiling, task, &pair, next, y, &mut lines);
                attend::<L>(problem, tiling, task, &pair, running, &lines, &mut scratch);
                if pair.last {
                    let total = running.total;
                    store::<L>(problem, tiling, task, index, total, &mut scratch, y);
                }
            }
        }
    }
}

/// A block of queries and a tile of keys.
struct Pair {
    /// The block.
    index: usize,
    keys: Range<usize>,
    /// Whether the tile is the first, or the last.
    first: bool,
    last: bool,
}

/// What is kept of a block's scores.
#[derive(Clone, Copy)]
struct Running<L> {
    most: [L; 2],
    /// The sum of the weights.
    total: [L; 2],
}

/// Makes, weighs and spends the scores of a block of queries and a tile of keys.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn attend<L: Lanes>(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    pair: &Pair,
    running: &mut Running<L>,
    lines: &[*const i8],
    scratch: &mut Scratch,
) {
    let Running { most, total } = running;
    let &Tiling { block, width, stride, .. } = tiling;
    let head_width = problem.head_width;
    let position = problem.first_query + task.queries.start + pair.index * block;
    // A block sees the keys up to its last query's position.
    let start = pair.keys.start;
    let behind = if problem.causal { position + block } else { usize::MAX };
    let visible = behind.saturating_sub(start).min(pair.keys.len());
    if visible == 0 {
        return;
    }
    let tiles = pair.keys.len().div_ceil(L::ROWS);
    let mut lines = lines.chunks(lines.len().div_ceil(tiles).max(1));
    // SAFETY: as this function's; the slices are as long as `Scratch` says.
    unsafe {
        let query = scratch.query.as_ptr().add(pair.index * width * block);
        let scores = scratch.scores.as_mut_ptr();
        let mut new = *most;
        for tile in 0..tiles {
            let rows = part(pair.keys.len(), L::ROWS, tile);
            if rows.start < visible {
                let keys = scratch.k.as_ptr().add(rows.start * width);
                let scores = scores.add(rows.start * block);
                let lines = lines.next().unwrap_or_default();
                score::<L>(rows.len(), query, keys, head_width, scores, &mut new, lines);
            }
        }
        if problem.causal && start + visible > position + 1 {
            let lanes = scratch.scores[..visible * block].chunks_exact_mut(block);
            for (key, lanes) in lanes.enumerate() {
                let hidden = (start + key).saturating_sub(position).min(block);
                lanes[..hidden].fill(HIDDEN);
            }
            new = largest(scores, visible, *most);
        }
        let sums = scratch.sums.as_mut_ptr().add(pair.index * width * block);
        if new[0].exceeds(most[0]) || new[1].exceeds(most[1]) {
            let fade = [
                exp2_of_negative(most[0].subtract(new[0])),
                exp2_of_negative(most[1].subtract(new[1])),
            ];
            multiply(sums, head_width, fade);
            *total = [total[0].multiply(fade[0]), total[1].multiply(fade[1])];
            *most = new;
        }
        weigh(scores, visible, new, total);
        for tile in 0..head_width.div_ceil(L::ROWS) {
            let columns = part(head_width, L::ROWS, tile);
            let values = scratch.v.as_ptr().add(columns.start);
            let sums = sums.add(columns.start * block);
            spend::<L>(columns.len(), scores, visible, values, stride, sums);
        }
    }
}

/// Makes columns of a block's queries; lanes behind the last one are zero.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn load_queries<L: Lanes>(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    index: usize,
    scratch: &mut Scratch,
) {
    let &Tiling { block, width, .. } = tiling;
    let factor = problem.scale * std::f32::consts::LOG2_E;
    let (head_width, column) = (problem.head_width, task.head * problem.head_width);
    let queries = task.block(tiling, index);
    let first = task.sample * problem.queries + queries.start;
    scratch.rows[queries.len() * width..].fill(0.0);
    let rows = scratch.rows.chunks_exact_mut(width).take(queries.len());
    for (lane, row) in rows.enumerate() {
        row[head_width..].fill(0.0);
        problem.q.read(first + lane, column, &mut row[..head_width]);
        scale(row, factor);
    }
    let columns = &mut scratch.query[index * width * block..][..width * block];
    for lane in (0..block).step_by(L::COUNT) {
        for column in (0..width).step_by(L::COUNT) {
            let from = scratch.rows[lane * width + column..].as_ptr();
            let to = columns[column * block + lane..].as_mut_ptr();
            // SAFETY: both hold whole vectors of rows and of columns.
            unsafe { L::transpose(from, width, to, block) };
        }
    }
}

/// Multiplies a row of whole chunks.
#[inline(always)]
fn scale(row: &mut [f32], factor: f32) {
    for chunk in row.as_chunks_mut::<CHUNK>().0 {
        for value in chunk {
            *value *= factor;
        }
    }
}

/// Reads a tile's keys and values.
#[inline(always)]
fn load_tile<L: Lanes>(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    keys: Range<usize>,
    scratch: &mut Scratch,
) {
    let &Tiling { width, stride, .. } = tiling;
    let head_width = problem.head_width;
    let first = (problem.first_sample + task.sample) * problem.keys + keys.start;
    let column = task.head * head_width;
    let row = &mut scratch.rows[..width];
    row[head_width..].fill(0.0);
    for tile in 0..keys.len().div_ceil(L::ROWS) {
        let rows = part(keys.len(), L::ROWS, tile);
        let target = &mut scratch.k[rows.start * width..rows.end * width];
        for (index, key) in rows.clone().enumerate() {
            problem.k.read(first + key, column, &mut row[..head_width]);
            let chunks = target.chunks_exact_mut(rows.len() * CHUNK);
            for (target, chunk) in chunks.zip(row.chunks_exact(CHUNK)) {
                target[index * CHUNK..][..CHUNK].copy_from_slice(chunk);
            }
        }
    }
    for (key, row) in scratch.v.chunks_exact_mut(stride).enumerate().take(keys.len()) {
        problem.v.read(first + key, column, &mut row[..head_width]);
    }
}

/// Finds the cache lines that are wanted soon, which lie apart where a row holds several heads, so
/// that no cache foresees them: of some keys and values, of the next block's queries while there are
/// blocks to load, and of the block's result when it is about to be stored.
#[inline(always)]
fn find_lines(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    pair: &Pair,
    next: Range<usize>,
    y: &Output,
    lines: &mut Vec<*const i8>,
) {
    let &Problem { queries, keys, heads, head_width, ref q, ref k, ref v, .. } = problem;
    let column = task.head * head_width;
    lines.clear();
    for key in next {
        let row = (problem.first_sample + task.sample) * keys + key;
        k.lines(row, column, head_width, lines);
        v.lines(row, column, head_width, lines);
    }
    if pair.first {
        for query in task.block(tiling, pair.index + 1) {
            q.lines(task.sample * queries + query, column, head_width, lines);
        }
    }
    if pair.last {
        for query in task.block(tiling, pair.index) {
            let row = task.sample * queries + query;
            y.lines((row * heads + task.head) * head_width, head_width, lines);
        }
    }
}

/// Stores a block's sums, each divided by the sum of its weights.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn store<L: Lanes>(
    problem: &Problem,
    tiling: &Tiling,
    task: &Task,
    index: usize,
    total: [L; 2],
    scratch: &mut Scratch,
    y: &Output,
) {
    let &Tiling { block, width, .. } = tiling;
    let &Problem { queries, heads, head_width, .. } = problem;
    let of_block = task.block(tiling, index);
    let mut parts = [0.0; 32];
    // SAFETY: as `run`'s; the slices are as long as `Scratch` says.
    unsafe {
        total[0].store(parts.as_mut_ptr());
        total[1].store(parts.as_mut_ptr().add(L::COUNT));
        let sums = &scratch.sums[index * width * block..][..width * block];
        for lane in (0..block).step_by(L::COUNT) {
            for column in (0..width).step_by(L::COUNT) {
                let from = sums[column * block + lane..].as_ptr();
                let to = scratch.rows[lane * width + column..].as_mut_ptr();
                L::transpose(from, block, to, width);
            }
        }
        let first = task.sample * queries + of_block.start;
        let rows = scratch.rows.chunks_exact_mut(width).zip(parts);
        for (lane, (row, total)) in rows.enumerate().take(of_block.len()) {
            scale(row, 1.0 / total);
            y.write(((first + lane) * heads + task.head) * head_width, &row[..head_width]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Output, Problem, Scratch, Task, Tiling, run};

    /// As [`run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    pub unsafe fn run_avx512(
        problem: &Problem,
        tiling: &Tiling,
        task: &Task,
        scratch: Scratch,
        y: &Output,
    ) {
        // SAFETY: this function's features are those of the type; the rest is the caller's.
        unsafe { run::<__m512>(problem, tiling, task, scratch, y) }
    }

    /// As [`run`].
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn run_avx2(
        problem: &Problem,
        tiling: &Tiling,
        task: &Task,
        scratch: Scratch,
        y: &Output,
    ) {
        // SAFETY: this function's features are those of the type; the rest is the caller's.
        unsafe { run::<__m256>(problem, tiling, task, scratch, y) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Reals;
    use super::super::super::product::has;
    use super::*;

    /// How attention is defined, of one head.
    fn define(problem: &Problem, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
        let width = problem.head_width;
        let mut y = Vec::new();
        for (row, query) in q.chunks(width).enumerate() {
            let seen = if problem.causal { problem.keys.min(row + 1) } else { problem.keys };
            let score = |key: &[f32]| -> f64 {
                let products = query.iter().zip(key).map(|(q, k)| f64::from(q * k));
                products.sum::<f64>() * f64::from(problem.scale)
            };
            let weights: Vec<f64> =
                k.chunks(width).take(seen).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            y.extend((0..width).map(|c| {
                let values = v.chunks(width).map(|value| f64::from(value[c]));
                let sum: f64 = weights.iter().zip(values).map(|(weight, v)| weight * v).sum();
                (sum / total) as f32
            }));
        }
        y
    }

    #[test]
    fn every_level_agrees_with_the_definition() {
        // Queries, keys, width, causal: one; parts of vectors, of register tiles and of tiles;
        // whole ones; several tasks; a wide head.
        let cases = [
            (1, 1, 1, false),
            (33, 77, 40, false),
            (64, 128, 16, false),
            (70, 300, 17, true),
            (300, 129, 80, false),
            (35, 66, 512, false),
        ];
        let levels = [Level::Avx512, Level::Avx2, Level::Portable];
        for level in levels.into_iter().filter(|level| has(*level)) {
            for (queries, keys, width, causal) in cases {
                let values = |seed: usize, rows: usize| -> Vec<f32> {
                    let value = |i: usize| ((i * 7919 + seed) % 2003) as f32 / 1001.0 - 1.0;
                    (0..rows * width).map(value).collect()
                };
                let (q, k, v) = (values(1, queries), values(2, keys), values(3, keys));
                let part = |values| Part { values: Reals::F32(values), stride: width, start: 0 };
                let problem = Problem {
                    q: part(&q),
                    k: part(&k),
                    v: part(&v),
                    queries,
                    keys,
                    heads: 1,
                    head_width: width,
                    first_sample: 0,
                    samples: 1,
                    first_query: 0,
                    causal,
                    scale: (width as f32).powf(-0.5),
                };
                let expected = define(&problem, [&q, &k, &v]);
                let mut y = vec![f32::NAN; queries * width];
                run_on(level, &problem, RealsMut::F32(&mut y));
                // As `tests/ops/attention.rs` derives it, for scores up to sqrt(width).
                let root = (width as f32).sqrt();
                let weight = 2.0 * (root + 8.0) * root + (keys as f32).sqrt() + 8.0;
                for (index, (y, expected)) in y.iter().zip(&expected).enumerate() {
                    let near = (y - expected).abs() <= weight * f32::EPSILON;
                    assert!(near, "{level:?} {queries}x{keys}x{width} at {index}: {y}, {expected}");
                }
            }
        }
    }
}
