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
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use super::Class;
use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel};
use crate::{DType, Result};

mod entry;
mod file;

pub use entry::{
    Basis, DeviceKey, Entry, Nearness, RunnerUp, architecture, source_hash, tuned_values,
    with_values,
};
use file::parse;

/// How far a class may be from a problem to answer for it: a factor of 4 in one size, or of 2 in
/// two.
pub const FARTHEST: f64 = 2.0;

/// The files of `kernels/tuned/`.
const SHIPPED: &[(&str, &str)] = &[
    ("amd-cpu-of-16-lanes.json", include_str!("../../kernels/tuned/amd-cpu-of-16-lanes.json")),
    ("amd-cpu-of-8-lanes.json", include_str!("../../kernels/tuned/amd-cpu-of-8-lanes.json")),
    ("amd-gfx803.json", include_str!("../../kernels/tuned/amd-gfx803.json")),
    ("intel-cpu-of-16-lanes.json", include_str!("../../kernels/tuned/intel-cpu-of-16-lanes.json")),
    ("mesa-cpu-of-1-lanes.json", include_str!("../../kernels/tuned/mesa-cpu-of-1-lanes.json")),
];

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
                            let own = distance == 0.0 || entry.is_for_others();
                            let configuration =
                                if own { configuration } else { query.base.clone() };
                            let says = if own { "" } else { ": for its own class alone" };
                            let found = format!("{title} answers, {distance:.1} away{says}");
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
    /// [`Error::File`](crate::Error::File) if the file cannot be written; the entry holds until the
    /// device is closed.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
