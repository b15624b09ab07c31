//! How fast are matrix products and convolutions, on the layers of Stable Diffusion?
//!
//!     cargo bench --bench products -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! The rows are those of a PyTorch program that runs in turn with this one. The unit is GFLOP/s of
//! the best run, two flop a multiply-add; the spread is the median over the best.

mod common;

use common::{Options, values};
use ellesmere::ops::{self, Conv2d, Epilogue, Padding, Weights};
use ellesmere::{Device, Result, Tensor};

/// (M, N, K): squares, then linear layers of an SD 1.5 UNet at 512x512 and of its text encoder.
const GEMMS: [[usize; 3]; 7] = [
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [4096, 320, 320],
    [4096, 2560, 320],
    [1024, 5120, 640],
    [256, 10240, 1280],
    [77, 768, 768],
];

/// (channels in, channels out, side, stride): 3x3 windows of the UNet, then of the VAE's decoder.
const CONVS: [[usize; 4]; 16] = [
    [320, 320, 64, 1],
    [640, 640, 32, 1],
    [1280, 1280, 16, 1],
    [1280, 1280, 8, 1],
    [960, 320, 64, 1],
    [320, 320, 64, 2],
    [4, 320, 64, 1],
    [1280, 640, 32, 1],
    [2560, 1280, 16, 1],
    [512, 512, 64, 1],
    [512, 512, 128, 1],
    [512, 256, 256, 1],
    [256, 256, 256, 1],
    [256, 128, 512, 1],
    [128, 128, 512, 1],
    [128, 3, 512, 1],
];

/// (channels in, channels out, side) of those that read x twice as large: the side of the result.
const UPSAMPLED: [[usize; 3]; 4] =
    [[1280, 1280, 32], [640, 640, 64], [512, 512, 256], [256, 256, 512]];

fn measure(device: &Device, options: &Options) -> Result<()> {
    let dtype = options.dtype;
    for [m, n, k] in GEMMS {
        let name = format!("gemm {m}x{n}x{k}");
        if !options.wants(&name) {
            continue;
        }
        let x = Tensor::from_slice(device, &[1, m, k], dtype, &values(m * k))?;
        let weights = Weights::linear(device, dtype, [n, k], || Ok(values(n * k)))?;
        options.report(&name, 2 * m * n * k, "GFLOP/s", || {
            ops::gemm(&x, None, &weights, Epilogue::default())
        })?;
    }
    let convs = CONVS.map(|conv| (conv, false));
    let upsampled = UPSAMPLED.map(|[channels, outputs, side]| ([channels, outputs, side, 1], true));
    for ([channels, outputs, side, stride], upsample) in convs.into_iter().chain(upsampled) {
        let enlarged = if upsample { " x2" } else { "" };
        let name = format!("conv3x3 {channels}->{outputs} {side}x{side} s{stride}{enlarged}");
        if !options.wants(&name) {
            continue;
        }
        let read = if upsample { side / 2 } else { side };
        let x = values(read * read * channels);
        let x = Tensor::from_slice(device, &[1, read, read, channels], dtype, &x)?;
        let weights = Weights::conv2d(device, dtype, [outputs, channels, 3, 3], || {
            Ok(values(outputs * channels * 9))
        })?;
        let padding = Padding::same(1);
        let params = Conv2d { kernel: [3, 3], stride, padding, upsample, crop: [0, 0] };
        let flop = 2 * 9 * channels * outputs * (side / stride).pow(2);
        options.report(&name, flop, "GFLOP/s", || {
            ops::conv2d(&x, &weights, &params, Epilogue::default())
        })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    common::run(measure)
}
