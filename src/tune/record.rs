//! Recorded spaces: what came of every candidate that was tried, in a file.
//!
//! The file is JSON in the T4 results format that Kernel Tuner writes, with a `metadata` object
//! that says of what the results are. Times in it are milliseconds, as Kernel Tuner's are.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::database::DeviceKey;
use super::search::{Search, StrategyKind};
use super::space::Space;
use crate::io::{atomic, one_line, read_text};
use crate::kernel::{Configuration, Kernel};
use crate::{Error, Result};

/// A file longer than this is not ours.
const MOST_BYTES: u64 = 64 << 20;
/// Parameters of a candidate, beyond which a file is not ours.
const MOST_PARAMETERS: usize = 64;

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It ran and agreed with the definition.
    #[serde(rename = "correct")]
    Ok,
    /// It did not build.
    Compile,
    /// It did not end in time.
    Timeout,
    /// The launch failed, or the process that ran it ended.
    Runtime,
    /// Its result was wrong, or it wrote what it must not.
    Correctness,
    /// The kernel's constraints do not allow it.
    Constraints,
}

impl Outcome {
    /// As people read it; `ok` for what T4 calls `correct`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Compile => "compile",
            Self::Timeout => "timeout",
            Self::Runtime => "runtime",
            Self::Correctness => "correctness",
            Self::Constraints => "constraints",
        }
    }
}

/// A candidate that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The candidate's values.
    pub configuration: BTreeMap<String, u32>,
    /// What came of it.
    pub outcome: Outcome,
    /// What went wrong, in one line; empty if nothing did.
    pub detail: String,
    /// Seconds of each timed run, in the order of the runs.
    pub runs: Vec<f64>,
    /// Seconds that building took.
    pub compile_seconds: f64,
    /// Seconds that comparing with the definition took.
    pub validate_seconds: f64,
    /// When it was tried, as RFC 3339 or as whoever wrote it would have it.
    pub timestamp: String,
}

impl Trial {
    /// The median run of a candidate that was right; `None` for any other.
    pub fn seconds(&self) -> Option<f64> {
        if self.outcome != Outcome::Ok || self.runs.is_empty() {
            return None;
        }
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        let (above, below) = (runs[runs.len() / 2], runs[(runs.len() - 1) / 2]);
        Some((above + below) / 2.0)
    }
}

/// Of what a recording is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The kernel.
    pub kernel: String,
    /// How elements are stored.
    pub dtype: String,
    /// The hash of the kernel's source: see [`super::database::source_hash`].
    pub source: String,
    /// The device that ran it.
    pub device: DeviceKey,
    /// The problem's class.
    pub class: BTreeMap<String, usize>,
    /// The sizes that `clbench` was given for it; empty where it was not `clbench`.
    #[serde(default)]
    pub shape: BTreeMap<String, usize>,
    /// The configuration that holds where nothing was measured.
    pub default: BTreeMap<String, u32>,
}

/// Trials, and of what they are where the file tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// `None` in a file of another tuner.
    pub about: Option<About>,
    /// Each candidate once.
    pub trials: Vec<Trial>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<About>,
    results: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(default)]
    timestamp: String,
    configuration: BTreeMap<String, u32>,
    #[serde(default)]
    objectives: Vec<String>,
    times: Times,
    invalidity: Outcome,
    correctness: f64,
    #[serde(default)]
    measurements: Vec<Measurement>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Times {
    /// `compilation` is what Kernel Tuner writes, `compilation_time` what the schema calls it.
    #[serde(alias = "compilation")]
    compilation_time: f64,
    framework: f64,
    search_algorithm: f64,
    validation: f64,
    runtimes: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Measurement {
    name: String,
    value: serde_json::Value,
    #[serde(default)]
    unit: String,
}

const MILLISECONDS: f64 = 1e3;
/// The measurement that is the objective.
const TIME: &str = "time";
const DETAIL: &str = "detail";

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if there is none, or it is too long or not a recording: candidates with
    /// different parameters, times that are no times, a kernel or parameter that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MOST_BYTES)?.ok_or_else(|| Error::file(path, "no such file"))?;
        Self::parse(&text).map_err(|detail| Error::file(path, one_line(detail)))
    }

    /// Writes a file: all of it or none.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &self.document())?;
            file.write_all(b"\n")
        })
    }

    /// The kernel's trials as the file has them.
    fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !document.schema_version.starts_with("1.") {
            let version = document.schema_version;
            return Err(format!("schema_version must be 1.x, got {version:?}"));
        }
        let mut numbers: HashMap<BTreeMap<String, u32>, usize> = HashMap::new();
        let mut trials: Vec<Trial> = Vec::new();
        for (index, row) in document.results.into_iter().enumerate() {
            let trial = row.into_trial().map_err(|detail| format!("result {index}: {detail}"))?;
            // Of a candidate that was tried again the last counts.
            match numbers.get(&trial.configuration) {
                Some(&number) => trials[number] = trial,
                None => {
                    numbers.insert(trial.configuration.clone(), trials.len());
                    trials.push(trial);
                }
            }
        }
        let recording = Self { about: document.metadata, trials };
        recording.check()?;
        Ok(recording)
    }

    /// One set of parameters, and those of the kernel if that is told.
    fn check(&self) -> Result<(), String> {
        let names = |trial: &Trial| trial.configuration.keys().cloned().collect::<Vec<_>>();
        let Some(first) = self.trials.first().map(names) else {
            return Err("results must hold a candidate, got none".to_owned());
        };
        if first.is_empty() || first.len() > MOST_PARAMETERS {
            let count = first.len();
            return Err(format!(
                "a candidate must have 1 to {MOST_PARAMETERS} values, got {count}"
            ));
        }
        if let Some(other) = self.trials.iter().map(names).find(|other| *other != first) {
            let (first, other) = (first.join(" "), other.join(" "));
            return Err(format!("candidates must all have {first}, got {other}"));
        }
        if let Some(about) = &self.about {
            let kernel = about.kernel()?;
            for name in first {
                if !kernel.parameters.iter().any(|parameter| parameter.name == name) {
                    return Err(format!("kernel {} has no parameter {name}", kernel.name));
                }
            }
        }
        Ok(())
    }

    fn document(&self) -> Document {
        Document {
            schema_version: "1.0.0".to_owned(),
            metadata: self.about.clone(),
            results: self.trials.iter().map(Row::of_trial).collect(),
        }
    }

    /// The quickest trials, the best first.
    pub fn ranking(&self) -> Vec<(&Trial, f64)> {
        let timed = self.trials.iter().filter_map(|trial| Some((trial, trial.seconds()?)));
        let mut ranking: Vec<_> = timed.collect();
        ranking.sort_by(|a, b| a.1.total_cmp(&b.1));
        ranking
    }

    /// The space that the trials are of, and each candidate's seconds. What the constraints do not
    /// allow is no candidate.
    pub fn space(&self) -> (Space, Vec<Option<f64>>) {
        let allowed = || self.trials.iter().filter(|t| t.outcome != Outcome::Constraints);
        let names: Vec<String> = match self.trials.first() {
            Some(trial) => trial.configuration.keys().cloned().collect(),
            None => Vec::new(),
        };
        let rows: Vec<Vec<u32>> =
            allowed().map(|trial| trial.configuration.values().copied().collect()).collect();
        let space = Space::of_values(&names, &rows);
        let mut seconds = vec![None; space.len()];
        for trial in allowed() {
            let values = trial.configuration.iter().map(|(name, &value)| (name.as_str(), value));
            let candidate = space.find(values).expect("the space is made of the trials");
            seconds[candidate] = trial.seconds();
        }
        (space, seconds)
    }

    /// The candidate that a search of [`Recording::space`] begins with, if it was tried.
    fn start(&self, space: &Space) -> Option<usize> {
        let about = self.about.as_ref()?;
        let default = || about.default.iter().map(|(name, &value)| (name.as_str(), value));
        space.find(default()).or_else(|| {
            let kernel = about.kernel().ok()?;
            space.find_configuration(&Configuration::defaults(kernel.parameters))
        })
    }
}

impl About {
    /// The kernel of the catalogue.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn kernel(&self) -> Result<&'static Kernel, String> {
        Kernel::find(&self.kernel).ok_or_else(|| format!("there is no kernel {:?}", self.kernel))
    }
}

impl Row {
    fn into_trial(self) -> Result<Trial, String> {
        let times = &self.times;
        let time = self.measurements.iter().find(|measurement| measurement.name == TIME);
        let mut runs = times.runtimes.clone();
        if runs.is_empty()
            && let Some(value) = time.and_then(|time| time.value.as_f64())
        {
            runs.push(value);
        }
        let one_time = [times.compilation_time, times.validation];
        if let Some(bad) = runs.iter().chain(&one_time).find(|time| !(0.0..1e12).contains(*time)) {
            return Err(format!("a time must be in milliseconds, got {bad}"));
        }
        if self.invalidity == Outcome::Ok && runs.is_empty() {
            return Err("a correct candidate must have a time, got none".to_owned());
        }
        let detail = self.measurements.iter().find(|measurement| measurement.name == DETAIL);
        let detail = detail.and_then(|detail| detail.value.as_str()).unwrap_or_default();
        Ok(Trial {
            detail: one_line(detail),
            outcome: self.invalidity,
            runs: runs.into_iter().map(|time| time / MILLISECONDS).collect(),
            compile_seconds: self.times.compilation_time / MILLISECONDS,
            validate_seconds: self.times.validation / MILLISECONDS,
            configuration: self.configuration,
            timestamp: self.timestamp,
        })
    }

    fn of_trial(trial: &Trial) -> Self {
        let mut measurements = Vec::new();
        if let Some(seconds) = trial.seconds() {
            let (name, unit) = (TIME.to_owned(), "ms".to_owned());
            measurements.push(Measurement { name, value: (seconds * MILLISECONDS).into(), unit });
        }
        if !trial.detail.is_empty() {
            let (name, unit) = (DETAIL.to_owned(), String::new());
            measurements.push(Measurement { name, value: trial.detail.clone().into(), unit });
        }
        Self {
            timestamp: trial.timestamp.clone(),
            configuration: trial.configuration.clone(),
            objectives: vec![TIME.to_owned()],
            times: Times {
                compilation_time: trial.compile_seconds * MILLISECONDS,
                validation: trial.validate_seconds * MILLISECONDS,
                runtimes: trial.runs.iter().map(|seconds| seconds * MILLISECONDS).collect(),
                ..Times::default()
            },
            invalidity: trial.outcome,
            correctness: if trial.outcome == Outcome::Ok { 1.0 } else { 0.0 },
            measurements,
        }
    }
}

/// How well a strategy does on a recorded space.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// The strategy.
    pub strategy: &'static str,
    /// Searches, each with a seed of its own.
    pub seeds: u64,
    /// Candidates of the space.
    pub candidates: usize,
    /// Those that ran and were right.
    pub ok: usize,
    /// The quickest candidate's seconds.
    pub best_seconds: f64,
    /// What was reached after so many candidates.
    pub reached: Vec<Reached>,
}

/// The best candidate so far, as a fraction of the best of the space in speed: 1 is the best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    /// Of the space's candidates.
    pub percent: u32,
    /// That many: rounded down, at least 1.
    pub trials: usize,
    /// Over the seeds.
    pub mean: f64,
    /// The worst seed's.
    pub least: f64,
}

/// Shares of the candidates that [`replay`] looks at.
const PERCENTS: [u32; 4] = [1, 2, 5, 10];

/// Runs a strategy on a recorded space, without a device, once with each of `seeds` seeds.
///
/// # Errors
///
/// [`Error::Argument`] if no recorded candidate was right, or if there is no seed.
pub fn replay(recording: &Recording, strategy: StrategyKind, seeds: u64) -> Result<Replay> {
    if seeds == 0 {
        return Err(Error::argument("seeds", "must be at least 1, got 0"));
    }
    let (space, seconds) = recording.space();
    let best_seconds = seconds.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    if best_seconds.is_infinite() {
        return Err(Error::argument("replay", "no candidate of the recording was right"));
    }
    let start = recording.start(&space);
    let trials_at = |percent: u32| (space.len() * percent as usize / 100).max(1);
    let mut reached = PERCENTS.map(|percent| {
        let (mean, least) = (0.0, f64::INFINITY);
        Reached { percent, trials: trials_at(percent), mean, least }
    });
    for seed in 0..seeds {
        let mut search = Search::new(&space, strategy, seed, start.as_slice());
        let mut count = 0;
        for at in &mut reached {
            while count < at.trials
                && let Some(candidate) = search.ask()
            {
                search.tell(candidate, seconds[candidate]);
                count += 1;
            }
            let fraction = search.best().map_or(0.0, |(_, found)| best_seconds / found);
            at.mean += fraction / seeds as f64;
            at.least = at.least.min(fraction);
        }
    }
    let (strategy, candidates) = (strategy.name(), space.len());
    let ok = seconds.iter().flatten().count();
    Ok(Replay { strategy, seeds, candidates, ok, best_seconds, reached: reached.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;
    use crate::backend::cpu::Cpu;
    use crate::tune::database::source_hash;

    fn trial(wg_size: u32, outcome: Outcome, runs: &[f64]) -> Trial {
        Trial {
            configuration: BTreeMap::from([("WG_SIZE".to_owned(), wg_size)]),
            outcome,
            detail: if outcome == Outcome::Ok { "" } else { "why" }.to_owned(),
            runs: runs.to_vec(),
            compile_seconds: 0.5,
            validate_seconds: 0.25,
            timestamp: "2026-01-02T03:04:05Z".to_owned(),
        }
    }

    fn recording() -> Recording {
        let kernel = Kernel::find("layer_norm").unwrap();
        let about = About {
            kernel: kernel.name.to_owned(),
            dtype: "f32".to_owned(),
            source: source_hash(kernel, crate::DType::F32),
            device: DeviceKey::of(Cpu::new().info()),
            class: BTreeMap::from([("rows".to_owned(), 64), ("channels".to_owned(), 320)]),
            shape: BTreeMap::new(),
            default: BTreeMap::from([("WG_SIZE".to_owned(), 64)]),
        };
        let trials = vec![
            trial(1, Outcome::Ok, &[0.004, 0.002, 0.003]),
            trial(64, Outcome::Ok, &[0.001, 0.003]),
            trial(128, Outcome::Timeout, &[]),
            trial(256, Outcome::Correctness, &[]),
        ];
        Recording { about: Some(about), trials }
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("space.json");
        recording().write(&path).unwrap();
        let read = Recording::read(&path).unwrap();
        assert_eq!(read.about, recording().about);
        for (read, written) in read.trials.iter().zip(recording().trials) {
            let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
            assert!(read.runs.iter().zip(&written.runs).all(close));
            assert_eq!(
                (&read.configuration, read.outcome),
                (&written.configuration, written.outcome)
            );
            assert_eq!(read.detail, written.detail);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["\"schema_version\": \"1.0.0\"", "\"invalidity\": \"correct\"", "\"times\""] {
            assert!(text.contains(word), "{word} is T4's");
        }
    }

    #[test]
    fn the_median_run_of_a_right_candidate_is_its_time() {
        let recording = recording();
        let seconds: Vec<_> = recording.trials.iter().map(Trial::seconds).collect();
        assert_eq!(seconds, [Some(0.003), Some(0.002), None, None]);
        assert_eq!(recording.ranking()[0].0.configuration["WG_SIZE"], 64);
    }

    #[test]
    fn what_is_no_recording_is_refused_in_one_line() {
        let row = |configuration: &str, rest: &str| {
            format!(
                "{{\"configuration\": {configuration}, \"times\": {{{rest}}}, \
                 \"invalidity\": \"correct\", \"correctness\": 1}}"
            )
        };
        let file = |rows: &[String]| {
            format!("{{\"schema_version\": \"1.0.0\", \"results\": [{}]}}", rows.join(","))
        };
        let good = "\"runtimes\": [1.0]";
        let about = serde_json::to_value(recording().document()).unwrap();
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = about.clone();
            change(&mut document);
            document.to_string()
        };
        let cases = [
            ("not JSON", "not a recording".to_owned(), "expected"),
            ("nothing", String::new(), "EOF"),
            ("no candidate", file(&[]), "results must hold a candidate, got none"),
            ("no value", file(&[row("{}", good)]), "must have 1 to 64 values, got 0"),
            ("a text for a value", file(&[row("{\"A\": \"x\"}", good)]), "expected u32"),
            ("a negative value", file(&[row("{\"A\": -1}", good)]), "expected u32"),
            (
                "different parameters",
                file(&[row("{\"A\": 1}", good), row("{\"B\": 1}", good)]),
                "candidates must all have A, got B",
            ),
            ("right without a time", file(&[row("{\"A\": 1}", "")]), "must have a time, got none"),
            (
                "a negative time",
                file(&[row("{\"A\": 1}", "\"runtimes\": [-1.0]")]),
                "a time must be in milliseconds, got -1",
            ),
            (
                "deep",
                changed(&|document| {
                    let deep = (0..200).fold(1.into(), |deep, _| serde_json::json!([deep]));
                    document["results"][0]["measurements"][0]["value"] = deep;
                }),
                "recursion limit",
            ),
            (
                "another version",
                changed(&|document| document["schema_version"] = "2.0.0".into()),
                "schema_version must be 1.x, got \"2.0.0\"",
            ),
            (
                "an unknown kernel",
                changed(&|document| document["metadata"]["kernel"] = "fft".into()),
                "there is no kernel \"fft\"",
            ),
            (
                "another kernel's parameter",
                changed(&|document| document["metadata"]["kernel"] = "attention_local".into()),
                "kernel attention_local has no parameter WG_SIZE",
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("space.json");
        for (why, text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let message = Recording::read(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{why}: {message}");
            assert!(message.lines().count() == 1 && message.len() < 400, "{why}: {message}");
        }
        let message = Recording::read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(message.ends_with("none: no such file"), "{message}");
    }

    #[test]
    fn a_candidate_that_was_tried_again_counts_once() {
        let mut document = recording().document();
        document.results.push(Row::of_trial(&trial(128, Outcome::Ok, &[0.001])));
        let text = serde_json::to_string(&document).unwrap();
        let read = Recording::parse(&text).unwrap();
        assert_eq!(read.trials.len(), 4);
        assert_eq!(read.trials[2].outcome, Outcome::Ok);
    }

    #[test]
    fn a_replay_begins_with_the_default_and_never_exceeds_the_best() {
        let recording = recording();
        for strategy in StrategyKind::ALL {
            let replay = replay(&recording, strategy, 3).unwrap();
            assert_eq!((replay.candidates, replay.ok), (4, 2));
            // The default is the best, and the only candidate within the budgets.
            for at in &replay.reached {
                assert_eq!((at.trials, at.mean, at.least), (1, 1.0, 1.0), "{strategy}");
            }
        }
        let mut failed = recording;
        failed.trials.retain(|trial| trial.outcome != Outcome::Ok);
        let error = replay(&failed, StrategyKind::Local, 1).unwrap_err().to_string();
        assert_eq!(error, "replay: no candidate of the recording was right");
    }
}
