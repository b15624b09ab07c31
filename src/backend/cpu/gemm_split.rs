//! See `kernels/gemm_split.cl`.

use rayon::prelude::*;

use super::{Arguments, PANEL};

pub fn definition(arguments: &Arguments) {
    let (rows, outputs) = (arguments.size("rows"), arguments.size("outputs"));
    let (inputs, columns) = (arguments.size("inputs"), arguments.size("columns"));
    let (slices, slice_terms) = (arguments.size("slices"), arguments.size("slice_terms"));
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let weights = arguments.weights("weights");
    // Of x ++ x2.
    let input = |row: usize, k: usize| match x2 {
        Some(x2) if k >= columns => x2.get(row * (inputs - columns) + k - columns),
        _ => x.get(row * columns + k),
    };
    let weight = |output: usize, k: usize| {
        weights.get((output / PANEL * inputs + k) * PANEL + output % PANEL)
    };
    let sums = &mut arguments.floats_out("sums")[..slices * rows * outputs];
    sums.par_iter_mut().enumerate().for_each(|(index, sum)| {
        let (slice, row) = (index / outputs / rows, index / outputs % rows);
        let first = inputs.min(slice * slice_terms);
        let terms = first..inputs.min(first + slice_terms);
        let term = |k| f64::from(input(row, k)) * f64::from(weight(index % outputs, k));
        *sum = terms.map(term).sum::<f64>() as f32;
    });
}
