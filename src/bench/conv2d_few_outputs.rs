use super::Case;

/// The last layer of SD 1.5's VAE at 64 x 64, with its bias.
pub const CASE: Case = Case {
    op: "conv2d_few_outputs",
    kernels: &["conv2d_few_outputs", "conv2d_local"],
    sizes: &[
        ("samples", 1),
        ("height", 64),
        ("width", 64),
        ("channels", 128),
        ("outputs", 3),
        ("kernel", 3),
        ("stride", 1),
    ],
    prepare: super::conv2d::prepare,
};
