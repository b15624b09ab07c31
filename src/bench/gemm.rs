use super::{Case, Inputs, Run};
use crate::ops::{self, Activation, Epilogue};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A projection of SD 1.5's UNet at 32 x 32, with its bias. `columns` are those of x where the
/// others stand in a second tensor; 0 where there is none.
pub const CASE: Case = Case {
    op: "gemm",
    kernels: &["gemm_local", "gemm_register"],
    sizes: &[("rows", 1024), ("outputs", 640), ("inputs", 640), ("columns", 0)],
    prepare: |inputs| match inputs.size("columns") {
        0 => prepare(inputs),
        columns => prepare_both(inputs, columns),
    },
};

/// Of a matrix in one tensor.
pub(super) fn prepare(inputs: &Inputs) -> Result<Run> {
    product(inputs, inputs.size("inputs"), None)
}

/// Of a matrix whose first columns are in one tensor, and the others in another.
fn prepare_both(inputs: &Inputs, columns: usize) -> Result<Run> {
    let [rows, k] = ["rows", "inputs"].map(|name| inputs.size(name));
    if columns >= k {
        let detail = format!("columns must be less than inputs, {k}, got {columns}");
        return Err(Error::argument("shape", detail));
    }
    let x2 = inputs.tensor(&[1, rows, k - columns])?;
    product(inputs, columns, Some(x2))
}

fn product(inputs: &Inputs, columns: usize, x2: Option<Tensor>) -> Result<Run> {
    let [rows, n, k] = ["rows", "outputs", "inputs"].map(|name| inputs.size(name));
    let x = inputs.tensor(&[1, rows, columns])?;
    let (weights, bias) = (inputs.weights([n, k, 1, 1])?, inputs.floats(&[n])?);
    Ok(Box::new(move || {
        let activation = Activation::None;
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
        ops::gemm(&x, x2.as_ref(), &weights, epilogue)
    }))
}
