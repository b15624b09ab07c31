//! What `clbench isa` writes for others to execute.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn clbench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clbench"));
    command.arg("isa").args(arguments).output().expect("clbench starts")
}

/// Bytes of an array of one dimension, by the header of its file, after which it ends.
fn array_bytes(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY", "{}", path.display());
    bytes.len() - 10 - usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))
}

#[test]
fn a_kept_code_object_has_all_that_a_launch_needs_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let output = clbench(&["--target", "gfx803", "--kernel", "layer_norm", "--keep", path]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("looking for a compiler") {
        eprintln!("no compiler for gfx803 here: nothing was looked at");
        return;
    }
    assert!(output.status.success(), "{stderr}");
    let folder = folder.path().join("gfx803");
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let mut descriptions = 0;
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "json")) {
        descriptions += 1;
        let read = std::fs::read_to_string(&file).unwrap();
        let description: Value = serde_json::from_str(&read).unwrap();
        let code = std::fs::read(folder.join(description["code_object"].as_str().unwrap()));
        assert!(code.unwrap().starts_with(b"\x7fELF"));
        assert_eq!(description["symbol"], "layer_norm.kd");
        assert_eq!(description["groups"], serde_json::json!([5, 1, 1]));
        assert!(description["contract"].as_str().unwrap().contains("gamma, beta  [channels]"));
        let mut end = 0;
        let mut names = Vec::new();
        for argument in description["arguments"].as_array().unwrap() {
            let number = |key: &str| argument[key].as_u64().unwrap();
            assert!(number("offset") >= end, "{argument}");
            end = number("offset") + number("size");
            names.extend(argument["name"].as_str().map(str::to_owned));
            let array = argument["before"].as_str().or(argument["after"].as_str());
            match array {
                Some(array) => {
                    let element = argument["element"].as_str().unwrap();
                    let bytes: usize = element[2..].parse().unwrap();
                    let elements = number("elements") as usize;
                    assert_eq!(array_bytes(&folder.join(array)), elements * bytes, "{argument}");
                }
                None => assert!(argument["value"].is_number(), "{argument}"),
            }
        }
        assert!(end <= description["argument_bytes"].as_u64().unwrap());
        assert_eq!(names[..7], ["x", "gamma", "beta", "y", "rows", "channels", "eps"]);
    }
    assert_eq!(descriptions, 2, "one for each element type");
}

#[test]
fn what_is_of_one_target_is_refused_for_all() {
    let refused = |arguments: &[&str], expected: &str| {
        let output = clbench(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), expected);
    };
    refused(
        &["--target", "all", "--json"],
        "clbench: json: is of one target: name it with --target",
    );
    refused(
        &["--target", "all", "--compare", "Cargo.toml"],
        "clbench: compare or record: expected a folder for all targets, got Cargo.toml",
    );
    refused(
        &["--target", "gfx1"],
        "clbench: target: expected one of gfx803, gfx900, gfx906, gfx90a, gfx942, gfx1030, gfx1100, \
         gfx1201, got \"gfx1\"",
    );
}
