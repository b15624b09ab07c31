//! Which configuration of a kernel is the best on a device: tried, compared, timed, remembered.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ellesmere::bench::{CASES, Part, Problem, Suite};
use ellesmere::hardware::{DeviceEntry, Wanted, detect};
use ellesmere::info::DeviceInfo;
use ellesmere::io::{atomic, read_text};
use ellesmere::tune::{Database, Entry, Outcome, Recording, Space, StrategyKind};
use ellesmere::{DType, Error, Result, knob};

use crate::table;

mod by_report;
mod child;
mod demo;
mod journal;
mod measure;
mod problem;
mod progress;
mod protocol;
mod stop;
pub mod worker;

use child::Runner;
use journal::Folder;
use problem::{End, Settings, Tried, Tuned};

/// A kernel's file is not longer.
const MOST_SOURCE_BYTES: u64 = 4 << 20;
/// Searches of a recorded space, each with a seed of its own.
const REPLAYS: u64 = 20;

#[derive(clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Arguments {
    /// The kernel, the op that chooses between kernels, or `all`
    #[arg(required_unless_present = "replay")]
    kernel: Option<String>,
    /// Tune what a whole model launches, the heaviest first: sd15, sd21, vae or demo
    #[arg(long, value_parser = ["sd15", "sd21", "vae", "demo"], conflicts_with = "shape")]
    suite: Option<String>,
    /// Sizes that differ from the defaults, such as rows=4096,outputs=320
    #[arg(long, value_delimiter = ',', value_parser = crate::run::size)]
    shape: Vec<(String, usize)>,
    /// How elements are stored
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// auto (the best device but the host) or an id of `clbench devices`
    #[arg(long)]
    device: Option<String>,
    /// Choose for a chip that is not here by what a compiler reports (see `clbench isa`), as gfx803
    #[arg(
        long,
        conflicts_with_all = ["device", "strategy", "max_candidates", "resume", "retry", "source", "output"]
    )]
    target: Option<String>,
    /// exhaustive, random, anneal, local or model
    #[arg(long)]
    strategy: Option<String>,
    /// How long to search, shared out over the problems by their weight; `none` for no limit
    #[arg(long, default_value = "60s", value_name = "TIME")]
    budget: String,
    /// How many candidates of each problem to try
    #[arg(long, value_name = "N")]
    max_candidates: Option<usize>,
    /// What compiling a candidate, comparing it, or one run of it may take
    #[arg(long, default_value = "10s", value_name = "TIME")]
    timeout: String,
    /// Go on where an earlier run ended: what it has tried is not tried again
    #[arg(long)]
    resume: bool,
    /// Also try candidates that have crashed or hung before
    #[arg(long)]
    retry: bool,
    /// Try only these values of a parameter, such as TILE_M=4,8; may be repeated
    #[arg(long, value_parser = parameter_values, value_name = "NAME=VALUE,..")]
    values: Vec<(String, Vec<u32>)>,
    /// A file that stands in for the kernel's own in kernels/
    #[arg(long, value_name = "FILE.cl")]
    source: Option<PathBuf>,
    /// Write every candidate and its outcome, in the T4 format; for one problem
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Search a recorded space instead of a device, and tell how soon the best is found
    #[arg(long, value_name = "FILE.json")]
    replay: Option<PathBuf>,
    /// Of the strategy's choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// List the problems and how many candidates each has, and try none
    #[arg(long)]
    dry_run: bool,
}

const AFTER_HELP: &str = "\
Candidates run in a process of their own: one that hangs, crashes or takes the driver with it \
costs one row. Each is compared with the kernel's definition (at large sizes with the host's fast \
path, and with the definition at smaller sizes of the same remainders), in memory that is filled \
with NaNs before and guarded by zones on both sides; then timed, 9 runs or more, of which the \
median counts; at the end the best is timed again. Outcomes are ok, compile, timeout, runtime (a crash, or a launch that fails), \
correctness (a wrong result, or a write outside a buffer) and constraints.

What is tried is noted before and after in the folder of the tuned configurations; --resume goes \
on there. Candidates that crashed or hung are on the blacklist there, for that device, driver and \
source, until --retry.

With --target nothing runs: of products, convolutions and attention the configuration is chosen by \
the share of peak to which the compiled loop is bound and by how evenly its tiles fall on the chip's \
units, and remembered as `static`. It answers for its own class of sizes alone.

A kernel of your own: write FILE.cl with the name, the arguments and the parameters of the kernel \
that it stands in for (start from its file in kernels/; prelude and headers come before it), and \
give it by --source. Its results are known by the hash of that source: the best one goes to \
--output, not among the tuned configurations.

  clbench tune gemm_register --source my_gemm.cl --shape rows=256,outputs=320,inputs=320 \\
      --values TILE_M=4,6,8,12,14 --values VECTOR=16 --strategy exhaustive --timeout 3s";

fn parameter_values(text: &str) -> std::result::Result<(String, Vec<u32>), String> {
    let parsed = text.split_once('=').and_then(|(name, values)| {
        let values = values.split(',').map(|value| value.trim().parse().ok());
        Some((name.trim().to_owned(), values.collect::<Option<Vec<u32>>>()?))
    });
    parsed.ok_or_else(|| format!("expected NAME=VALUE,.., got {text:?}"))
}

fn duration(name: &str, text: &str) -> Result<Duration> {
    let parsed = humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero());
    parsed.ok_or_else(|| {
        Error::argument(name, format!("expected a time such as 10s or 2m, got {text:?}"))
    })
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let strategy = arguments.strategy.as_deref().map(str::parse::<StrategyKind>).transpose()?;
    if let Some(path) = &arguments.replay {
        return replay(path, strategy);
    }
    let dtype: DType = arguments.dtype.parse()?;
    let timeout = duration("timeout", &arguments.timeout)?;
    let budget = match arguments.budget.as_str() {
        "none" => None,
        text => Some(duration("budget", text)?),
    };
    let target = arguments.target.as_deref().map(crate::isa::target).transpose()?;
    let (device, info) = match target {
        Some(target) => (String::new(), target.card()),
        None => {
            let entry = device(arguments)?;
            (entry.id, entry.info)
        }
    };
    let problems = problems(arguments, dtype, &info)?;
    let settings = Settings {
        device,
        info,
        strategy: strategy.unwrap_or_default(),
        seed: arguments.seed,
        max_candidates: arguments.max_candidates,
        resume: arguments.resume,
        retry: arguments.retry,
        source: stand_in(arguments, &problems)?,
        values: arguments.values.clone(),
    };
    let problems = problems
        .into_iter()
        .map(|problem| Ok((problem::space(&problem, &settings)?, problem)))
        .collect::<Result<Vec<_>>>()?;
    if arguments.dry_run {
        list(&problems);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(target) = target {
        return by_report::run(target, &problems);
    }
    if let Some(output) = &arguments.output {
        if problems.len() > 1 {
            let detail = format!("takes one problem, got {}; see --dry-run", problems.len());
            return Err(Error::argument("output", detail));
        }
        atomic::check_writable(output)?;
    }
    search(arguments, &problems, &settings, Runner::new(timeout), budget)
}

/// Tunes one problem after the other, each for its share of what is left of the budget.
fn search(
    arguments: &Arguments,
    problems: &[(Space, Problem)],
    settings: &Settings,
    mut runner: Runner,
    budget: Option<Duration>,
) -> Result<ExitCode> {
    let path = database_path()?;
    let folder = Folder::open(&path.with_extension("d"))?;
    let database = Database::open(&path);
    database.notes().iter().for_each(|note| eprintln!("clbench: {note}"));
    stop::on_ctrl_c()?;
    let (mut rows, begin) = (Vec::new(), Instant::now());
    let (mut failed, mut stopped, mut failure) = (false, false, None);
    let mut weight_left: u64 = problems.iter().map(|(_, problem)| problem.weight.max(1)).sum();
    for (space, problem) in problems {
        let share = problem.weight.max(1) as f64 / weight_left as f64;
        weight_left -= problem.weight.max(1);
        let left = budget.map(|budget| budget.saturating_sub(begin.elapsed()));
        let tried = Tried { problem, space, database: &database, folder: &folder };
        let own_budget = left.map(|left| left.mul_f64(share));
        let tuned = problem::tune(tried, settings, &mut runner, own_budget)?;
        rows.push(row(problem, &tuned));
        failed |= tuned.recording.ranking().is_empty();
        keep(arguments, &tuned, &database)?;
        (stopped, failure) = (tuned.end == End::Stopped, tuned.failure);
        if stopped {
            break;
        }
    }
    print(&rows);
    match failure {
        Some(error) => Err(error),
        None if stopped => {
            eprintln!("clbench: stopped; the same command with --resume goes on from here");
            Ok(ExitCode::from(130))
        }
        None if failed => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The user's tuned configurations; journals and the blacklist are in a folder beside them.
fn database_path() -> Result<PathBuf> {
    let path = knob::tuning(knob::cache_dir()?.as_deref())?;
    path.ok_or_else(|| {
        let detail = "tuning needs a file to remember in, got \"off\"; see ELLESMERE_TUNING";
        Error::argument("tuned configurations", detail)
    })
}

/// The device that is tuned for. It is not opened here: that is for workers.
fn device(arguments: &Arguments) -> Result<DeviceEntry> {
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let detected = detect();
    let tunable = |entry: &&DeviceEntry| entry.unusable().is_none() && entry.info.backend != "cpu";
    let entry = match Wanted::parse(&name)? {
        Wanted::Id(id) => detected.get(&id)?,
        Wanted::Auto => detected.entries.iter().find(tunable).ok_or_else(|| {
            let detail = "there is none but the host, whose kernels take no configuration";
            let notes = detected.notes.iter().map(|note| format!("; {note}"));
            Error::NoDevice {
                wanted: "to tune".to_owned(),
                detail: format!("{detail}{}", notes.collect::<String>()),
            }
        })?,
    };
    if entry.info.backend == "cpu" {
        let detail = "the host's kernels are Rust and take no configuration: nothing to tune";
        return Err(Error::argument("device", detail));
    }
    match entry.unusable() {
        Some(reason) => {
            Err(Error::NoDevice { wanted: entry.id.clone(), detail: reason.to_owned() })
        }
        None => Ok(entry.clone()),
    }
}

fn problems(arguments: &Arguments, dtype: DType, info: &DeviceInfo) -> Result<Vec<Problem>> {
    let name = arguments.kernel.as_deref().unwrap_or_default();
    let parts = match arguments.suite.as_deref() {
        None => None,
        Some("sd15") => Some(Part::sd15()?),
        Some("sd21") => Some(Part::sd21()?),
        Some("vae") => Some(Part::vae()?),
        Some(_) => Some(demo::parts()?),
    };
    let mut problems = match parts {
        None if name == "all" => {
            if !arguments.shape.is_empty() {
                return Err(Error::argument("shape", "is for one kernel, got it with all"));
            }
            let each = CASES.iter().map(|case| Problem::named(case.op, dtype, &[], info));
            each.collect::<Result<Vec<_>>>()?.concat()
        }
        None => Problem::named(name, dtype, &arguments.shape, info)?,
        Some(parts) => {
            let suite = Suite::of(&parts, dtype, info)?;
            for left_out in &suite.left_out {
                let class = ellesmere::tune::Class(left_out.class.clone());
                eprintln!("clbench: {} {class} cannot be run by itself", left_out.kernel);
            }
            let mut problems = suite.problems;
            if name != "all" {
                // An unknown name is told as such.
                ellesmere::bench::Case::known(name)?;
                problems.retain(|problem| problem.kernel.name == name || problem.case.op == name);
            }
            if problems.is_empty() {
                let suite = arguments.suite.as_deref().unwrap_or_default();
                let detail = format!("{suite} on {} launches no {name}", info.name);
                return Err(Error::argument("kernel", detail));
            }
            problems
        }
    };
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.weight));
    Ok(problems)
}

/// The whole text of what stands in for the kernel.
fn stand_in(arguments: &Arguments, problems: &[Problem]) -> Result<Option<&'static str>> {
    let Some(path) = &arguments.source else { return Ok(None) };
    let kernel = problems[0].kernel;
    if problems.iter().any(|problem| problem.kernel.name != kernel.name) {
        return Err(Error::argument("source", "stands in for one kernel, got several to tune"));
    }
    let text = read_text(path, MOST_SOURCE_BYTES)?;
    let text = text.ok_or_else(|| Error::file(path, "no such file"))?;
    // Once a run.
    Ok(Some(kernel.stand_in(&text).leak()))
}

fn list(problems: &[(Space, Problem)]) {
    let all: u64 = problems.iter().map(|(_, problem)| problem.weight).sum();
    let rows: Vec<_> = problems
        .iter()
        .map(|(space, problem)| {
            [
                problem.kernel.name.to_owned(),
                problem.dtype.name().to_owned(),
                problem.class.to_string(),
                problem.launches.to_string(),
                format!("{:.1}", 100.0 * problem.weight as f64 / all.max(1) as f64),
                space.len().to_string(),
                problem.default.to_string(),
            ]
        })
        .collect();
    let head = ["kernel", "dtype", "class", "launches", "weight %", "candidates", "default"];
    table::print(head, &rows);
}

/// A problem's line in the table at the end.
fn row(problem: &Problem, tuned: &Tuned) -> [String; 8] {
    let trials = &tuned.recording.trials;
    let right = trials.iter().filter(|trial| trial.outcome == Outcome::Ok).count();
    let tried = trials.iter().filter(|trial| trial.outcome != Outcome::Constraints).count();
    let failures = problem::failures(trials.iter().map(|trial| trial.outcome));
    let default = problem.default.values();
    let is_default = |name: &String, value: &u32| default.contains(&(name.as_str(), *value));
    let default = trials
        .iter()
        .find(|trial| trial.configuration.iter().all(|(name, value)| is_default(name, value)))
        .and_then(|trial| trial.seconds());
    let ranking = tuned.recording.ranking();
    let milliseconds = |seconds: f64| format!("{:.3}", seconds * 1e3);
    let none = || "-".to_owned();
    let comma = if failures.is_empty() { "" } else { ", " };
    [
        problem.kernel.name.to_owned(),
        problem.class.to_string(),
        format!("{tried} of {}", tuned.candidates),
        format!("{right} ok{comma}{failures}"),
        default.map_or_else(none, milliseconds),
        ranking.first().map_or_else(none, |(_, seconds)| milliseconds(*seconds)),
        ranking.first().map_or_else(none, |(_, seconds)| {
            format!("{:.1}", problem.work.flop as f64 / seconds / 1e9)
        }),
        ranking.first().map_or_else(none, |(trial, _)| {
            let values = trial.configuration.iter().map(|(name, value)| format!("{name}={value}"));
            values.collect::<Vec<_>>().join(" ")
        }),
    ]
}

fn print(rows: &[[String; 8]]) {
    let head = ["kernel", "class", "tried", "outcomes", "default ms", "best ms", "GFLOP/s", "best"];
    table::print(head, rows);
}

/// Writes the recording, and the best candidate to the tuned configurations.
fn keep(arguments: &Arguments, tuned: &Tuned, database: &Database) -> Result<()> {
    let recording = &tuned.recording;
    if let Some(output) = arguments.output.as_ref().filter(|_| !recording.trials.is_empty()) {
        recording.write(output)?;
    }
    // What stands in for a kernel is no part of it.
    if arguments.source.is_some() {
        return Ok(());
    }
    let Some(entry) = Entry::of_recording(recording)? else { return Ok(()) };
    // A better one that was not among the candidates stays.
    let better = |old: &Entry| {
        let tried = recording.trials.iter().any(|trial| {
            old.configuration
                .iter()
                .all(|(name, value)| trial.configuration.get(name) == Some(value))
        });
        let quicker = old.seconds.zip(entry.seconds).is_some_and(|(old, new)| old < new);
        old.same_key(&entry) && old.source == entry.source && !tried && quicker
    };
    if database.entries().iter().any(|(_, old)| better(old)) {
        eprintln!("clbench: {}: the one that is remembered is quicker and stays", entry.kernel);
        return Ok(());
    }
    database.remember(entry)
}

/// How soon strategies find the best of a recorded space.
fn replay(path: &Path, strategy: Option<StrategyKind>) -> Result<ExitCode> {
    let recording = Recording::read(path)?;
    let strategies = match &strategy {
        Some(strategy) => std::slice::from_ref(strategy),
        None => &StrategyKind::ALL,
    };
    let mut rows = Vec::new();
    for &strategy in strategies {
        let replay = ellesmere::tune::replay(&recording, strategy, REPLAYS)?;
        for reached in &replay.reached {
            rows.push([
                replay.strategy.to_owned(),
                replay.candidates.to_string(),
                format!("{} %", reached.percent),
                reached.trials.to_string(),
                format!("{:.1}", 100.0 * reached.mean),
                format!("{:.1}", 100.0 * reached.least),
            ]);
        }
    }
    let head = ["strategy", "candidates", "tried", "trials", "mean % of best", "least"];
    table::print(head, &rows);
    Ok(ExitCode::SUCCESS)
}
