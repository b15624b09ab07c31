use super::{Case, Inputs, Run};
use crate::{DType, Result, ops};

/// An image of SD 1.5's VAE to the other element type.
pub const CASE: Case =
    Case { op: "cast", kernels: &["cast"], sizes: &[("elements", 1 << 20)], prepare };

fn prepare(inputs: &Inputs) -> Result<Run> {
    let x = inputs.tensor(&[1, inputs.size("elements")])?;
    let target = match inputs.dtype() {
        DType::F32 => DType::F16,
        DType::F16 => DType::F32,
    };
    Ok(Box::new(move || ops::cast(&x, target)))
}
