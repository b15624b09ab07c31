use std::process::ExitCode;
use std::time::{Duration, Instant};

use ellesmere::bench::{Inputs, Problem};
use ellesmere::tune::Entry;
use ellesmere::tune::database::{Nearness, Source};
use ellesmere::{Device, DeviceOptions, Error, Result, knob};
use serde::Serialize;

use crate::{print_json, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// auto, cpu or an id of `clbench devices`
    #[arg(long)]
    device: Option<String>,
    /// By how many percent a pick may be slower than the best that was recorded
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    tolerance: f64,
    /// For how long to measure each pick
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    time: f64,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

/// Runs of a pick, at least.
const LEAST_RUNS: usize = 9;

#[derive(Serialize)]
struct Row {
    entry: Entry,
    /// The median now.
    seconds: Option<f64>,
    /// The quicker of the pick and its runner-up, as recorded.
    best_seconds: Option<f64>,
    /// By how many percent the pick is slower than that.
    slower_percent: Option<f64>,
    verdict: Verdict,
    /// Why it was not checked.
    detail: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Slower,
    NotChecked,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let tolerance = arguments.tolerance;
    if !(0.0..=1e6).contains(&tolerance) {
        return Err(Error::argument("tolerance", format!("expected percents, got {tolerance}")));
    }
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
    // The times of what is shipped are those of another machine.
    let own = device.tuning().entries().into_iter().filter(|(source, entry)| {
        *source == Source::User
            && Nearness::of(&entry.device, &device.key()) == Some(Nearness::Driver)
    });
    let rows: Vec<Row> = own.map(|(_, entry)| check(&device, entry, time, tolerance)).collect();
    if arguments.json {
        print_json(&rows);
    } else if rows.is_empty() {
        println!("nothing is recorded for {} and its driver", device.info().name);
    } else {
        print(&rows);
    }
    let slower = rows.iter().any(|row| row.verdict == Verdict::Slower);
    Ok(if slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(device: &Device, entry: Entry, time: Duration, tolerance: f64) -> Row {
    let second = entry.runner_up.as_ref().and_then(|second| second.seconds);
    let best_seconds = entry.seconds.into_iter().chain(second).min_by(f64::total_cmp);
    let measured = match best_seconds {
        None => Err("no time is recorded".to_owned()),
        Some(best) => measure(device, &entry, time).map(|seconds| (seconds, best)),
    };
    let (seconds, slower_percent, verdict, detail) = match measured {
        Err(detail) => (None, None, Verdict::NotChecked, detail),
        Ok((seconds, best)) => {
            let slower = 100.0 * (seconds / best - 1.0);
            let good = slower <= tolerance;
            let verdict = if good { Verdict::Good } else { Verdict::Slower };
            (Some(seconds), Some(slower), verdict, String::new())
        }
    };
    Row { entry, seconds, best_seconds, slower_percent, verdict, detail }
}

/// The pick's median seconds in a run of its op.
fn measure(device: &Device, entry: &Entry, time: Duration) -> Result<f64, String> {
    let problem = Problem::of_entry(entry, device.info()).map_err(|error| error.to_string())?;
    let (bytes, memory_bytes) = (problem.work.bytes, device.info().memory_bytes);
    if bytes > memory_bytes {
        return Err(format!("{bytes} B do not fit the device's {memory_bytes} B"));
    }
    let values = entry.apply(&problem.default, device.info())?;
    let values = values.values().iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let forced = vec![(entry.kernel.clone(), values)];
    let device = device.sharing_programs(&DeviceOptions { forced, ..DeviceOptions::default() });
    times(&device, &problem, time).map_err(|error| error.to_string())
}

fn times(device: &Device, problem: &Problem, time: Duration) -> Result<f64> {
    let inputs = Inputs::new(device, problem.dtype, &problem.sizes);
    let run = (problem.case.prepare)(&inputs)?;
    run()?;
    device.finish()?;
    let profile = device.profile();
    profile.set_enabled(true);
    let begin = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < LEAST_RUNS || begin.elapsed() < time {
        let known = profile.records().len();
        let stage = device.stage("check");
        let start = Instant::now();
        run()?;
        device.finish()?;
        let host = start.elapsed();
        drop(stage);
        let records = profile.records().split_off(known);
        let own = records.iter().filter(|record| record.name == problem.kernel.name);
        let by_device = own.map(|record| record.device).sum::<Option<Duration>>();
        runs.push(by_device.unwrap_or(host).as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[runs.len() / 2])
}

fn print(rows: &[Row]) {
    let milliseconds = |seconds: Option<f64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.4}", seconds * 1e3))
    };
    let cells = |row: &Row| {
        let class = row.entry.class.iter().map(|(name, size)| format!("{name}={size}"));
        let verdict = match row.verdict {
            Verdict::Good => "good".to_owned(),
            Verdict::Slower => "SLOWER".to_owned(),
            Verdict::NotChecked => format!("not checked: {}", row.detail),
        };
        [
            row.entry.kernel.clone(),
            row.entry.dtype.clone(),
            class.collect::<Vec<_>>().join(","),
            milliseconds(row.seconds),
            milliseconds(row.best_seconds),
            row.slower_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:+.1} %")),
            verdict,
        ]
    };
    let head = ["kernel", "dtype", "class", "ms", "best ms", "slower", "verdict"];
    table::print(head, &rows.iter().map(cells).collect::<Vec<_>>());
}
