//! Files in, files out: bounded readers that say what they expected, writers that leave either
//! the whole file or none.
//!
//! | module | does |
//! |---|---|
//! | [`mmap`] | the bytes of a file: mapped, owned or compiled in |
//! | [`tensors`] | named tensors in a file of either kind, and how they are stored |
//! | [`safetensors`] | named tensors in a file |
//! | [`gguf`] | the same with values beside them, and blocks of few bits |
//! | [`image`] | pictures in (PNG, JPEG, WebP), resized |
//! | [`png`] | pictures out, with the words that made them |
//! | [`atomic`] | write beside, then rename |

use std::fmt::{Display, Write as _};
use std::io::Read as _;
use std::path::Path;

use crate::{Error, Result};

pub mod atomic;
pub mod gguf;
pub mod image;
pub mod mmap;
pub mod png;
mod resize;
pub mod safetensors;
pub mod tensors;

/// The longest piece of a file that a message repeats, in characters.
const QUOTED_CHARACTERS: usize = 160;

/// `text` as part of a message: one line, control characters escaped, cut where it gets long.
///
/// What a damaged file contains ends up in messages; it must neither break the line nor fill the
/// screen.
pub(crate) fn one_line(text: impl Display) -> String {
    let mut cut = Cut { line: String::new(), left: QUOTED_CHARACTERS };
    if write!(cut, "{text}").is_err() {
        cut.line.push('…');
    }
    cut.line
}

/// Takes what it is given until it has enough, and says so by an error.
struct Cut {
    line: String,
    left: usize,
}

impl std::fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(std::fmt::Error)?;
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                self.line.extend(character.escape_default());
            } else {
                self.line.push(character);
            }
        }
        Ok(())
    }
}

/// The whole of a small text file, or `None` if there is no such file.
///
/// # Errors
///
/// [`Error::File`] if it cannot be read, is longer than `limit_bytes` or is not UTF-8.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(path, format!("cannot be opened: {error}"))),
    };
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::file(path, format!("cannot be read: {error}")))?;
    text_of(path, bytes, limit_bytes).map(Some)
}

/// `bytes` as text, with the checks of [`read_text`].
pub(crate) fn text_of(path: &Path, bytes: Vec<u8>, limit_bytes: u64) -> Result<String> {
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::file(path, format!("expected at most {limit_bytes} B, got more")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        Error::file(path, format!("expected UTF-8 text, got another byte at {position}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_piece_is_one_short_line() {
        assert_eq!(one_line("plain"), "plain");
        assert_eq!(one_line("two\nlines\u{2028}"), "two\\nlines\\u{2028}");
        let long = one_line("x".repeat(100_000));
        assert_eq!(long.chars().count(), QUOTED_CHARACTERS + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_text_that_is_too_long_or_not_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(read_text(&path, 4).unwrap().is_none());
        std::fs::write(&path, "12345").unwrap();
        let message = read_text(&path, 4).unwrap_err().to_string();
        assert!(message.ends_with("config.json: expected at most 4 B, got more"), "{message}");
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        let message = read_text(&path, 4).unwrap_err().to_string();
        assert!(message.ends_with("expected UTF-8 text, got another byte at 1"), "{message}");
    }
}
