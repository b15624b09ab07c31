//! How fast are attention, norms and gates, on the layers of Stable Diffusion?
//!
//!     cargo bench --bench attention -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! The rows are those of a PyTorch program that runs in turn with this one. The unit of attention
//! is GFLOP/s, two flop a multiply-add, that of the rest GB/s read and written at least; each of
//! the best run. The spread is the median over the best.

use std::time::Instant;

use ellesmere::ops::{self, Activation, Attention, GroupNorm};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};

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

/// A row of the table: `work` in units of 10^9 a second.
struct Row<'a> {
    name: String,
    work: usize,
    unit: &'static str,
    run: &'a dyn Fn() -> Result<Tensor>,
}

impl Row<'_> {
    fn report(&self, repeat: usize) -> Result<()> {
        let mut seconds = Vec::new();
        for _ in 0..=repeat {
            let start = Instant::now();
            let y = (self.run)()?;
            y.device().finish()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        // The first run compiles.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
        let rate = self.work as f64 / best / 1e9;
        let (name, unit, spread) = (&self.name, self.unit, median / best);
        println!("{name:32} {:9.3} ms {rate:8.1} {unit:7}  spread {spread:4.2}", best * 1e3);
        Ok(())
    }
}

fn tensor(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let values = (0..shape.iter().product()).map(|index: usize| index * 7919 % 2003);
    let values: Vec<f32> = values.map(|value| value as f32 / 1001.0 - 1.0).collect();
    Tensor::from_slice(device, shape, dtype, &values)
}

fn measure(device: &Device, options: &Options) -> Result<()> {
    let dtype = options.dtype;
    println!("{}, {}, {dtype}", device.info().name, device.info().platform);
    let report = |name: String, work, unit, run: &dyn Fn() -> Result<Tensor>| {
        if name.contains(&options.part) {
            Row { name, work, unit, run }.report(options.repeat)?;
        }
        Ok(())
    };
    for [heads, queries, keys, head_width] in ATTENTIONS {
        let rows = |rows| tensor(device, dtype, &[1, rows, heads * head_width]);
        let (q, k, v) = (rows(queries)?, rows(keys)?, rows(keys)?);
        let scale = (head_width as f32).powf(-0.5);
        let params = Attention { heads, head_width, scale, causal: false };
        let name = format!("attention {heads}x{queries}x{keys}x{head_width}");
        report(name, 4 * heads * queries * keys * head_width, "GFLOP/s", &|| {
            ops::attention((&q).into(), (&k).into(), (&v).into(), &params)
        })?;
    }
    for [channels, side] in GROUP_NORMS {
        let x = tensor(device, dtype, &[1, side, side, channels])?;
        let gamma = tensor(device, DType::F32, &[channels])?;
        let params = GroupNorm { groups: 32, eps: 1e-5, activation: Activation::Silu };
        let bytes = 2 * channels * side * side * dtype.size();
        report(format!("group_norm+silu {channels}x{side}x{side}"), bytes, "GB/s", &|| {
            ops::group_norm(&x, None, &gamma, &gamma, &params)
        })?;
    }
    let x = tensor(device, dtype, &[1, 4096, 320])?;
    let gamma = tensor(device, DType::F32, &[320])?;
    report("layer_norm 4096x320".to_owned(), 2 * 4096 * 320 * dtype.size(), "GB/s", &|| {
        ops::layer_norm(&x, &gamma, &gamma, 1e-5)
    })?;
    let x = tensor(device, dtype, &[1, 4096, 2560])?;
    report("geglu 4096x2560".to_owned(), 3 * 4096 * 1280 * dtype.size(), "GB/s", &|| {
        ops::geglu(&x)
    })?;
    let other = if dtype == DType::F32 { DType::F16 } else { DType::F32 };
    report(format!("cast to {other} 4096x2560"), 6 * 4096 * 2560, "GB/s", &|| ops::cast(&x, other))
}

fn main() -> Result<()> {
    let options = options()?;
    for id in &options.devices {
        measure(&Device::open(id, &DeviceOptions::default())?, &options)?;
    }
    Ok(())
}
