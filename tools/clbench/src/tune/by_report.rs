//! Configurations for a chip that is not here, chosen by what a compiler reports of them.
//!
//! The model, which no clock has confirmed: a work-group takes as long as its tile has products,
//! over the share of peak to which the static report bounds the kernel's loop; the compute unit
//! that gets the most work-groups decides. A candidate that spills, takes more local memory than
//! the smallest card has, or leaves a SIMD fewer waves than what the op suggests (3 are enough), is
//! left out; and one that gains less than 5 % over what the op suggests is not worth an entry.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use ellesmere::bench::Problem;
use ellesmere::isa::{Compiler, Report, Target};
use ellesmere::kernel::Configuration;
use ellesmere::tune::database::{Basis, DeviceKey, source_hash, tuned_values};
use ellesmere::tune::{Database, Entry, Space};
use ellesmere::{DType, Error, Result};

use super::progress::Display;
use super::{database_path, stop};
use crate::isa::MOST_LOCAL_BYTES;
use crate::table;

/// A model is not worth more than its error: less than this share of the time is no gain.
const WORTH: f64 = 0.95;
/// Waves of a SIMD that hide how long loads take.
const ENOUGH_WAVES: u32 = 3;

/// How a kernel cuts its result into work-groups: the tile's parameters, and the sizes of the
/// problem that they cut; the other sizes in `times` multiply the groups.
struct Cut {
    kernel: &'static str,
    tile: &'static [(&'static str, &'static str)],
    times: &'static [&'static str],
}

const PRODUCT: &[(&str, &str)] = &[("TILE_M", "rows"), ("TILE_N", "outputs")];

/// The kernels for GPUs whose time a loop of products decides.
const CUTS: [Cut; 6] = [
    Cut { kernel: "gemm_local", tile: PRODUCT, times: &["batch"] },
    Cut { kernel: "gemm_matrix", tile: PRODUCT, times: &["batch"] },
    Cut { kernel: "gemm_split", tile: PRODUCT, times: &["slices"] },
    Cut { kernel: "conv2d_local", tile: PRODUCT, times: &[] },
    Cut { kernel: "attention_local", tile: &[("QUERIES", "queries")], times: &["heads"] },
    Cut { kernel: "winograd_local", tile: &[("TILES", "tiles")], times: &["outputs"] },
];

impl Cut {
    /// Products along the tile of the compute unit that gets the most.
    fn most(&self, problem: &Problem, units: usize, configuration: &Configuration) -> f64 {
        let size = |wanted| {
            let sizes = problem.class.0.iter();
            sizes.into_iter().find(|(name, _)| *name == wanted).map_or(1, |(_, size)| *size)
        };
        let tiles = self.tile.iter().map(|&(parameter, name)| {
            let tile = configuration.size(parameter);
            (size(name).div_ceil(tile), tile)
        });
        let (groups, area) =
            tiles.fold((1, 1), |(groups, area), (n, tile)| (groups * n, area * tile));
        let groups = self.times.iter().fold(groups, |groups, name| groups * size(name));
        (groups.div_ceil(units) * area) as f64
    }
}

/// Reports that were asked for before.
struct Reports<'a> {
    compiler: &'a Compiler,
    target: &'static Target,
    known: HashMap<(&'static str, DType, Configuration), Option<Report>>,
}

impl Reports<'_> {
    /// The report of a candidate; `None` where the compiler refuses it.
    fn of(&mut self, problem: &Problem, configuration: &Configuration) -> Option<&Report> {
        let key = (problem.kernel.name, problem.dtype, configuration.clone());
        let report = || {
            let (kernel, dtype) = (problem.kernel, problem.dtype);
            Report::new(self.compiler, self.target, kernel, dtype, configuration).ok()
        };
        self.known.entry(key).or_insert_with(report).as_ref()
    }
}

/// What was found for a problem.
struct Found {
    configuration: Configuration,
    /// Predicted times of the suggestion and of the best, in products of a compute unit.
    suggested: f64,
    best: f64,
    bound: f64,
    waves: u32,
    compiled: usize,
}

/// Chooses for each problem, and remembers what is worth it.
pub fn run(target: &'static Target, problems: &[(Space, Problem)]) -> Result<ExitCode> {
    let database = Database::open(&database_path()?);
    database.notes().iter().for_each(|note| eprintln!("clbench: {note}"));
    let compiler = Compiler::find(target, None)?;
    stop::on_ctrl_c()?;
    let mut reports = Reports { compiler: &compiler, target, known: HashMap::new() };
    let (mut rows, mut stopped, info) = (Vec::new(), false, target.card());
    for (space, problem) in problems {
        let Some(cut) = CUTS.iter().find(|cut| cut.kernel == problem.kernel.name) else { continue };
        let found = search(cut, space, problem, info.compute_units as usize, &mut reports)?;
        if stop::soon() {
            eprintln!("clbench: stopped; what is printed is remembered");
            stopped = true;
            break;
        }
        let default = tuned_values(problem.kernel, &problem.default);
        let chosen = tuned_values(problem.kernel, &found.configuration);
        let is_better = chosen != default;
        rows.push(row(problem, &found, is_better));
        database.remember(Entry {
            kernel: problem.kernel.name.to_owned(),
            dtype: problem.dtype.name().to_owned(),
            class: problem.class.sizes(),
            shape: BTreeMap::new(),
            source: source_hash(problem.kernel, problem.dtype),
            device: DeviceKey::of(&info),
            basis: Basis::Static,
            configuration: if is_better { chosen } else { BTreeMap::new() },
            seconds: None,
            default_seconds: None,
            runner_up: None,
        })?;
    }
    if rows.is_empty() && !stopped {
        let names = CUTS.map(|cut| cut.kernel).join(", ");
        let detail = format!("a report tells which configuration of {names} is good, got none");
        return Err(Error::argument("kernel", detail));
    }
    println!("{} as {} compiles for it; nothing ran", target.name, compiler.name());
    let head =
        ["kernel", "dtype", "class", "compiled", "bound", "waves", "gain", "best by the report"];
    table::print(head, &rows);
    Ok(if stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// The candidate of least predicted time. Candidates are compiled in the order of what they would
/// take at peak, until none that is left can be better, or until Ctrl-C.
fn search(
    cut: &Cut,
    space: &Space,
    problem: &Problem,
    units: usize,
    reports: &mut Reports,
) -> Result<Found> {
    let name = format!("{} {} {}", problem.kernel.name, problem.dtype, problem.class);
    let mut display = Display::new(name, space.len());
    let at_peak = |configuration: &Configuration| cut.most(problem, units, configuration);
    let bound = |report: &Report| report.hottest.as_ref().map_or(0.0, |hot| hot.bound);
    let Some(default) = reports.of(problem, &problem.default) else {
        let detail = "the compiler refuses what the op suggests: see clbench isa";
        return Err(Error::Device { call: "compiling", detail: detail.to_owned() });
    };
    let (waves, share) = (default.waves, bound(default));
    let suggested = at_peak(&problem.default) / share;
    let mut found = Found {
        configuration: problem.default.clone(),
        suggested,
        best: suggested,
        bound: share,
        waves,
        compiled: 1,
    };
    let candidates = (0..space.len()).map(|at| space.configuration(&problem.default, at));
    let mut candidates: Vec<_> = candidates.map(|one| (at_peak(&one), one)).collect();
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at_peak, configuration) in candidates {
        if at_peak >= found.best.min(WORTH * suggested) || stop::soon() {
            break;
        }
        display.show(found.compiled, &format!("{} compiled", found.compiled));
        found.compiled += 1;
        let Some(report) = reports.of(problem, &configuration) else { continue };
        let fits = report.vgpr_spills == 0
            && report.scratch_bytes == 0
            && report.local_bytes <= MOST_LOCAL_BYTES
            && report.waves >= waves.min(ENOUGH_WAVES);
        let time = at_peak / bound(report);
        if fits && time < found.best.min(WORTH * suggested) {
            let (best, bound, waves) = (time, bound(report), report.waves);
            found = Found { configuration, best, bound, waves, ..found };
        }
    }
    Ok(found)
}

fn row(problem: &Problem, found: &Found, is_better: bool) -> [String; 8] {
    [
        problem.kernel.name.to_owned(),
        problem.dtype.name().to_owned(),
        problem.class.to_string(),
        found.compiled.to_string(),
        format!("{:.1} %", 100.0 * found.bound),
        found.waves.to_string(),
        format!("{:.1} %", 100.0 * (found.suggested / found.best - 1.0)),
        match is_better {
            true => found.configuration.to_string(),
            false => "what the op suggests".to_owned(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ellesmere::bench::Case;

    #[test]
    fn the_unit_with_the_most_tiles_decides() {
        let info = Target::find("gfx803").unwrap().card();
        for (why, kernel, sizes, values, most) in [
            ("a tile each, 4 units without", "gemm_local", [256, 256], [64, 32], 64.0 * 32.0),
            ("36 and 4 more", "gemm_local", [256, 320], [64, 32], 2.0 * 64.0 * 32.0),
            ("an edge counts as a whole", "gemm_local", [65, 32], [64, 32], 64.0 * 32.0),
        ] {
            let names = ["rows", "outputs"].map(str::to_owned);
            let sizes: Vec<_> = names.into_iter().zip(sizes).collect();
            let case = Case::known(kernel).unwrap();
            let sizes = case.sizes(&sizes).unwrap();
            let problem = Problem::of(case, DType::F32, &sizes, &info).unwrap().remove(0);
            let cut = CUTS.iter().find(|cut| cut.kernel == kernel).unwrap();
            let mut configuration = Configuration::defaults(problem.kernel.parameters);
            configuration.set("TILE_M", values[0]);
            configuration.set("TILE_N", values[1]);
            assert_eq!(cut.most(&problem, 36, &configuration), most, "{why}");
        }
    }
}
