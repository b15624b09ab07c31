use super::{Case, Inputs, Run};
use crate::Result;
use crate::ops::{self, Activation, Conv2d, Epilogue, Padding};

/// A residual block of SD 1.5's UNet at 32 x 32, with its bias. The batch of products between the
/// transforms is one of `gemm`'s kernels'.
pub const CASE: Case = Case {
    op: "winograd",
    kernels: &[
        "gemm_local",
        "gemm_register",
        "winograd_input",
        "winograd_output",
        "winograd_weights",
    ],
    sizes: &[
        ("samples", 1),
        ("height", 32),
        ("width", 32),
        ("channels", 320),
        ("outputs", 320),
        ("tile", 4),
        ("format", 0),
    ],
    prepare,
};

fn prepare(inputs: &Inputs) -> Result<Run> {
    let [outputs, tile] = ["outputs", "tile"].map(|name| inputs.size(name));
    let shape = ["samples", "height", "width", "channels"].map(|name| inputs.size(name));
    let x = inputs.tensor(&shape)?;
    let weights = inputs.weights([outputs, shape[3], 3, 3])?;
    let bias = inputs.floats(&[outputs])?;
    let padding = Padding::same(1);
    let params = Conv2d { kernel: [3, 3], stride: 1, padding, upsample: false, crop: [0, 0] };
    Ok(Box::new(move || {
        let activation = Activation::None;
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
        ops::winograd(&x, &weights, &params, tile, epilogue)
    }))
}
