use super::Case;

/// A time embedding of SD 1.5's UNet with guidance.
pub const CASE: Case = Case {
    op: "gemv",
    kernels: &["gemv"],
    sizes: &[("rows", 2), ("outputs", 1280), ("inputs", 1280), ("format", 0)],
    prepare: super::gemm::prepare,
};
