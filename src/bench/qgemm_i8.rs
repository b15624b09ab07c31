use super::Case;
use crate::Error;
use crate::ops::{self, Products};

/// A projection of SD 1.5's UNet at 32 x 32, with its bias, in bytes. `columns` are as `gemm` has
/// them; `format` is that of the weights, by its number, and must be one.
pub const CASE: Case = Case {
    op: "qgemm_i8",
    kernels: &["qgemm_i8", "quantize_rows"],
    sizes: &[("rows", 1024), ("outputs", 640), ("inputs", 640), ("columns", 0), ("format", 8)],
    prepare: |inputs| {
        if inputs.size("rows") <= ops::gemm::FEW_ROWS {
            let (least, rows) = (ops::gemm::FEW_ROWS + 1, inputs.size("rows"));
            let detail = format!("rows must be at least {least}, got {rows}");
            return Err(Error::argument("shape", detail));
        }
        super::gemm::prepare_of(inputs, Products::Int8, ops::gemm)
    },
};
