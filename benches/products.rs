//! How fast are matrix products and convolutions, on the layers of Stable Diffusion?
//!
//!     cargo bench --bench products -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! The rows are those of a PyTorch program that runs in turn with this one. The unit is GFLOP/s of
//! the best run, two flop a multiply-add; the spread is the median over the best.

use std::time::Instant;

use ellesmere::ops::{self, Conv2d, Epilogue, Padding, Weights};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};

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
const CONVS: [[usize; 4]; 13] = [
    [320, 320, 64, 1],
    [640, 640, 32, 1],
    [1280, 1280, 16, 1],
    [1280, 1280, 8, 1],
    [960, 320, 64, 1],
    [320, 320, 64, 2],
    [4, 320, 64, 1],
    [512, 512, 64, 1],
    [512, 512, 128, 1],
    [512, 256, 256, 1],
    [256, 256, 256, 1],
    [128, 128, 512, 1],
    [128, 3, 512, 1],
];

struct Options {
    devices: Vec<String>,
    dtype: DType,
    repeat: usize,
    part: String,
}

fn options() -> Result<Options> {
    let mut options =
        Options { devices: Vec::new(), dtype: DType::F32, repeat: 5, part: String::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        match argument.as_str() {
            "--bench" => (),
            "--device" => options.devices.push(value()),
            "--dtype" => options.dtype = value().parse()?,
            "--repeat" => options.repeat = value().parse().unwrap_or(options.repeat),
            part => options.part = part.to_owned(),
        }
    }
    if options.devices.is_empty() {
        options.devices.push("cpu".to_owned());
    }
    Ok(options)
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn report(name: &str, flop: usize, repeat: usize, run: impl Fn() -> Result<Tensor>) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..=repeat {
        let start = Instant::now();
        let y = run()?;
        y.device().finish()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    // The first run compiles.
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    println!(
        "{name:32} {:9.3} ms {:9.1} GFLOP/s  spread {:4.2}",
        best * 1e3,
        flop as f64 / best / 1e9,
        median / best
    );
    Ok(())
}

fn measure(device: &Device, options: &Options) -> Result<()> {
    let (dtype, repeat) = (options.dtype, options.repeat);
    println!("{}, {}, {dtype}", device.info().name, device.info().platform);
    for [m, n, k] in GEMMS {
        let name = format!("gemm {m}x{n}x{k}");
        if !name.contains(&options.part) {
            continue;
        }
        let x = Tensor::from_slice(device, &[1, m, k], dtype, &values(m * k))?;
        let weights = Weights::linear(device, dtype, [n, k], || Ok(values(n * k)))?;
        report(&name, 2 * m * n * k, repeat, || {
            ops::gemm(&x, None, &weights, Epilogue::default())
        })?;
    }
    for [channels, outputs, side, stride] in CONVS {
        let name = format!("conv3x3 {channels}->{outputs} {side}x{side} s{stride}");
        if !name.contains(&options.part) {
            continue;
        }
        let x = values(side * side * channels);
        let x = Tensor::from_slice(device, &[1, side, side, channels], dtype, &x)?;
        let weights = Weights::conv2d(device, dtype, [outputs, channels, 3, 3], || {
            Ok(values(outputs * channels * 9))
        })?;
        let padding = Padding::same(1);
        let params = Conv2d { kernel: [3, 3], stride, padding, upsample: false, crop: [0, 0] };
        let flop = 2 * 9 * channels * outputs * (side / stride).pow(2);
        report(&name, flop, repeat, || ops::conv2d(&x, &weights, &params, Epilogue::default()))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = options()?;
    for id in &options.devices {
        measure(&Device::open(id, &DeviceOptions::default())?, &options)?;
    }
    Ok(())
}
