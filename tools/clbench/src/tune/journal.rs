//! What was tried, written down as it happens: a line before each candidate and one after it.
//!
//! A line before without one after is a candidate that has taken the tuner or the machine with
//! it. All files are JSON lines in one folder, which one tuner at a time may hold.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ellesmere::io::{atomic, read_text};
use ellesmere::tune::record::About;
use ellesmere::tune::{Outcome, Trial};
use ellesmere::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::protocol::Report;

/// A longer file is not ours.
const MOST_BYTES: u64 = 256 << 20;

pub type Values = BTreeMap<String, u32>;

/// The folder of journals and of the blacklist, held until it is dropped.
pub struct Folder {
    path: PathBuf,
    // Held, not used: the system lets go of it however the tuner ends.
    _lock: File,
}

/// A candidate and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub values: Values,
    #[serde(flatten)]
    pub report: Report,
    pub timestamp: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Line {
    About(Box<About>),
    Start(Values),
    Done(Entry),
    /// Started, and given up by the user.
    Abandoned(Values),
}

/// A candidate that has crashed or hung, and is not tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Banned {
    device: String,
    platform: String,
    driver: String,
    kernel: String,
    source: String,
    pub values: Values,
    pub report: Report,
}

/// The journal of one problem.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// What was tried before, with `--resume`.
    pub entries: Vec<Entry>,
}

impl Folder {
    /// Makes and locks the folder. Waits for another tuner that holds it, and says so.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::file(path, format!("cannot be used: {error}"));
        std::fs::create_dir_all(path).map_err(failed)?;
        let lock = path.join("lock");
        let failed = |error: std::io::Error| Error::file(&lock, format!("cannot be used: {error}"));
        let file = OpenOptions::new().create(true).append(true).open(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("clbench: another tuner is at work in {}: waiting", path.display());
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(Self { path: path.to_path_buf(), _lock: file })
    }

    /// The journal of a problem. Without `resume` it is begun anew. A candidate that a tuner has
    /// not lived to report is returned, and counts as tried.
    pub fn journal(&self, about: &About, resume: bool) -> Result<(Journal, Option<Entry>)> {
        let path = self.path.join(format!("{}.jsonl", name(about)));
        let lines = read_lines::<Line>(&path)?;
        let mut entries = Vec::new();
        let mut in_flight = None;
        for line in lines {
            match line {
                Line::About(_) => {}
                Line::Start(values) => in_flight = Some(values),
                Line::Done(entry) => {
                    in_flight = None;
                    entries.push(entry);
                }
                Line::Abandoned(_) => in_flight = None,
            }
        }
        let in_flight = in_flight.map(|values| {
            let detail = "the tuner or the machine ended while it ran";
            Entry::new(values, Report::failed(Outcome::Runtime, detail))
        });
        if !resume {
            entries.clear();
        }
        entries.extend(in_flight.clone().filter(|_| resume));
        atomic::write(&path, |file| {
            let about = Line::About(Box::new(about.clone()));
            let done = entries.iter().cloned().map(Line::Done);
            for line in std::iter::once(about).chain(done) {
                writeln!(file, "{}", text(&line))?;
            }
            Ok(())
        })?;
        let file = append_to(&path)?;
        Ok((Journal { file, path, entries }, in_flight))
    }

    fn blacklist(&self) -> PathBuf {
        self.path.join("blacklist.jsonl")
    }

    /// The candidates of a kernel that are not tried again on a device.
    pub fn banned(&self, about: &About) -> Result<Vec<Banned>> {
        let lines = read_lines::<Banned>(&self.blacklist())?;
        let own = |banned: &Banned| {
            *banned == Banned::new(about, banned.values.clone(), banned.report.clone())
        };
        Ok(lines.into_iter().filter(own).collect())
    }

    /// Puts a candidate on the blacklist, if it is not there yet.
    pub fn ban(&self, about: &About, entry: &Entry) -> Result<()> {
        if self.banned(about)?.iter().any(|banned| banned.values == entry.values) {
            return Ok(());
        }
        let banned = Banned::new(about, entry.values.clone(), entry.report.clone());
        let path = self.blacklist();
        append(&mut append_to(&path)?, &path, &banned)
    }
}

impl Banned {
    fn new(about: &About, values: Values, report: Report) -> Self {
        let About { device, kernel, source, .. } = about.clone();
        let (platform, driver) = (device.platform, device.driver);
        Self { device: device.name, platform, driver, kernel, source, values, report }
    }
}

impl Entry {
    pub fn new(values: Values, report: Report) -> Self {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        Self { values, report, timestamp: now.to_string() }
    }

    pub fn trial(&self) -> Trial {
        let Report { outcome, detail, runs, compile_seconds, validate_seconds } =
            self.report.clone();
        Trial {
            configuration: self.values.clone(),
            outcome,
            detail,
            runs,
            compile_seconds,
            validate_seconds,
            timestamp: self.timestamp.clone(),
        }
    }
}

impl Journal {
    /// Notes, before it is tried, that a candidate will be: this is on the disk when it is.
    pub fn start(&mut self, values: &Values) -> Result<()> {
        append(&mut self.file, &self.path, &Line::Start(values.clone()))
    }

    pub fn done(&mut self, entry: &Entry) -> Result<()> {
        append(&mut self.file, &self.path, &Line::Done(entry.clone()))
    }

    pub fn abandoned(&mut self, values: &Values) -> Result<()> {
        append(&mut self.file, &self.path, &Line::Abandoned(values.clone()))
    }
}

/// The name of a problem's journal: readable, and different for everything that matters.
fn name(about: &About) -> String {
    let class: Vec<String> =
        about.class.iter().map(|(name, size)| format!("{name}{size}")).collect();
    let key = serde_json::to_vec(&(&about.device, &about.source)).expect("keys are texts");
    let hash: String = Sha256::digest(key)[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{hash}", about.kernel, about.dtype, class.join("-"))
}

fn text(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("lines are numbers and texts")
}

fn append_to(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| Error::file(path, format!("cannot be opened: {error}")))
}

fn append(file: &mut File, path: &Path, line: &impl Serialize) -> Result<()> {
    let written = writeln!(file, "{}", text(line)).and_then(|()| file.sync_data());
    written.map_err(|error| Error::file(path, format!("cannot be written: {error}")))
}

/// The lines of a file, none if there is none. What follows the last line end was cut off by the
/// end of whoever wrote it, and is dropped. A file that is damaged otherwise is kept beside as
/// `.corrupt`, which is said.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match read_text(path, MOST_BYTES) {
        Ok(text) => text.unwrap_or_default(),
        // It may be there and be no text.
        Err(Error::File { detail, .. }) if path.is_file() => {
            set_aside(path, &detail)?;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let lines = whole.lines().enumerate().map(|(index, line)| {
        serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))
    });
    match lines.collect::<Result<Vec<T>, String>>() {
        Ok(lines) => {
            if whole.len() < text.len() {
                atomic::write(path, |file| file.write_all(whole.as_bytes()))?;
            }
            Ok(lines)
        }
        Err(detail) => {
            set_aside(path, &detail)?;
            Ok(Vec::new())
        }
    }
}

fn set_aside(path: &Path, detail: &str) -> Result<()> {
    let aside = PathBuf::from(format!("{}.corrupt", path.display()));
    std::fs::rename(path, &aside)
        .map_err(|error| Error::file(path, format!("{detail}; {error}")))?;
    let (path, aside) = (path.display(), aside.display());
    eprintln!("clbench: {path}: {detail}; kept as {aside}, going on without");
    Ok(())
}

#[cfg(test)]
mod tests {
    use ellesmere::tune::database::DeviceKey;

    use super::*;

    fn about() -> About {
        let text = |text: &str| text.to_owned();
        About {
            kernel: text("gemm_register"),
            dtype: text("f32"),
            source: text("0123456789abcdef"),
            device: DeviceKey {
                name: text("device"),
                architecture: text("architecture"),
                platform: text("platform"),
                driver: text("1.0"),
            },
            class: [(text("rows"), 64)].into(),
            shape: BTreeMap::new(),
            default: values(1),
        }
    }

    fn values(tile: u32) -> Values {
        [("TILE_M".to_owned(), tile)].into()
    }

    fn entry(tile: u32) -> Entry {
        let report = Report { runs: vec![0.5], ..Report::failed(Outcome::Ok, "") };
        Entry::new(values(tile), report)
    }

    fn tiles(journal: &Journal) -> Vec<u32> {
        journal.entries.iter().map(|entry| entry.values["TILE_M"]).collect()
    }

    #[test]
    fn a_candidate_without_its_end_has_failed_and_is_not_repeated() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("not there yet")).unwrap();
        let (mut journal, in_flight) = folder.journal(&about(), false).unwrap();
        assert_eq!(in_flight, None);
        journal.start(&values(1)).unwrap();
        journal.done(&entry(1)).unwrap();
        journal.start(&values(2)).unwrap();
        journal.abandoned(&values(2)).unwrap();
        journal.start(&values(3)).unwrap();
        drop(journal);

        let (journal, in_flight) = folder.journal(&about(), true).unwrap();
        let in_flight = in_flight.unwrap();
        assert_eq!((&in_flight.values, in_flight.report.outcome), (&values(3), Outcome::Runtime));
        assert_eq!(tiles(&journal), [1, 3], "what the user gave up is tried again");
        drop(journal);
        let (journal, in_flight) = folder.journal(&about(), true).unwrap();
        assert_eq!((tiles(&journal), in_flight), (vec![1, 3], None), "it has its end by now");
        drop(journal);
        assert_eq!(tiles(&folder.journal(&about(), false).unwrap().0), [0; 0], "begun anew");
        let other = About { class: [("rows".to_owned(), 65)].into(), ..about() };
        assert_eq!(tiles(&folder.journal(&other, true).unwrap().0), [0; 0]);
    }

    #[test]
    fn a_journal_that_is_cut_off_anywhere_loses_its_last_line_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let (mut journal, _) = folder.journal(&about(), false).unwrap();
        let path = journal.path.clone();
        journal.done(&entry(1)).unwrap();
        let sure = std::fs::metadata(&path).unwrap().len() as usize;
        journal.done(&entry(2)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for length in sure..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, _) = folder.journal(&about(), true).unwrap();
            assert_eq!(tiles(&journal), [1], "cut at {length}");
            journal.done(&entry(3)).unwrap();
            assert_eq!(tiles(&folder.journal(&about(), true).unwrap().0), [1, 3]);
        }
        let corrupt = PathBuf::from(format!("{}.corrupt", path.display()));
        assert!(!corrupt.exists());
        for damage in [b"{\"Done\": 5}\n".as_slice(), b"\xff\xfe\n", b"[]\n{}\n"] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(tiles(&folder.journal(&about(), true).unwrap().0), [0; 0]);
            assert_eq!(std::fs::read(&corrupt).unwrap(), damage, "kept aside");
        }
    }

    #[test]
    fn the_blacklist_is_by_device_driver_and_source() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for _ in 0..2 {
            folder.ban(&about(), &entry(4)).unwrap();
        }
        let banned = |about: &About| folder.banned(about).unwrap().len();
        assert_eq!(banned(&about()), 1);
        let device = |change: fn(&mut DeviceKey)| {
            let mut about = about();
            change(&mut about.device);
            about
        };
        assert_eq!(banned(&device(|device| device.driver = "2.0".to_owned())), 0);
        assert_eq!(banned(&device(|device| device.name = "other".to_owned())), 0);
        assert_eq!(banned(&About { source: "another".to_owned(), ..about() }), 0);
        let class = [("rows".to_owned(), 65)].into();
        assert_eq!(banned(&About { class, ..about() }), 1, "any problem");
    }
}
