//! The tuning database: which configuration was the best for a problem on a device.
//!
//! Entries come from the user's file and from those shipped in `kernels/tuned/`. A problem is
//! answered by the first of these that has an entry for its kernel and element type:
//!
//! 1. this device and driver; 2. this device, another driver; 3. this architecture
//!
//! and in each the user's file before the shipped ones, and the entry of the nearest class: the
//! sum over the sizes of |log2(its size / the problem's)| is least, and at most [`FARTHEST`].
//! Else the kernel's default holds. An entry of another source of its kernel, or with values that
//! the kernel or the device does not take, answers nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Class;
use super::record::Recording;
use crate::info::{DeviceInfo, DeviceKind};
use crate::io::{atomic, one_line, read_text};
use crate::kernel::{Configuration, Kernel};
use crate::{DType, Error, Result};

/// How far a class may be from a problem to answer for it: a factor of 4 in one size, or of 2 in
/// two.
pub const FARTHEST: f64 = 2.0;

/// What a file says of itself.
const FORMAT: &str = "ellesmere tuning 1";
/// A file longer than this is not ours.
const MOST_BYTES: u64 = 16 << 20;

/// The files of `kernels/tuned/`.
const SHIPPED: &[(&str, &str)] = &[];

/// The device that an entry or a recording is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceKey {
    /// The device's name.
    pub name: String,
    /// What it has in common with devices that run kernels alike: see [`architecture`].
    pub architecture: String,
    /// The platform or driver stack.
    pub platform: String,
    /// The driver's version.
    pub driver: String,
}

impl DeviceKey {
    /// The key of a device.
    pub fn of(info: &DeviceInfo) -> Self {
        Self {
            name: info.name.clone(),
            architecture: architecture(info),
            platform: info.platform.clone(),
            driver: info.driver.clone(),
        }
    }
}

/// Names that drivers give to chips of one architecture, in lower case.
const ARCHITECTURES: [(&str, &[&str]); 1] = [(
    "gfx803",
    &["ellesmere", "polaris", "baffin", "fiji", "rx 470", "rx 480", "rx 570", "rx 580", "rx 590"],
)];

/// What devices that run kernels alike have in common: the backend and the lanes of a vector for
/// CPUs, the instruction set for GPUs whose name tells it, else their name.
pub fn architecture(info: &DeviceInfo) -> String {
    if info.kind == DeviceKind::Cpu {
        return format!("{} cpu of {} lanes", info.backend, info.vector_width);
    }
    let name = info.name.to_lowercase();
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    if let Some(target) = words().find(|word| is_target(word)) {
        return target.to_owned();
    }
    let known =
        ARCHITECTURES.iter().find(|(_, names)| names.iter().any(|part| name.contains(part)));
    known.map_or(name.clone(), |(architecture, _)| (*architecture).to_owned())
}

/// `gfx` and a number.
fn is_target(word: &str) -> bool {
    let number = word.strip_prefix("gfx").unwrap_or_default();
    number.len() >= 3 && number.chars().all(|c| c.is_ascii_hexdigit())
}

/// A hash of everything that decides what a kernel's configurations are worth: its source with the
/// prelude, and how elements are stored. Sixteen hexadecimal digits.
pub fn source_hash(kernel: &Kernel, dtype: DType) -> String {
    let hash = Sha256::new().chain_update(dtype.name()).chain_update(kernel.source).finalize();
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is known of a kernel, an element type and a class of problems on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The kernel.
    pub kernel: String,
    /// How elements are stored.
    pub dtype: String,
    /// The problem's class.
    pub class: BTreeMap<String, usize>,
    /// The sizes that `clbench` was given for it; empty where it was not `clbench`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shape: BTreeMap<String, usize>,
    /// The hash of the kernel's source: see [`source_hash`].
    pub source: String,
    /// The device.
    pub device: DeviceKey,
    /// How it was chosen.
    pub basis: Basis,
    /// The best configuration's tuned parameters.
    pub configuration: BTreeMap<String, u32>,
    /// Its median time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The second best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
}

/// How an entry was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// By times on the device.
    Measured,
    /// By what the compiler reports for a device that nobody ran it on.
    Static,
}

/// The configuration that came second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerUp {
    /// Its tuned parameters.
    pub configuration: BTreeMap<String, u32>,
    /// Its median time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The tuned parameters of a kernel's configuration.
pub fn tuned_values(kernel: &Kernel, configuration: &Configuration) -> BTreeMap<String, u32> {
    let tuned = kernel.parameters.iter().filter(|parameter| !parameter.values.is_empty());
    tuned.map(|p| (p.name.to_owned(), configuration.get(p.name))).collect()
}

impl Entry {
    /// The best and the second best of a recording; `None` if no candidate was right.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the recording does not say of what it is.
    pub fn of_recording(recording: &Recording) -> Result<Option<Self>> {
        let about = recording.about.as_ref().ok_or_else(|| {
            Error::argument("recording", "expected metadata of a kernel and a device, got none")
        })?;
        let kernel = about.kernel().map_err(|detail| Error::argument("recording", detail))?;
        let tuned = |values: &BTreeMap<String, u32>| {
            let is_tuned = |name: &str| {
                kernel.parameters.iter().any(|p| p.name == name && !p.values.is_empty())
            };
            values.iter().filter(|(name, _)| is_tuned(name)).map(|(n, v)| (n.clone(), *v)).collect()
        };
        let ranking = recording.ranking();
        let Some((best, seconds)) = ranking.first() else { return Ok(None) };
        let runner_up = ranking.get(1).map(|(trial, seconds)| RunnerUp {
            configuration: tuned(&trial.configuration),
            seconds: Some(*seconds),
        });
        Ok(Some(Self {
            kernel: about.kernel.clone(),
            dtype: about.dtype.clone(),
            class: about.class.clone(),
            shape: about.shape.clone(),
            source: about.source.clone(),
            device: about.device.clone(),
            basis: Basis::Measured,
            configuration: tuned(&best.configuration),
            seconds: Some(*seconds),
            runner_up,
        }))
    }

    /// Whether this entry answers for the same as another: the newer replaces the older.
    pub fn same_key(&self, other: &Self) -> bool {
        self.kernel == other.kernel
            && self.dtype == other.dtype
            && self.class == other.class
            && self.device == other.device
    }

    /// `base` with this entry's values.
    ///
    /// # Errors
    ///
    /// Why the entry is of no use for the kernel as it is, or for this device.
    pub fn apply(
        &self,
        base: &Configuration,
        info: &DeviceInfo,
    ) -> std::result::Result<Configuration, String> {
        let name = one_line(&self.kernel);
        let kernel = Kernel::find(&self.kernel).ok_or(format!("there is no kernel {name}"))?;
        let dtype: DType = self.dtype.parse().map_err(|error: Error| error.to_string())?;
        if self.source != source_hash(kernel, dtype) {
            return Err("of another source of the kernel".to_owned());
        }
        with_values(kernel, base, &self.configuration, info)
    }

    /// `kernel dtype class`, in one line.
    fn title(&self) -> String {
        let class: Vec<String> = self.class.iter().map(|(n, size)| format!("{n}={size}")).collect();
        one_line(format_args!("{} {} {}", self.kernel, self.dtype, class.join(",")))
    }
}

/// `base` with other values of a kernel's tuned parameters.
///
/// # Errors
///
/// What the kernel or the device does not take.
pub fn with_values(
    kernel: &Kernel,
    base: &Configuration,
    values: &BTreeMap<String, u32>,
    info: &DeviceInfo,
) -> std::result::Result<Configuration, String> {
    let mut configuration = base.clone();
    for (name, &value) in values {
        let shown = one_line(name);
        let parameter = kernel.parameters.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or(format!("the kernel has no parameter {shown}"))?;
        if !parameter.values.contains(&value) && base.get(parameter.name) != value {
            return Err(format!("{shown} must be one of {:?}, got {value}", parameter.values));
        }
        configuration.set(name, value);
    }
    match kernel.violated(&configuration, info) {
        Some(constraint) => Err(format!("this must hold: {}", constraint.text)),
        None => Ok(configuration),
    }
}

/// How near an entry's device is to the one that asks, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearness {
    /// This device and driver.
    Driver,
    /// This device, another driver.
    Device,
    /// Another device of this architecture.
    Architecture,
}

impl Nearness {
    const ALL: [Self; 3] = [Self::Driver, Self::Device, Self::Architecture];

    /// How near a device is; `None` if it is of no use.
    pub fn of(entry: &DeviceKey, device: &DeviceKey) -> Option<Self> {
        if entry == device {
            Some(Self::Driver)
        } else if entry.name == device.name && entry.architecture == device.architecture {
            Some(Self::Device)
        } else if entry.architecture == device.architecture {
            Some(Self::Architecture)
        } else {
            None
        }
    }
}

impl fmt::Display for Nearness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Driver => "this device and driver",
            Self::Device => "this device, another driver",
            Self::Architecture => "this architecture",
        })
    }
}

/// What an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The user's file.
    User,
    /// A file of `kernels/tuned/`.
    Shipped,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user file",
            Self::Shipped => "shipped",
        })
    }
}

/// The entry that answers for a problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// Where it stands.
    pub source: Source,
    /// How near its device is.
    pub nearness: Nearness,
    /// How far its class is: see the [module](self).
    pub distance: f64,
    /// The entry.
    pub entry: Entry,
}

/// A place that was looked at, and what was found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where.
    pub place: String,
    /// What, in one line.
    pub found: String,
}

/// What is asked of the database.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// How elements are stored.
    pub dtype: DType,
    /// The problem.
    pub class: &'a Class,
    /// What holds where nothing is known; keeps the values that the problem decides.
    pub base: &'a Configuration,
    /// The device.
    pub info: &'a DeviceInfo,
}

/// The entries of the user's file and of the shipped ones.
#[derive(Debug, Default)]
pub struct Database {
    path: Option<PathBuf>,
    entries: Mutex<Vec<(Source, Entry)>>,
    notes: Mutex<Vec<String>>,
}

impl Database {
    /// The shipped entries alone.
    pub fn shipped() -> Self {
        Self::with_files(None, SHIPPED)
    }

    /// The shipped entries and those of the user's file, which need not exist. What is wrong with
    /// a file is no error: it is noted and gone on without.
    pub fn open(path: &Path) -> Self {
        Self::with_files(Some(path.to_owned()), SHIPPED)
    }

    fn with_files(path: Option<PathBuf>, shipped: &[(&str, &str)]) -> Self {
        let database = Self { path, ..Self::default() };
        if let Some(path) = &database.path {
            let users = database.read(path);
            let users = users.into_iter().filter_map(|raw| raw.entry);
            lock(&database.entries).extend(users.map(|entry| (Source::User, entry)));
        }
        for (name, text) in shipped {
            let parsed = parse(text).unwrap_or_else(|detail| panic!("{name}: {detail}"));
            let entries = parsed
                .into_iter()
                .map(|raw| raw.entry.unwrap_or_else(|| panic!("{name} has an entry that is none")));
            lock(&database.entries).extend(entries.map(|entry| (Source::Shipped, entry)));
        }
        database
    }

    /// The user's file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What is wrong with the files, a line each.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// Every entry, the user's first.
    pub fn entries(&self) -> Vec<(Source, Entry)> {
        lock(&self.entries).clone()
    }

    /// Notes which of the user's entries for this device are of no use.
    pub fn check(&self, info: &DeviceInfo) {
        let device = DeviceKey::of(info);
        let entries = lock(&self.entries);
        let users = entries.iter().filter(|(source, entry)| {
            *source == Source::User && Nearness::of(&entry.device, &device).is_some()
        });
        let bad: Vec<String> = users
            .filter_map(|(_, entry)| {
                let base = Kernel::find(&entry.kernel)
                    .map(|kernel| Configuration::defaults(kernel.parameters));
                let reason = match base {
                    Some(base) => entry.apply(&base, info).err()?,
                    None => "there is no such kernel".to_owned(),
                };
                Some(format!("{}: {reason}", entry.title()))
            })
            .collect();
        if let (Some(first), Some(path)) = (bad.first(), &self.path) {
            let path = path.display();
            self.note(format!("{path}: not used, {} of its entries, such as {first}", bad.len()));
        }
    }

    /// The entry that answers for a problem with the configuration that it gives, and every place
    /// that was looked at, in order.
    pub fn look_up(&self, query: &Query) -> (Option<(Answer, Configuration)>, Vec<Step>) {
        let device = DeviceKey::of(query.info);
        let entries = lock(&self.entries);
        let mut steps = Vec::new();
        for nearness in Nearness::ALL {
            for source in [Source::User, Source::Shipped] {
                let place = format!("{source}, {nearness}");
                let matching = entries.iter().filter(|(from, entry)| {
                    *from == source
                        && entry.kernel == query.kernel.name
                        && entry.dtype == query.dtype.name()
                        && Nearness::of(&entry.device, &device) == Some(nearness)
                });
                let mut matching: Vec<(f64, &Entry)> = matching
                    .map(|(_, entry)| (distance(&entry.class, query.class), entry))
                    .collect();
                matching.sort_by(|a, b| a.0.total_cmp(&b.0));
                if matching.is_empty() {
                    steps.push(Step { place, found: "no entry".to_owned() });
                    continue;
                }
                for (distance, entry) in matching {
                    let place = place.clone();
                    let title = entry.title();
                    if distance > FARTHEST {
                        let found = format!("{title} is {distance:.1} away, more than {FARTHEST}");
                        steps.push(Step { place, found });
                        break;
                    }
                    match entry.apply(query.base, query.info) {
                        Ok(configuration) => {
                            let found = format!("{title} answers, {distance:.1} away");
                            steps.push(Step { place, found });
                            let entry = entry.clone();
                            let answer = Answer { source, nearness, distance, entry };
                            return (Some((answer, configuration)), steps);
                        }
                        Err(reason) => {
                            steps.push(Step {
                                place,
                                found: format!("{title} is not used: {reason}"),
                            });
                        }
                    }
                }
            }
        }
        (None, steps)
    }

    /// Keeps an entry, in place of one for the same, here and in the user's file. Another process
    /// may do so at the same time: what it wrote is kept.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be written; the entry holds until the device is closed.
    pub fn remember(&self, entry: Entry) -> Result<()> {
        {
            let mut entries = lock(&self.entries);
            entries.retain(|(source, old)| *source != Source::User || !old.same_key(&entry));
            entries.insert(0, (Source::User, entry.clone()));
        }
        match &self.path {
            Some(path) => self.merge(path, &entry),
            None => Ok(()),
        }
    }

    /// Read, merge, write, while no other process does.
    fn merge(&self, path: &Path, entry: &Entry) -> Result<()> {
        let failed = |error: io::Error| Error::file(path, format!("cannot be written: {error}"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock_file = File::create(beside(path, "lock")).map_err(failed)?;
        lock_file.lock().map_err(failed)?;
        let mut raw = self.read(path);
        raw.retain(|raw| raw.entry.as_ref().is_none_or(|old| !old.same_key(entry)));
        let mut entries: Vec<serde_json::Value> = raw.into_iter().map(|raw| raw.value).collect();
        entries.push(serde_json::to_value(entry).expect("an entry is numbers and texts"));
        let document = Document { format: FORMAT.to_owned(), entries };
        atomic::write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &document)?;
            file.write_all(b"\n")
        })
        // The lock ends with its file.
    }

    /// What the user's file holds. A damaged one is put aside.
    fn read(&self, path: &Path) -> Vec<RawEntry> {
        let text = match read_text(path, MOST_BYTES) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => return Vec::new(),
            // Too long or no text: as good as damaged. What cannot be opened is left alone.
            Err(error) if path.is_file() && File::open(path).is_ok() => Err(error.to_string()),
            Err(error) => {
                self.note(format!("no tuned configurations are used: {error}"));
                return Vec::new();
            }
        };
        match text.and_then(|text| parse(&text)) {
            Ok(entries) => {
                let bad = entries.iter().filter(|raw| raw.entry.is_none()).count();
                if bad > 0 {
                    let path = path.display();
                    self.note(format!("{path}: not used, {bad} of its entries that are malformed"));
                }
                entries
            }
            Err(detail) => {
                let kept = set_aside(path).map_or_else(
                    |error| format!("and it cannot be put aside: {error}"),
                    |kept| format!("kept aside as {}", kept.display()),
                );
                let (path, detail) = (path.display(), one_line(detail));
                self.note(format!("{path}: damaged, {kept}: {detail}"));
                Vec::new()
            }
        }
    }

    /// Notes what went wrong, once.
    pub(crate) fn note_once(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.note(format!("tuned configurations are not kept: {error}"));
        }
    }

    fn note(&self, note: String) {
        let mut notes = lock(&self.notes);
        if !notes.contains(&note) {
            tracing::warn!("{note}");
            notes.push(note);
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    entries: Vec<serde_json::Value>,
}

/// An entry as the file has it, and as it is understood: what is not is kept all the same.
struct RawEntry {
    value: serde_json::Value,
    entry: Option<Entry>,
}

fn parse(text: &str) -> Result<Vec<RawEntry>, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if document.format != FORMAT {
        return Err(format!("format must be {FORMAT:?}, got {:?}", document.format));
    }
    let entry = |value: serde_json::Value| {
        let entry = Entry::deserialize(&value).ok();
        // A time that is no time is no reason to keep a configuration for.
        let timed = |seconds: Option<f64>| seconds.is_none_or(|s| s.is_finite() && s > 0.0);
        let entry = entry.filter(|entry| timed(entry.seconds));
        let entry =
            entry.filter(|e| e.runner_up.as_ref().is_none_or(|second| timed(second.seconds)));
        RawEntry { value, entry }
    };
    Ok(document.entries.into_iter().map(entry).collect())
}

/// The sum of |log2| of the sizes' ratios; infinite where the sizes are of other names.
fn distance(entry: &BTreeMap<String, usize>, class: &Class) -> f64 {
    if entry.len() != class.0.len() {
        return f64::INFINITY;
    }
    let sizes = class.0.iter().map(|&(name, size)| match entry.get(name) {
        Some(&other) if other == size => 0.0,
        Some(&other) if other > 0 && size > 0 => (other as f64 / size as f64).log2().abs(),
        _ => f64::INFINITY,
    });
    sizes.sum()
}

/// `tuning.json.lock` for `tuning.json`.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// Renames a damaged file to the first free of `.corrupt`, `.corrupt2` and so on.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1..).map(|number| match number {
        1 => beside(path, "corrupt"),
        _ => beside(path, &format!("corrupt{number}")),
    });
    let free = names.into_iter().find(|kept| !kept.exists()).expect("some number is free");
    fs::rename(path, &free)?;
    Ok(free)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
