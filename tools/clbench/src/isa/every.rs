//! Every chip, each in a process of its own: compilers are libraries that share state.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ellesmere::isa::TARGETS;
use ellesmere::{Error, Result};

use super::Arguments;

/// Runs the command for each target, as many at once as there are cores, and prints what they print
/// in the order of [`TARGETS`].
///
/// # Errors
///
/// [`Error::Argument`] for what is of one target; [`Error::Device`] if no process starts.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.json {
        let detail = "is of one target: name it with --target";
        return Err(Error::argument("json", detail));
    }
    let folders = [&arguments.compare, &arguments.record].into_iter().flatten();
    if let Some(path) = folders.into_iter().find(|path| !path.is_dir()) {
        let detail = format!("expected a folder for all targets, got {}", path.display());
        return Err(Error::argument("compare or record", detail));
    }
    let failed = |error: std::io::Error| Error::Device {
        call: "starting a process for a target",
        detail: error.to_string(),
    };
    let program = std::env::current_exe().map_err(failed)?;
    let command = |target: &str| {
        let mut command = Command::new(&program);
        command.args(["isa", "--target", target]).args(options(arguments));
        command.stdin(Stdio::null());
        command
    };
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let at = TARGETS.iter().position(|one| one.name == target.name);
            let output = command(target.name).output();
            done.lock().expect("nothing panics with it").insert(at, output);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let mut good = true;
    for output in done.into_inner().expect("nothing panics with it").into_values() {
        let Output { status, stdout, stderr } = output.map_err(failed)?;
        print!("{}", String::from_utf8_lossy(&stdout));
        eprint!("{}", String::from_utf8_lossy(&stderr));
        good &= status.success();
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the command was told besides the target.
fn options(arguments: &Arguments) -> Vec<std::ffi::OsString> {
    let mut options = Vec::new();
    let texts = [
        ("--kernel", &arguments.kernel),
        ("--dtype", &arguments.dtype),
        ("--compiler", &arguments.compiler),
    ];
    for (name, value) in texts {
        options.extend(value.iter().flat_map(|value| [name.into(), value.into()]));
    }
    for (name, value) in &arguments.parameters {
        options.extend(["--parameters".into(), format!("{name}={value}").into()]);
    }
    let paths = [
        ("--compare", &arguments.compare),
        ("--record", &arguments.record),
        ("--keep", &arguments.keep),
    ];
    for (name, path) in paths {
        options.extend(path.iter().flat_map(|path| [name.into(), path.into()]));
    }
    options
}
