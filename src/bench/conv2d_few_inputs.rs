use super::Case;

/// The first layer of SD 1.5's UNet at 32 x 32, with its bias.
pub const CASE: Case = Case {
    op: "conv2d_few_inputs",
    kernels: &["conv2d_few_inputs", "conv2d_local"],
    sizes: &[
        ("samples", 1),
        ("height", 32),
        ("width", 32),
        ("channels", 4),
        ("outputs", 320),
        ("kernel", 3),
        ("stride", 1),
    ],
    prepare: super::conv2d::prepare,
};
