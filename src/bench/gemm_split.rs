use super::Case;
use crate::ops;

/// The last layer of a feed-forward block of SD 1.5's text encoder, with its bias. `columns` are as
/// `gemm` has them.
pub const CASE: Case = Case {
    op: "gemm_split",
    kernels: &["gemm_merge", "gemm_split"],
    sizes: &[
        ("rows", 77),
        ("outputs", 768),
        ("inputs", 3072),
        ("columns", 0),
        ("slices", 4),
        ("format", 0),
    ],
    prepare: |inputs| {
        let slices = inputs.size("slices");
        super::gemm::prepare_both(inputs, move |x, x2, weights, epilogue| {
            ops::gemm_split(x, x2, weights, slices, epilogue)
        })
    },
};
