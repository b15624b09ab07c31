use super::{Case, Inputs, Run};
use crate::{Result, ops};

/// A transformer block of SD 1.5's UNet at 32 x 32.
pub const CASE: Case = Case {
    op: "layer_norm",
    kernels: &["layer_norm"],
    sizes: &[("rows", 1024), ("channels", 640)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let (rows, channels) = (inputs.size("rows"), inputs.size("channels"));
    let x = inputs.tensor(&[1, rows, channels])?;
    let (gamma, beta) = (inputs.floats(&[channels])?, inputs.floats(&[channels])?);
    Ok(Box::new(move || ops::layer_norm(&x, &gamma, &beta, 1e-5)))
}
