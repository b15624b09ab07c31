//! `clbench peak`, `run`, `compare` and `report` as a person or a script runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// clbench with a cache folder of its own, so that no test sees another's peaks.
struct Clbench {
    folder: TempDir,
}

impl Clbench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_clbench"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("ELLESMERE_CACHE_DIR", self.path("cache"))
            .env_remove("ELLESMERE_DEVICE")
            .output()
            .unwrap()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A file of results: a case for each list of times, in milliseconds.
    fn results(&self, name: &str, cases: &[(&str, &[f64])]) -> PathBuf {
        self.write(name, &results(cases).to_string())
    }
}

fn results(cases: &[(&str, &[f64])]) -> Value {
    let case = |&(op, times): &(&str, &[f64])| {
        let times: Vec<u64> = times.iter().map(|time| (time * 1e6) as u64).collect();
        json!({
            "op": op, "dtype": "f32", "sizes": { "rows": 64 }, "clock": "device",
            "times_ns": times, "flop": 2_000_000, "bytes": 1_000_000,
            "percent_of_peak": 40.0, "binds": "compute",
            "launches": [{
                "kernel": format!("{op}_local"), "configuration": { "TILE_M": 64 },
                "flop": 2_000_000, "bytes": 1_000_000, "device_ns": null,
            }],
        })
    };
    json!({
        "format": "clbench results 1", "version": "0.1.0", "date": "2026-01-31 12:00:00 UTC",
        "device": {
            "backend": "made up", "name": "A <card>", "platform": "P, 1", "driver": "2",
            "compute_units": 36, "vector_width": 1, "memory_bytes": 8u64 << 30,
            "local_memory_bytes": 32 << 10,
        },
        "peaks": null,
        "cases": cases.iter().map(case).collect::<Vec<_>>(),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The status, and that stderr is one line of ours.
#[track_caller]
fn assert_refused(output: &Output, status: i32, part: &str) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(message.starts_with("clbench: ") && message.contains(part), "{message}");
}

/// Nine runs about a time.
fn around(middle: f64) -> Vec<f64> {
    (0..9).map(|run| middle * (1.0 + 0.002 * f64::from(run - 4))).collect()
}

#[test]
fn compare_fails_only_where_something_is_surely_slower() {
    let clbench = Clbench::new();
    let (base, little, much, less) = (around(10.0), around(10.3), around(12.0), around(8.0));
    let noisy: Vec<f64> = vec![6.0, 7.0, 8.0, 9.0, 12.0, 14.0, 16.0, 18.0, 20.0];
    let old = clbench.results("old.json", &[("gemm", &base)]);
    let cases: [(&str, &[f64], &str, i32, &str); 6] = [
        ("the same runs", &base, "5", 0, "same"),
        ("slower within the threshold", &little, "5", 0, "slower, within the threshold"),
        ("the same over a smaller threshold", &little, "1", 1, "SLOWER"),
        ("slower", &much, "5", 1, "SLOWER"),
        ("quicker", &less, "5", 0, "faster"),
        ("slower in the median, within its spread", &noisy, "5", 0, "same"),
    ];
    for (why, times, threshold, status, verdict) in cases {
        let new = clbench.results("new.json", &[("gemm", times)]);
        let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
        let output = clbench.run(&["compare", old, new, "--threshold", threshold]);
        let table = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{why}: {table}");
        assert!(table.contains(verdict), "{why}: {table}");
        let output = clbench.run(&["compare", old, new, "--threshold", threshold, "--json"]);
        assert_eq!(output.status.code(), Some(status), "{why}");
        let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = &facts["rows"][0];
        let (low, ratio) = (row["interval"][0].as_f64().unwrap(), row["ratio"].as_f64().unwrap());
        assert!(low <= ratio && ratio <= row["interval"][1].as_f64().unwrap(), "{why}: {row}");
        assert_eq!(row["old"]["runs"], 9);
    }
}

#[test]
fn compare_says_what_it_cannot_compare() {
    let clbench = Clbench::new();
    let base = around(10.0);
    let mut other = results(&[("gemm", &base), ("cast", &base)]);
    other["device"]["driver"] = json!("3");
    clbench.write("new.json", &other.to_string());
    clbench.results("old.json", &[("gemm", &base), ("geglu", &base)]);
    let output = clbench.run(&["compare", "old.json", "new.json"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    for part in [
        "the drivers differ: 2 before, 3 now",
        "cast f32 rows=64: only in new.json",
        "geglu f32 rows=64: only in old.json",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    clbench.results("other.json", &[("conv2d", &base)]);
    let output = clbench.run(&["compare", "old.json", "other.json"]);
    assert_refused(&output, 1, "other.json: has no case in common with old.json");
}

#[test]
fn files_that_are_no_results_are_refused_in_one_line() {
    let clbench = Clbench::new();
    let base = around(10.0);
    clbench.results("good.json", &[("gemm", &base)]);
    let whole = results(&[("gemm", &base)]);
    let changed = |pointer: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed.to_string()
    };
    let deep = "[".repeat(100_000);
    let cases = [
        ("empty", String::new(), "expected results"),
        ("cut", whole.to_string()[..200].to_owned(), "expected results"),
        ("no JSON", "\u{0}\u{1b}[31m".to_owned(), "expected results"),
        ("nested", deep, "expected results"),
        ("another format", changed("/format", json!("x\n2")), "format must be"),
        ("no runs", changed("/cases/0/times_ns", json!([])), "must have 1 to"),
        ("no time", changed("/cases/0/times_ns/0", json!(0)), "a run of 0 ns"),
        ("negative", changed("/cases/0/times_ns/0", json!(-1)), "expected results"),
        ("a newline", changed("/cases/0/binds", json!("a\nb")), "expected results"),
    ];
    for (why, text, part) in cases {
        clbench.write("bad.json", &text);
        for arguments in [
            ["compare", "good.json", "bad.json", "--threshold", "5"],
            ["report", "good.json", "bad.json", "--output", "report.html"],
        ] {
            let output = clbench.run(&arguments);
            assert_refused(&output, 1, part);
            assert!(!clbench.path("report.html").exists(), "{why}: nothing is left");
        }
    }
    assert_refused(&clbench.run(&["compare", "good.json", "none.json"]), 1, "none.json: cannot");
    assert_refused(&clbench.run(&["compare", "good.json", "."]), 1, ".: ");
}

#[test]
fn misuse_is_status_2() {
    let clbench = Clbench::new();
    let base = around(10.0);
    clbench.results("good.json", &[("gemm", &base)]);
    for arguments in [
        &["compare", "good.json"][..],
        &["compare", "good.json", "good.json", "--threshold", "much"],
        &["report", "good.json"],
        &["report", "good.json", "--device", "cpu", "--output", "a.html"],
        &["peak", "--device"],
    ] {
        assert_eq!(clbench.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for (arguments, part) in [
        (&["compare", "good.json", "good.json", "--threshold=-1"][..], "threshold: expected"),
        (&["compare", "good.json", "good.json", "--threshold", "nan"], "threshold: expected"),
        (&["peak", "--device", "gpu"], "device: expected auto, cpu"),
        (&["run", "all", "--shape", "rows=3"], "shape: expected none with all"),
        (&["run", "gem"], "kernel: expected one of"),
    ] {
        assert_refused(&clbench.run(arguments), 2, part);
    }
    let output = clbench.run(&["report", "good.json", "--output", "none/report.html"]);
    assert_refused(&output, 1, "there is no folder");
    let output = clbench.run(&["run", "cast", "--device", "cpu", "--save", "none/a.json"]);
    assert_refused(&output, 1, "there is no folder");
}

#[test]
fn peaks_are_measured_kept_and_used() {
    let clbench = Clbench::new();
    let output = clbench.run(&["peak", "--device", "cpu", "--json", "--save"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let peaks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let peaks = &peaks[0];
    let rates = ["f32", "int8", "memory_read", "memory_write", "memory_copy", "local_memory"];
    let others = ["host_to_device", "device_to_host", "launch_and_finish", "launch_back_to_back"];
    for name in rates.iter().chain(&others) {
        let field = |field: &str| peaks[name][field].as_f64().unwrap_or_else(|| panic!("{name}"));
        assert!(field("value") > 0.0, "{name}");
        let unit = peaks[name]["unit"].as_str().unwrap();
        // The best is the highest rate, and the shortest time.
        let best_first = match unit {
            "us" => field("value") <= field("median"),
            _ => field("value") >= field("median"),
        };
        assert!(best_first && field("spread_percent") >= 0.0, "{name}: {}", peaks[name]);
        assert!(field("runs") >= 5.0 && peaks[name]["how"].is_string(), "{name}");
    }
    assert!(peaks["f16"].is_null(), "the host stores f16 and computes in f32");
    let value = |name: &str| peaks[name]["value"].as_f64().unwrap();
    // A cache is quicker than the memory behind it.
    assert!(value("local_memory") > value("memory_read"));
    let kept = std::fs::read_dir(clbench.path("cache/peaks")).unwrap();
    let [kept] = kept.map(|entry| entry.unwrap().path()).collect::<Vec<_>>().try_into().unwrap();

    // Kept, so not measured again.
    let run = ["run", "gemm", "--device", "cpu", "--time", "0", "--json", "--no-check"];
    let output = clbench.run(&run);
    assert_eq!(text(&output.stderr), "");
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(facts["bound"]["percent_of_peak"].as_f64().unwrap() > 0.0, "{facts}");
    assert!(facts["bound"]["binds"].is_string());
    let launch = &facts["measurement"]["details"][0];
    assert!(launch["kernel"].is_string() && launch["configuration"].is_array(), "{launch}");

    // A damaged record is said, and replaced.
    std::fs::write(&kept, "{").unwrap();
    let output = clbench.run(&run);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("expected a record of peaks") && said.contains("measured anew"));
    assert_eq!(text(&clbench.run(&run).stderr), "");
}

#[test]
fn what_run_saves_can_be_compared_and_reported() {
    let clbench = Clbench::new();
    let save = ["run", "all", "--device", "cpu", "--time", "0", "--no-check", "--save", "a.json"];
    let output = clbench.run(&save);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = clbench.run(&["compare", "a.json", "a.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(!text(&output.stdout).contains("SLOWER"));
    let output = clbench.run(&["report", "a.json", "--output", "report.html"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(clbench.path("report.html")).unwrap();
    for part in ["<figure>", "conv2d", "attention", "Peaks, measured", "aria-label=\"Roofline"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_report_is_one_page_that_shows_what_the_files_say_and_nothing_else() {
    let clbench = Clbench::new();
    let mut hostile = results(&[("gemm", &around(10.0)), ("<script>alert(1)</script>", &[1.0])]);
    hostile["device"]["driver"] = json!("\"><img src=x onerror=alert(1)>");
    clbench.write("hostile.json", &hostile.to_string());
    clbench.results("plain.json", &[("geglu", &around(3.0))]);
    let output = clbench.run(&["report", "hostile.json", "plain.json", "--output", "page.html"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(clbench.path("page.html")).unwrap();
    for part in [
        "A &lt;card&gt;",
        "gemm",
        "geglu",
        "10.00",
        "TILE_M=64",
        "40 %",
        "compute",
        "&lt;script&gt;",
        "id=\"device-1\"",
        "lang=\"en\"",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for part in ["<script", "<img", "http://", "https://", "url(", "@import"] {
        assert!(!page.contains(part), "{part}");
    }
    let count = |part: &str| page.matches(part).count();
    for tag in ["table", "figure", "section", "tr", "td", "th", "svg", "dl", "span"] {
        let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
        assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
    }
    assert_eq!(files(clbench.folder.path()), ["hostile.json", "page.html", "plain.json"]);
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
