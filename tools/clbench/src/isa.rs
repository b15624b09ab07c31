use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ellesmere::isa::{Compiler, HotLoop, Report, TARGETS, Target};
use ellesmere::kernel::{Configuration, KERNELS, Kernel};
use ellesmere::ops::attention::{self, Algorithm, Problem};
use ellesmere::{DType, Error, Format, Result};
use serde::{Deserialize, Serialize};

use crate::{print_json, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// The chip to compile for: gfx803, gfx900, gfx906, gfx90a, gfx1030, gfx1100 or gfx1201
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
    /// comgr or clang; the first that is installed if not given
    #[arg(long)]
    compiler: Option<String>,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
    /// Fail if a kernel spills, takes over 32 KiB of local memory, or is bound lower than in FILE
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Write what a later run compares with
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    record: Option<PathBuf>,
}

/// Local memory that a work-group has on the smallest card.
pub const MOST_LOCAL_BYTES: u32 = 32 << 10;

/// Bounds are recorded in thousandths, and are worse from the next one down.
const RESOLUTION: f64 = 1e-3;

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

/// What is kept of a report: what must not get worse.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    target: String,
    compiler: String,
    /// By kernel, element type and configuration: VGPRs, waves, local bytes, bound.
    kernels: BTreeMap<String, Bounds>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bounds {
    vgprs: u32,
    sgpr_spills: u32,
    waves: u32,
    local_bytes: u32,
    bound: Option<f64>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let target = target(&arguments.target)?;
    let dtypes = match &arguments.dtype {
        Some(name) => vec![name.parse::<DType>()?],
        None => DType::ALL.to_vec(),
    };
    let chosen = chosen(arguments, target)?;
    let recorded = arguments.compare.as_deref().map(read).transpose()?;
    let compiler = Compiler::find(arguments.compiler.as_deref())?;
    let mut reports = Vec::new();
    for (kernel, configuration) in &chosen {
        for &dtype in dtypes.iter().filter(|dtype| kernel.takes(**dtype)) {
            reports.push(Report::new(&compiler, target, kernel, dtype, configuration)?);
        }
    }
    if arguments.json {
        let (target, compiler) = (target.name, compiler.name());
        print_json(&Facts { target, compiler, reports: &reports });
    } else {
        println!("{} as {} compiles for it", target.name, compiler.name());
        print(&reports);
    }
    if let Some(path) = &arguments.record {
        write(path, target.name, compiler.name(), &reports)?;
    }
    let Some(recorded) = recorded else { return Ok(ExitCode::SUCCESS) };
    let failures = failures(&recorded, target.name, compiler.name(), &reports);
    failures.iter().for_each(|failure| eprintln!("clbench: {failure}"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The chip of that name.
pub fn target(name: &str) -> Result<&'static Target> {
    Target::find(name).ok_or_else(|| {
        let names = TARGETS.map(|target| target.name).join(", ");
        Error::argument("target", format!("expected one of {names}, got {name:?}"))
    })
}

/// Kernels with their configurations: the one that was asked for, or all that GPUs are given.
fn chosen(arguments: &Arguments, target: &Target) -> Result<Vec<(&'static Kernel, Configuration)>> {
    let Some(name) = &arguments.kernel else {
        // A work-item that holds a large tile in wide vectors is for CPUs, and so are the kernels
        // for few channels. Fragments are for matrix units.
        let for_cpus = |name: &str| name.ends_with("_register") || name.starts_with("conv2d_few_");
        let for_gpus = KERNELS.iter().filter(|kernel| {
            let multiplied = target.matrix_rate > 0 || !kernel.name.ends_with("_matrix");
            multiplied && !for_cpus(kernel.name)
        });
        return Ok(for_gpus
            .flat_map(|kernel| configurations(kernel).into_iter().map(move |one| (kernel, one)))
            .collect());
    };
    let kernel = Kernel::find(name).ok_or_else(|| {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        Error::argument("kernel", format!("expected one of {}, got {name:?}", names.join(", ")))
    })?;
    if arguments.parameters.is_empty() {
        return Ok(configurations(kernel).into_iter().map(|one| (kernel, one)).collect());
    }
    let mut configuration = Configuration::defaults(kernel.parameters);
    for (name, value) in &arguments.parameters {
        if !configuration.set(name, *value) {
            let names: Vec<&str> = kernel.parameters.iter().map(|known| known.name).collect();
            let detail = format!("{} has {}, got {name}", kernel.name, names.join(", "));
            return Err(Error::argument("parameters", detail));
        }
    }
    Ok(vec![(kernel, configuration)])
}

/// The configurations of a kernel that are looked at.
fn configurations(kernel: &Kernel) -> Vec<Configuration> {
    let mut all = vec![Configuration::defaults(kernel.parameters)];
    let suggested = |values: [(&str, u32); 5]| {
        let mut one = Configuration::defaults(kernel.parameters);
        values.iter().for_each(|(name, value)| assert!(one.set(name, *value)));
        one
    };
    if ["conv2d_local", "gemm_local", "gemm_split"].contains(&kernel.name) {
        all = ellesmere::ops::local_configurations().map(suggested).collect();
        if kernel.name == "gemm_split" {
            all.drain(..all.len() - 1);
        }
    }
    if kernel.name == "gemm_matrix" {
        all = ellesmere::ops::matrix_configurations().map(suggested).collect();
    }
    // What problems and devices decide: the heads of the models, both directions of a cast, both
    // tiles of Winograd's; work-items of a GPU are its lanes.
    let mut given = vec![
        ("HEAD_WIDTH", &[40, 64, 80, 160, 512][..]),
        ("TARGET_F16", &[0, 1]),
        ("TILE", &[2, 4]),
    ];
    if kernel.name.starts_with("winograd") {
        given.push(("VECTOR", &[1]));
    }
    for (name, values) in given {
        if kernel.parameters.iter().any(|parameter| parameter.name == name) {
            let given = |one: &Configuration| {
                let one = one.clone();
                values.iter().map(move |&value| {
                    let mut one = one.clone();
                    one.set(name, value);
                    one
                })
            };
            all = all.iter().flat_map(given).collect();
        }
    }
    if kernel.name == "attention_matrix" {
        all = all.into_iter().filter_map(by_fragments).collect();
    }
    if kernel.parameters.iter().any(|parameter| parameter.name == "FORMAT") {
        let formats: Vec<_> = all.iter().flat_map(in_formats).collect();
        all.extend(formats);
    }
    all
}

/// What `attention_matrix` is given for a head of that width, if it is.
fn by_fragments(mut values: Configuration) -> Option<Configuration> {
    let head_width = values.get("HEAD_WIDTH") as usize;
    let problem = Problem { head_width, queries: 4096, heads: 8, dtype: DType::F16 };
    let units = TARGETS.iter().find(|target| target.matrix_rate > 0)?;
    let Algorithm::Matrix { queries, keys } = attention::plan(&problem, &units.card()) else {
        return None;
    };
    values.set("QUERIES", queries);
    values.set("KEYS", keys);
    Some(values)
}

/// A configuration with weights in every format, by as many outputs at a time as blocks are read.
fn in_formats(values: &Configuration) -> impl Iterator<Item = Configuration> {
    let has = |name| values.values().iter().any(|(known, _)| *known == name);
    let given: &[(&str, u32)] = match (has("ROWS"), has("VECTOR")) {
        (true, _) => &[("VECTOR", 16), ("ITEM_N", 16), ("SLICES", 32)],
        (_, true) => &[("VECTOR", 4)],
        _ => &[],
    };
    Format::ALL.into_iter().map(move |format| {
        let mut one = values.clone();
        one.set("FORMAT", format.number());
        given.iter().for_each(|(name, value)| assert!(one.set(name, *value)));
        one
    })
}

fn key(report: &Report) -> String {
    format!("{} {} {}", report.kernel, report.dtype, report.configuration)
}

fn bounds(report: &Report) -> Bounds {
    let bound = report.hottest.as_ref().map(|hot| (hot.bound / RESOLUTION).floor() * RESOLUTION);
    Bounds {
        vgprs: report.vgprs,
        sgpr_spills: report.sgpr_spills,
        waves: report.waves,
        local_bytes: report.local_bytes,
        bound: bound.map(|bound| (bound * 1e3).round() / 1e3),
    }
}

fn read(path: &Path) -> Result<Recorded> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    serde_json::from_str(&text).map_err(|error| Error::file(path, error))
}

fn write(path: &Path, target: &str, compiler: &str, reports: &[Report]) -> Result<()> {
    let kernels = reports.iter().map(|report| (key(report), bounds(report))).collect();
    let recorded = Recorded { target: target.to_owned(), compiler: compiler.to_owned(), kernels };
    let text = serde_json::to_string_pretty(&recorded).expect("numbers and texts");
    std::fs::write(path, text + "\n").map_err(|error| Error::file(path, error))
}

/// What is worse than it may be, a line each.
fn failures(recorded: &Recorded, target: &str, compiler: &str, reports: &[Report]) -> Vec<String> {
    if (&*recorded.target, &*recorded.compiler) != (target, compiler) {
        return vec![format!(
            "recorded for {} by {}, and this is {target} by {compiler}: record again",
            recorded.target, recorded.compiler
        )];
    }
    let mut failures = Vec::new();
    for report in reports {
        let key = key(report);
        if report.vgpr_spills > 0 || report.scratch_bytes > 0 {
            failures.push(format!(
                "{key} spills {} vector registers and has {} B of scratch",
                report.vgpr_spills, report.scratch_bytes
            ));
        }
        if report.local_bytes > MOST_LOCAL_BYTES {
            failures.push(format!(
                "{key} takes {} B of local memory, expected at most {MOST_LOCAL_BYTES}",
                report.local_bytes
            ));
        }
        let now = bounds(report);
        match recorded.kernels.get(&key) {
            None => failures.push(format!("{key} is not recorded")),
            Some(before) => {
                if now.bound < before.bound {
                    let percent = |bound: Option<f64>| 100.0 * bound.unwrap_or(0.0);
                    failures.push(format!(
                        "{key} is bound to {:.1} % of peak, recorded were {:.1} %",
                        percent(now.bound),
                        percent(before.bound)
                    ));
                }
                if now.sgpr_spills > before.sgpr_spills {
                    failures.push(format!(
                        "{key} spills {} scalar registers, recorded were {}",
                        now.sgpr_spills, before.sgpr_spills
                    ));
                }
                if now.waves < before.waves {
                    failures.push(format!(
                        "{key} has {} waves a SIMD, recorded were {}",
                        now.waves, before.waves
                    ));
                }
            }
        }
    }
    failures
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &'static str, bound: f64) -> Report {
        Report {
            kernel,
            dtype: "f32",
            configuration: "WG_SIZE=64".to_owned(),
            vgprs: 84,
            sgprs: 40,
            vgpr_spills: 0,
            sgpr_spills: 0,
            scratch_bytes: 0,
            local_bytes: 8448,
            work_group: 64,
            waves: 3,
            hottest: Some(HotLoop { bound, ..HotLoop::default() }),
        }
    }

    #[test]
    fn what_got_worse_is_a_line_each_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recorded.json");
        write(&path, "gfx803", "comgr 2.4", &[report("a", 0.9), report("b", 0.9)]).unwrap();
        let recorded = read(&path).unwrap();
        let failures = |reports: &[Report]| failures(&recorded, "gfx803", "comgr 2.4", reports);
        assert!(failures(&[report("a", 0.9), report("b", 0.95)]).is_empty());
        let cases = [
            (
                report("a", 0.85),
                "a f32 WG_SIZE=64 is bound to 85.0 % of peak, recorded were 90.0 %",
            ),
            (
                Report { vgpr_spills: 2, scratch_bytes: 8, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 spills 2 vector registers and has 8 B of scratch",
            ),
            (
                Report { sgpr_spills: 1, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 spills 1 scalar registers, recorded were 0",
            ),
            (
                Report { local_bytes: 32769, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 takes 32769 B of local memory, expected at most 32768",
            ),
            (
                Report { waves: 2, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 has 2 waves a SIMD, recorded were 3",
            ),
            (report("c", 0.9), "c f32 WG_SIZE=64 is not recorded"),
        ];
        for (report, expected) in cases {
            assert_eq!(failures(&[report]), [expected]);
        }
        let other = super::failures(&recorded, "gfx900", "comgr 2.4", &[]);
        assert_eq!(
            other,
            ["recorded for gfx803 by comgr 2.4, and this is gfx900 by comgr 2.4: record again"]
        );
    }

    #[test]
    fn a_file_that_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recorded.json");
        assert!(read(&path).is_err());
        std::fs::write(&path, "{\"target\": 1}").unwrap();
        assert!(read(&path).unwrap_err().to_string().starts_with(path.to_str().unwrap()));
    }
}
