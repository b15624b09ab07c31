//! Where libraries of drivers and compilers are looked for.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libloading::Library;

use crate::knob;

/// The folder in which ROCm is installed where no variable says.
const ROCM: &str = "/opt/rocm";

/// A library that stays open until the process ends: what it has started runs on.
pub struct Opened {
    /// The file's name.
    pub name: String,
    /// Where its functions are found.
    pub library: &'static Library,
    prepare_thread: Option<unsafe extern "C" fn()>,
}

impl Opened {
    /// Has the calling thread ready for the library's functions.
    pub fn enter(&self) {
        if let Some(prepare) = self.prepare_thread {
            // SAFETY: it takes nothing, and sets variables of the calling thread alone.
            unsafe { prepare() };
        }
    }
}

/// The first of these names that opens, where the system looks, then under `ROCM_PATH` and
/// `/opt/rocm`; or `named` alone, where that is given.
///
/// With `alone`, it gets its own copy of all that it needs, where the system can do so. Compilers
/// need that: two that each bring a part of LLVM and share the rest end the process.
///
/// # Errors
///
/// What was looked for.
pub fn open(names: &[&str], named: Option<&Path>, alone: bool) -> Result<Opened, String> {
    let candidates = match named {
        Some(path) => vec![path.to_owned()],
        None => candidates(names, knob::rocm_path()),
    };
    if let Some(opened) = candidates.iter().find_map(|path| open_once(path, alone)) {
        return Ok(opened);
    }
    match named {
        Some(path) => Err(path.display().to_string()),
        None => {
            let folders: Vec<String> =
                folders(knob::rocm_path()).iter().map(|path| path.display().to_string()).collect();
            Err(format!("{}, also in {}", names.join(", "), folders.join(" and ")))
        }
    }
}

/// A library's path, whether it was to be alone, and what a thread calls first.
type Kept = (PathBuf, bool, &'static Library, Option<unsafe extern "C" fn()>);

/// Opened at most once for a process: copies are few, and are never closed.
fn open_once(path: &Path, alone: bool) -> Option<Opened> {
    static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
    // Every change is complete before anything can panic.
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let index =
        match kept.iter().position(|(other, was_alone, ..)| other == path && *was_alone == alone) {
            Some(index) => index,
            None => {
                let copied = if alone { open_copy(path) } else { None };
                let (library, prepare) = match copied {
                    Some((library, prepare)) => (library, Some(prepare)),
                    // SAFETY: the initialisers of these libraries touch nothing of ours.
                    None => (unsafe { Library::new(path) }.ok()?, None),
                };
                kept.push((path.to_owned(), alone, Box::leak(Box::new(library)), prepare));
                kept.len() - 1
            }
        };
    let (_, _, library, prepare_thread) = kept[index];
    Some(Opened { name, library, prepare_thread })
}

/// A library with copies of all that it needs, the C library too, and the function by which that
/// copy sets up a thread which it has not started: without it, such a thread has no table of
/// characters there. `None` where the system's C library is none of these.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn open_copy(path: &Path) -> Option<(Library, unsafe extern "C" fn())> {
    use std::os::unix::ffi::OsStrExt;

    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the name ends in NUL; the initialisers of these libraries touch nothing of ours.
    let handle = unsafe { libc::dlmopen(libc::LM_ID_NEWLM, name.as_ptr(), libc::RTLD_NOW) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open, and is given away here.
    let library = unsafe { libloading::os::unix::Library::from_raw(handle) };
    // SAFETY: this is the type that the C library's own threads call it by.
    let prepare = unsafe { library.get::<unsafe extern "C" fn()>(b"__ctype_init\0") };
    let prepare = *prepare.ok()?;
    Some((library.into(), prepare))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn open_copy(_path: &Path) -> Option<(Library, unsafe extern "C" fn())> {
    None
}

fn folders(rocm_path: Option<PathBuf>) -> Vec<PathBuf> {
    let library = if cfg!(windows) { "bin" } else { "lib" };
    let mut folders: Vec<PathBuf> =
        rocm_path.into_iter().chain([PathBuf::from(ROCM)]).map(|root| root.join(library)).collect();
    folders.dedup();
    folders
}

fn candidates(names: &[&str], rocm_path: Option<PathBuf>) -> Vec<PathBuf> {
    let own = names.iter().map(PathBuf::from);
    let in_folders = folders(rocm_path)
        .into_iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    own.chain(in_folders).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_asked_first_and_rocm_path_before_the_usual_folder() {
        let all = candidates(&["libx.so.2", "libx.so"], Some("/rocm-7".into()));
        let all: Vec<_> = all.iter().map(|path| path.to_str().unwrap()).collect();
        let expected = [
            "libx.so.2",
            "libx.so",
            "/rocm-7/lib/libx.so.2",
            "/rocm-7/lib/libx.so",
            "/opt/rocm/lib/libx.so.2",
            "/opt/rocm/lib/libx.so",
        ];
        assert_eq!(all, expected);
        assert_eq!(candidates(&["a"], Some("/opt/rocm".into())).len(), 2, "no folder twice");
    }

    #[test]
    fn what_was_looked_for_is_said() {
        let looked_for = open(&["libnone.so.3", "libnone.so"], None, false).err().unwrap();
        assert!(looked_for.starts_with("libnone.so.3, libnone.so, also in "), "{looked_for}");
        let named = open(&["libnone.so"], Some(Path::new("/no/such.so")), true).err().unwrap();
        assert_eq!(named, "/no/such.so");
    }
}
