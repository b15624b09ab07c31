//! One problem: its candidates tried, its recording made.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ellesmere::bench::Problem;
use ellesmere::info::DeviceInfo;
use ellesmere::kernel::{Configuration, Kernel};
use ellesmere::tune::database::{self, DeviceKey, Query};
use ellesmere::tune::record::About;
use ellesmere::tune::{Database, Outcome, Recording, Search, Space, StrategyKind};
use ellesmere::{Error, Result};

use super::child::{Ended, Runner};
use super::journal::{Entry, Folder, Journal, Values};
use super::progress::{Display, State};
use super::protocol::{Candidate, Report, Task};
use super::stop;

/// Configurations against the constraints, at most, that an exhaustive recording lists.
const MOST_FORBIDDEN: usize = 10_000;

/// Candidates that are timed again at the end, at most.
const MOST_CONFIRMED: usize = 6;
/// How often the best and the default are timed in turn.
const ROUNDS: usize = 2;

/// What holds for every problem of a run.
pub struct Settings {
    pub device: String,
    pub info: DeviceInfo,
    pub strategy: StrategyKind,
    pub seed: u64,
    pub max_candidates: Option<usize>,
    pub resume: bool,
    /// Whether candidates on the blacklist are tried.
    pub retry: bool,
    /// The whole OpenCL C that stands in for the kernel's.
    pub source: Option<&'static str>,
    /// Parameters of which only these values are tried.
    pub values: Vec<(String, Vec<u32>)>,
}

/// A problem with what there is to try, and where it is remembered.
pub struct Tried<'a> {
    pub problem: &'a Problem,
    pub space: &'a Space,
    pub database: &'a Database,
    pub folder: &'a Folder,
}

/// Why a problem's search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every candidate was tried.
    Exhausted,
    /// As many as were asked for.
    Enough,
    OutOfTime,
    Stopped,
}

/// What came of a problem.
pub struct Tuned {
    pub recording: Recording,
    pub candidates: usize,
    pub end: End,
    /// Why the run cannot go on.
    pub failure: Option<Error>,
}

/// A search in progress.
struct Tuning<'a> {
    settings: &'a Settings,
    problem: &'a Problem,
    folder: &'a Folder,
    about: About,
    space: &'a Space,
    search: Search<'a>,
    journal: Journal,
    entries: Vec<Entry>,
    /// Of this run, for the time that is left.
    tried: usize,
}

/// The candidates of a problem.
pub fn space(problem: &Problem, settings: &Settings) -> Result<Space> {
    let space = Space::new(problem.kernel, &problem.default, &settings.info);
    for (name, values) in &settings.values {
        let Some(axis) = space.axes().iter().find(|axis| axis.name == *name) else {
            let names: Vec<&str> = space.axes().iter().map(|axis| axis.name.as_str()).collect();
            let (kernel, names) = (problem.kernel.name, names.join(", "));
            let detail = format!("{kernel} has {names} to tune, got {name}");
            return Err(Error::argument("values", detail));
        };
        if let Some(value) = values.iter().find(|value| !axis.values.contains(value)) {
            let detail = format!("{name} takes {:?}, got {value}", axis.values);
            return Err(Error::argument("values", detail));
        }
    }
    let wanted = |name: &str, value: u32| {
        let mut own = settings.values.iter().filter(|(other, _)| other == name);
        own.all(|(_, values)| values.contains(&value))
    };
    let space = space.filtered(|values| values.iter().all(|&(name, value)| wanted(name, value)));
    if space.is_empty() {
        let detail = format!("the constraints of {} allow none of these", problem.kernel.name);
        return Err(Error::argument("values", detail));
    }
    Ok(space)
}

/// Tries candidates until `budget` is spent.
pub fn tune(
    Tried { problem, space, database, folder }: Tried,
    settings: &Settings,
    runner: &mut Runner,
    budget: Option<Duration>,
) -> Result<Tuned> {
    let about = about(problem, settings);
    let (journal, in_flight) = folder.journal(&about, settings.resume)?;
    if let Some(entry) = &in_flight {
        folder.ban(&about, entry)?;
    }
    let mut starts = Vec::from_iter(space.find_configuration(&problem.default));
    let (known, _) = database.look_up(&Query {
        kernel: problem.kernel,
        dtype: problem.dtype,
        class: &problem.class,
        base: &problem.default,
        info: &settings.info,
    });
    starts.extend(known.and_then(|(_, known)| space.find_configuration(&known)));
    let search = Search::new(space, settings.strategy, settings.seed, &starts);
    let entries = Vec::new();
    let mut tuning =
        Tuning { settings, problem, folder, about, space, search, journal, entries, tried: 0 };
    tuning.recall()?;
    let (end, failure) = match tuning.run(runner, budget) {
        Ok(end) => (end, None),
        Err(Error::Cancelled) => (End::Stopped, None),
        // What was recorded is kept all the same.
        Err(error) => (End::Stopped, Some(error)),
    };
    let mut trials: Vec<_> = tuning.entries.iter().map(Entry::trial).collect();
    if settings.strategy == StrategyKind::Exhaustive && end == End::Exhausted {
        trials.extend(forbidden(problem, space, settings).iter().map(Entry::trial));
    }
    let recording = Recording { about: Some(tuning.about), trials };
    Ok(Tuned { recording, candidates: space.len(), end, failure })
}

fn about(problem: &Problem, settings: &Settings) -> About {
    let kernel = problem.kernel;
    let source = match settings.source {
        Some(source) => database::source_hash(&Kernel { source, ..*kernel }, problem.dtype),
        None => database::source_hash(kernel, problem.dtype),
    };
    About {
        kernel: kernel.name.to_owned(),
        dtype: problem.dtype.name().to_owned(),
        source,
        device: DeviceKey::of(&settings.info),
        class: problem.class.0.iter().map(|&(name, size)| (name.to_owned(), size)).collect(),
        shape: problem.sizes.iter().map(|(&name, &size)| (name.to_owned(), size)).collect(),
        default: values_of(&problem.default),
    }
}

fn values_of(configuration: &Configuration) -> Values {
    let values = configuration.values().iter();
    values.map(|&(name, value)| (name.to_owned(), value)).collect()
}

/// What the constraints do not allow, as outcomes.
fn forbidden(problem: &Problem, space: &Space, settings: &Settings) -> Vec<Entry> {
    if space.unconstrained() > MOST_FORBIDDEN {
        return Vec::new();
    }
    let mut entries = Vec::new();
    for number in 0..space.unconstrained() {
        let (mut rest, mut values) = (number, Values::new());
        let mut configuration = problem.default.clone();
        for axis in space.axes().iter().rev() {
            let value = axis.values[rest % axis.values.len()];
            rest /= axis.values.len();
            values.insert(axis.name.clone(), value);
            configuration.set(&axis.name, value);
        }
        if let Some(constraint) = problem.kernel.violated(&configuration, &settings.info) {
            let detail = format!("this must hold: {}", constraint.text);
            entries.push(Entry::new(values, Report::failed(Outcome::Constraints, detail)));
        }
    }
    entries
}

impl Tuning<'_> {
    /// Tells the search what is known already: earlier outcomes of this problem, and what is on
    /// the blacklist.
    fn recall(&mut self) -> Result<()> {
        for entry in std::mem::take(&mut self.journal.entries) {
            // A candidate of other `--values` is none of this space.
            if self.candidate(&entry).is_some() {
                self.record(entry);
            }
        }
        for entry in &self.entries {
            let candidate = self.candidate(entry).expect("only those of the space are recorded");
            self.search.tell(candidate, entry.trial().seconds());
        }
        if self.settings.retry {
            return Ok(());
        }
        for banned in self.folder.banned(&self.about)? {
            let values = banned.values.iter().map(|(name, &value)| (name.as_str(), value));
            let Some(candidate) = self.space.find(values) else { continue };
            if !self.search.known().was_asked(candidate) {
                self.search.tell(candidate, None);
                let detail = format!("not tried again: {}", banned.report.detail);
                let report = Report { detail, ..banned.report };
                self.entries.push(Entry::new(banned.values, report));
            }
        }
        Ok(())
    }

    fn run(&mut self, runner: &mut Runner, budget: Option<Duration>) -> Result<End> {
        let task = self.task();
        let title = format!("{} {}", self.problem.kernel.name, self.problem.class);
        let mut display = Display::new(title, self.space.len());
        let mut begin = None;
        loop {
            if stop::soon() {
                return Ok(End::Stopped);
            }
            let enough = self.settings.max_candidates.is_some_and(|most| self.tried >= most);
            if enough {
                self.confirm(runner, &display)?;
                return Ok(End::Enough);
            }
            let spent = begin.map_or(Duration::ZERO, |begin: Instant| begin.elapsed());
            // One candidate in any case.
            if self.tried > 0 && budget.is_some_and(|budget| spent >= budget) {
                self.confirm(runner, &display)?;
                return Ok(End::OutOfTime);
            }
            let Some(candidate) = self.search.ask() else {
                self.confirm(runner, &display)?;
                return Ok(End::Exhausted);
            };
            runner.prepare(&task)?;
            // What is compared with is computed before the clock starts.
            let begin = *begin.get_or_insert_with(Instant::now);
            let best_seconds = self.search.best().map(|(_, seconds)| seconds);
            if !self.try_candidate(runner, candidate, best_seconds, &display)? {
                return Ok(End::Stopped);
            }
            let last = self.entries.last().expect("it was recorded just now");
            self.search.tell(candidate, last.trial().seconds());
            self.tried += 1;
            self.show(&mut display, budget, begin.elapsed());
        }
    }

    /// What a worker is to prepare.
    fn task(&self) -> Task {
        Task {
            device: self.settings.device.clone(),
            key: self.about.device.clone(),
            kernel: self.problem.kernel.name.to_owned(),
            dtype: self.problem.dtype.name().to_owned(),
            op: self.problem.case.op.to_owned(),
            sizes: self.about.shape.clone(),
            source: self.settings.source.map(str::to_owned),
        }
    }

    /// The best of many noisy times is the luckiest: it is timed again, until the best is one that
    /// was. Then it and the default are timed in turn, and of each the least time counts: a
    /// machine that is slow for some seconds must not decide between them. Where nothing was
    /// tried, all this was done before.
    fn confirm(&mut self, runner: &mut Runner, display: &Display) -> Result<()> {
        let mut confirmed = Vec::new();
        while self.tried > 0 && confirmed.len() < MOST_CONFIRMED && !stop::soon() {
            let Some(best) = self.best() else { return Ok(()) };
            if confirmed.contains(&best) {
                break;
            }
            confirmed.push(best);
            if !self.try_again(runner, best, display)? {
                return Ok(());
            }
        }
        let (best, default) = (self.best(), self.space.find_configuration(&self.problem.default));
        let in_turn = [default, best].into_iter().flatten().cycle().take(2 * ROUNDS);
        for candidate in in_turn {
            let before = self.entries.iter().find(|entry| self.candidate(entry) == Some(candidate));
            let before = before.cloned();
            let alone = best == default || self.tried == 0 || stop::soon();
            if alone || !self.try_again(runner, candidate, display)? {
                return Ok(());
            }
            let seconds = |entry: &Entry| entry.trial().seconds();
            let after = self.entries.last().expect("it was recorded just now");
            // An outcome that is none stays: what goes wrong now and then is wrong.
            if let (Some(before), Some(time)) = (before, seconds(after))
                && seconds(&before).is_some_and(|before| before < time)
            {
                self.journal.done(&before)?;
                self.record(before);
            }
        }
        Ok(())
    }

    /// The quickest so far of those that were right.
    fn best(&self) -> Option<usize> {
        let right = self.entries.iter().filter_map(|e| Some((e, e.trial().seconds()?)));
        let (entry, _) = right.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(self.candidate(entry).expect("only those of the space are recorded"))
    }

    fn try_again(
        &mut self,
        runner: &mut Runner,
        candidate: usize,
        display: &Display,
    ) -> Result<bool> {
        runner.prepare(&self.task())?;
        self.try_candidate(runner, candidate, None, display)
    }

    fn candidate(&self, entry: &Entry) -> Option<usize> {
        self.space.find(entry.values.iter().map(|(name, &value)| (name.as_str(), value)))
    }

    /// Of a candidate that was tried again the last outcome counts.
    fn record(&mut self, entry: Entry) {
        self.entries.retain(|old| old.values != entry.values);
        self.entries.push(entry);
    }

    /// Whether it came to an end.
    fn try_candidate(
        &mut self,
        runner: &mut Runner,
        candidate: usize,
        best_seconds: Option<f64>,
        display: &Display,
    ) -> Result<bool> {
        let values: Values =
            self.space.values(candidate).map(|(name, value)| (name.to_owned(), value)).collect();
        let whole = self.space.configuration(&self.problem.default, candidate);
        self.journal.start(&values)?;
        let ended = runner.run(&Candidate { values: values_of(&whole), best_seconds });
        let (report, killed) = match ended {
            Ended::Reported(report) => (report, false),
            Ended::Killed(report) => (report, true),
            Ended::Abandoned => {
                self.journal.abandoned(&values)?;
                return Ok(false);
            }
        };
        let entry = Entry::new(values, report);
        // First the blacklist: what is not there would be tried again.
        if killed {
            self.folder.ban(&self.about, &entry)?;
        }
        self.journal.done(&entry)?;
        if entry.report.outcome != Outcome::Ok {
            let (outcome, detail) = (entry.report.outcome.name(), &entry.report.detail);
            display.note(&format!("{whole}: {outcome}: {detail}"));
        }
        self.record(entry);
        Ok(true)
    }

    fn show(&self, display: &mut Display, budget: Option<Duration>, spent: Duration) {
        let left = self.search.known().left();
        let to_try = match self.settings.max_candidates {
            Some(most) => left.min(most.saturating_sub(self.tried)),
            None => left,
        };
        let all = spent.div_f64(self.tried.max(1) as f64).mul_f64(to_try as f64);
        let left = budget.map_or(all, |budget| all.min(budget.saturating_sub(spent)));
        let flop = self.problem.work.flop as f64;
        let best = self.search.best().map(|(_, seconds)| (seconds, flop / seconds / 1e9));
        display.update(&State {
            done: self.entries.len(),
            candidates: self.space.len(),
            best,
            left: Some(left),
            failed: &failures(self.entries.iter().map(|entry| entry.report.outcome)),
        });
    }
}

/// Outcomes that are not `ok`, with how many there are of each.
pub fn failures(outcomes: impl Iterator<Item = Outcome>) -> String {
    let mut counts: HashMap<Outcome, usize> = HashMap::new();
    for outcome in outcomes.filter(|outcome| *outcome != Outcome::Ok) {
        *counts.entry(outcome).or_default() += 1;
    }
    let by_name: BTreeMap<&str, usize> =
        counts.into_iter().map(|(outcome, count)| (outcome.name(), count)).collect();
    let texts: Vec<String> =
        by_name.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    texts.join(", ")
}
