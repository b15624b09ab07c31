use super::{Case, Inputs, Run};
use crate::{Result, ops};

/// The feed-forward of SD 1.5's UNet at 32 x 32; channels are those of the result.
pub const CASE: Case = Case {
    op: "geglu",
    kernels: &["geglu"],
    sizes: &[("rows", 1024), ("channels", 2560)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let x = inputs.tensor(&[1, inputs.size("rows"), 2 * inputs.size("channels")])?;
    Ok(Box::new(move || ops::geglu(&x)))
}
