//! A candidate, built, compared and timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ellesmere::backend::Backend;
use ellesmere::bench::{Agreement, Case, Inputs, Problem, Sizes};
use ellesmere::hardware::detect;
use ellesmere::kernel::{Configuration, Kernel};
use ellesmere::tune::Outcome;
use ellesmere::tune::database::DeviceKey;
use ellesmere::{DType, Device, DeviceOptions, Error, Result};

use super::protocol::{Candidate, Report, Task};

/// Timed runs of a candidate, at least.
const LEAST_RUNS: usize = 9;
/// Timed runs of a candidate, at most.
const MOST_RUNS: usize = 100;
/// How long a candidate is timed, unless it has had its least or most runs.
const TIME: Duration = Duration::from_millis(100);
/// A candidate that is so many times slower than the best in its first runs is timed no longer.
const HOPELESS: f64 = 3.0;
/// The first runs, of which the quicker one counts.
const FIRST_RUNS: usize = 2;
/// What the definitions may have to compute: they do about a billion operations a second.
const MOST_DEFINITION_FLOP: u64 = 2_000_000_000;

/// A problem on an opened device, with what its results are compared with.
pub struct Bench {
    backend: Arc<dyn Backend>,
    device: String,
    kernel: &'static Kernel,
    dtype: DType,
    case: &'static Case,
    source: Option<&'static str>,
    checks: Vec<Check>,
}

/// Sizes, and the right result at them.
struct Check {
    sizes: Sizes,
    expected: Vec<f32>,
    why: &'static str,
}

impl Bench {
    /// Opens the device, unless `opened` is it, and computes the right results.
    pub fn prepare(task: &Task, opened: Option<(String, Arc<dyn Backend>)>) -> Result<Self> {
        let backend = match opened {
            Some((device, backend)) if device == task.device => backend,
            _ => detect().get(&task.device)?.open()?,
        };
        if DeviceKey::of(backend.info()) != task.key {
            let detail = format!("it is {} now, not {}", backend.info().name, task.key.name);
            return Err(Error::NoDevice { wanted: task.device.clone(), detail });
        }
        let case = Case::known(&task.op)?;
        let Some(kernel) = Kernel::find(&task.kernel) else {
            return Err(Error::argument("kernel", format!("there is no {:?}", task.kernel)));
        };
        let dtype: DType = task.dtype.parse()?;
        let given: Vec<(String, usize)> =
            task.sizes.iter().map(|(name, &size)| (name.clone(), size)).collect();
        let sizes = case.sizes(&given)?;
        let checks = checks(case, kernel, dtype, sizes, backend.info())?;
        // A worker has one source for as long as it lives.
        let source = task.source.clone().map(|text| &*text.leak());
        let device = task.device.clone();
        Ok(Self { backend, device, kernel, dtype, case, source, checks })
    }

    pub fn into_backend(self) -> (String, Arc<dyn Backend>) {
        (self.device, self.backend)
    }

    /// Tries a candidate. `step` is called whenever a part of that is done.
    pub fn measure(&self, candidate: &Candidate, step: &dyn Fn()) -> Report {
        let mut report = Report::failed(Outcome::Ok, "");
        if let Err((outcome, detail)) = self.try_measure(candidate, step, &mut report) {
            (report.outcome, report.detail) = (outcome, one_line(&detail));
            report.runs.clear();
        }
        report
    }

    fn try_measure(
        &self,
        candidate: &Candidate,
        step: &dyn Fn(),
        report: &mut Report,
    ) -> Result<(), (Outcome, String)> {
        let mut configuration = Configuration::defaults(self.kernel.parameters);
        for (name, &value) in &candidate.values {
            configuration.set(name, value);
        }
        let values = configuration.values().iter();
        let values = values.map(|&(name, value)| (name.to_owned(), value)).collect();
        let timed = DeviceOptions {
            forced: vec![(self.kernel.name.to_owned(), values)],
            sources: self
                .source
                .map(|text| (self.kernel.name.to_owned(), text))
                .into_iter()
                .collect(),
            ..DeviceOptions::default()
        };
        let guarded = DeviceOptions { guards: true, poison: true, ..timed.clone() };
        let guarded = Device::new(Arc::clone(&self.backend), &guarded);

        let built = guarded.build(self.kernel, self.dtype, &configuration).map_err(failure)?;
        report.compile_seconds = built.as_secs_f64();
        step();
        let start = Instant::now();
        for check in &self.checks {
            self.check(&guarded, check, step)?;
        }
        report.validate_seconds = start.elapsed().as_secs_f64();
        let device = guarded.sharing_programs(&timed);
        drop(guarded);
        self.time(&device, candidate.best_seconds, step, report)
    }

    /// Compares a result that was poisoned before, in guarded memory.
    fn check(
        &self,
        device: &Device,
        check: &Check,
        step: &dyn Fn(),
    ) -> Result<(), (Outcome, String)> {
        let inputs = Inputs::new(device, self.dtype, &check.sizes);
        let run = (self.case.prepare)(&inputs).map_err(failure)?;
        step();
        let actual = run().and_then(|result| result.to_vec()).map_err(failure)?;
        step();
        self.compare(&actual, check)
    }

    fn compare(&self, actual: &[f32], check: &Check) -> Result<(), (Outcome, String)> {
        let agreement = Agreement::between(actual, &check.expected, self.dtype);
        if agreement.holds() {
            return Ok(());
        }
        let Agreement { difference, tolerance, .. } = agreement;
        let why = check.why;
        let detail = format!("off by {difference:.3e} {why}, tolerance {tolerance:.3e}");
        Err((Outcome::Correctness, detail))
    }

    fn time(
        &self,
        device: &Device,
        best_seconds: Option<f64>,
        step: &dyn Fn(),
        report: &mut Report,
    ) -> Result<(), (Outcome, String)> {
        let check = &self.checks[0];
        let inputs = Inputs::new(device, self.dtype, &check.sizes);
        let run = (self.case.prepare)(&inputs).map_err(failure)?;
        step();
        let mut result = run().map_err(failure)?;
        device.finish().map_err(failure)?;
        step();
        let profile = device.profile();
        profile.set_enabled(true);
        let begin = Instant::now();
        let mut clock = "the device's";
        while report.runs.len() < LEAST_RUNS
            || (report.runs.len() < MOST_RUNS && begin.elapsed() < TIME)
        {
            drop(result);
            let known = profile.records().len();
            let stage = device.stage("candidate");
            let start = Instant::now();
            result = run().map_err(failure)?;
            device.finish().map_err(failure)?;
            let host = start.elapsed();
            drop(stage);
            let records = profile.records().split_off(known);
            let own = records.iter().filter(|record| record.name == self.kernel.name);
            let device_time = own.map(|record| record.device).sum::<Option<Duration>>();
            let time = device_time.filter(|time| !time.is_zero());
            if time.is_none() {
                clock = "the host's";
            }
            report.runs.push(time.unwrap_or(host).as_secs_f64());
            step();
            let quickest = report.runs.iter().copied().fold(f64::INFINITY, f64::min);
            if report.runs.len() == FIRST_RUNS
                && best_seconds.is_some_and(|best| quickest > HOPELESS * best)
            {
                report.detail = format!("stopped early: over {HOPELESS} times the best");
                break;
            }
        }
        if clock == "the host's" {
            let comma = if report.detail.is_empty() { "" } else { "; " };
            report.detail += &format!("{comma}timed by {clock} clock, the whole op");
        }
        // What went right once may go wrong in the next run.
        self.compare(&result.to_vec().map_err(failure)?, check)
    }
}

/// What the results are compared with: at the sizes themselves the definition; where that takes
/// too long the host's fast path, which is tested against the definition, and the definition at
/// smaller sizes that leave the same remainders.
fn checks(
    case: &'static Case,
    kernel: &Kernel,
    dtype: DType,
    sizes: Sizes,
    info: &ellesmere::info::DeviceInfo,
) -> Result<Vec<Check>> {
    let flop = |sizes: &Sizes| -> Result<Option<u64>> {
        let problems = Problem::of(case, dtype, sizes, info)?;
        let launched = problems.iter().any(|problem| problem.kernel.name == kernel.name);
        Ok(launched.then(|| problems.iter().map(|problem| problem.work.flop).sum()))
    };
    let by_definition = |sizes: Sizes, why| -> Result<Check> {
        let device = Device::definitions(Some(info.clone()));
        let expected = case.result(&device, dtype, &sizes)?;
        Ok(Check { sizes, expected, why })
    };
    let Some(whole) = flop(&sizes)? else {
        let detail = format!("{} does not launch {} at these sizes", case.op, kernel.name);
        return Err(Error::argument("kernel", detail));
    };
    if whole <= MOST_DEFINITION_FLOP {
        return Ok(vec![by_definition(sizes, "from the definition")?]);
    }
    let expected = case.result(&Device::cpu(), dtype, &sizes)?;
    let mut checks =
        vec![Check { sizes: sizes.clone(), expected, why: "from the host's fast path" }];
    let mut smaller = sizes;
    while let Some(next) = smaller_sizes(&smaller) {
        smaller = next;
        match flop(&smaller) {
            // The kernel is not chosen there, or the op refuses it: the other check stands.
            Ok(None) | Err(_) => break,
            Ok(Some(flop)) if flop <= MOST_DEFINITION_FLOP => {
                checks.push(by_definition(smaller, "from the definition at smaller sizes")?);
                break;
            }
            Ok(Some(_)) => {}
        }
    }
    Ok(checks)
}

/// The largest size made smaller, with the remainders that it leaves to any block of up to 128;
/// `None` if all are small.
fn smaller_sizes(sizes: &Sizes) -> Option<Sizes> {
    const BLOCK: usize = 128;
    let (&name, &size) = sizes.iter().max_by_key(|(_, size)| **size)?;
    let smaller = BLOCK + size % BLOCK;
    (smaller < size).then(|| {
        let mut sizes = sizes.clone();
        sizes.insert(name, smaller);
        sizes
    })
}

/// The outcome that an error is.
fn failure(error: Error) -> (Outcome, String) {
    let outcome = match error {
        // Kernel and device are those of the whole recording.
        Error::Build { log, .. } => return (Outcome::Compile, log),
        Error::Guard { .. } => Outcome::Correctness,
        _ => Outcome::Runtime,
    };
    (outcome, error.to_string())
}

/// The first lines of a message as one, not too long: a compiler's log has the fault at its head.
pub fn one_line(text: &str) -> String {
    const CHARACTERS: usize = 300;
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
