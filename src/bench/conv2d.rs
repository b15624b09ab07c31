use super::{Case, Inputs, Run};
use crate::ops::{self, Activation, Conv2d, Epilogue, Padding};
use crate::{Error, Result};

/// A convolution on the way down SD 1.5's VAE, with its bias; an odd window, padded so that a stride
/// of 1 keeps the size. Winograd's kernels, which it may choose too, are a case of their own.
pub const CASE: Case = Case {
    op: "conv2d",
    kernels: &["conv2d_local", "conv2d_register"],
    sizes: &[
        ("samples", 1),
        ("height", 64),
        ("width", 64),
        ("channels", 128),
        ("outputs", 128),
        ("kernel", 3),
        ("stride", 2),
        ("format", 0),
    ],
    prepare,
};

pub(super) fn prepare(inputs: &Inputs) -> Result<Run> {
    let [kernel, stride, outputs] = ["kernel", "stride", "outputs"].map(|name| inputs.size(name));
    let shape = ["samples", "height", "width", "channels"].map(|name| inputs.size(name));
    if kernel.is_multiple_of(2) {
        return Err(Error::argument("shape", format!("kernel must be odd, got {kernel}")));
    }
    let x = inputs.tensor(&shape)?;
    let weights = inputs.weights([outputs, shape[3], kernel, kernel])?;
    let bias = inputs.floats(&[outputs])?;
    let padding = Padding::same(kernel / 2);
    let params = Conv2d { kernel: [kernel; 2], stride, padding, upsample: false, crop: [0, 0] };
    Ok(Box::new(move || {
        let activation = Activation::None;
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
        ops::conv2d(&x, &weights, &params, epilogue)
    }))
}
