//! See `kernels/peak_local.cl`.

use rayon::prelude::*;

use super::Arguments;
use super::vector_math::vectorised;

/// As in the kernel: floats of a tile, and reads of a turn.
const TILE: usize = 4096;
const LOADS: usize = 8;

pub fn definition(arguments: &Arguments) {
    let (x, y) = (arguments.floats("x"), arguments.floats_out("y"));
    let [items, vector] = ["WG_SIZE", "VECTOR"].map(|name| arguments.parameter(name) as usize);
    let vectors = TILE / vector;
    for (index, y) in y[..arguments.size("items")].iter_mut().enumerate() {
        let mut sum = 0.0;
        for k in 0..LOADS * arguments.size("turns") {
            let start = (index % items + k) % vectors * vector;
            sum += x[start..start + vector].iter().copied().map(f64::from).sum::<f64>();
        }
        *y = sum as f32;
    }
}

pub fn fast(arguments: &Arguments) {
    let (x, y) = (arguments.floats("x"), arguments.floats_out("y"));
    let [items, vector] = ["WG_SIZE", "VECTOR"].map(|name| arguments.parameter(name) as usize);
    let (vectors, loads) = (TILE / vector, LOADS * arguments.size("turns"));
    let y = &mut y[..arguments.size("items")];
    y.par_chunks_mut(items).with_max_len(1).for_each(|y| {
        // The group's own copy, as local memory is.
        let tile: Vec<f32> = x[..TILE].to_vec();
        for (item, y) in y.iter_mut().enumerate() {
            let start = item % vectors * vector;
            // Up to the tile's end, whole tiles, and what is left.
            let first = loads.min(vectors - item % vectors);
            let (whole, rest) = ((loads - first) / vectors, (loads - first) % vectors);
            let mut sums = [0.0; 3];
            add(&tile[start..start + first * vector], 1, &mut sums[0]);
            add(&tile, whole, &mut sums[1]);
            add(&tile[..rest * vector], 1, &mut sums[2]);
            *y = sums.iter().sum();
        }
    });
}

vectorised! {
    /// The elements of `values`, so many times over, each time read again.
    fn add<FMA>(values: &[f32], times: usize, sum: &mut f32) {
        let mut sums = [[0.0; 16]; 4];
        for _ in 0..times {
            // The next turn may not reuse what this one has read.
            let values = std::hint::black_box(values);
            let (blocks, rest) = values.as_chunks::<64>();
            for block in blocks {
                for (sums, values) in sums.iter_mut().zip(block.as_chunks::<16>().0) {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            sums.as_flattened_mut().iter_mut().zip(rest).for_each(|(sum, value)| *sum += value);
        }
        *sum = sums.as_flattened().iter().sum();
    }
}
