use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, Activation, Epilogue};

/// A projection of SD 1.5's UNet at 32 x 32, with its bias.
pub const CASE: Case = Case {
    op: "gemm",
    kernels: &["gemm_local", "gemm_register"],
    sizes: &[("rows", 1024), ("outputs", 640), ("inputs", 640)],
    prepare,
};

pub(super) fn prepare(inputs: &Inputs) -> Result<Run> {
    let [rows, n, k] = ["rows", "outputs", "inputs"].map(|name| inputs.size(name));
    let x = inputs.tensor(&[1, rows, k])?;
    let (weights, bias) = (inputs.weights([n, k, 1, 1])?, inputs.floats(&[n])?);
    Ok(Box::new(move || {
        let activation = Activation::None;
        ops::gemm(&x, None, &weights, Epilogue { bias: Some(&bias), activation, residual: None })
    }))
}
