//! What is kept of reports, and what of it got worse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ellesmere::isa::{Compiler, Report, Target};
use ellesmere::{Error, Result};
use serde::{Deserialize, Serialize};

/// Bounds are recorded in thousandths, and are worse from the next one down.
const RESOLUTION: f64 = 1e-3;

/// What is kept of the reports of a target: what must not get worse.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    target: String,
    compiler: String,
    /// By kernel, element type and configuration.
    kernels: BTreeMap<String, Bounds>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Bounds {
    vgprs: u32,
    /// Records from before it was kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sgprs: Option<u32>,
    sgpr_spills: u32,
    /// Private memory of a work-item, of the few kernels that have any.
    #[serde(default, skip_serializing_if = "is_none")]
    scratch_bytes: u32,
    waves: u32,
    local_bytes: u32,
    bound: Option<f64>,
}

fn is_none(bytes: &u32) -> bool {
    *bytes == 0
}

impl Bounds {
    fn of(report: &Report) -> Self {
        let bound =
            report.hottest.as_ref().map(|hot| (hot.bound / RESOLUTION).floor() * RESOLUTION);
        Self {
            vgprs: report.vgprs,
            sgprs: Some(report.sgprs),
            sgpr_spills: report.sgpr_spills,
            scratch_bytes: report.scratch_bytes,
            waves: report.waves,
            local_bytes: report.local_bytes,
            bound: bound.map(|bound| (bound * 1e3).round() / 1e3),
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What is worse than it may be, a line each.
    pub failures: Vec<String>,
    /// What is not as it was recorded: the kernel, then each fact, with an arrow where it changed.
    pub changes: Vec<[String; 8]>,
}

/// Heads of the columns of [`Comparison::changes`].
pub const CHANGED: [&str; 8] =
    ["VGPR", "SGPR", "S spills", "scratch", "waves", "local", "bound", "kernel"];

/// The file of a target: `path` itself, or where that is a folder `TARGET.isa.json` in it.
fn file(path: &Path, target: &Target) -> PathBuf {
    match path.is_dir() {
        true => path.join(format!("{}.isa.json", target.name)),
        false => path.to_owned(),
    }
}

/// A compiler without the last part of its version: patches change no code as a rule, and come by
/// themselves.
fn series(compiler: &str) -> String {
    let (name, version) = compiler.split_once(' ').unwrap_or((compiler, ""));
    let parts: Vec<&str> = version.split('.').take(2).collect();
    format!("{name} {}", parts.join("."))
}

impl Recorded {
    pub fn new(target: &Target, compiler: &Compiler, reports: &[Report]) -> Self {
        let kernels = reports.iter().map(|report| (key(report), Bounds::of(report))).collect();
        Self { target: target.name.to_owned(), compiler: series(compiler.name()), kernels }
    }

    pub fn read(path: &Path, target: &Target) -> Result<Self> {
        let path = file(path, target);
        let text = std::fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        serde_json::from_str(&text).map_err(|error| Error::file(&path, error))
    }

    /// With what a file has of kernels besides `kernel`, by which the reports were chosen.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the file is of another target or compiler.
    pub fn beside(mut self, path: &Path, target: &Target, kernel: &str) -> Result<Self> {
        let before = Self::read(path, target)?;
        if (&before.target, series(&before.compiler)) != (&self.target, series(&self.compiler)) {
            let (who, now) = (format!("{} by {}", before.target, before.compiler), &self.compiler);
            let detail = format!(
                "recorded for {who}, and this is {target} by {now}: record all",
                target = self.target
            );
            return Err(Error::argument("record", detail));
        }
        let others = before.kernels.into_iter();
        let others = others.filter(|(key, _)| key.split(' ').next() != Some(kernel));
        self.kernels.extend(others);
        Ok(self)
    }

    /// A line for each kernel, so that a difference between two files is one of kernels.
    pub fn write(&self, path: &Path, target: &Target) -> Result<()> {
        let path = file(path, target);
        let text = |value: &str| serde_json::to_string(value).expect("a text");
        let line = |(key, bounds): (&String, &Bounds)| {
            let bounds = serde_json::to_string(bounds).expect("numbers");
            format!("    {}: {bounds}", text(key))
        };
        let kernels: Vec<String> = self.kernels.iter().map(line).collect();
        let (target, compiler) = (text(&self.target), text(&self.compiler));
        let kernels = kernels.join(",\n");
        let whole = format!(
            "{{\n  \"target\": {target},\n  \"compiler\": {compiler},\n  \"kernels\": {{\n{kernels}\n  \
             }}\n}}\n"
        );
        std::fs::write(&path, whole).map_err(|error| Error::file(&path, error))
    }

    /// Compares what is now with what was recorded, and with what a target has.
    pub fn compare(&self, target: &Target, compiler: &str, reports: &[Report]) -> Comparison {
        let mut found = Comparison::default();
        if (&*self.target, series(&self.compiler)) != (target.name, series(compiler)) {
            found.failures.push(format!(
                "recorded for {} by {}, and this is {} by {compiler}: record again",
                self.target, self.compiler, target.name
            ));
            return found;
        }
        for report in reports {
            found.failures.extend(out_of_bounds(report, target));
            let (key, now) = (key(report), Bounds::of(report));
            let Some(before) = self.kernels.get(&key) else {
                found.failures.push(format!("{key} is not recorded"));
                continue;
            };
            found.failures.extend(worse(&key, *before, now));
            let changed = Bounds { sgprs: before.sgprs.and(now.sgprs), ..now } != *before;
            found.changes.extend(changed.then(|| change(&key, *before, now)));
        }
        found
    }
}

fn key(report: &Report) -> String {
    format!("{} {} {}", report.kernel, report.dtype, report.configuration)
}

/// What no kernel may do on a target, whatever was recorded.
pub fn out_of_bounds(report: &Report, target: &Target) -> Vec<String> {
    let (key, mut failures) = (key(report), Vec::new());
    if report.vgpr_spills > 0 {
        failures.push(format!("{key} spills {} vector registers", report.vgpr_spills));
    }
    if report.local_bytes > target.group_local_bytes {
        failures.push(format!(
            "{key} takes {} B of local memory, expected at most {}",
            report.local_bytes, target.group_local_bytes
        ));
    }
    failures
}

fn worse(key: &str, before: Bounds, now: Bounds) -> Vec<String> {
    let mut failures = Vec::new();
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
    if now.scratch_bytes > before.scratch_bytes {
        failures.push(format!(
            "{key} has {} B of scratch, recorded were {}",
            now.scratch_bytes, before.scratch_bytes
        ));
    }
    if now.waves < before.waves {
        failures
            .push(format!("{key} has {} waves a SIMD, recorded were {}", now.waves, before.waves));
    }
    failures
}

fn change(key: &str, before: Bounds, now: Bounds) -> [String; 8] {
    let arrow = |before: String, now: String| match before == now {
        true => now,
        false => format!("{before} -> {now}"),
    };
    let number =
        |fact: fn(&Bounds) -> u32| arrow(fact(&before).to_string(), fact(&now).to_string());
    let sgprs = |bounds: Bounds| bounds.sgprs.map_or("-".to_owned(), |count| count.to_string());
    let bound = |bounds: Bounds| match bounds.bound {
        Some(bound) => format!("{:.1} %", 100.0 * bound),
        None => "-".to_owned(),
    };
    [
        number(|bounds| bounds.vgprs),
        arrow(sgprs(before), sgprs(now)),
        number(|bounds| bounds.sgpr_spills),
        number(|bounds| bounds.scratch_bytes),
        number(|bounds| bounds.waves),
        number(|bounds| bounds.local_bytes),
        arrow(bound(before), bound(now)),
        key.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use ellesmere::isa::HotLoop;

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

    fn recorded(reports: &[Report]) -> Recorded {
        let kernels = reports.iter().map(|report| (key(report), Bounds::of(report))).collect();
        Recorded { target: "gfx803".to_owned(), compiler: "comgr 2.4".to_owned(), kernels }
    }

    fn gfx803() -> &'static Target {
        Target::find("gfx803").unwrap()
    }

    #[test]
    fn what_got_worse_is_a_line_each_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        recorded(&[report("a", 0.9), report("b", 0.9)]).write(folder.path(), gfx803()).unwrap();
        let recorded = Recorded::read(folder.path(), gfx803()).unwrap();
        let compare = |reports: &[Report]| recorded.compare(gfx803(), "comgr 2.4", reports);
        assert!(compare(&[report("a", 0.9), report("b", 0.95)]).failures.is_empty());
        let cases = [
            (
                report("a", 0.85),
                "a f32 WG_SIZE=64 is bound to 85.0 % of peak, recorded were 90.0 %",
            ),
            (
                Report { vgpr_spills: 2, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 spills 2 vector registers",
            ),
            (
                Report { scratch_bytes: 8, ..report("a", 0.9) },
                "a f32 WG_SIZE=64 has 8 B of scratch, recorded were 0",
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
            assert_eq!(compare(&[report]).failures, [expected]);
        }
    }

    #[test]
    fn a_change_is_a_row_with_what_was_and_what_is() {
        let recorded = recorded(&[report("a", 0.9), report("b", 0.9)]);
        let better = Report { vgprs: 64, waves: 4, ..report("b", 0.9375) };
        let found = recorded.compare(gfx803(), "comgr 2.4", &[report("a", 0.9), better]);
        assert!(found.failures.is_empty());
        let row =
            ["84 -> 64", "40", "0", "0", "3 -> 4", "8448", "90.0 % -> 93.7 %", "b f32 WG_SIZE=64"];
        assert_eq!(found.changes, [row]);
    }

    #[test]
    fn another_compiler_asks_for_another_record_and_a_patch_of_it_does_not() {
        let mut recorded = recorded(&[]);
        let failures =
            |recorded: &Recorded, compiler| recorded.compare(gfx803(), compiler, &[]).failures;
        let expected =
            "recorded for gfx803 by comgr 2.4, and this is gfx803 by clang 22.1.8: record again";
        assert_eq!(failures(&recorded, "clang 22.1.8"), [expected]);
        recorded.compiler = "clang 22.1".to_owned();
        assert!(failures(&recorded, "clang 22.1.9").is_empty());
        let gfx900 = Target::find("gfx900").unwrap();
        assert_eq!(recorded.compare(gfx900, "clang 22.1.9", &[]).failures.len(), 1);
    }

    #[test]
    fn one_kernel_is_recorded_beside_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        recorded(&[report("a", 0.9), report("b", 0.9)]).write(path, gfx803()).unwrap();
        let now = recorded(&[report("b", 0.5)]).beside(path, gfx803(), "b").unwrap();
        let bounds: Vec<_> = now.kernels.values().map(|bounds| bounds.bound).collect();
        assert_eq!(bounds, [Some(0.9), Some(0.5)]);
        let other = Recorded { compiler: "clang 22.1".to_owned(), ..recorded(&[]) };
        let error = other.beside(path, gfx803(), "b").unwrap_err().to_string();
        let expected = "record: recorded for gfx803 by comgr 2.4, and this is gfx803 by clang 22.1: record all";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_file_that_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recorded.json");
        assert!(Recorded::read(&path, gfx803()).is_err());
        std::fs::write(&path, "{\"target\": 1}").unwrap();
        let error = Recorded::read(&path, gfx803()).unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()));
    }
}
