//! The bytes of a file, wherever they are.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::{Deref, Range};
use std::path::Path;
use std::time::SystemTime;

use crate::{Error, Result};

/// Bytes that are mapped from a file, owned, or part of the program.
///
/// A mapping costs no memory of its own: pages come when they are read and go when the system
/// wants them. The file must not be cut short while it is mapped, or the process is ended by the
/// system (`SIGBUS`); writing the new version beside it and renaming, as [`super::atomic`] does,
/// is always safe.
#[derive(Debug)]
pub struct FileBytes(Place);

#[derive(Debug)]
enum Place {
    Mapped(memmap2::Mmap, Stamp),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

/// By what a file is known to be as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    /// None where the system does not tell.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl FileBytes {
    /// Bytes of `path`, from which these were mapped. The file is read, not the mapping: one that was
    /// cut short is an error and not the end of the process.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file is gone or has another length or modification time than when it was
    /// mapped, or cannot be read. What changed in a way that keeps both is not found.
    ///
    /// # Panics
    ///
    /// If `range` is not inside: a bug of the caller.
    pub fn read_again(&self, path: &Path, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let Place::Mapped(_, stamp) = &self.0 else { return Ok(Cow::Borrowed(&self[range])) };
        assert!(range.end <= self.len(), "a tensor lies inside its file");
        let changed = |what: String| Error::file(path, format!("changed while it is used: {what}"));
        let failed = |error: std::io::Error| changed(error.to_string());
        let mut file = File::open(path).map_err(failed)?;
        let now = Stamp::of(&file.metadata().map_err(failed)?);
        if now.bytes != stamp.bytes {
            return Err(changed(format!("it has {} B, and had {} B", now.bytes, stamp.bytes)));
        }
        if now != *stamp {
            return Err(changed("it has another modification time".to_owned()));
        }
        let mut bytes = vec![0; range.len()];
        file.seek(SeekFrom::Start(range.start as u64)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(Cow::Owned(bytes))
    }

    /// Maps a file, for reading only.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if `path` is not a regular file or cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let failed =
            |what: &str, error: std::io::Error| Error::file(path, format!("{what}: {error}"));
        let file = File::open(path).map_err(|error| failed("cannot be opened", error))?;
        let metadata = file.metadata().map_err(|error| failed("cannot be read", error))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "something else" };
            return Err(Error::file(path, format!("expected a file, got {what}")));
        }
        if metadata.len() == 0 {
            return Ok(FileBytes(Place::Static(&[])));
        }
        // SAFETY: the mapping is read-only and private to this value. That nobody cuts the file
        // short meanwhile is the caller's part of the contract above; whoever only changes bytes
        // makes the reader see other numbers, which every reader of these bytes can take, since
        // all that is ever made of them is integers and floats of any value.
        let mapped = unsafe { memmap2::Mmap::map(&file) };
        mapped
            .map(|map| FileBytes(Place::Mapped(map, Stamp::of(&metadata))))
            .map_err(|error| failed("cannot be mapped", error))
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        FileBytes(Place::Owned(bytes))
    }
}

impl From<&'static [u8]> for FileBytes {
    fn from(bytes: &'static [u8]) -> Self {
        FileBytes(Place::Static(bytes))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Mapped(map, _) => map,
            Place::Owned(bytes) => bytes,
            Place::Static(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, b"abc").unwrap();
        let places = [
            FileBytes::map(&path).unwrap(),
            FileBytes::from(b"abc".to_vec()),
            FileBytes::from(b"abc".as_slice()),
        ];
        for bytes in places {
            assert_eq!(&*bytes, b"abc");
            assert_eq!(&*bytes.read_again(&path, 1..3).unwrap(), b"bc");
        }
        std::fs::write(&path, b"").unwrap();
        assert!(FileBytes::map(&path).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = FileBytes::map(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("expected a file, got a folder"), "{message}");
        let message = FileBytes::map(&folder.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("none: cannot be opened: "), "{message}");
    }
}
