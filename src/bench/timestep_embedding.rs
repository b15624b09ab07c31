use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, TimestepEmbedding};

/// SD 1.5's UNet with guidance.
pub const CASE: Case = Case {
    op: "timestep_embedding",
    kernels: &["timestep_embedding"],
    sizes: &[("samples", 2), ("width", 320)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let (device, dtype, width) = (inputs.device().clone(), inputs.dtype(), inputs.size("width"));
    let timesteps: Vec<f32> =
        inputs.values(inputs.size("samples")).iter().map(|v| (500.0 + 499.0 * v).round()).collect();
    let params = TimestepEmbedding { width, flip_sin_to_cos: true, freq_shift: 0.0 };
    Ok(Box::new(move || ops::timestep_embedding(&device, dtype, &timesteps, &params)))
}
