//! Write beside, then rename: a file is there whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes a file by `write` so that `path` holds either its old content or all of the new.
///
/// The new content is written to a temporary file in the same folder, flushed to the disk and
/// then renamed. An existing file is replaced; a link is followed first.
///
/// # Errors
///
/// [`Error::File`] if `path` cannot be written, and whatever `write` returns; nothing is left
/// behind then.
pub fn write(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let failed = |error: io::Error| Error::file(path, format!("cannot be written: {error}"));
    let target = target_of(path)?;
    let mut temporary = temporary_beside(&target).map_err(failed)?;
    let mut writer = BufWriter::new(temporary.as_file_mut());
    write(&mut writer).and_then(|()| writer.flush()).map_err(failed)?;
    drop(writer);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(&target).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Says, before any work starts, whether [`write()`] can write `path`.
///
/// # Errors
///
/// [`Error::File`] if the folder is missing or takes no new file, or if `path` is there and is
/// not a regular file that may be written.
pub fn check_writable(path: &Path) -> Result<()> {
    let target = target_of(path)?;
    temporary_beside(&target)
        .map(drop)
        .map_err(|error| Error::file(path, format!("cannot be written: {error}")))
}

/// `tuning.json.lock` for `tuning.json`.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// Renames a damaged file to the first free of `.corrupt`, `.corrupt2` and so on.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1..).map(|number| match number {
        1 => beside(path, "corrupt"),
        _ => beside(path, &format!("corrupt{number}")),
    });
    let free = names.into_iter().find(|kept| !kept.exists()).expect("some number is free");
    std::fs::rename(path, &free)?;
    Ok(free)
}

/// The file to replace: `path` itself, or what it links to, after every check that needs no
/// writing.
fn target_of(path: &Path) -> Result<PathBuf> {
    let refuse = |detail: &str| Err(Error::file(path, detail));
    if path.file_name().is_none() {
        return refuse("expected the name of a file to write");
    }
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match std::fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => {
            return refuse("expected a file to write, got a folder");
        }
        Ok(metadata) if !metadata.is_file() => {
            return refuse("expected a regular file to write, got a device or a pipe");
        }
        Ok(metadata) if metadata.permissions().readonly() => {
            return refuse("cannot be written: the file is read-only");
        }
        Ok(_) | Err(_) => {}
    }
    let folder = folder_of(&target);
    if !folder.is_dir() {
        let detail = format!("cannot be written: there is no folder {}", folder.display());
        return Err(Error::file(path, detail));
    }
    Ok(target)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ellesmere-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // Less the umask, as for any new file; the crate's own default is for the owner only.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder_of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let failure = write(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(io::Error::other("disk on fire"))
        });
        let message = failure.unwrap_err().to_string();
        assert!(message.ends_with("a.txt: cannot be written: disk on fire"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn what_cannot_be_written_is_found_before() {
        let folder = tempfile::tempdir().unwrap();
        let read_only = folder.path().join("read-only.png");
        std::fs::write(&read_only, b"").unwrap();
        let mut permissions = std::fs::metadata(&read_only).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&read_only, permissions).unwrap();
        let cases = [
            (folder.path().to_path_buf(), "expected a file to write, got a folder"),
            (folder.path().join("none/a.png"), "there is no folder"),
            (read_only.clone(), "the file is read-only"),
            (read_only.join("a.png"), "there is no folder"),
            (PathBuf::from(""), "expected the name of a file"),
        ];
        for (path, expected) in cases {
            let message = check_writable(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains('\n'));
        }
        check_writable(&folder.path().join("new.png")).unwrap();
        check_writable(Path::new("new-here.png")).unwrap();
        assert_eq!(names(folder.path()), ["read-only.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_never_replaced_and_a_link_is_followed() {
        let message = check_writable(Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(message, "/dev/null: expected a regular file to write, got a device or a pipe");
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, |file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
