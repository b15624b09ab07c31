//! How fast are norms and elementwise kernels, on the layers of Stable Diffusion?
//!
//!     cargo bench --bench norms -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! The unit is GB/s of the bytes that must be read and written, of the best run.

mod common;

use common::{Options, values};
use ellesmere::ops::{self, Activation, GroupNorm};
use ellesmere::{DType, Device, Result, Tensor};

/// (rows, channels) of transformer blocks of an SD 1.5 UNet at 512x512.
const ROWS: [[usize; 2]; 3] = [[4096, 320], [1024, 640], [256, 1280]];

/// (pixels, channels) of residual blocks of the UNet, then of the VAE's decoder.
const IMAGES: [[usize; 2]; 4] = [[4096, 320], [1024, 640], [65536, 256], [262144, 128]];

fn measure(device: &Device, options: &Options) -> Result<()> {
    let dtype = options.dtype;
    let tensor = |shape: &[usize], dtype| {
        Tensor::from_slice(device, shape, dtype, &values(shape.iter().product()))
    };
    for [rows, channels] in ROWS {
        let bytes = 2 * rows * channels * dtype.size();
        let (gamma, beta) = (tensor(&[channels], DType::F32)?, tensor(&[channels], DType::F32)?);
        let x = tensor(&[1, rows, channels], dtype)?;
        options.report(&format!("layer_norm {rows}x{channels}"), bytes, "GB/s", || {
            ops::layer_norm(&x, &gamma, &beta, 1e-5)
        })?;
        let wide = tensor(&[1, rows, 8 * channels], dtype)?;
        options.report(&format!("geglu {rows}x{}", 4 * channels), 6 * bytes, "GB/s", || {
            ops::geglu(&wide)
        })?;
        let other = if dtype == DType::F32 { DType::F16 } else { DType::F32 };
        let bytes = rows * channels * (dtype.size() + other.size());
        options.report(&format!("cast {rows}x{channels} to {other}"), bytes, "GB/s", || {
            ops::cast(&x, other)
        })?;
    }
    for [pixels, channels] in IMAGES {
        // Read for the statistics, read and written for the result.
        let bytes = 3 * pixels * channels * dtype.size();
        let (gamma, beta) = (tensor(&[channels], DType::F32)?, tensor(&[channels], DType::F32)?);
        let x = tensor(&[1, pixels, channels], dtype)?;
        let params = GroupNorm { groups: 32, eps: 1e-5, activation: Activation::Silu };
        options.report(&format!("group_norm+silu {pixels}x{channels}"), bytes, "GB/s", || {
            ops::group_norm(&x, None, &gamma, &beta, &params)
        })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    common::run(measure)
}
