//! How near are plans to what happens? Predicted and measured time and peak memory of whole runs,
//! loading included.
//!
//!     cargo bench --bench plan -- [--device ID]... [--dtype f32|f16]... [--model DIR]...
//!         [--size N]... [--budget MB]... [--steps N] [--repeat N] [--drawn N] [--kernels]
//!
//! Every combination is a row; `--drawn` takes so many drawn ones of sizes, batches, types, budgets
//! and tilings instead. Programs are compiled, and kernels measured, before the clock starts. The
//! best of the runs counts: whatever disturbs one makes it slower. `--kernels` has one more run, with a
//! profile, and says for each stage and kernel what was predicted and what it took.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::pipeline::{
    KernelTimes, LoadOptions, Pipeline, PlanTimes, Progress, Request, StageTimes, VaeTiling,
};
use ellesmere::profile::Report;
use ellesmere::{DType, Device, DeviceOptions, Error, Result};

#[derive(Parser)]
struct Options {
    /// Devices to measure, as `clbench devices` lists them
    #[arg(long, value_name = "ID", default_value = "cpu")]
    device: Vec<String>,
    /// How values are stored
    #[arg(long, value_name = "f32|f16", default_value = "f32")]
    dtype: Vec<DType>,
    /// Diffusers folders [default: the model of examples/assets]
    #[arg(long, value_name = "DIR")]
    model: Vec<PathBuf>,
    /// Sides of pictures; the model's own if not given
    #[arg(long, value_name = "N")]
    size: Vec<usize>,
    /// Budgets in 10^6 bytes; all that is free if not given
    #[arg(long, value_name = "MB")]
    budget: Vec<u64>,
    /// Steps of a picture
    #[arg(long, value_name = "N", default_value_t = 2)]
    steps: usize,
    /// Runs of a row
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Draw so many rows
    #[arg(long, value_name = "N")]
    drawn: Option<u64>,
    /// Say what was predicted and measured of each stage and kernel
    #[arg(long)]
    kernels: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one row runs.
struct Row<'a> {
    device: &'a str,
    dtype: DType,
    files: &'a ModelFiles,
    budget_bytes: Option<u64>,
    request: Request,
}

/// How far the predictions were off.
#[derive(Default)]
struct Summary {
    ratios: Vec<f64>,
    peaks: usize,
    over_budget: usize,
    refused: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/assets/demo");
    let folders = if options.model.is_empty() { vec![demo] } else { options.model.clone() };
    println!(
        "{:10} {:4} {:9} {:>9} {:>2} {:>6} | {:>8} {:>8} {:>6} | {:>9} {:>9}",
        "device", "type", "model", "size", "n", "budget", "s, plan", "s", "ratio", "MB, plan", "MB"
    );
    let mut summary = Summary::default();
    for folder in &folders {
        let files = ModelFiles::open(folder, Variant::Any)?;
        match options.drawn {
            Some(count) => {
                for number in 0..count {
                    measure(&drawn(number, &options, &files), &options, &mut summary)?;
                }
            }
            None => {
                for row in combinations(&options, &files) {
                    measure(&row, &options, &mut summary)?;
                }
            }
        }
    }
    let Summary { ratios, peaks, over_budget, refused } = &mut summary;
    ratios.sort_by(f64::total_cmp);
    let within = ratios.iter().filter(|ratio| (0.75..=1.25).contains(*ratio)).count();
    let runs = ratios.len();
    println!(
        "{within} of {runs} within 25 % in time, {peaks} with the very peak that was predicted"
    );
    println!("{over_budget} over their budget, {refused} that no plan fits");
    if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
        println!(
            "predicted over measured: {least:.2} to {most:.2}, median {:.2}",
            ratios[runs / 2]
        );
    }
    Ok(())
}

fn combinations<'a>(options: &'a Options, files: &'a ModelFiles) -> Vec<Row<'a>> {
    let or_none = |given: Vec<u64>| match given.is_empty() {
        true => vec![None],
        false => given.into_iter().map(Some).collect(),
    };
    let sizes = or_none(options.size.iter().map(|&side| side as u64).collect());
    let mut rows = Vec::new();
    for device in &options.device {
        for &dtype in &options.dtype {
            for side in &sizes {
                for budget in or_none(options.budget.clone()) {
                    let side = side.map(|side| side as usize);
                    let steps = options.steps;
                    let request = Request { width: side, height: side, steps, ..prompt() };
                    let budget_bytes = budget.map(|budget| budget * 1_000_000);
                    rows.push(Row { device, dtype, files, budget_bytes, request });
                }
            }
        }
    }
    rows
}

/// The row of that number: the same ones in every run.
fn drawn<'a>(number: u64, options: &'a Options, files: &'a ModelFiles) -> Row<'a> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut below = |count: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % count as u64) as usize
    };
    let [width, height] = [0; 2].map(|_| Some(64 + 32 * below(5)));
    let request = Request {
        width,
        height,
        count: 1 + below(3),
        steps: 1 + below(options.steps),
        guidance_scale: [1.0, 7.5][below(2)],
        vae_tiling: [VaeTiling::Auto, VaeTiling::Exact, VaeTiling::Off][below(3)],
        vae_tile: Some([64, 96, 128][below(3)]),
        ..prompt()
    };
    let device = &options.device[below(options.device.len())];
    let dtype = options.dtype[below(options.dtype.len())];
    let budget_bytes = Some(8_000_000 + 1_000_000 * below(80) as u64);
    Row { device, dtype, files, budget_bytes, request }
}

fn prompt() -> Request {
    Request { prompt: "a lighthouse at dusk".to_owned(), ..Request::default() }
}

fn measure(row: &Row, options: &Options, summary: &mut Summary) -> Result<()> {
    let Row { dtype, files, budget_bytes, request, .. } = row;
    let go_on = &mut |_: &Progress| ControlFlow::Continue(());
    let device_options = DeviceOptions { budget_bytes: *budget_bytes, ..DeviceOptions::default() };
    let device = Device::open(row.device, &device_options)?;
    let (load_options, mut plan) = match LoadOptions::fitting(&device, files, *dtype, request) {
        Err(Error::Budget { .. }) => {
            summary.refused += 1;
            return Ok(());
        }
        planned => planned?,
    };
    device.prepare(&plan.programs, |_, _| {})?;
    let predicted = plan.time(&device, files, go_on)?.clone();
    let (mut seconds, mut parts) = (f64::INFINITY, [0.0; 2]);
    for _ in 0..options.repeat {
        device.memory().trim();
        device.memory().reset_peaks();
        let start = Instant::now();
        let pipeline = Pipeline::load(&device, files, *dtype, &load_options)?;
        let loaded = start.elapsed().as_secs_f64();
        pipeline.generate(request, go_on)?;
        let all = start.elapsed().as_secs_f64();
        if all < seconds {
            (seconds, parts) = (all, [loaded, all - loaded]);
        }
    }
    let peak_bytes = device.memory_stats().peak_held_bytes;
    let ratio = predicted.total_seconds / seconds;
    summary.ratios.push(ratio);
    summary.peaks += usize::from(peak_bytes == plan.peak_bytes);
    summary.over_budget += usize::from(budget_bytes.is_some_and(|budget| peak_bytes > budget));
    let [width, height] = plan.size;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{:10} {:4} {:9} {:>9} {:>2} {:>6} | {:8.2} {seconds:8.2} {ratio:6.2} | {:9.1} {:9.1}",
        row.device,
        plan.dtype,
        files.name,
        format!("{width}x{height}"),
        request.count,
        budget_bytes.map_or("-".to_owned(), |bytes| (bytes / 1_000_000).to_string()),
        predicted.total_seconds,
        mb(plan.peak_bytes),
        mb(peak_bytes),
    );
    let [load, draw] = parts;
    let (load_plan, draw_plan) = (predicted.load_seconds, predicted.drawing_seconds);
    println!("{:48} loading {load_plan:.2} {load:.2}, drawing {draw_plan:.2} {draw:.2}", "");
    if options.kernels {
        let pipeline = Pipeline::load(&device, files, *dtype, &load_options)?;
        device.profile().set_enabled(true);
        pipeline.generate(request, go_on)?;
        device.profile().set_enabled(false);
        compare(&predicted, &device.profile().report());
    }
    Ok(())
}

/// Seconds by stage and by kernel, predicted and measured. A profile waits for the device at the end
/// of each stage, so that a run with one takes somewhat longer.
fn compare(predicted: &PlanTimes, report: &Report) {
    for times in &predicted.stages {
        let rows = report.stages.iter().filter(|row| row.name == times.stage && row.depth == 0);
        let (host, device) = rows.fold((0.0, 0.0), |(host, device), row| {
            (host + row.host.as_secs_f64(), device + row.device.as_secs_f64())
        });
        let StageTimes { stage, launch_seconds, host_seconds, transfer_seconds, .. } = times;
        println!(
            "  {stage:24} {:8.3} {host:8.3}: launches {launch_seconds:.3} {device:.3}, host \
             {host_seconds:.3}, transfers {transfer_seconds:.3}, weights {:.3}",
            times.seconds(),
            times.weight_seconds
        );
    }
    for KernelTimes { kernel, launches, seconds } in &predicted.kernels {
        let rows = report.kernels.iter().filter(|row| row.name == *kernel);
        let measured: f64 = rows.map(|row| row.device.as_secs_f64()).sum();
        println!(
            "  {kernel:24} {seconds:8.3} {measured:8.3} {:6.2}  {launches} launches",
            seconds / measured
        );
    }
}
