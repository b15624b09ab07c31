//! Where a diffusers folder is: on the disk, in the program, or in one GGUF file.

use std::path::PathBuf;
use std::sync::Arc;

use crate::io::mmap::FileBytes;
use crate::io::tensors::TensorFile;
use crate::io::{read_text, text_of};
use crate::{Error, Result};

/// The longest text file that is read: vocabularies are the largest, at 1 to 4 MB. Parsed
/// JSON can be twenty times as large.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

/// A folder of files, by their paths inside it.
pub(super) enum Source {
    Folder(PathBuf),
    Embedded { root: PathBuf, files: &'static [(&'static str, &'static [u8])] },
    Gguf(Arc<TensorFile>),
}

/// The key of a file's text in GGUF: `ellesmere.unet.config.json` for `unet/config.json`.
pub(super) fn key_of(name: &str) -> String {
    format!("ellesmere.{}", name.replace('/', "."))
}

impl Source {
    /// A file's path for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let root = match self {
            Source::Folder(root) | Source::Embedded { root, .. } => root,
            Source::Gguf(file) => file.path(),
        };
        if name.is_empty() { root.to_path_buf() } else { root.join(name) }
    }

    /// The text of a file, `None` if it is not there.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        match self {
            Source::Folder(root) => read_text(&root.join(name), TEXT_LIMIT_BYTES),
            Source::Embedded { files, .. } => {
                let found = files.iter().find(|(known, _)| *known == name);
                let text = |(_, bytes): &(_, &[u8])| {
                    text_of(&self.path(name), bytes.to_vec(), TEXT_LIMIT_BYTES)
                };
                found.map(text).transpose()
            }
            Source::Gguf(file) => {
                let found = file.text(&key_of(name));
                let text = |text: &str| {
                    text_of(&self.path(name), text.as_bytes().to_vec(), TEXT_LIMIT_BYTES)
                };
                found.map(text).transpose()
            }
        }
    }

    /// The text of a file that must be there.
    pub(super) fn expect_text(&self, name: &str) -> Result<String> {
        let missing = || Error::file(self.path(name), "is missing: expected a file of the model");
        self.text(name)?.ok_or_else(missing)
    }

    /// The bytes of a file, mapped, `None` if it is not there.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<FileBytes>> {
        match self {
            Source::Folder(root) => {
                let path = root.join(name);
                if path.exists() { FileBytes::map(&path).map(Some) } else { Ok(None) }
            }
            Source::Embedded { files, .. } => {
                let found = files.iter().find(|(known, _)| *known == name);
                Ok(found.map(|&(_, bytes)| FileBytes::from(bytes)))
            }
            Source::Gguf(_) => Ok(None),
        }
    }

    /// Whether there is a file of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Source::Folder(root) => root.join(name).exists(),
            Source::Embedded { files, .. } => files.iter().any(|(known, _)| *known == name),
            Source::Gguf(file) => file.text(&key_of(name)).is_some(),
        }
    }
}
