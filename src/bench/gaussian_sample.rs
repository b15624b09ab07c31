use super::{Case, Inputs, Run};
use crate::{Result, ops};

/// The latent of a 512 x 512 image.
pub const CASE: Case = Case {
    op: "gaussian_sample",
    kernels: &["gaussian_sample"],
    sizes: &[("samples", 1), ("height", 64), ("width", 64), ("channels", 4)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let shape = ["samples", "height", "width", "channels"].map(|name| inputs.size(name));
    let [samples, height, width, channels] = shape;
    let moments = inputs.tensor(&[samples, height, width, 2 * channels])?;
    let noise = inputs.floats(&shape)?;
    Ok(Box::new(move || ops::gaussian_sample(&moments, &noise, 0.18215)))
}
