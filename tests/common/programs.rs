//! The example programs as a person runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A program, which `cargo test` builds beside the tests.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    program
}

/// A program that works in `folder`, with a cache of its own there.
pub fn command(name: &str, folder: &TempDir) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(folder.path()).env("ELLESMERE_CACHE_DIR", folder.path().join("cache"));
    command
}

/// What a program printed, once it has ended.
pub fn run(name: &str, folder: &TempDir, arguments: &[&str]) -> Output {
    command(name, folder).args(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
