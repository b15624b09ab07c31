//! Environment variables: the only place that reads them.
//!
//! [`KNOBS`] lists them all. Programs read [`device`] for the default of their `--device` flag;
//! the library itself reads [`cache_dir`], [`tuning`] and [`cpu_lanes`] when a device is opened, and nothing
//! else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knob {
    /// The variable.
    pub name: &'static str,
    /// What values it takes.
    pub kind: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

const CACHE_DIR: &str = "ELLESMERE_CACHE_DIR";
const COMGR_LIBRARY: &str = "ELLESMERE_COMGR_LIBRARY";
const CPU_LANES: &str = "ELLESMERE_CPU_LANES";
const DEVICE: &str = "ELLESMERE_DEVICE";
const HIP_LIBRARY: &str = "ELLESMERE_HIP_LIBRARY";
const REQUIRE_DEVICES: &str = "ELLESMERE_REQUIRE_DEVICES";
const TUNING: &str = "ELLESMERE_TUNING";

/// Not knobs of this crate: what AMD's drivers read.
const DRIVER_VARIABLES: [&str; 4] =
    ["HIP_VISIBLE_DEVICES", "HSA_ENABLE_SDMA", "HSA_OVERRIDE_GFX_VERSION", "ROCR_VISIBLE_DEVICES"];

/// Every knob, in alphabetical order.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: CACHE_DIR,
        kind: "an absolute path, or `off`",
        default: "`ellesmere` in the user's cache folder",
        help: "where compiled kernels are kept between runs",
    },
    Knob {
        name: COMGR_LIBRARY,
        kind: "an absolute path of a file",
        default: "`libamd_comgr` where the system or ROCm has it",
        help: "the library that compiles for AMD's GPUs",
    },
    Knob {
        name: CPU_LANES,
        kind: "16, 8 or 4",
        default: "what the host has",
        help: "the most f32 lanes of a vector that the CPU backend uses: 16 is AVX-512, 8 is AVX2, 4 is \
               plain Rust. For trying what an older processor would do",
    },
    Knob {
        name: DEVICE,
        kind: "`auto`, `cpu`, or an id that `clbench devices` lists",
        default: "auto",
        help: "the device of programs that are not given --device",
    },
    Knob {
        name: HIP_LIBRARY,
        kind: "an absolute path of a file, or `off`",
        default: "`libamdhip64` where the system or ROCm has it",
        help: "the library that drives AMD's GPUs as `hip:N`",
    },
    Knob {
        name: REQUIRE_DEVICES,
        kind: "names separated by commas, such as `cpu,pocl,llvmpipe`",
        default: "none",
        help: "devices without which the tests fail; each is a part of a backend's, platform's or \
               device's name",
    },
    Knob {
        name: TUNING,
        kind: "an absolute path of a file, or `off`",
        default: "`tuning.json` beside the compiled kernels",
        help: "where tuned configurations are kept",
    },
];

/// Where compiled kernels are kept; `None` for nowhere.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_CACHE_DIR` is neither an absolute path nor `off`.
pub fn cache_dir() -> Result<Option<PathBuf>> {
    parse_cache_dir(std::env::var_os(CACHE_DIR))
}

/// The user's file of tuned configurations, given where compiled kernels are kept; `None` for
/// nowhere.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_TUNING` is neither an absolute path nor `off`.
pub fn tuning(cache_dir: Option<&Path>) -> Result<Option<PathBuf>> {
    parse_path(TUNING, std::env::var_os(TUNING), cache_dir.map(|folder| folder.join("tuning.json")))
}

/// The most f32 lanes of a vector that the CPU backend uses; `None` for all that the host has. It is read
/// once.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_CPU_LANES` is not 16, 8 or 4.
pub fn cpu_lanes() -> Result<Option<u32>> {
    parse_cpu_lanes(std::env::var_os(CPU_LANES))
}

/// Variables of AMD's drivers that change which devices they offer and how they work, with their
/// values, as far as they are set. The drivers read them, not this crate.
pub fn driver_variables() -> Vec<(&'static str, String)> {
    let value = |name| std::env::var_os(name).map(|value| (name, value.to_string_lossy().into()));
    DRIVER_VARIABLES.into_iter().filter_map(value).collect()
}

/// Where a library for `hip:N` is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Library {
    /// Where the system and ROCm have it.
    Usual,
    /// This file alone.
    Named(PathBuf),
    /// Nowhere.
    Off,
}

/// The library that drives AMD's GPUs.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_HIP_LIBRARY` is neither an absolute path nor `off`.
pub fn hip_library() -> Result<Library> {
    let value = std::env::var_os(HIP_LIBRARY);
    let is_set = value.is_some();
    Ok(match parse_path(HIP_LIBRARY, value, None)? {
        Some(path) => Library::Named(path),
        None if is_set => Library::Off,
        None => Library::Usual,
    })
}

/// The library that compiles for AMD's GPUs; `None` for where the system and ROCm have it.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_COMGR_LIBRARY` is no absolute path.
pub fn comgr_library() -> Result<Option<PathBuf>> {
    let path = std::env::var_os(COMGR_LIBRARY).map(PathBuf::from);
    if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
        let detail = format!("expected an absolute path, got {path:?}");
        return Err(Error::argument(COMGR_LIBRARY, detail));
    }
    Ok(path)
}

/// Where ROCm says that it is installed.
pub fn rocm_path() -> Option<PathBuf> {
    std::env::var_os("ROCM_PATH").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The device that a program is to use where no flag says.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_DEVICE` cannot be a device's name.
pub fn device() -> Result<String> {
    parse_device(std::env::var_os(DEVICE))
}

/// Names of devices that tests demand, in lower case.
///
/// # Errors
///
/// [`Error::Argument`] if `ELLESMERE_REQUIRE_DEVICES` has an empty name or is no text.
pub fn require_devices() -> Result<Vec<String>> {
    parse_names(REQUIRE_DEVICES, std::env::var_os(REQUIRE_DEVICES))
}

fn parse_cache_dir(value: Option<OsString>) -> Result<Option<PathBuf>> {
    parse_path(CACHE_DIR, value, dirs::cache_dir().map(|folder| folder.join("ellesmere")))
}

fn parse_path(
    name: &str,
    value: Option<OsString>,
    default: Option<PathBuf>,
) -> Result<Option<PathBuf>> {
    match value {
        None => Ok(default),
        Some(value) if value == "off" => Ok(None),
        Some(value) => {
            let path = PathBuf::from(value);
            if !path.is_absolute() {
                let detail = format!("expected an absolute path or \"off\", got {path:?}");
                return Err(Error::argument(name, detail));
            }
            Ok(Some(path))
        }
    }
}

fn parse_cpu_lanes(value: Option<OsString>) -> Result<Option<u32>> {
    let Some(text) = parse_text(CPU_LANES, value)? else { return Ok(None) };
    match text.parse() {
        Ok(lanes @ (16 | 8 | 4)) => Ok(Some(lanes)),
        _ => Err(Error::argument(CPU_LANES, format!("expected 16, 8 or 4, got {text:?}"))),
    }
}

fn parse_device(value: Option<OsString>) -> Result<String> {
    let Some(text) = parse_text(DEVICE, value)? else { return Ok("auto".to_owned()) };
    let numbered = text.split_once(':').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
    if numbered || text == "auto" || text == "cpu" {
        return Ok(text);
    }
    let detail = format!("expected auto, cpu or an id such as opencl:0 or hip:0, got {text:?}");
    Err(Error::argument(DEVICE, detail))
}

fn parse_text(name: &str, value: Option<OsString>) -> Result<Option<String>> {
    let Some(value) = value else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
        _ => Err(Error::argument(name, format!("expected a name, got {value:?}"))),
    }
}

fn parse_names(name: &str, value: Option<OsString>) -> Result<Vec<String>> {
    let Some(text) = parse_text(name, value)? else { return Ok(Vec::new()) };
    let names: Vec<String> = text.split(',').map(|part| part.trim().to_lowercase()).collect();
    if names.iter().any(String::is_empty) {
        let detail = format!("expected names separated by commas, got {text:?}");
        return Err(Error::argument(name, detail));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_folder_is_absolute_or_off() {
        let parse = |text: &str| parse_cache_dir(Some(text.into()));
        let absolute = std::env::temp_dir();
        assert_eq!(parse(absolute.to_str().unwrap()).unwrap(), Some(absolute));
        assert_eq!(parse("off").unwrap(), None);
        let error = parse("programs").unwrap_err().to_string();
        let expected =
            "ELLESMERE_CACHE_DIR: expected an absolute path or \"off\", got \"programs\"";
        assert_eq!(error, expected);
        assert!(parse("").is_err());
    }

    #[test]
    fn a_device_is_auto_cpu_or_numbered() {
        let parse = |text: &str| parse_device(Some(text.into()));
        assert_eq!(parse_device(None).unwrap(), "auto");
        for name in ["auto", "cpu", "opencl:0"] {
            assert_eq!(parse(name).unwrap(), name);
        }
        for name in ["", "gpu", "opencl", "opencl:x"] {
            let error = parse(name).unwrap_err().to_string();
            assert!(error.starts_with("ELLESMERE_DEVICE: expected "), "{error}");
        }
    }

    #[test]
    fn lanes_are_those_of_a_level() {
        let parse = |text: &str| parse_cpu_lanes(Some(text.into()));
        assert_eq!(parse("8").unwrap(), Some(8));
        assert_eq!(parse_cpu_lanes(None).unwrap(), None);
        let error = parse("12").unwrap_err().to_string();
        assert_eq!(error, "ELLESMERE_CPU_LANES: expected 16, 8 or 4, got \"12\"");
    }

    #[test]
    fn names_are_separated_by_commas() {
        let parse = |text: &str| parse_names("NAMES", Some(text.into()));
        assert_eq!(parse("cpu, PoCL").unwrap(), ["cpu", "pocl"]);
        let error = parse("cpu,,pocl").unwrap_err().to_string();
        assert_eq!(error, "NAMES: expected names separated by commas, got \"cpu,,pocl\"");
        assert_eq!(parse_names("NAMES", None).unwrap(), [""; 0]);
    }

    #[test]
    fn every_knob_is_listed_once_in_order() {
        assert!(KNOBS.is_sorted_by(|a, b| a.name < b.name));
        assert!(KNOBS.iter().all(|knob| knob.name.starts_with("ELLESMERE_")));
    }
}
