//! Files of entries: read with what is wrong in them; the user's, written beside other processes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Database, Entry};
use crate::io::{atomic, one_line, read_text};
use crate::{Error, Result};

/// What a file says of itself.
pub(super) const FORMAT: &str = "ellesmere tuning 1";
/// A file longer than this is not ours.
const MOST_BYTES: u64 = 16 << 20;

impl Database {
    /// Read, merge, write, while no other process does.
    pub(super) fn merge(&self, path: &Path, entry: &Entry) -> Result<()> {
        let failed = |error: io::Error| Error::file(path, format!("cannot be written: {error}"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock_file = File::create(atomic::beside(path, "lock")).map_err(failed)?;
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
    pub(super) fn read(&self, path: &Path) -> Vec<RawEntry> {
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
                let kept = atomic::set_aside(path).map_or_else(
                    |error| format!("and it cannot be put aside: {error}"),
                    |kept| format!("kept aside as {}", kept.display()),
                );
                let (path, detail) = (path.display(), one_line(detail));
                self.note(format!("{path}: damaged, {kept}: {detail}"));
                Vec::new()
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) format: String,
    pub(super) entries: Vec<serde_json::Value>,
}

/// An entry as the file has it, and as it is understood: what is not is kept all the same.
pub(super) struct RawEntry {
    value: serde_json::Value,
    pub(super) entry: Option<Entry>,
}

pub(super) fn parse(text: &str) -> Result<Vec<RawEntry>, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if document.format != FORMAT {
        return Err(format!("format must be {FORMAT:?}, got {:?}", document.format));
    }
    let entry = |value: serde_json::Value| {
        let entry = Entry::deserialize(&value).ok();
        // A time that is no time is no reason to keep a configuration for.
        let timed = |seconds: Option<f64>| seconds.is_none_or(|s| s.is_finite() && s > 0.0);
        let entry = entry.filter(|entry| timed(entry.seconds) && timed(entry.default_seconds));
        let entry =
            entry.filter(|e| e.runner_up.as_ref().is_none_or(|second| timed(second.seconds)));
        RawEntry { value, entry }
    };
    Ok(document.entries.into_iter().map(entry).collect())
}
