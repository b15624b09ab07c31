//! The invariants of the design that a search of the sources can check.
//!
//! Comments are no code: a comment may name what it likes, kernels apart.

use std::fs;
use std::path::{Path, PathBuf};

use ellesmere::backend::cpu::has_fast_path;
use ellesmere::bench::Case;
use ellesmere::kernel::KERNELS;

/// Modules by floor; what `lib.rs` re-exports counts as its module.
const FLOORS: [&[&str]; 7] = [
    &["error", "dtype", "format", "info", "knob", "io", "Error", "Result", "DType", "Format"],
    &["backend"],
    &["memory", "kernel", "isa", "tune", "profile", "hardware"],
    &["tensor", "device", "Tensor", "Device", "DeviceOptions", "Stage"],
    &["ops", "quant"],
    &["nn", "settings"],
    &["pipeline", "models", "bench"],
];

const VENDORS: [&str; 6] = ["amd", "nvidia", "intel", "radeon", "geforce", "mesa"];
const DRIVERS: [&str; 8] = ["opencl", "hip", "rocm", "cuda", "rusticl", "pocl", "cl3", "ptx"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under a folder of the repository with one of these extensions, if it is there.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Rust without comments and without the tests at a file's end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let tests = text.match_indices("#[cfg(test)]\n").find(|(at, attribute)| {
        let line = text[at + attribute.len()..].lines().next();
        line.is_some_and(|line| line.ends_with("mod tests {"))
    });
    let text = &text[..tests.map_or(text.len(), |(at, _)| at)];
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            let line = rest.find('\n').unwrap_or(rest.len());
            rest = &rest[line..];
            continue;
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            rest[2 + hashes..].find(&end).map_or(1, |at| 2 + hashes + at + end.len())
        } else if first == '"' {
            string_length(rest)
        } else if let Some(escaped) = rest.strip_prefix("'\\") {
            2 + escaped.find('\'').map_or(0, |at| at + 1)
        } else if first == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)
        } else {
            first.len_utf8()
        };
        code.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Words of letters and digits, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_lowercase)
}

/// The first names after every `crate::`, groups opened.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in code.split("crate::").skip(1) {
        let name = |text: &str| {
            text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().map(str::to_owned)
        };
        match part.strip_prefix('{') {
            None => names.extend(name(part)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            names.extend(name(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// The module of `src/` that a file belongs to, and its floor.
fn floor_of(path: &Path) -> Option<usize> {
    let path = path.strip_prefix(root().join("src")).ok()?;
    let module = path.iter().next()?.to_str()?.trim_end_matches(".rs").to_owned();
    if module == "lib" {
        return None;
    }
    let floor = FLOORS.iter().position(|names| names.contains(&module.as_str()));
    Some(floor.unwrap_or_else(|| panic!("src/{module} stands on no floor of tests/floors.rs")))
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
}

#[test]
fn a_module_uses_no_floor_above_its_own() {
    for path in files("src", &["rs"]).iter().filter(|path| !is_test(path)) {
        let Some(floor) = floor_of(path) else { continue };
        for name in imports(&code(path)) {
            let used = FLOORS.iter().position(|names| names.contains(&name.as_str()));
            let allowed = used.is_none_or(|used| used <= floor);
            assert!(allowed, "{} on floor {floor} uses crate::{name}", path.display());
        }
    }
}

#[test]
fn no_driver_or_vendor_is_named_above_floor_2() {
    let above =
        files("src", &["rs"]).into_iter().filter(|path| floor_of(path).is_some_and(|f| f > 2));
    let programs = files("tools", &["rs"]).into_iter().chain(files("examples", &["rs"]));
    for path in above.chain(programs).filter(|path| !is_test(path)) {
        for word in words(&code(&path)) {
            let named = VENDORS.contains(&word.as_str()) || DRIVERS.contains(&word.as_str());
            assert!(!named, "{} names {word}", path.display());
        }
    }
}

#[test]
fn kernels_name_no_vendor_and_only_preludes_for_it_have_assembly() {
    for path in files("kernels", &["cl", "h"]) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for word in words(&text) {
            let own = name.trim_end_matches(".h") == word;
            assert!(own || !VENDORS.contains(&word.as_str()), "{} names {word}", path.display());
            let assembly = ["asm", "__asm__"].contains(&word.as_str());
            let may = ["amx.h", "nvidia.h"].contains(&name);
            assert!(!assembly || may, "{} has assembly", path.display());
        }
    }
}

#[test]
fn only_knob_reads_the_environment() {
    let own = ["src", "tools", "examples"].map(|folder| files(folder, &["rs"]));
    for path in own.iter().flatten().filter(|path| !path.ends_with("src/knob.rs")) {
        let code = code(path);
        // What a driver reads by itself is set before the driver is opened.
        let code = match path.ends_with("src/backend/hip/environment.rs") {
            true => code.replacen("env::set_var", "", 1),
            false => code,
        };
        for call in ["env::var", "env::set_var", "env::remove_var", "option_env!"] {
            assert!(!code.contains(call), "{} has {call}", path.display());
        }
    }
}

#[test]
fn every_kernel_has_its_file_entry_definition_test_and_case() {
    let catalogue: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    let in_files: Vec<String> = files("kernels", &["cl"])
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(catalogue, in_files, "src/kernel/catalogue.rs lists the files of kernels/ in order");
    let list = fs::read_to_string(root().join("tests/ops/main.rs")).unwrap();
    let listed = |path: &&PathBuf| {
        list.contains(&format!("mod {};", path.file_stem().unwrap().to_str().unwrap()))
    };
    let tests = files("tests/ops", &["rs"]);
    let tests: Vec<String> =
        tests.iter().filter(listed).map(|path| fs::read_to_string(path).unwrap()).collect();
    for name in catalogue {
        assert!(has_fast_path(name).is_some(), "{name} has no definition in src/backend/cpu/");
        let case = Case::find(name).unwrap_or_else(|| panic!("{name} has no case in src/bench/"));
        // By its op, or by name where an op chooses among several.
        let ways = [format!("{}(", case.op), format!("\"{name}\"")];
        let tested = tests.iter().any(|text| ways.iter().any(|way| text.contains(way)));
        assert!(tested, "no file that tests/ops/main.rs lists calls {} or names {name}", case.op);
    }
}

#[test]
fn unsafe_code_stands_on_floor_1_and_in_mmap_alone() {
    let folders = ["src", "tools", "examples", "tests", "benches"];
    // And in a driver that stands in for a real one, whose interface is C's.
    let stand_in = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "fake_hip");
    let floor_1 = |path: &PathBuf| {
        floor_of(path) == Some(1)
            || path.ends_with("src/io/mmap.rs")
            || path.ends_with("tests/common/fake_hip.rs")
            || stand_in(path)
    };
    let own = folders.iter().flat_map(|folder| files(folder, &["rs"]));
    for path in own.filter(|path| !floor_1(path) && !path.ends_with("tests/floors.rs")) {
        let mut words = words(&code(&path)).collect::<Vec<_>>();
        // `forbid(unsafe_code)` is two words of which the first is not code.
        words.dedup_by(|next, word| {
            next == "code" && word == "unsafe" && {
                word.clear();
                true
            }
        });
        assert!(!words.iter().any(|word| word == "unsafe"), "{} is unsafe", path.display());
    }
}

#[test]
fn every_test_runs() {
    for path in ["src", "tests", "tools", "examples"].iter().flat_map(|f| files(f, &["rs"])) {
        let ignored = ["#[", "ignore"].concat();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&ignored), "{} has a test that does not run", path.display());
    }
}

#[test]
fn the_search_sees_through_comments_strings_and_groups() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.rs");
    let text = "use crate::{Error, kernel::{Kernel, Other},\n    ops}; // crate::nn\nlet c = '\"';\n\
                let s = \"a // b \\\" crate::memory\"; let r = r#\"x \" y\"#; fn f<'a>(x: &'a u8) {}\n\
                #[cfg(test)]\nmod tests {\n    use crate::bench;\n}";
    fs::write(&path, text).unwrap();
    let code = code(&path);
    assert!(code.contains("a // b") && code.contains("x \" y") && code.contains("fn f<'a>"));
    assert_eq!(imports(&code), ["Error", "kernel", "ops", "memory"]);
}
