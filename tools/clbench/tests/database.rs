//! `clbench explain` and `clbench check` as a person runs them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ellesmere::bench::Problem;
use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::tune::Entry;
use ellesmere::tune::database::{Basis, Database, DeviceKey, RunnerUp, source_hash, tuned_values};
use ellesmere::{DType, Device, DeviceOptions};

/// Devices whose configurations can be looked up in a user's file.
fn compiling() -> Vec<DeviceEntry> {
    let usable = |entry: &DeviceEntry| {
        entry.id != "cpu" && entry.unusable().is_none() && entry.info.vector_width >= 4
    };
    detect().entries.into_iter().filter(usable).collect()
}

fn clbench(folder: &Path, arguments: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_clbench"))
        .args(arguments)
        .env("ELLESMERE_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .env("ELLESMERE_TUNING", folder.join("tuning.json"))
        .env_remove("ELLESMERE_DEVICE")
        .output();
    program.unwrap()
}

/// What it said, whether it should fail with `status` in one line or succeed with 0.
#[track_caller]
fn said(output: &Output, status: i32) -> String {
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{error}");
    if status == 2 {
        assert_eq!((error.lines().count(), out.as_ref()), (1, ""), "{error}");
    }
    format!("{out}{error}")
}

/// An entry of layer_norm, which compiles quickly, with times as recorded.
fn entry(info: &ellesmere::info::DeviceInfo, seconds: f64, second: f64) -> Entry {
    let sizes = [("rows".to_owned(), 64), ("channels".to_owned(), 64)];
    let problem = Problem::named("layer_norm", DType::F32, &sizes, info).unwrap().remove(0);
    let configuration = tuned_values(problem.kernel, &problem.default);
    let runner_up = RunnerUp { configuration: configuration.clone(), seconds: Some(second) };
    Entry {
        kernel: "layer_norm".to_owned(),
        dtype: "f32".to_owned(),
        class: problem.class.sizes(),
        shape: Default::default(),
        source: source_hash(problem.kernel, DType::F32),
        device: DeviceKey::of(info),
        basis: Basis::Measured,
        configuration,
        seconds: Some(seconds),
        default_seconds: None,
        runner_up: Some(runner_up),
    }
}

#[test]
fn explain_says_which_entry_answers_and_why_others_do_not() {
    for device in compiling() {
        let folder = tempfile::tempdir().unwrap();
        let arguments =
            ["explain", "layer_norm", "--device", &device.id, "--shape", "rows=128,channels=64"];
        let nothing = said(&clbench(folder.path(), &arguments), 0);
        assert!(nothing.contains("the op: its default holds"), "{nothing}");
        let file = folder.path().join("tuning.json");
        Database::open(&file).remember(entry(&device.info, 0.002, 0.003)).unwrap();
        let answered = said(&clbench(folder.path(), &arguments), 0);
        for expected in [
            "from       user file, this device and driver, a class 1.0 away, measured",
            "recorded   2.0000 ms",
            "runner-up  3.0000 ms",
            "1. user file, this device and driver: layer_norm f32 channels=64,rows=64 answers",
        ] {
            assert!(answered.contains(expected), "{expected}: {answered}");
        }
        let stale = Entry { source: "0".repeat(16), ..entry(&device.info, 0.002, 0.003) };
        Database::open(&file).remember(stale).unwrap();
        let json = clbench(folder.path(), &[&arguments[..], &["--json"]].concat());
        let facts: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(facts["problems"][0]["answer"].is_null());
        let first = facts["problems"][0]["chain"][0]["found"].as_str().unwrap();
        assert!(first.ends_with("is not used: of another source of the kernel"), "{first}");
        assert_eq!(facts["notes"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn check_fails_where_a_pick_is_slower_than_the_best_recorded() {
    for device in compiling() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["check", "--device", &device.id, "--time", "0"];
        let nothing = said(&clbench(folder.path(), &arguments), 0);
        assert!(nothing.starts_with("nothing is recorded for "), "{nothing}");
        let database = Database::open(&folder.path().join("tuning.json"));
        // No launch takes a thousand seconds, and none a picosecond.
        database.remember(entry(&device.info, 1000.0, 2000.0)).unwrap();
        assert!(said(&clbench(folder.path(), &arguments), 0).contains("good"));
        database.remember(entry(&device.info, 1000.0, 1e-12)).unwrap();
        assert!(said(&clbench(folder.path(), &arguments), 1).contains("SLOWER"));
        let json = clbench(folder.path(), &[&arguments[..], &["--json"]].concat());
        let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(rows[0]["verdict"], "slower");
        assert_eq!(rows[0]["best_seconds"], 1e-12);
        let impossible = Entry {
            class: [("rows".to_owned(), 1 << 40), ("channels".to_owned(), 1 << 40)].into(),
            ..entry(&device.info, 1.0, 1.0)
        };
        database.remember(impossible).unwrap();
        assert!(said(&clbench(folder.path(), &arguments), 1).contains("not checked: "));
    }
}

#[test]
fn what_is_misused_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["explain", "fft", "--device", "cpu"], "kernel: expected one of "),
        (
            &["explain", "gemm", "--device", "cpu", "--shape", "width=3"],
            "shape: gemm has rows, outputs, inputs, columns, format, got width",
        ),
        (
            &["explain", "conv2d", "--device", "cpu", "--shape", "kernel=2"],
            "shape: kernel must be odd, got 2",
        ),
        (&["explain", "gemm", "--device", "cpu", "--dtype", "f64"], "dtype: expected f32 or f16"),
        (&["check", "--device", "cpu", "--tolerance=-1"], "tolerance: expected percents, got -1"),
        (&["check", "--device", "cpu", "--time=-1"], "time: expected seconds, got -1"),
    ];
    for (arguments, expected) in cases {
        let said = said(&clbench(folder.path(), arguments), 2);
        assert!(said.starts_with(&format!("clbench: {expected}")), "{said}");
    }
}

#[test]
fn a_damaged_database_is_kept_aside_and_said() {
    for device in compiling() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tuning.json"), "{").unwrap();
        let said = said(&clbench(folder.path(), &["explain", "geglu", "--device", &device.id]), 0);
        assert!(said.contains("damaged, kept aside as "), "{said}");
        assert_eq!(fs::read(folder.path().join("tuning.json.corrupt")).unwrap(), b"{");
        let options = DeviceOptions {
            tuning: Some(folder.path().join("tuning.json")),
            ..DeviceOptions::default()
        };
        assert_eq!(Device::open_entry(&device, &options).unwrap().notes(), [""; 0]);
    }
}
