//! How fast are attention, norms and gates, on the layers of Stable Diffusion?
//!
//!     cargo bench --bench attention -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! The rows are those of a PyTorch program that runs in turn with this one. The unit of attention
//! is GFLOP/s, two flop a multiply-add, that of the rest GB/s read and written at least; each of
//! the best run. The spread is the median over the best.

mod common;

use common::{Options, values};
use ellesmere::ops::{self, Activation, Attention, GroupNorm};
use ellesmere::{DType, Device, Result, Tensor};

/// (heads, queries, keys, head width): self- and cross-attention of SD 1.5's UNet at 512x512, of
/// SD 2's, and of the VAE's middle.
const ATTENTIONS: [[usize; 4]; 5] = [
    [8, 4096, 4096, 40],
    [8, 4096, 77, 40],
    [8, 1024, 1024, 80],
    [5, 4096, 4096, 64],
    [1, 4096, 4096, 512],
];

/// (channels, side): of the UNet, then of the VAE's decoder.
const GROUP_NORMS: [[usize; 2]; 3] = [[320, 64], [1280, 16], [128, 512]];

fn tensor(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(device, shape, dtype, &values(shape.iter().product()))
}

fn measure(device: &Device, options: &Options) -> Result<()> {
    let dtype = options.dtype;
    for [heads, queries, keys, head_width] in ATTENTIONS {
        let rows = |rows| tensor(device, dtype, &[1, rows, heads * head_width]);
        let (q, k, v) = (rows(queries)?, rows(keys)?, rows(keys)?);
        let scale = (head_width as f32).powf(-0.5);
        let params = Attention { heads, head_width, scale, causal: false };
        let name = format!("attention {heads}x{queries}x{keys}x{head_width}");
        options.report(&name, 4 * heads * queries * keys * head_width, "GFLOP/s", || {
            ops::attention((&q).into(), (&k).into(), (&v).into(), &params)
        })?;
    }
    for [channels, side] in GROUP_NORMS {
        let x = tensor(device, dtype, &[1, side, side, channels])?;
        let gamma = tensor(device, DType::F32, &[channels])?;
        let params = GroupNorm { groups: 32, eps: 1e-5, activation: Activation::Silu };
        let bytes = 2 * channels * side * side * dtype.size();
        options.report(
            &format!("group_norm+silu {channels}x{side}x{side}"),
            bytes,
            "GB/s",
            || ops::group_norm(&x, None, &gamma, &gamma, &params),
        )?;
    }
    let x = tensor(device, dtype, &[1, 4096, 320])?;
    let gamma = tensor(device, DType::F32, &[320])?;
    options.report("layer_norm 4096x320", 2 * 4096 * 320 * dtype.size(), "GB/s", || {
        ops::layer_norm(&x, &gamma, &gamma, 1e-5)
    })?;
    let x = tensor(device, dtype, &[1, 4096, 2560])?;
    options.report("geglu 4096x2560", 3 * 4096 * 1280 * dtype.size(), "GB/s", || ops::geglu(&x))?;
    let other = if dtype == DType::F32 { DType::F16 } else { DType::F32 };
    let name = format!("cast to {other} 4096x2560");
    options.report(&name, 6 * 4096 * 2560, "GB/s", || ops::cast(&x, other))
}

fn main() -> Result<()> {
    common::run(measure)
}
