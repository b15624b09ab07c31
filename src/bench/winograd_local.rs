use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, Activation, Conv2d, Epilogue, Padding};

/// A residual block of SD 1.5's VAE where it is largest, cut down to a tile of the picture.
pub const CASE: Case = Case {
    op: "winograd_local",
    kernels: &["winograd_local", "winograd_weights"],
    sizes: &[("samples", 1), ("height", 32), ("width", 32), ("channels", 128), ("outputs", 128)],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let outputs = inputs.size("outputs");
    let shape = ["samples", "height", "width", "channels"].map(|name| inputs.size(name));
    let x = inputs.tensor(&shape)?;
    let weights = inputs.weights([outputs, shape[3], 3, 3])?;
    let bias = inputs.floats(&[outputs])?;
    let padding = Padding::same(1);
    let params = Conv2d { kernel: [3, 3], stride: 1, padding, upsample: false, crop: [0, 0] };
    Ok(Box::new(move || {
        let activation = Activation::None;
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
        ops::winograd_local(&x, &weights, &params, epilogue)
    }))
}
