//! Winograd's transforms: what winograd_weights, winograd_input and winograd_output have in common.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, 2015.
//! The definitions multiply by the matrices; the fast paths spell the products out, as
//! `kernels/prelude/winograd.h` does.

use std::marker::PhantomData;

use super::attention::lanes::Lanes;
use super::parallel;
use super::vector_math::{Level, level};

/// The matrices for tiles of one size.
pub struct Matrices {
    /// B^T, of the window.
    pub window: &'static [&'static [f64]],
    /// G, of the weights.
    pub weights: &'static [&'static [f64]],
    /// A^T, of the products.
    pub products: &'static [&'static [f64]],
}

/// The matrices for tiles of so many outputs each way.
pub fn matrices(tile: usize) -> &'static Matrices {
    match tile {
        2 => &F2,
        4 => &F4,
        other => panic!("there are no tiles of {other}"),
    }
}

const F2: Matrices = Matrices {
    window: &[
        &[1.0, 0.0, -1.0, 0.0],
        &[0.0, 1.0, 1.0, 0.0],
        &[0.0, -1.0, 1.0, 0.0],
        &[0.0, 1.0, 0.0, -1.0],
    ],
    weights: &[&[1.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0.0, 0.0, 1.0]],
    products: &[&[1.0, 1.0, 1.0, 0.0], &[0.0, 1.0, -1.0, -1.0]],
};

const F4: Matrices = Matrices {
    window: &[
        &[4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        &[0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        &[0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        &[0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        &[0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        &[0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ],
    weights: &[
        &[1.0 / 4.0, 0.0, 0.0],
        &[-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        &[-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        &[1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        &[1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        &[0.0, 0.0, 1.0],
    ],
    products: &[
        &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        &[0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        &[0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        &[0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ],
};

/// M x M^T of a square x, row by row.
pub fn both_ways(matrix: &[&[f64]], x: &[f64]) -> Vec<f64> {
    let size = matrix[0].len();
    let element = |left: &[f64], right: &[f64]| -> f64 {
        (0..size * size).map(|at| left[at / size] * x[at] * right[at % size]).sum()
    };
    matrix.iter().flat_map(|left| matrix.iter().map(move |right| element(left, right))).collect()
}

/// The larger window, which arrays of the fast paths are made for.
pub const MOST: usize = 6;

/// A vector for each place of a row or column of the window.
pub type Line<L> = [L; MOST];

/// B^T x
///
/// # Safety
///
/// As [`Lanes`], here and below.
#[inline(always)]
pub unsafe fn transform_window<L: Lanes, const TILE: usize>(x: Line<L>) -> Line<L> {
    // SAFETY: as this function's.
    unsafe {
        let zero = L::splat(0.0);
        if TILE == 2 {
            let [x0, x1, x2, x3, ..] = x;
            return [x0.subtract(x2), x1.add(x2), x2.subtract(x1), x1.subtract(x3), zero, zero];
        }
        let [x0, x1, x2, x3, x4, x5] = x;
        let (two, four) = (L::splat(2.0), L::splat(4.0));
        let (minus_four, minus_five) = (L::splat(-4.0), L::splat(-5.0));
        let even1 = x2.multiply_add(minus_four, x4);
        let odd1 = x1.multiply_add(minus_four, x3);
        let even2 = x4.subtract(x2);
        let odd2 = x3.subtract(x1).multiply(two);
        [
            x0.multiply_add(four, x2.multiply_add(minus_five, x4)),
            even1.add(odd1),
            even1.subtract(odd1),
            even2.add(odd2),
            even2.subtract(odd2),
            x1.multiply_add(four, x3.multiply_add(minus_five, x5)),
        ]
    }
}

/// G w
#[inline(always)]
pub unsafe fn transform_weights<L: Lanes, const TILE: usize>(w: [L; 3]) -> Line<L> {
    // SAFETY: as this function's.
    unsafe {
        let [w0, w1, w2] = w;
        let ends = w0.add(w2);
        if TILE == 2 {
            let (zero, half) = (L::splat(0.0), L::splat(0.5));
            let (sum, difference) = (ends.add(w1), ends.subtract(w1));
            return [w0, sum.multiply(half), difference.multiply(half), w2, zero, zero];
        }
        let sixth = L::splat(-1.0 / 6.0);
        let far = w0.multiply_add(L::splat(1.0 / 24.0), w2.multiply(L::splat(1.0 / 6.0)));
        let middle = w1.multiply(L::splat(1.0 / 12.0));
        [
            w0.multiply(L::splat(0.25)),
            ends.add(w1).multiply(sixth),
            ends.subtract(w1).multiply(sixth),
            far.add(middle),
            far.subtract(middle),
            w2,
        ]
    }
}

/// A^T m, the first `TILE` of it.
#[inline(always)]
pub unsafe fn transform_products<L: Lanes, const TILE: usize>(m: Line<L>) -> Line<L> {
    // SAFETY: as this function's.
    unsafe {
        let zero = L::splat(0.0);
        let [m0, m1, m2, m3, m4, m5] = m;
        let (even1, odd1) = (m1.add(m2), m1.subtract(m2));
        if TILE == 2 {
            return [m0.add(even1), odd1.subtract(m3), zero, zero, zero, zero];
        }
        let (even2, odd2) = (m3.add(m4), m3.subtract(m4));
        [
            m0.add(even1).add(even2),
            odd2.multiply_add(L::splat(2.0), odd1),
            even2.multiply_add(L::splat(4.0), even1),
            odd2.multiply_add(L::splat(8.0), odd1.add(m5)),
            zero,
            zero,
        ]
    }
}

/// What is done for each tile, or for each few weights, in the widest vectors of this host.
pub trait Task: Sync {
    /// Does the part of that number.
    ///
    /// # Safety
    ///
    /// The host has the instructions of `L`, and no other thread does the same part.
    unsafe fn run<L: Lanes>(&self, index: usize, scratch: &mut Vec<f32>);
}

/// Does every part of a task, in parallel.
pub fn run(task: &impl Task, parts: usize) {
    run_on(level(), task, parts);
}

fn run_on(level: Level, task: &impl Task, parts: usize) {
    parallel::for_each_init(parts, Vec::new, |scratch, index| match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the host has the features, and each index comes once.
        Level::Avx512 => unsafe { x86::run_avx512(task, index, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::run_avx2(task, index, scratch) },
        // SAFETY: plain Rust needs no features; each index comes once.
        _ => unsafe { task.run::<[f32; 8]>(index, scratch) },
    });
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::Task;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    pub unsafe fn run_avx512(task: &impl Task, index: usize, scratch: &mut Vec<f32>) {
        // SAFETY: the caller vouches for the instructions and for the index.
        unsafe { task.run::<__m512>(index, scratch) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn run_avx2(task: &impl Task, index: usize, scratch: &mut Vec<f32>) {
        // SAFETY: the caller vouches for the instructions and for the index.
        unsafe { task.run::<__m256>(index, scratch) }
    }
}

/// The first `count` floats of `scratch`, with whatever values they have.
pub fn floats(scratch: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if scratch.len() < count {
        scratch.resize(count, 0.0);
    }
    &mut scratch[..count]
}

/// A result that several threads write different elements of.
pub struct Target<'a, T> {
    start: *mut T,
    length: usize,
    result: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are reached through `Target::part` alone, whose callers see to it that no two
// threads have the same.
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T> Target<'a, T> {
    /// All of `values`.
    pub fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), length: values.len(), result: PhantomData }
    }

    /// `count` elements from `at` on.
    ///
    /// # Safety
    ///
    /// Nobody else has any of them as long as the result is used.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, at: usize, count: usize) -> &mut [T] {
        assert!(at <= self.length && count <= self.length - at, "a part lies inside its result");
        // SAFETY: the elements lie inside the slice of `new`, and the caller is alone with them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_convolve() {
        for tile in [2usize, 4] {
            let Matrices { window, weights, products } = matrices(tile);
            let size = tile + 2;
            let x: Vec<f64> = (0..size * size).map(|i| (i * 7 % 11) as f64 - 5.0).collect();
            let w: Vec<f64> = (0..9).map(|i| (i * 5 % 13) as f64 - 6.0).collect();
            let (x_there, w_there) = (both_ways(window, &x), both_ways(weights, &w));
            let m: Vec<f64> = x_there.iter().zip(&w_there).map(|(x, w)| x * w).collect();
            let y = both_ways(products, &m);
            for (at, y) in y.iter().enumerate() {
                let (row, column) = (at / tile, at % tile);
                let tap = |k: usize| x[(row + k / 3) * size + column + k % 3] * w[k];
                let expected: f64 = (0..9).map(tap).sum();
                assert!((y - expected).abs() < 1e-9, "output {at} of a tile of {tile}: {y}");
            }
        }
    }

    #[test]
    fn the_fast_transforms_are_products_with_the_matrices() {
        fn check<const TILE: usize>() {
            let x: Line<[f32; 1]> = [[3.0], [-1.0], [4.0], [1.5], [-5.0], [9.0]];
            let matrices = matrices(TILE);
            // SAFETY: plain Rust needs no features.
            let found = unsafe {
                [
                    (transform_window::<_, TILE>(x), matrices.window),
                    (transform_weights::<_, TILE>([x[0], x[1], x[2]]), matrices.weights),
                    (transform_products::<_, TILE>(x), matrices.products),
                ]
            };
            for (found, matrix) in found {
                for (row, [found]) in matrix.iter().zip(found) {
                    let expected: f64 = row.iter().zip(x).map(|(a, [x])| a * f64::from(x)).sum();
                    let difference = (f64::from(found) - expected).abs();
                    assert!(difference < 1e-5, "{found}, not {expected}, of a tile of {TILE}");
                }
            }
        }
        check::<2>();
        check::<4>();
    }
}
