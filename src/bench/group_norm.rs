use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, Activation, GroupNorm};

/// A residual block of SD 1.5's UNet at 64 x 64, with its SiLU.
pub const CASE: Case = Case {
    op: "group_norm",
    kernels: &["group_norm_apply", "group_norm_merge", "group_norm_statistics"],
    sizes: &[("samples", 1), ("pixels", 4096), ("channels", 320), ("groups", 32)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let [samples, pixels, channels, groups] =
        ["samples", "pixels", "channels", "groups"].map(|name| inputs.size(name));
    let x = inputs.tensor(&[samples, pixels, channels])?;
    let (gamma, beta) = (inputs.floats(&[channels])?, inputs.floats(&[channels])?);
    let params = GroupNorm { groups, eps: 1e-5, activation: Activation::Silu };
    Ok(Box::new(move || ops::group_norm(&x, None, &gamma, &beta, &params)))
}
