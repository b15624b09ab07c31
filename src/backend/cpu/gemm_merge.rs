//! See `kernels/gemm_merge.cl`.

use super::{Arguments, activation};

pub fn definition(arguments: &Arguments) {
    let (outputs, slices) = (arguments.size("outputs"), arguments.size("slices"));
    let elements = arguments.size("rows") * outputs;
    let (sums, bias) = (arguments.floats("sums"), arguments.optional_floats("bias"));
    let residual = arguments.optional_reals("residual");
    let activation = arguments.size("activation");
    let mut y = arguments.reals_out("y");
    for index in 0..elements {
        let slice = |slice: usize| f64::from(sums[slice * elements + index]);
        let product: f64 = (0..slices).map(slice).sum();
        let biased = product + bias.map_or(0.0, |bias| f64::from(bias[index % outputs]));
        let residual = residual.map_or(0.0, |residual| f64::from(residual.get(index)));
        y.set(index, activation::define(activation, biased) + residual);
    }
}
