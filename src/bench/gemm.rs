use super::{Case, Inputs, Run};
use crate::ops::{self, Activation, Epilogue, Products, Weights};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A projection of SD 1.5's UNet at 32 x 32, with its bias. `columns` are those of x where the
/// others stand in a second tensor; 0 where there is none. `format` is that of the weights, by its
/// number; 0 where they are stored as x is.
pub const CASE: Case = Case {
    op: "gemm",
    kernels: &["gemm_local", "gemm_matrix", "gemm_register"],
    sizes: &[("rows", 1024), ("outputs", 640), ("inputs", 640), ("columns", 0), ("format", 0)],
    prepare: |inputs| prepare_both(inputs, ops::gemm),
};

/// Of a matrix in one tensor.
pub(super) fn prepare(inputs: &Inputs) -> Result<Run> {
    product(inputs, inputs.size("inputs"), None, Products::F32, ops::gemm)
}

/// By an op, of a matrix in one tensor; or, where there are `columns`, of one whose first columns
/// are so many, and whose others are in another tensor.
pub(super) fn prepare_both<Op>(inputs: &Inputs, op: Op) -> Result<Run>
where
    Op: Fn(&Tensor, Option<&Tensor>, &Weights, Epilogue) -> Result<Tensor> + 'static,
{
    prepare_of(inputs, Products::F32, op)
}

/// As [`prepare_both`], of a weight that is multiplied in such a way.
pub(super) fn prepare_of<Op>(inputs: &Inputs, products: Products, op: Op) -> Result<Run>
where
    Op: Fn(&Tensor, Option<&Tensor>, &Weights, Epilogue) -> Result<Tensor> + 'static,
{
    let [rows, k, columns] = ["rows", "inputs", "columns"].map(|name| inputs.size(name));
    if columns >= k {
        let detail = format!("columns must be less than inputs, {k}, got {columns}");
        return Err(Error::argument("shape", detail));
    }
    match columns {
        0 => product(inputs, k, None, products, op),
        _ => {
            let x2 = inputs.tensor(&[1, rows, k - columns])?;
            product(inputs, columns, Some(x2), products, op)
        }
    }
}

fn product<Op>(
    inputs: &Inputs,
    columns: usize,
    x2: Option<Tensor>,
    products: Products,
    op: Op,
) -> Result<Run>
where
    Op: Fn(&Tensor, Option<&Tensor>, &Weights, Epilogue) -> Result<Tensor> + 'static,
{
    let [rows, n, k] = ["rows", "outputs", "inputs"].map(|name| inputs.size(name));
    let x = inputs.tensor(&[1, rows, columns])?;
    let weights = inputs.weights([n, k, 1, 1])?.multiplied_in(products);
    let bias = inputs.floats(&[n])?;
    Ok(Box::new(move || {
        let activation = Activation::None;
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
        op(&x, x2.as_ref(), &weights, epilogue)
    }))
}
