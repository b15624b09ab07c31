use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ellesmere::bench::roofline::Bound;
use ellesmere::bench::{Agreement, CASES, Case, Measurement, Peaks};
use ellesmere::io::atomic;
use ellesmere::kernel::ProgramStats;
use ellesmere::{DType, Device, DeviceOptions, Error, Result, knob};
use serde::Serialize;

use crate::results::{CaseResult, Results};
use crate::{peak, print_json, table};

/// Run one kernel, or all: time, GFLOP/s, GB/s, % of peak, what binds, and the configuration used
///
/// % of peak is the time that the binding limit alone asks for, over the time that was taken. The
/// limits are those of `clbench peak`, kept for each device and driver; where they are missing they
/// are measured first, which takes about 3 seconds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clbench run gemm --shape rows=4096,outputs=320,inputs=320
  clbench run conv2d --device cpu --dtype f16
  clbench run all --save results.json    every case at its default sizes, for compare and report")]
pub struct Arguments {
    /// The kernel, the op that chooses between kernels, or all
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
    /// Do not say % of peak, and measure no peaks
    #[arg(long)]
    no_peaks: bool,
    /// Write the times of every run and all that belongs to them to a file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
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
    bound: Option<Bound>,
    programs: ProgramStats,
    agreement: Option<Agreement>,
}

/// Cases of models: those that measure peaks apart.
pub fn model_cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| !case.op.starts_with("peak_"))
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let case = match arguments.kernel.as_str() {
        "all" => None,
        name => Some(Case::known(name)?),
    };
    let dtype: DType = arguments.dtype.parse()?;
    let time = Duration::try_from_secs_f64(arguments.time).map_err(|_| {
        let detail = format!("expected seconds, got {}", arguments.time);
        Error::argument("time", detail)
    })?;
    if case.is_none() && !arguments.shape.is_empty() {
        let detail = "expected none with all: every case has sizes of its own";
        return Err(Error::argument("shape", detail));
    }
    if let Some(case) = case {
        case.sizes(&arguments.shape)?;
    }
    if let Some(path) = &arguments.save {
        atomic::check_writable(path)?;
    }
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let device = Device::open(&name, &DeviceOptions::default())?;
    device.notes().iter().for_each(|note| eprintln!("clbench: {note}"));
    let peaks = match arguments.no_peaks {
        true => None,
        false => Some(peak::kept_or_measured(&device)?),
    };
    let mut all = Vec::new();
    match case {
        Some(case) => all.push(facts(arguments, case, &device, dtype, time, peaks.as_ref())?),
        None => {
            for case in model_cases() {
                eprintln!("clbench: {} {dtype}", case.op);
                all.push(facts(arguments, case, &device, dtype, time, peaks.as_ref())?);
            }
        }
    }
    if let Some(path) = &arguments.save {
        let result = |facts: &Facts| {
            CaseResult::new(facts.op, facts.dtype, &facts.measurement, peaks.as_ref())
        };
        let cases = all.iter().map(result).collect();
        Results::new(device.info(), peaks.clone(), cases).write(path)?;
    }
    match (arguments.json, case.is_some()) {
        (true, true) => print_json(&all[0]),
        (true, false) => print_json(&all),
        (false, true) => print(&all[0], peaks.as_ref()),
        (false, false) => print_all(&all),
    }
    let agrees = |facts: &Facts| facts.agreement.is_none_or(|agreement| agreement.holds());
    Ok(if all.iter().all(agrees) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn facts<'a>(
    arguments: &Arguments,
    case: &Case,
    device: &'a Device,
    dtype: DType,
    time: Duration,
    peaks: Option<&Peaks>,
) -> Result<Facts<'a>> {
    let sizes = case.sizes(&arguments.shape)?;
    let measurement = case.measure(device, dtype, &sizes, time)?;
    let kernel = arguments.kernel.as_str();
    if case.op != kernel && kernel != "all" && !measurement.launches.contains(&kernel) {
        let detail = format!(
            "{} on {} launches {} at these sizes, not {kernel}",
            case.op,
            device.info().name,
            measurement.launches.join(", "),
        );
        return Err(Error::argument("kernel", detail));
    }
    let agreement = match arguments.no_check {
        true => None,
        false => Some(case.agreement(device, dtype, &sizes)?),
    };
    let bound = peaks.map(|peaks| measurement.bound(peaks));
    let (info, programs) = (device.info(), device.program_stats());
    let (op, dtype) = (case.op, dtype.name());
    Ok(Facts { op, device: info, dtype, measurement, bound, programs, agreement })
}

/// Of nanoseconds that something took: 10^9 of it a second.
fn rate(count: u64, time: Duration) -> String {
    format!("{:.2}", count as f64 / time.as_nanos().max(1) as f64)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

fn percent(bound: Option<Bound>) -> [String; 2] {
    bound.map_or(["-".to_owned(), "-".to_owned()], |bound| {
        [format!("{:.0} %", bound.percent_of_peak), bound.binds.name().to_owned()]
    })
}

fn print(facts: &Facts, peaks: Option<&Peaks>) {
    let measured = &facts.measurement;
    let info = facts.device;
    println!("{} {} on {}, {}", facts.op, facts.dtype, info.name, info.platform);
    let sizes = measured.sizes.iter().map(|(name, size)| format!("{name}={size}"));
    println!("sizes      {}", sizes.collect::<Vec<_>>().join(" "));
    for launched in &measured.details {
        println!("launches   {} {}", launched.kernel, launched.configuration);
    }
    let ProgramStats { built, loaded } = facts.programs;
    println!("programs   {built} built, {loaded} loaded from disk");
    let row = |clock: &str, times: &[Duration]| {
        let [Some(first), Some(median), Some(last)] =
            [times.first(), times.get(times.len() / 2), times.last()]
        else {
            let none = || "-".to_owned();
            return [clock.to_owned(), none(), none(), none(), none(), none(), none()];
        };
        [
            clock.to_owned(),
            milliseconds(*median),
            milliseconds(*first),
            milliseconds(*last),
            times.len().to_string(),
            rate(measured.work.flop, *median),
            rate(measured.work.bytes, *median),
        ]
    };
    let head = ["clock", "median ms", "min", "max", "runs", "GFLOP/s", "GB/s"];
    table::print(head, &[row("device", &measured.device), row("host", &measured.host)]);
    if let (Some(bound), Some(peaks)) = (facts.bound, peaks) {
        println!(
            "{:.0} % of peak; {} binds (f32 {:.0} GFLOP/s, memory {:.1} GB/s, local memory {:.0} \
             GB/s, a launch {:.1} us)",
            bound.percent_of_peak,
            bound.binds.name(),
            peaks.f32.value,
            peaks.memory_gb_s(),
            peaks.local_memory.value,
            peaks.launch_back_to_back.value,
        );
    }
    if let Some(agreement) = &facts.agreement {
        let verdict = if agreement.holds() { "agrees" } else { "DISAGREES" };
        println!(
            "{verdict}: off by at most {:.3e} where the largest is {:.3e}; tolerance {:.3e}",
            agreement.difference, agreement.largest, agreement.tolerance
        );
    }
}

fn print_all(all: &[Facts]) {
    if let Some(first) = all.first() {
        println!("{} on {}, {}", first.dtype, first.device.name, first.device.platform);
    }
    let head = [
        "op",
        "median ms",
        "min",
        "max",
        "runs",
        "GFLOP/s",
        "GB/s",
        "% of peak",
        "binds",
        "agrees",
        "launches",
    ];
    let row = |facts: &Facts| {
        let (measured, times) = (&facts.measurement, facts.measurement.times());
        let [percent, binds] = percent(facts.bound);
        let agrees = match facts.agreement {
            None => "-",
            Some(agreement) if agreement.holds() => "yes",
            Some(_) => "NO",
        };
        let launches = measured.details.iter();
        let launches = launches.map(|one| format!("{} {}", one.kernel, one.configuration));
        [
            facts.op.to_owned(),
            milliseconds(measured.median()),
            milliseconds(times[0]),
            milliseconds(times[times.len() - 1]),
            times.len().to_string(),
            rate(measured.work.flop, measured.median()),
            rate(measured.work.bytes, measured.median()),
            percent,
            binds,
            agrees.to_owned(),
            launches.collect::<Vec<_>>().join("; "),
        ]
    };
    table::print(head, &all.iter().map(row).collect::<Vec<_>>());
}
