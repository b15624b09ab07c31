//! See `kernels/gemm_register.cl`, `kernels/gemm_local.cl`, `kernels/gemm_matrix.cl` and
//! `kernels/gemv.cl`.

use rayon::prelude::*;

use super::product::{self, Epilogue, Product, Rows};
use super::{Arguments, PANEL, Reals, activation, rows};

pub fn definition(arguments: &Arguments) {
    let (rows, outputs) = (arguments.size("rows"), arguments.size("outputs"));
    let batch = arguments.size("batch");
    let (inputs, columns) = (arguments.size("inputs"), arguments.size("columns"));
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let (weights, residual) = (arguments.weights("weights"), arguments.optional_reals("residual"));
    let bias = arguments.optional_floats("bias");
    let activation = arguments.size("activation");
    // Of x ++ x2.
    let input = |row: usize, k: usize| match x2 {
        Some(x2) if k >= columns => x2.get(row * (inputs - columns) + k - columns),
        _ => x.get(row * columns + k),
    };
    let weight = |product: usize, output: usize, k: usize| {
        let panel = product * outputs.div_ceil(PANEL) + output / PANEL;
        weights.get((panel * inputs + k) * PANEL + output % PANEL)
    };
    let result = |index: usize| {
        let (row, output) = (index / outputs, index % outputs);
        let term = |k| f64::from(input(row, k)) * f64::from(weight(row / rows, output, k));
        let product: f64 = (0..inputs).map(term).sum();
        let biased = product + bias.map_or(0.0, |bias| f64::from(bias[output]));
        let residual = residual.map_or(0.0, |residual| f64::from(residual.get(index)));
        activation::define(activation, biased) + residual
    };
    let results: Vec<f64> = (0..batch * rows * outputs).into_par_iter().map(result).collect();
    let mut y = arguments.reals_out("y");
    for (index, value) in results.into_iter().enumerate() {
        y.set(index, value);
    }
}

/// Rows of x ++ x2.
struct Matrix<'a> {
    x: Reals<'a>,
    columns: usize,
    x2: Option<Reals<'a>>,
    columns2: usize,
}

impl Rows for Matrix<'_> {
    #[inline(always)]
    fn pack(&self, row: usize, first: usize, target: &mut [f32]) {
        let of_first = self.columns.saturating_sub(first).min(target.len());
        let (target, target2) = target.split_at_mut(of_first);
        // Later terms are none of x: `first` is then no place in it.
        if !target.is_empty() {
            rows::read(&self.x, row * self.columns + first, target);
        }
        if let Some(x2) = self.x2.filter(|_| !target2.is_empty()) {
            let start = row * self.columns2 + first + of_first - self.columns;
            rows::read(&x2, start, target2);
        }
    }
}

pub fn fast(arguments: &Arguments) {
    let rows = arguments.size("rows");
    let (inputs, columns) = (arguments.size("inputs"), arguments.size("columns"));
    let epilogue = Epilogue {
        bias: arguments.optional_floats("bias"),
        sample_bias: None,
        sample_rows: rows,
        activation: arguments.size("activation") as u32,
        residual: arguments.optional_reals("residual"),
    };
    let outputs = arguments.size("outputs");
    let (batch, weights) = (arguments.size("batch"), arguments.weights("weights"));
    let product = Product { batch, rows, outputs, inputs, weights, epilogue };
    let (x, x2) = (arguments.reals("x"), arguments.optional_reals("x2"));
    let matrix = Matrix { x, columns, x2, columns2: inputs - columns };
    product::run(&product, &matrix, arguments.reals_out("y"));
}
