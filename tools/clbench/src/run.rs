use std::process::ExitCode;
use std::time::Duration;

use ellesmere::bench::{Agreement, CASES, Case, Measurement};
use ellesmere::kernel::ProgramStats;
use ellesmere::{DType, Device, DeviceOptions, Error, Result, knob};
use serde::Serialize;

use crate::{print_json, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The kernel, or the op that chooses between kernels
    kernel: String,
    /// auto, cpu or an id of `clbench devices`
    #[arg(long)]
    device: Option<String>,
    /// How elements are stored
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Sizes that differ from the defaults, such as rows=4096,channels=320
    #[arg(long, value_delimiter = ',', value_parser = size)]
    shape: Vec<(String, usize)>,
    /// For how long to repeat it
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    time: f64,
    /// Do not compare with the definition, which takes long at large sizes
    #[arg(long)]
    no_check: bool,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

pub fn size(text: &str) -> std::result::Result<(String, usize), String> {
    let pair = text.split_once('=').and_then(|(name, value)| Some((name, value.parse().ok()?)));
    let (name, value) = pair.ok_or_else(|| format!("expected NAME=SIZE, got {text:?}"))?;
    Ok((name.trim().to_owned(), value))
}

#[derive(Serialize)]
struct Facts<'a> {
    op: &'static str,
    device: &'a ellesmere::info::DeviceInfo,
    dtype: &'static str,
    measurement: Measurement,
    programs: ProgramStats,
    agreement: Option<Agreement>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(case) = Case::find(&arguments.kernel) else {
        let names: Vec<&str> = CASES.iter().flat_map(|case| case.kernels).copied().collect();
        let detail = format!("expected one of {}, got {:?}", names.join(", "), arguments.kernel);
        return Err(Error::argument("kernel", detail));
    };
    let dtype: DType = arguments.dtype.parse()?;
    let sizes = case.sizes(&arguments.shape)?;
    let time = Duration::try_from_secs_f64(arguments.time).map_err(|_| {
        let detail = format!("expected seconds, got {}", arguments.time);
        Error::argument("time", detail)
    })?;
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let device = Device::open(&name, &DeviceOptions::default())?;
    device.notes().iter().for_each(|note| eprintln!("clbench: {note}"));

    let measurement = case.measure(&device, dtype, &sizes, time)?;
    if case.op != arguments.kernel && !measurement.launches.contains(&arguments.kernel.as_str()) {
        let detail = format!(
            "{} on {} launches {} at these sizes, not {}",
            case.op,
            device.info().name,
            measurement.launches.join(", "),
            arguments.kernel
        );
        return Err(Error::argument("kernel", detail));
    }
    let agreement = match arguments.no_check {
        true => None,
        false => Some(case.agreement(&device, dtype, &sizes)?),
    };
    let (info, programs) = (device.info(), device.program_stats());
    let (op, dtype) = (case.op, dtype.name());
    let facts = Facts { op, device: info, dtype, measurement, programs, agreement };
    if arguments.json {
        print_json(&facts);
    } else {
        print(&facts);
    }
    let agrees = facts.agreement.is_none_or(|agreement| agreement.holds());
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(facts: &Facts) {
    let measured = &facts.measurement;
    let info = facts.device;
    println!("{} {} on {}, {}", facts.op, facts.dtype, info.name, info.platform);
    let sizes = measured.sizes.iter().map(|(name, size)| format!("{name}={size}"));
    println!("sizes      {}", sizes.collect::<Vec<_>>().join(" "));
    println!("launches   {}", measured.launches.join(" "));
    let ProgramStats { built, loaded } = facts.programs;
    println!("programs   {built} built, {loaded} loaded from disk");
    let row = |clock: &str, times: &[Duration]| {
        let [Some(first), Some(median), Some(last)] =
            [times.first(), times.get(times.len() / 2), times.last()]
        else {
            let none = || "-".to_owned();
            return [clock.to_owned(), none(), none(), none(), none(), none(), none()];
        };
        let rate = |count: u64| format!("{:.2}", count as f64 / median.as_nanos().max(1) as f64);
        let milliseconds = |time: &Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        [
            clock.to_owned(),
            milliseconds(median),
            milliseconds(first),
            milliseconds(last),
            times.len().to_string(),
            rate(measured.work.flop),
            rate(measured.work.bytes),
        ]
    };
    let head = ["clock", "median ms", "min", "max", "runs", "GFLOP/s", "GB/s"];
    table::print(head, &[row("device", &measured.device), row("host", &measured.host)]);
    if let Some(agreement) = &facts.agreement {
        let verdict = if agreement.holds() { "agrees" } else { "DISAGREES" };
        println!(
            "{verdict}: off by at most {:.3e} where the largest is {:.3e}; tolerance {:.3e}",
            agreement.difference, agreement.largest, agreement.tolerance
        );
    }
}
