//! What a compiler makes of the kernels for a chip that need not be here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use ellesmere::isa::{Compiler, HotLoop, Report, TARGETS, Target};
use ellesmere::{DType, Error, Result};
use serde::Serialize;

use crate::{print_json, table};

mod every;
mod keep;
mod npy;
mod programs;
mod record;
mod witness;

use programs::Program;
use record::Recorded;

#[derive(clap::Args)]
pub struct Arguments {
    /// The chip to compile for: gfx803, gfx900, gfx906, gfx90a, gfx942, gfx1030, gfx1100, gfx1201,
    /// or all
    #[arg(long, default_value = "gfx803")]
    target: String,
    /// One kernel instead of all that GPUs are given
    #[arg(long)]
    kernel: Option<String>,
    /// Values that differ from the kernel's defaults, such as TILE_M=128,TILE_N=64
    #[arg(long, value_delimiter = ',', value_parser = parameter, requires = "kernel")]
    parameters: Vec<(String, u32)>,
    /// How elements are stored; both ways if not given
    #[arg(long)]
    dtype: Option<String>,
    /// comgr or clang; if not given, comgr where one is installed that knows the chip, else clang
    #[arg(long)]
    compiler: Option<String>,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
    /// Print what differs from FILE, and fail if a kernel spills, takes more local memory than a
    /// work-group has there, or has more scratch, fewer waves or a lower bound than in FILE. In a folder, FILE
    /// is TARGET.isa.json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Write what a later run compares with; of one kernel, beside what FILE has of the others
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    record: Option<PathBuf>,
    /// Write code objects to FOLDER/TARGET instead of reports, each with a description of a launch,
    /// its inputs, and the outputs that are expected
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["compare", "record", "json"])]
    keep: Option<PathBuf>,
}

/// Local memory that a work-group has on the smallest card.
pub const MOST_LOCAL_BYTES: u32 = 32 << 10;

fn parameter(text: &str) -> std::result::Result<(String, u32), String> {
    let pair = text.split_once('=').and_then(|(name, value)| Some((name, value.parse().ok()?)));
    let (name, value) = pair.ok_or_else(|| format!("expected NAME=VALUE, got {text:?}"))?;
    Ok((name.trim().to_owned(), value))
}

#[derive(Serialize)]
struct Facts<'a> {
    target: &'a str,
    compiler: &'a str,
    reports: &'a [Report],
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.target == "all" {
        return every::run(arguments);
    }
    let target = target(&arguments.target)?;
    let dtypes = match &arguments.dtype {
        Some(name) => vec![name.parse::<DType>()?],
        None => DType::ALL.to_vec(),
    };
    let programs = match &arguments.kernel {
        Some(name) => programs::named(target, name, &arguments.parameters, &dtypes)?,
        None => programs::given(target, &dtypes),
    };
    let recorded = arguments.compare.as_deref().map(|path| Recorded::read(path, target));
    let recorded = recorded.transpose()?;
    let compiler = Compiler::find(target, arguments.compiler.as_deref())?;
    if let Some(folder) = &arguments.keep {
        return keep::run(&folder.join(target.name), target, &compiler, &programs);
    }
    let report =
        |one: &Program| Report::new(&compiler, target, one.kernel(), one.dtype, &one.configuration);
    let reports = programs.iter().map(report).collect::<Result<Vec<_>>>()?;
    let (name, compiler_name) = (target.name, compiler.name());
    if arguments.json {
        print_json(&Facts { target: name, compiler: compiler_name, reports: &reports });
    }
    if let Some(path) = &arguments.record {
        let recorded = Recorded::new(target, &compiler, &reports);
        let recorded = match &arguments.kernel {
            Some(kernel) => recorded.beside(path, target, kernel)?,
            None => recorded,
        };
        recorded.write(path, target)?;
    }
    let fail = |failures: &[String]| {
        failures.iter().for_each(|failure| eprintln!("clbench: {name}: {failure}"));
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    };
    let Some(recorded) = recorded else {
        if !arguments.json {
            println!("{name} as {compiler_name} compiles for it");
            print(&reports);
        }
        // What is out of bounds is recorded, and never passes.
        let failures = reports.iter().filter(|_| arguments.record.is_some());
        let failures = failures.flat_map(|report| record::out_of_bounds(report, target));
        return Ok(fail(&failures.collect::<Vec<_>>()));
    };
    let found = recorded.compare(target, compiler_name, &reports);
    if !arguments.json {
        let (count, changed) = (reports.len(), found.changes.len());
        println!(
            "{name} as {compiler_name} compiles for it: {count} programs, {changed} not as recorded"
        );
        if changed > 0 {
            table::print(record::CHANGED, &found.changes);
        }
    }
    Ok(fail(&found.failures))
}

/// The chip of that name.
pub fn target(name: &str) -> Result<&'static Target> {
    Target::find(name).ok_or_else(|| {
        let names = TARGETS.map(|target| target.name).join(", ");
        Error::argument("target", format!("expected one of {names}, got {name:?}"))
    })
}

fn print(reports: &[Report]) {
    let head = [
        "kernel",
        "dtype",
        "VGPR",
        "SGPR",
        "spills V+S",
        "scratch",
        "local",
        "waves",
        "FMA",
        "of vector",
        "local loads",
        "global loads",
        "bound",
        "binds",
        "configuration",
    ];
    let row = |report: &Report| {
        let none = || "-".to_owned();
        let hot = |fact: fn(&HotLoop) -> String| report.hottest.as_ref().map_or_else(none, fact);
        [
            report.kernel.to_owned(),
            report.dtype.to_owned(),
            report.vgprs.to_string(),
            report.sgprs.to_string(),
            format!("{}+{}", report.vgpr_spills, report.sgpr_spills),
            report.scratch_bytes.to_string(),
            report.local_bytes.to_string(),
            report.waves.to_string(),
            hot(|hot| hot.fma.to_string()),
            hot(|hot| format!("{:.1} %", 100.0 * hot.fma_share)),
            hot(|hot| widths(&hot.local_loads)),
            hot(|hot| widths(&hot.global_loads)),
            hot(|hot| format!("{:.1} %", 100.0 * hot.bound)),
            hot(|hot| hot.binds.to_owned()),
            report.configuration.clone(),
        ]
    };
    table::print(head, &reports.iter().map(row).collect::<Vec<_>>());
}

/// How many of which width: `24x16` for 24 of 16 bytes.
fn widths(loads: &BTreeMap<u32, u32>) -> String {
    let texts = loads.iter().rev().map(|(bytes, count)| format!("{count}x{bytes}"));
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "0".to_owned() } else { texts.join("+") }
}
