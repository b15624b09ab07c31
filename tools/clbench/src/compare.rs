use std::path::PathBuf;
use std::process::ExitCode;

use ellesmere::{Error, Result};
use serde::Serialize;

use crate::results::{CaseResult, Results, median};
use crate::{print_json, table};

/// Compare two files of `clbench run --save`: what became slower, what quicker
///
/// The ratio is new over old, of medians; its interval is that of 95 % of 2,000 resamplings of both
/// files' runs (a bootstrap). A row whose interval holds 1 is "same". A row whose whole interval is
/// over the threshold is slower, and the exit status is then 1.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clbench run all --save before.json
  clbench run all --save after.json
  clbench compare before.json after.json --threshold 5

Exit status: 0 nothing is slower than the threshold, 1 something is or a file cannot be read, 2
misuse. Runs of one process share its luck: where a row matters, measure both files again.")]
pub struct Arguments {
    /// Results to compare with
    old: PathBuf,
    /// Results in question
    new: PathBuf,
    /// How much slower a case may be
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    threshold: f64,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Comparison {
    threshold_percent: f64,
    notes: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The interval holds 1.
    Same,
    Faster,
    /// Slower, by no more than the threshold or not surely by more.
    LittleSlower,
    /// The whole interval is over the threshold.
    Slower,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Faster => "faster",
            Verdict::LittleSlower => "slower, within the threshold",
            Verdict::Slower => "SLOWER",
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    case: String,
    old: Side,
    new: Side,
    ratio: f64,
    interval: [f64; 2],
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
struct Side {
    median_ms: f64,
    /// Half of the runs lie this near to the median.
    deviation_ms: f64,
    runs: usize,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.threshold.is_finite() || arguments.threshold < 0.0 {
        let detail = format!("expected percent, at least 0, got {}", arguments.threshold);
        return Err(Error::argument("threshold", detail));
    }
    let (old, new) = (Results::read(&arguments.old)?, Results::read(&arguments.new)?);
    let mut notes = mismatches(&old, &new);
    let mut rows = Vec::new();
    for case in &new.cases {
        match old.cases.iter().find(|other| other.name() == case.name()) {
            Some(other) if other.clock != case.clock => notes.push(format!(
                "{}: timed by the {}'s clock before and the {}'s now, not compared",
                case.name(),
                other.clock,
                case.clock
            )),
            Some(other) => rows.push(row(other, case, arguments.threshold)),
            None => notes.push(format!("{}: only in {}", case.name(), arguments.new.display())),
        }
    }
    for case in &old.cases {
        if !new.cases.iter().any(|other| other.name() == case.name()) {
            notes.push(format!("{}: only in {}", case.name(), arguments.old.display()));
        }
    }
    if rows.is_empty() {
        let detail = format!("has no case in common with {}", arguments.old.display());
        return Err(Error::file(&arguments.new, detail));
    }
    let slower = rows.iter().filter(|row| row.verdict == Verdict::Slower).count();
    let comparison = Comparison { threshold_percent: arguments.threshold, notes, rows };
    if arguments.json {
        print_json(&comparison);
    } else {
        print(&comparison, slower);
    }
    Ok(if slower == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What makes the times hard to compare.
fn mismatches(old: &Results, new: &Results) -> Vec<String> {
    let (a, b) = (&old.device, &new.device);
    let mut notes = Vec::new();
    for (what, a, b) in [
        ("devices", &a.name, &b.name),
        ("platforms", &a.platform, &b.platform),
        ("drivers", &a.driver, &b.driver),
        ("versions of clbench", &old.version, &new.version),
    ] {
        if a != b {
            notes.push(format!("the {what} differ: {a} before, {b} now"));
        }
    }
    notes
}

fn row(old: &CaseResult, new: &CaseResult, threshold: f64) -> Row {
    let sorted = |case: &CaseResult| {
        let mut times = case.times_ns.clone();
        times.sort_unstable();
        times
    };
    let (before, now) = (sorted(old), sorted(new));
    let ratio = median(&now) / median(&before);
    let interval = interval(&before, &now);
    let verdict = if interval[0] <= 1.0 && interval[1] >= 1.0 {
        Verdict::Same
    } else if interval[1] < 1.0 {
        Verdict::Faster
    } else if interval[0] > 1.0 + threshold / 100.0 {
        Verdict::Slower
    } else {
        Verdict::LittleSlower
    };
    Row { case: new.name(), old: side(&before), new: side(&now), ratio, interval, verdict }
}

fn side(sorted: &[u64]) -> Side {
    let middle = median(sorted);
    let mut distances: Vec<u64> =
        sorted.iter().map(|time| (*time as f64 - middle).abs() as u64).collect();
    distances.sort_unstable();
    let (median_ms, deviation_ms) = (middle / 1e6, median(&distances) / 1e6);
    Side { median_ms, deviation_ms, runs: sorted.len() }
}

/// Below this many runs resampling knows nothing: the interval is then all that could be.
const FEWEST: usize = 5;

/// Between which the ratio of medians lies in 95 of 100 resamplings.
fn interval(old: &[u64], new: &[u64]) -> [f64; 2] {
    const TIMES: usize = 2000;
    let ends = |times: &[u64]| (times[0] as f64, times[times.len() - 1] as f64);
    if old.len() < FEWEST || new.len() < FEWEST {
        let ((old_low, old_high), (new_low, new_high)) = (ends(old), ends(new));
        return [new_low / old_high, new_high / old_low];
    }
    // The same numbers in every call: a verdict does not change when it is asked for again.
    let mut state = 0x853c_49e6_748f_ea9bu64;
    let mut resampled = |times: &[u64]| {
        // More runs than this say the same.
        let mut drawn: Vec<u64> = (0..times.len().min(1000))
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                times[(state % times.len() as u64) as usize]
            })
            .collect();
        let middle = drawn.len() / 2;
        *drawn.select_nth_unstable(middle).1 as f64
    };
    let mut ratios: Vec<f64> = (0..TIMES).map(|_| resampled(new) / resampled(old)).collect();
    ratios.sort_by(f64::total_cmp);
    [ratios[TIMES / 40], ratios[TIMES - 1 - TIMES / 40]]
}

fn print(comparison: &Comparison, slower: usize) {
    comparison.notes.iter().for_each(|note| println!("{note}"));
    let head = ["case", "old ms", "+-", "new ms", "+-", "ratio", "95 %", "verdict"];
    let cells = |row: &Row| {
        [
            row.case.clone(),
            format!("{:.4}", row.old.median_ms),
            format!("{:.4}", row.old.deviation_ms),
            format!("{:.4}", row.new.median_ms),
            format!("{:.4}", row.new.deviation_ms),
            format!("{:.3}", row.ratio),
            format!("{:.3} to {:.3}", row.interval[0], row.interval[1]),
            row.verdict.name().to_owned(),
        ]
    };
    table::print(head, &comparison.rows.iter().map(cells).collect::<Vec<_>>());
    let (count, threshold) = (comparison.rows.len(), comparison.threshold_percent);
    println!("{slower} of {count} slower than {threshold} %");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_do_not_overlap_are_told_apart_and_noise_is_not() {
        let base: Vec<u64> = (0..21).map(|run| 1000 + run).collect();
        let moved = |by: u64| base.iter().map(|time| time * by / 100).collect::<Vec<_>>();
        let [low, high] = interval(&base, &moved(120));
        assert!(low > 1.18 && high < 1.22, "{low} to {high}");
        let noisy: Vec<u64> = (0..21).map(|run| 700 + 33 * run).collect();
        let [low, high] = interval(&base, &noisy);
        assert!(low < 1.0 && high > 1.0, "{low} to {high}");
        assert_eq!(interval(&base, &noisy), [low, high], "the same each time");
    }

    #[test]
    fn few_runs_are_judged_by_their_ends() {
        assert_eq!(interval(&[100, 200], &[100, 400]), [0.5, 4.0]);
    }
}
