//! `clbench tune` as a person runs it, on a kernel that does what a candidate must not.

#[path = "../../../tests/common/required.rs"]
mod required;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ellesmere::hardware::detect;
use ellesmere::tune::{Outcome, Recording};
use tempfile::TempDir;

/// Long for one that only waits for its turn on a busy machine, short for one that never ends.
const TIMEOUT: &str = "15s";

/// A CPU device behind a driver, on which register tiles are what is planned.
fn device() -> Option<String> {
    let detected = detect();
    required::check(detected.entries.iter().map(|entry| &entry.info));
    let entry = detected.entries.iter().find(|entry| entry.info.platform.contains("Portable"));
    if entry.is_none() {
        eprintln!("not tested: there is no device to tune for");
    }
    entry.map(|entry| entry.id.clone())
}

/// The tuner with a folder of its own.
fn clbench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clbench"));
    command.args(arguments).env("ELLESMERE_CACHE_DIR", folder.join("cache"));
    command.env_remove("ELLESMERE_DEVICE").env_remove("ELLESMERE_TUNING").stdin(Stdio::null());
    command
}

/// Arguments for a small product by the misbehaving kernel.
fn misbehaving<'a>(
    device: &'a str,
    output: &'a str,
    timeout: &'a str,
    values: &[&'a str],
) -> Vec<&'a str> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/misbehaving_gemm.cl");
    let mut arguments = vec!["tune", "gemm_register", "--device", device, "--source", source];
    arguments.extend(["--shape", "rows=50,outputs=70,inputs=40", "--strategy", "exhaustive"]);
    arguments.extend(["--timeout", timeout, "--budget", "none", "--output", output]);
    for value in ["PANELS=1", "TILE_K=64"].iter().chain(values) {
        arguments.extend(["--values", value]);
    }
    arguments
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// Outcome and detail by the value of a parameter.
fn outcomes(file: &str, parameter: &str) -> BTreeMap<u32, (Outcome, String)> {
    let trials = Recording::read(file.as_ref()).unwrap().trials;
    let outcome = |trial: &ellesmere::tune::Trial| {
        (trial.configuration[parameter], (trial.outcome, trial.detail.clone()))
    };
    trials.iter().filter(|trial| trial.outcome != Outcome::Constraints).map(outcome).collect()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn journals(folder: &TempDir, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.path().join("cache")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("gemm_register-") && name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_misbehaviour_ends_as_its_outcome_and_is_not_repeated() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let (first, second) = (path(&folder, "first.json"), path(&folder, "second.json"));
    let values = ["TILE_M=4,6,8,12,14", "TILES=8", "VECTOR=16"];
    let output =
        clbench(folder.path(), &misbehaving(&device, &first, TIMEOUT, &values)).output().unwrap();
    succeeded(&output);
    let expected = [
        (4, Outcome::Compile, "no tile of 4 rows"),
        (6, Outcome::Runtime, "the worker ended by signal"),
        (8, Outcome::Correctness, "4 B past the end of y, from 12 B behind it on"),
        (12, Outcome::Ok, ""),
        (14, Outcome::Timeout, "no end after 15s"),
    ];
    let outcomes = outcomes(&first, "TILE_M");
    assert_eq!(outcomes.len(), expected.len(), "{outcomes:?}");
    for (tile, outcome, detail) in expected {
        let got = &outcomes[&tile];
        assert!(got.0 == outcome && got.1.contains(detail), "TILE_M={tile}: {got:?}");
    }
    let summary = text(&output.stdout);
    assert!(summary.contains("1 ok, 1 compile, 1 correctness, 1 runtime, 1 timeout"), "{summary}");
    assert!(summary.contains("TILE_M=12"), "the best is told: {summary}");

    // Everything is known: nothing is tried, and the same is recorded.
    let mut arguments = misbehaving(&device, &second, TIMEOUT, &values);
    arguments.push("--resume");
    let start = Instant::now();
    succeeded(&clbench(folder.path(), &arguments).output().unwrap());
    assert_eq!(Recording::read(first.as_ref()).unwrap(), Recording::read(second.as_ref()).unwrap());
    assert!(start.elapsed() < Duration::from_secs(15), "nothing hung again");

    // Begun anew, what crashed or hung is still left alone.
    let third = path(&folder, "third.json");
    let values = ["TILE_M=6,14", "TILES=8", "VECTOR=16"];
    let output =
        clbench(folder.path(), &misbehaving(&device, &third, TIMEOUT, &values)).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "no candidate was right");
    let outcomes = self::outcomes(&third, "TILE_M");
    assert!(outcomes[&6].1.starts_with("not tried again: the worker"), "{outcomes:?}");
    assert_eq!(outcomes[&14], (Outcome::Timeout, "not tried again: no end after 15s".to_owned()));
}

#[test]
fn wrong_results_and_writes_before_an_input_are_found() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "wrong.json");
    let values = ["TILE_M=12", "TILES=8,16", "VECTOR=16"];
    succeeded(
        &clbench(folder.path(), &misbehaving(&device, &file, TIMEOUT, &values)).output().unwrap(),
    );
    let outcomes = outcomes(&file, "TILES");
    assert_eq!(outcomes[&8].0, Outcome::Ok, "{outcomes:?}");
    assert_eq!(outcomes[&16].0, Outcome::Correctness);
    assert!(outcomes[&16].1.starts_with("off by 1.000e0 from the definition"), "{outcomes:?}");

    let values = ["TILE_M=12", "TILES=8", "VECTOR=4"];
    let output =
        clbench(folder.path(), &misbehaving(&device, &file, TIMEOUT, &values)).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "no candidate was right");
    let outcomes = self::outcomes(&file, "VECTOR");
    let (outcome, detail) = &outcomes[&4];
    assert_eq!(*outcome, Outcome::Correctness);
    assert!(detail.contains("before the start of x, from 8 B before it on"), "{detail}");
}

/// Waits for something for a while.
#[track_caller]
fn wait(why: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < end, "{why}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a tuner whose second candidate never ends, and gives it once that runs.
#[cfg(unix)]
fn endless(folder: &TempDir, arguments: &[&str]) -> std::process::Child {
    let mut command = clbench(folder.path(), arguments);
    let tuner = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the endless candidate is started", || {
        let journals = journals(folder, ".jsonl");
        let text = journals.first().map(|path| fs::read_to_string(path).unwrap());
        let text = text.unwrap_or_default();
        let last = text.lines().last().unwrap_or_default();
        last.starts_with("{\"Start\"") && last.contains("\"TILE_M\":14")
    });
    // Let it get into the loop.
    std::thread::sleep(Duration::from_secs(1));
    tuner
}

#[cfg(target_os = "linux")]
#[test]
fn a_tuner_that_is_killed_leaves_no_worker_and_its_candidate_counts_as_tried() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "killed.json");
    let values = ["TILE_M=12,14", "TILES=8", "VECTOR=16"];
    let mut arguments = misbehaving(&device, &file, "1h", &values);
    let mut tuner = endless(&folder, &arguments);
    let id = tuner.id();
    let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let workers: Vec<&str> = workers.split_whitespace().collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
    tuner.kill().unwrap();
    tuner.wait().unwrap();
    let worker = PathBuf::from(format!("/proc/{}/exe", workers[0]));
    wait("the worker ends by itself", || fs::read_link(&worker).is_err());

    arguments.push("--resume");
    succeeded(&clbench(folder.path(), &arguments).output().unwrap());
    let outcomes = outcomes(&file, "TILE_M");
    assert_eq!(outcomes[&12].0, Outcome::Ok);
    let expected = "the tuner or the machine ended while it ran";
    assert_eq!(outcomes[&14], (Outcome::Runtime, expected.to_owned()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_twice_ends_at_once_and_what_was_given_up_is_not_blamed() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "stopped.json");
    let values = ["TILE_M=12,14", "TILES=8", "VECTOR=16"];
    let arguments = misbehaving(&device, &file, "1h", &values);
    let tuner = endless(&folder, &arguments);
    for _ in 0..2 {
        let sent = Command::new("kill").args(["-INT", &tuner.id().to_string()]).status().unwrap();
        assert!(sent.success());
        std::thread::sleep(Duration::from_millis(500));
    }
    let output = tuner.wait_with_output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("stopping after this candidate"), "{message}");
    assert!(message.contains("--resume goes on from here"), "{message}");
    assert_eq!(outcomes(&file, "TILE_M").into_keys().collect::<Vec<_>>(), [12]);
    let journal = fs::read_to_string(&journals(&folder, ".jsonl")[0]).unwrap();
    assert!(journal.lines().last().unwrap().starts_with("{\"Abandoned\""), "{journal}");
}

#[test]
fn a_second_tuner_waits_and_a_damaged_journal_is_kept_aside() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "a.json");
    let values = ["TILE_M=12", "TILES=8", "VECTOR=16"];
    let mut arguments = misbehaving(&device, &file, TIMEOUT, &values);
    succeeded(&clbench(folder.path(), &arguments).output().unwrap());
    let journal = journals(&folder, ".jsonl").remove(0);
    fs::write(&journal, "no journal\n").unwrap();

    let lock = File::options().append(true).open(journal.with_file_name("lock")).unwrap();
    lock.lock().unwrap();
    arguments.push("--resume");
    let mut second = clbench(folder.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(second.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("clbench: another tuner is at work in "), "{line}");
    assert_eq!(fs::read_to_string(&journal).unwrap(), "no journal\n", "it waits");
    lock.unlock().unwrap();
    line.clear();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("going on without") && line.contains(".corrupt"), "{line}");
    assert!(second.wait().unwrap().success());
    assert_eq!(fs::read(&journals(&folder, ".corrupt")[0]).unwrap(), b"no journal\n");
}

#[test]
fn the_best_is_timed_again_and_resuming_tries_nothing() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let (first, second) = (path(&folder, "first.json"), path(&folder, "second.json"));
    let values = ["TILE_M=12", "TILES=2,4,8", "VECTOR=16"];
    let mut arguments = misbehaving(&device, &first, TIMEOUT, &values);
    arguments.extend(["--max-candidates", "2"]);
    succeeded(&clbench(folder.path(), &arguments).output().unwrap());
    let starts = || {
        let journal = fs::read_to_string(&journals(&folder, ".jsonl")[0]).unwrap();
        journal.lines().filter(|line| line.starts_with("{\"Start\"")).count()
    };
    assert!(starts() > 2, "two candidates, and the best again");
    assert_eq!(outcomes(&first, "TILES").into_keys().collect::<Vec<_>>(), [2, 4]);

    let values = ["TILE_M=12", "TILES=2,4", "VECTOR=16"];
    let mut arguments = misbehaving(&device, &second, TIMEOUT, &values);
    arguments.push("--resume");
    succeeded(&clbench(folder.path(), &arguments).output().unwrap());
    assert_eq!(starts(), 0);
    assert_eq!(Recording::read(first.as_ref()).unwrap(), Recording::read(second.as_ref()).unwrap());
}

/// Runs a command that must fail with `status` and one line with every one of `words`.
#[track_caller]
fn refused(command: &mut Command, status: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    for word in words {
        assert!(message.contains(word), "says {message:?}, not {word:?}");
    }
    // clap's own messages end with a usage and a hint; ours are one line.
    if !message.contains("--help") {
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn misuse_is_one_line() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let tune = |arguments: &[&str]| {
        let mut all = vec!["tune"];
        all.extend(arguments);
        if !arguments.contains(&"--device") {
            all.extend(["--device", &device]);
        }
        clbench(folder.path(), &all)
    };
    let gemm = "gemm_register";
    let missing = format!("{}:99", device.split(':').next().unwrap());
    let no_device = format!("no device {missing}: there is ");
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["KERNEL"]),
        (&["gemma"], 2, &["expected one of", "gemm_local", "got \"gemma\""]),
        (&["gemma", "--suite", "demo"], 2, &["expected one of", "got \"gemma\""]),
        (&["cast", "--suite", "demo"], 2, &["demo on", "launches no cast"]),
        (&[gemm, "--suite", "sd3"], 2, &["sd15, sd21, vae, demo"]),
        (&["gemm_local"], 2, &["launches gemm_register at these sizes, not gemm_local"]),
        (
            &[gemm, "--shape", "depth=3"],
            2,
            &["gemm has rows, outputs, inputs, columns, format, got depth"],
        ),
        (&[gemm, "--shape", "rows=0"], 2, &["rows must be at least 1, got 0"]),
        (&["group_norm", "--shape", "channels=33"], 2, &["groups that divide 33 channels"]),
        (&["all", "--shape", "rows=3"], 2, &["is for one kernel"]),
        (&[gemm, "--dtype", "f64"], 2, &["f64"]),
        (&[gemm, "--target", "gfx803", "--device", &device], 2, &["--device"]),
        (&[gemm, "--strategy", "best"], 2, &["exhaustive, random", "got \"best\""]),
        (&[gemm, "--budget", "soon"], 2, &["budget: expected a time", "got \"soon\""]),
        (&[gemm, "--timeout", "0s"], 2, &["timeout: expected a time", "got \"0s\""]),
        (&[gemm, "--values", "WIDTH=3"], 2, &["VECTOR, TILE_M", "got WIDTH"]),
        (&[gemm, "--values", "TILE_M=5"], 2, &["TILE_M takes [4, 6, 8, 12, 13, 14], got 5"]),
        (&[gemm, "--values", "TILE_M"], 2, &["expected NAME=VALUE"]),
        (&[gemm, "--source", "none.cl"], 1, &["none.cl: no such file"]),
        (&["all", "--source", "none.cl"], 2, &["stands in for one kernel"]),
        (&["group_norm", "--output", "a.json"], 2, &["takes one problem, got 3"]),
        (&[gemm, "--output", "none/a.json"], 1, &["there is no folder none"]),
        (&[gemm, "--device", "cpu"], 2, &["nothing to tune"]),
        (&[gemm, "--device", &missing], 1, &[&no_device]),
        (&["--replay", "none.json"], 1, &["none.json: no such file"]),
    ];
    for (arguments, status, words) in cases {
        refused(&mut tune(arguments), *status, words);
    }
    // A folder that cannot be made, whoever runs this.
    fs::write(folder.path().join("cache"), b"a file").unwrap();
    refused(&mut tune(&[gemm]), 1, &["cannot be"]);
}

#[test]
fn a_dry_run_lists_what_a_model_launches() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let arguments = ["tune", "all", "--suite", "demo", "--device", &device, "--dry-run"];
    let output = clbench(folder.path(), &arguments).output().unwrap();
    succeeded(&output);
    let lines = text(&output.stdout);
    for kernel in ["conv2d_register", "gemm_register", "attention_register", "group_norm_apply"] {
        assert!(lines.contains(kernel), "{kernel}: {lines}");
    }
    assert!(text(&output.stderr).is_empty(), "{}", text(&output.stderr));
    assert!(!folder.path().join("cache").exists(), "nothing is written");
}

#[test]
fn a_chip_that_is_not_here_gets_what_the_compiler_reports_best() {
    let folder = TempDir::new().unwrap();
    // In a process of its own: two drivers' copies of LLVM do not stand each other.
    let compiler = clbench(folder.path(), &["isa", "--kernel", "gemm_merge"]).output().unwrap();
    if text(&compiler.stderr).contains("no compiler") {
        eprintln!("not tested: {}", text(&compiler.stderr));
        return;
    }
    let tune = |arguments: &[&str]| {
        let mut all = vec!["tune"];
        all.extend(arguments);
        clbench(folder.path(), &all)
    };
    refused(&mut tune(&["geglu", "--target", "gfx803"]), 2, &["gemm_local", "got none"]);
    refused(&mut tune(&["geglu", "--target", "gfx8"]), 2, &["expected one of gfx803", "\"gfx8\""]);
    // The suggested tiles of 32 by 64 leave 4 of 36 units with twice the work of the others.
    let shape = "rows=256,outputs=320,inputs=64";
    let mut arguments = vec!["gemm_local", "--target", "gfx803", "--shape", shape];
    let few = ["BUFFERS=1", "TILE_K=16", "ITEM_M=4", "ITEM_N=4", "TILE_M=16,32"];
    few.iter().for_each(|values| arguments.extend(["--values", values]));
    let output = tune(&arguments).output().unwrap();
    succeeded(&output);
    let lines = text(&output.stdout);
    assert!(lines.starts_with("gfx803 as ") && lines.contains("nothing ran"), "{lines}");
    let written = fs::read_to_string(folder.path().join("cache/tuning.json")).unwrap();
    for part in ["\"static\"", "\"gfx803\"", "\"rows\": 256"] {
        assert!(written.contains(part), "{part}: {written}");
    }
    assert!(!written.contains("seconds"), "no time that no clock has told: {written}");
}

#[test]
fn a_kernel_that_several_ops_launch_is_measured_in_the_op_that_asks() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().unwrap();
    let shape = "height=8,width=8,channels=32,outputs=32";
    let mut arguments = vec!["tune", "winograd", "--device", &device, "--shape", shape];
    arguments.extend(["--max-candidates", "1", "--budget", "none"]);
    let output = clbench(folder.path(), &arguments).output().unwrap();
    succeeded(&output);
    let lines = text(&output.stdout);
    let product = lines.lines().find(|line| line.starts_with("gemm_register"));
    assert!(product.is_some_and(|line| line.contains("batch=36") && line.contains("1 ok")));
}

#[test]
fn a_recorded_space_is_searched_without_a_device() {
    let folder = TempDir::new().unwrap();
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/recorded/gemm_register.json");
    let arguments = ["tune", "--replay", recorded, "--strategy", "random"];
    let output = clbench(folder.path(), &arguments).output().unwrap();
    succeeded(&output);
    // The columns of two tables are not equally wide.
    let rows = |output: &Output| -> Vec<Vec<String>> {
        let text = text(&output.stdout);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().skip(1).map(cells).collect()
    };
    let random = rows(&output);
    assert!(!random.is_empty() && random.iter().all(|row| row[0] == "random"), "{random:?}");
    let all = clbench(folder.path(), &arguments[..3]).output().unwrap();
    succeeded(&all);
    let all = rows(&all);
    assert!(random.iter().all(|row| all.contains(row)), "the same seeds: {all:?}");
    for strategy in ["exhaustive", "anneal", "local", "model"] {
        assert!(all.iter().any(|row| row[0] == strategy), "{strategy}");
    }
}
