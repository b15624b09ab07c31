//! What is remembered of a device's times: a file for each device and driver.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::info::DeviceInfo;
use crate::io::{atomic, one_line, read_text};
use crate::tune::database::DeviceKey;
use crate::{Error, Result};

/// What a file says of itself.
const FORMAT: &str = "ellesmere timings 3";
/// A file longer than this is not ours.
const MOST_BYTES: u64 = 16 << 20;
/// A file with more times than this begins anew: those of kernels as they are no more are in it.
const MOST_TIMES: usize = 100_000;

/// Seconds by what was measured. The file is read when something is first asked for.
#[derive(Debug)]
pub struct Timings {
    folder: Option<PathBuf>,
    path: Option<PathBuf>,
    device: DeviceKey,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_read: bool,
    seconds: BTreeMap<String, f64>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    device: DeviceKey,
    seconds: BTreeMap<String, f64>,
}

impl Timings {
    /// Times that are kept in `folder`, a cache folder, if there is one.
    pub fn new(folder: Option<&Path>, info: &DeviceInfo) -> Self {
        let device = DeviceKey::of(info);
        let mut hash = Sha256::new_with_prefix(FORMAT);
        for text in [&device.name, &device.architecture, &device.platform, &device.driver] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        // The number of threads can be changed from outside.
        hash.update(info.compute_units.to_le_bytes());
        let name: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{}-{name}.json", info.backend);
        let path = folder.map(|folder| folder.join("timings").join(name));
        let folder = folder.map(Path::to_owned);
        Self { folder, path, device, state: Mutex::default() }
    }

    /// The cache folder.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What went wrong with the file, a line each.
    pub fn notes(&self) -> Vec<String> {
        self.state().notes.clone()
    }

    pub fn get(&self, key: &str) -> Option<f64> {
        let mut state = self.state();
        self.read_once(&mut state);
        state.seconds.get(key).copied()
    }

    pub fn put(&self, key: String, seconds: f64) {
        let mut state = self.state();
        self.read_once(&mut state);
        state.seconds.insert(key, seconds);
    }

    /// Puts a time unless a shorter one is known.
    pub fn put_least(&self, key: String, seconds: f64) {
        let known = self.get(&key).unwrap_or(f64::INFINITY);
        self.put(key, seconds.min(known));
    }

    /// Writes everything to the file. What another process wrote there meanwhile is kept.
    pub fn keep(&self) {
        let mut state = self.state();
        if let Some(path) = &self.path
            && let Err(error) = self.merge(path, &mut state)
        {
            note(&mut state, format!("measured times are not kept: {error}"));
        }
    }

    fn merge(&self, path: &Path, state: &mut State) -> Result<()> {
        let failed = |error: io::Error| Error::file(path, format!("cannot be written: {error}"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock_file = File::create(atomic::beside(path, "lock")).map_err(failed)?;
        lock_file.lock().map_err(failed)?;
        let mut seconds = self.read(path, state);
        if seconds.len() > MOST_TIMES {
            seconds.clear();
        }
        seconds.extend(state.seconds.iter().map(|(key, &value)| (key.clone(), value)));
        let document = Document { format: FORMAT.to_owned(), device: self.device.clone(), seconds };
        atomic::write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &document)?;
            file.write_all(b"\n")
        })
        // The lock ends with its file.
    }

    fn read_once(&self, state: &mut State) {
        if let Some(path) = &self.path
            && !state.is_read
        {
            state.seconds = self.read(path, state);
        }
        state.is_read = true;
    }

    /// What the file holds. A damaged one is put aside.
    fn read(&self, path: &Path, state: &mut State) -> BTreeMap<String, f64> {
        let text = match read_text(path, MOST_BYTES) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => return BTreeMap::new(),
            // Too long or no text: as good as damaged. What cannot be opened is left alone.
            Err(error) if path.is_file() && File::open(path).is_ok() => Err(error.to_string()),
            Err(error) => {
                note(state, format!("no measured times are used: {error}"));
                return BTreeMap::new();
            }
        };
        match text.and_then(|text| self.parse(&text)) {
            Ok(seconds) => seconds,
            Err(detail) => {
                let kept = atomic::set_aside(path).map_or_else(
                    |error| format!("and it cannot be put aside: {error}"),
                    |kept| format!("kept aside as {}", kept.display()),
                );
                let (path, detail) = (path.display(), one_line(detail));
                note(state, format!("{path}: damaged, {kept}: {detail}"));
                BTreeMap::new()
            }
        }
    }

    fn parse(&self, text: &str) -> Result<BTreeMap<String, f64>, String> {
        let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if document.format != FORMAT {
            return Err(format!("format must be {FORMAT:?}, got {:?}", document.format));
        }
        if document.device != self.device {
            return Err("it is of another device".to_owned());
        }
        let mut seconds = document.seconds;
        // A time that is no time is measured again.
        seconds.retain(|_, seconds| seconds.is_finite() && *seconds > 0.0);
        Ok(seconds)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn note(state: &mut State, note: String) {
    if !state.notes.contains(&note) {
        tracing::warn!("{note}");
        state.notes.push(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn times_are_remembered_and_damaged_files_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::cpu();
        let open = || Timings::new(Some(folder.path()), device.info());
        let timings = open();
        assert_eq!(timings.get("a"), None);
        timings.put("a".to_owned(), 0.5);
        timings.keep();
        // Another process, which knows of something else.
        let other = open();
        other.put("b".to_owned(), 0.25);
        timings.put("c".to_owned(), 0.125);
        other.keep();
        timings.keep();
        let again = open();
        assert_eq!(["a", "b", "c"].map(|key| again.get(key)), [Some(0.5), Some(0.25), Some(0.125)]);
        assert!(again.notes().is_empty());

        let path = again.path.clone().unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        for (text, detail) in [
            ("{", "EOF"),
            (&whole.replace("timings 3", "timings 2"), "format must be"),
            (&whole.replace(&device.info().driver, "another"), "another device"),
        ] {
            fs::write(&path, text).unwrap();
            let damaged = open();
            assert_eq!(damaged.get("a"), None);
            let notes = damaged.notes();
            assert!(notes.len() == 1 && notes[0].contains(detail), "{notes:?}");
            assert!(notes[0].contains("kept aside as") && !path.exists(), "{notes:?}");
        }
        fs::write(&path, whole.replace("0.25", "-1.0")).unwrap();
        assert_eq!(open().get("b"), None);
        assert_eq!(open().get("a"), Some(0.5));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_note_and_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        let timings = Timings::new(Some(&blocked), Device::cpu().info());
        timings.put("a".to_owned(), 0.5);
        timings.keep();
        assert_eq!(timings.get("a"), Some(0.5));
        let notes = timings.notes();
        assert!(notes.iter().any(|note| note.contains("measured times are not kept")), "{notes:?}");
    }
}
