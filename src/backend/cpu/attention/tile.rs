//! Register tiles: some keys' scores of two vectors of queries, and some columns' sums of weighted
//! values. Both read their smaller side as single numbers, which multiply two vectors each.

use super::lanes::{Lanes, exp2_of_negative};

/// Columns of a key that lie side by side in a tile of keys.
pub const CHUNK: usize = 16;

/// Calls a function with the number of rows, at most [`Lanes::ROWS`], as a constant.
macro_rules! with_rows {
    ($rows:expr, $function:ident::<$lanes:ident>($($argument:expr),* $(,)?)) => {
        match $rows {
            1 => $function::<$lanes, 1>($($argument),*),
            2 => $function::<$lanes, 2>($($argument),*),
            3 => $function::<$lanes, 3>($($argument),*),
            4 => $function::<$lanes, 4>($($argument),*),
            5 => $function::<$lanes, 5>($($argument),*),
            6 => $function::<$lanes, 6>($($argument),*),
            7 => $function::<$lanes, 7>($($argument),*),
            8 => $function::<$lanes, 8>($($argument),*),
            9 => $function::<$lanes, 9>($($argument),*),
            10 => $function::<$lanes, 10>($($argument),*),
            11 => $function::<$lanes, 11>($($argument),*),
            12 => $function::<$lanes, 12>($($argument),*),
            13 => $function::<$lanes, 13>($($argument),*),
            14 => $function::<$lanes, 14>($($argument),*),
            rows => unreachable!("{rows} rows of a tile"),
        }
    };
}

/// Makes the scores of `rows` keys, and takes them into the largest so far. On the way a cache is
/// told to fetch the lines `ahead`, a few a chunk, so that they come while there is work to do.
///
/// # Safety
///
/// The host has the instructions of `L`; `query` is `[columns][2][L]`, `keys` is
/// `[ceil(columns / CHUNK)][rows][CHUNK]`, `scores` is `[rows][2][L]`.
#[inline(always)]
pub unsafe fn score<L: Lanes>(
    rows: usize,
    query: *const f32,
    keys: *const f32,
    columns: usize,
    scores: *mut f32,
    most: &mut [L; 2],
    ahead: &[*const i8],
) {
    // SAFETY: as this function's.
    unsafe { with_rows!(rows, score_rows::<L>(query, keys, columns, scores, most, ahead)) }
}

/// [`score`] of so many rows.
///
/// # Safety
///
/// As [`score`].
#[inline(always)]
unsafe fn score_rows<L: Lanes, const ROWS: usize>(
    mut query: *const f32,
    mut keys: *const f32,
    columns: usize,
    scores: *mut f32,
    most: &mut [L; 2],
    mut ahead: &[*const i8],
) {
    assert!(ROWS <= L::ROWS);
    // SAFETY: as this function's; every offset is one of those that the caller vouches for.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; ROWS];
        let share = ahead.len().div_ceil(columns.div_ceil(CHUNK));
        for first in (0..columns).step_by(CHUNK) {
            let (now, later) = ahead.split_at(share.min(ahead.len()));
            for &line in now {
                fetch(line);
            }
            ahead = later;
            for column in 0..CHUNK.min(columns - first) {
                let left = L::load(query);
                let right = L::load(query.add(L::COUNT));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let key = L::splat(*keys.add(row * CHUNK + column));
                    sums[0] = key.multiply_add(left, sums[0]);
                    sums[1] = key.multiply_add(right, sums[1]);
                }
                query = query.add(2 * L::COUNT);
            }
            keys = keys.wrapping_add(ROWS * CHUNK);
        }
        for (row, [left, right]) in sums.into_iter().enumerate() {
            most[0] = most[0].max(left);
            most[1] = most[1].max(right);
            left.store(scores.add(2 * row * L::COUNT));
            right.store(scores.add((2 * row + 1) * L::COUNT));
        }
    }
}

/// Has the second cache fetch a line, where the host has an instruction for that.
#[inline(always)]
fn fetch(line: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, which takes any address and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Adds weights x values of `rows` columns of some keys to their sums.
///
/// # Safety
///
/// The host has the instructions of `L`; `weights` is `[keys][2][L]`, `values` is `keys` rows of
/// `rows` floats, `stride` apart, and `sums` is `[rows][2][L]`.
#[inline(always)]
pub unsafe fn spend<L: Lanes>(
    rows: usize,
    weights: *const f32,
    keys: usize,
    values: *const f32,
    stride: usize,
    sums: *mut f32,
) {
    // SAFETY: as this function's.
    unsafe { with_rows!(rows, spend_rows::<L>(weights, keys, values, stride, sums)) }
}

/// [`spend`] of so many rows.
///
/// # Safety
///
/// As [`spend`].
#[inline(always)]
unsafe fn spend_rows<L: Lanes, const ROWS: usize>(
    mut weights: *const f32,
    keys: usize,
    mut values: *const f32,
    stride: usize,
    target: *mut f32,
) {
    assert!(ROWS <= L::ROWS);
    // SAFETY: as this function's; every offset is one of those that the caller vouches for.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums[0] = L::load(target.add(2 * row * L::COUNT));
            sums[1] = L::load(target.add((2 * row + 1) * L::COUNT));
        }
        for _ in 0..keys {
            let left = L::load(weights);
            let right = L::load(weights.add(L::COUNT));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = L::splat(*values.add(row));
                sums[0] = value.multiply_add(left, sums[0]);
                sums[1] = value.multiply_add(right, sums[1]);
            }
            weights = weights.add(2 * L::COUNT);
            values = values.wrapping_add(stride);
        }
        for (row, [left, right]) in sums.into_iter().enumerate() {
            left.store(target.add(2 * row * L::COUNT));
            right.store(target.add((2 * row + 1) * L::COUNT));
        }
    }
}

/// Makes weights of scores, 2^(score - most), and adds them to their sums.
///
/// # Safety
///
/// The host has the instructions of `L`; `scores` is `[keys][2][L]`.
#[inline(always)]
pub unsafe fn weigh<L: Lanes>(scores: *mut f32, keys: usize, most: [L; 2], total: &mut [L; 2]) {
    // SAFETY: as this function's.
    unsafe {
        let mut sums = *total;
        for key in 0..keys {
            let left = scores.add(2 * key * L::COUNT);
            let right = left.add(L::COUNT);
            let left_weight = exp2_of_negative(L::load(left).subtract(most[0]));
            let right_weight = exp2_of_negative(L::load(right).subtract(most[1]));
            left_weight.store(left);
            right_weight.store(right);
            sums[0] = sums[0].add(left_weight);
            sums[1] = sums[1].add(right_weight);
        }
        *total = sums;
    }
}

/// The largest of some scores and of `most`.
///
/// # Safety
///
/// As [`weigh`].
#[inline(always)]
pub unsafe fn largest<L: Lanes>(scores: *const f32, keys: usize, most: [L; 2]) -> [L; 2] {
    // SAFETY: as this function's.
    unsafe {
        let [mut left, mut right] = most;
        for key in 0..keys {
            left = left.max(L::load(scores.add(2 * key * L::COUNT)));
            right = right.max(L::load(scores.add((2 * key + 1) * L::COUNT)));
        }
        [left, right]
    }
}

/// Multiplies every row of two vectors by `factor`.
///
/// # Safety
///
/// The host has the instructions of `L`; `values` is `[rows][2][L]`.
#[inline(always)]
pub unsafe fn multiply<L: Lanes>(values: *mut f32, rows: usize, factor: [L; 2]) {
    // SAFETY: as this function's.
    unsafe {
        for row in 0..rows {
            let left = values.add(2 * row * L::COUNT);
            let right = left.add(L::COUNT);
            L::load(left).multiply(factor[0]).store(left);
            L::load(right).multiply(factor[1]).store(right);
        }
    }
}
