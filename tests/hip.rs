//! The HIP backend on a fake driver: every call, argument and code object is as AMD's have it.
//!
//! Every kernel for GPUs runs on it too: `tools/check hip`.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/demo.rs"]
mod demo;
#[path = "common/fake_hip.rs"]
mod fake_hip;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/programs.rs"]
mod programs;
#[path = "common/psnr.rs"]
mod psnr;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ellesmere::backend::{Argument, Backend, Launch, ProgramSource, Value};
use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::info::DeviceKind;
use ellesmere::kernel::{Configuration, Kernel};
use ellesmere::ops::{Epilogue, Weights};
use ellesmere::pipeline::{LoadOptions, Pipeline, Request};
use ellesmere::{DType, Device, DeviceOptions, Error, Result, Tensor, ops};
use fake_hip::{Fake, inside};
use programs::text;
use psnr::psnr_db;
use tempfile::TempDir;

const LAUNCH_FAILURE: i32 = 719;
const OUT_OF_MEMORY: i32 = 2;

fn entry() -> DeviceEntry {
    detect().get("hip:0").unwrap().clone()
}

fn open() -> Result<Device> {
    let options = DeviceOptions { poison: true, ..DeviceOptions::default() };
    Device::open_entry(detect().get("hip:0")?, &options)
}

fn source(name: &'static str) -> ProgramSource {
    let kernel = Kernel::find(name).unwrap();
    let parameters = Configuration::defaults(kernel.parameters).values().to_vec();
    ProgramSource { kernel: name, dtype: DType::F32, parameters, source: kernel.source }
}

#[test]
fn a_device_is_what_its_driver_says_in_every_version() {
    if !inside("a_device_is_what_its_driver_says_in_every_version", &[("FAKE_HIP_WAVE", "64")]) {
        return;
    }
    let DeviceEntry { info, duplicate_of, .. } = entry();
    assert_eq!((info.backend, info.kind), ("hip", DeviceKind::Gpu));
    assert_eq!(info.architecture.as_deref(), Some("gfx906:sramecc+:xnack-"));
    assert_eq!(info.platform, "HIP, libfake_hip.so");
    assert_eq!(info.driver, "6.0.32831");
    assert_eq!((info.compute_units, info.sub_group), (60, Some(64)));
    assert_eq!((info.memory_bytes, info.local_memory_bytes), (8 << 30, 64 << 10));
    assert_eq!((info.max_work_group, info.vector_width), (1024, 1));
    assert_eq!(info.pci_address.as_deref(), Some("0000:0b:00.0"));
    assert_eq!(duplicate_of, None);
    assert_eq!(open().unwrap().info().name, info.name);
}

#[test]
fn version_5_tells_the_architecture_elsewhere() {
    let name = "version_5_tells_the_architecture_elsewhere";
    let variables = [("FAKE_HIP_VERSION", "50221153"), ("FAKE_HIP_ARCHITECTURE", "gfx803")];
    if !inside(name, &variables) {
        return;
    }
    let info = entry().info;
    assert_eq!(info.architecture.as_deref(), Some("gfx803"));
    assert_eq!(info.driver, "5.2.21153");
    open().unwrap().probe().unwrap();
}

#[test]
fn words_that_the_compiler_has_are_in_its_programs() {
    let name = "words_that_the_compiler_has_are_in_its_programs";
    if !inside(name, &[("FAKE_HIP_ARCHITECTURE", "gfx90a:sramecc+:xnack-")]) {
        return;
    }
    let device = open().unwrap();
    assert!(device.info().matrix_units);
    let value = |index: usize| (index * 7 % 23) as f32 / 16.0 - 0.6875;
    let product = |device: &Device| {
        let x: Vec<f32> = (0..33 * 64).map(value).collect();
        let x = Tensor::from_slice(device, &[33, 64], DType::F16, &x).unwrap();
        let weights = Weights::linear(device, DType::F16, [40, 64], || {
            Ok((0..40 * 64).map(|index| value(3 * index)).collect())
        });
        ops::gemm(&x, None, &weights.unwrap(), Epilogue::default()).unwrap().to_vec().unwrap()
    };
    let (actual, expected) = (product(&device), product(&Device::definitions(None)));
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (actual, expected) in actual.iter().zip(&expected) {
        // Products of these are exact, and so are their sums, but for one rounding to f16.
        assert!((actual - expected).abs() <= largest / 1024.0, "{actual} is not {expected}");
    }
}

#[test]
fn a_version_that_nobody_knows_is_a_note() {
    let name = "a_version_that_nobody_knows_is_a_note";
    if !inside(name, &[("FAKE_HIP_VERSION", "80100000")]) {
        return;
    }
    let notes = detect().notes;
    let expected = "HIP: libfake_hip.so is version 8.1.0, expected 5 to 7";
    assert!(notes.iter().any(|note| note == expected), "{notes:?}");
}

#[test]
fn a_driver_without_a_device_is_installed_and_finds_none() {
    let name = "a_driver_without_a_device_is_installed_and_finds_none";
    if !inside(name, &[("FAKE_HIP_DEVICES", "0")]) {
        return;
    }
    let notes = detect().notes;
    let expected = "HIP 6.0.32831 (libfake_hip.so) is installed and finds no device";
    assert!(notes.iter().any(|note| note == expected), "{notes:?}");
    let error = Device::open("hip:0", &DeviceOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("no device hip:0: there is "), "{error}");
    assert!(error.contains(expected), "{error}");
    assert_ne!(Device::open("auto", &DeviceOptions::default()).unwrap().info().backend, "hip");
}

#[test]
fn auto_takes_a_card_that_presets_prefer() {
    if !inside("auto_takes_a_card_that_presets_prefer", &[]) {
        return;
    }
    let device = Device::open("auto", &DeviceOptions::default()).unwrap();
    assert_eq!(device.info().backend, "hip");
    // One that fails once it is opened is passed over.
    let fake = Fake::open();
    fake.fail(0, 0, 0);
    detect();
    fake.fail(fake.calls() + 20, u64::MAX, LAUNCH_FAILURE);
    let device = Device::open("auto", &DeviceOptions::default()).unwrap();
    assert_ne!(device.info().backend, "hip");
    let notes = device.notes();
    assert!(
        notes.iter().any(|note| note.starts_with("hip:0 (A fake card) is not used: ")),
        "{notes:?}"
    );
}

/// What a program says of libraries that are not as they should be.
fn says(library: &str) -> String {
    let folder = TempDir::new().unwrap();
    let mut command = programs::command("sd", &folder);
    command.args(["a boat", "--device", "hip:0"]).env("ELLESMERE_HIP_LIBRARY", library);
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

#[test]
fn a_library_that_is_missing_or_is_none_is_one_line() {
    let said = says("/no/such/libamdhip64.so");
    assert!(said.contains("HIP: no library (looked for /no/such/libamdhip64.so)"), "{said}");
    assert!(says("off").contains("HIP: switched off"), "{said}");
    assert!(says("relative.so").contains("ELLESMERE_HIP_LIBRARY: expected an absolute path"));
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    assert!(says(text.to_str().unwrap()).contains("no library (looked for "));
}

/// A library that has the names of another driver.
#[cfg(target_os = "linux")]
#[test]
fn a_library_that_lacks_a_function_is_named_with_it() {
    let opencl = [
        "/usr/lib/x86_64-linux-gnu/libOpenCL.so.1",
        "/usr/lib/aarch64-linux-gnu/libOpenCL.so.1",
        "/usr/lib64/libOpenCL.so.1",
    ];
    let Some(library) = opencl.iter().find(|path| std::path::Path::new(path).exists()) else {
        eprintln!("there is no libOpenCL.so.1 to be taken for a driver");
        return;
    };
    let said = says(library);
    let expected = "libOpenCL.so.1, which tells no version, has no hipInit: versions 5 to 7";
    assert!(said.contains(expected), "{said}");
}

/// What the driver that is installed says where there is no card, and where there is none.
#[test]
fn without_a_card_there_is_one_line() {
    let folder = TempDir::new().unwrap();
    let output = programs::run("sd", &folder, &["a boat", "--device", "hip:99"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains("no device hip:99"), "{said}");
}

fn picture(device: &Device) -> Vec<f32> {
    let request = Request {
        prompt: "sunset over the sea".to_owned(),
        steps: 4,
        seed: 7,
        ..Request::default()
    };
    let options = LoadOptions::for_request(&request);
    let pipeline = Pipeline::load(device, &demo::files(), DType::F32, &options).unwrap();
    let pictures = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    pictures[0].rgb.clone()
}

#[test]
fn a_picture_is_the_same_through_hip_and_opencl() {
    if !inside("a_picture_is_the_same_through_hip_and_opencl", &[]) {
        return;
    }
    let detected = detect();
    let opencl = detected.entries.iter().find(|entry| entry.info.platform.contains("Portable"));
    let options = DeviceOptions::default();
    let expected = picture(&Device::open_entry(opencl.unwrap(), &options).unwrap());
    let device = open().unwrap();
    device.profile().set_enabled(true);
    let actual = picture(&device);
    let psnr = psnr_db(1.0, &actual, &expected);
    eprintln!("PSNR {psnr:.1} dB");
    assert!(psnr >= 60.0, "{psnr} dB");
    device.finish().unwrap();
    let records = device.profile().records();
    let launches = || records.iter().filter(|record| record.launch.is_some());
    let timed = launches().filter(|record| record.device.is_some()).count();
    assert!(2 * timed > launches().count(), "{timed} of {} are timed", launches().count());
}

#[test]
fn a_limited_launch_is_cut_and_gives_the_same() {
    if !inside("a_limited_launch_is_cut_and_gives_the_same", &[]) {
        return;
    }
    let run = |launch_limit| {
        let options = DeviceOptions { launch_limit, poison: true, ..DeviceOptions::default() };
        let device = Device::open_entry(&entry(), &options).unwrap();
        assert!(device.notes().is_empty(), "{:?}", device.notes());
        device.profile().set_enabled(true);
        let values: Vec<f32> = (0..200 * 8).map(|index| (index % 13) as f32 - 6.0).collect();
        let x = Tensor::from_slice(&device, &[200, 8], DType::F32, &values).unwrap();
        let one = Tensor::from_slice(&device, &[8], DType::F32, &[1.0; 8]).unwrap();
        let y = ops::layer_norm(&x, &one, &one, 1e-5).unwrap().to_vec().unwrap();
        let records = device.profile().records();
        (y, records.iter().find(|record| record.launch.is_some()).unwrap().parts)
    };
    let (expected, whole) = run(None);
    let (actual, parts) = run(Some(Duration::from_nanos(1)));
    assert_eq!(actual, expected);
    // Of a work-group a row, as many at once as there are compute units.
    assert_eq!((whole, parts), (1, 200usize.div_ceil(60)));
}

/// Some work: writes, launches of several programs, reads. Programs are kept in a folder, or every
/// run would wait for the compiler.
fn work(programs: &TempDir) -> Result<Vec<f32>> {
    let cache_dir = Some(programs.path().to_owned());
    let options = DeviceOptions { poison: true, cache_dir, ..DeviceOptions::default() };
    let device = Device::open_entry(detect().get("hip:0")?, &options)?;
    let values: Vec<f32> = (0..64).map(|index| (index % 7) as f32 - 3.0).collect();
    let x = Tensor::from_slice(&device, &[1, 8, 8], DType::F32, &values)?;
    let one = Tensor::from_slice(&device, &[8], DType::F32, &[1.0; 8])?;
    let mut y = ops::layer_norm(&x, &one, &one, 1e-5)?;
    for _ in 0..6 {
        y = ops::layer_norm(&y, &one, &one, 1e-5)?;
        y = ops::cast(&ops::cast(&y, DType::F16)?, DType::F32)?;
    }
    y.to_vec()
}

#[test]
fn any_call_may_fail_and_the_next_run_works() {
    if !inside("any_call_may_fail_and_the_next_run_works", &[]) {
        return;
    }
    let (fake, programs) = (Fake::open(), TempDir::new().unwrap());
    fake.fail(0, 0, 0);
    let expected = work(&programs).unwrap();
    let calls = fake.calls();
    assert!(calls >= 200, "only {calls} calls");
    assert_eq!(fake.held(), [0; 3]);
    let (mut failed, mut passed) = (0, 0);
    for at in 1..=200 {
        let code = if at % 2 == 0 { LAUNCH_FAILURE } else { OUT_OF_MEMORY };
        fake.fail(at, 1, code);
        match work(&programs) {
            // A call that is asked again, or whose answer is not needed.
            Ok(values) => {
                assert_eq!(values, expected, "call {at}");
                passed += 1;
            }
            Err(error) => {
                let line = error.to_string();
                assert_eq!(line.lines().count(), 1, "call {at}: {line}");
                let is_clear = ["hipError", "out of memory", "no device"];
                assert!(is_clear.iter().any(|word| line.contains(word)), "call {at}: {line}");
                failed += 1;
            }
        }
        assert_eq!(fake.held(), [0; 3], "call {at}");
    }
    eprintln!("of 200 calls {failed} failed the run, {passed} did not");
    assert!(failed > passed, "{failed} failed, {passed} did not");
    fake.fail(0, 0, 0);
    assert_eq!(work(&programs).unwrap(), expected);
    assert_eq!(fake.held(), [0; 3]);
}

#[test]
fn a_device_that_disappears_is_one_line_and_leaks_nothing() {
    if !inside("a_device_that_disappears_is_one_line_and_leaks_nothing", &[]) {
        return;
    }
    let (fake, programs) = (Fake::open(), TempDir::new().unwrap());
    for at in (1..200).step_by(13) {
        fake.fail(at, u64::MAX, LAUNCH_FAILURE);
        let error = work(&programs).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        fake.fail(0, 0, 0);
        assert_eq!(fake.held(), [0; 3], "call {at}: {error}");
    }
    work(&programs).unwrap();
}

#[test]
fn a_kernel_that_the_compiler_refuses_is_its_log() {
    if !inside("a_kernel_that_the_compiler_refuses_is_its_log", &[]) {
        return;
    }
    let broken = "__kernel void layer_norm(__global float *x) { x[0] = no_such_name; }";
    let sources = vec![("layer_norm".to_owned(), broken)];
    let options = DeviceOptions { sources, ..DeviceOptions::default() };
    let device = Device::open_entry(&entry(), &options).unwrap();
    let one = Tensor::from_slice(&device, &[1, 4], DType::F32, &[1.0; 4]).unwrap();
    let row = Tensor::from_slice(&device, &[4], DType::F32, &[1.0; 4]).unwrap();
    let error = ops::layer_norm(&one, &row, &row, 0.0).unwrap_err();
    assert!(matches!(error, Error::Build { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("kernel layer_norm does not build on A fake card: "), "{text}");
    assert!(text.contains("no_such_name"), "{text}");
}

fn refused(backend: &Arc<dyn Backend>, image: &[u8]) -> String {
    let error = backend.load(&source("layer_norm"), image).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_code_object_that_is_none_or_another_chips_is_refused() {
    if !inside("a_code_object_that_is_none_or_another_chips_is_refused", &[]) {
        return;
    }
    let backend = entry().open().unwrap();
    let program = backend.build(&source("layer_norm")).unwrap();
    let image = backend.binary(&program).unwrap();
    backend.load(&source("layer_norm"), &image).unwrap();
    assert!(refused(&backend, b"").contains("it is no code object"));
    assert!(refused(&backend, b"not an ELF file").contains("it is no code object"));
    // The fake's own part lies behind the code object.
    let length = u32::from_le_bytes(image[9..13].try_into().unwrap()) as usize;
    for end in (0..length).step_by(97) {
        refused(&backend, &image[..end]);
    }
    let at = image.windows(8).position(|window| window == b"--gfx906").unwrap();
    let mut other = image.clone();
    other[at..at + 8].copy_from_slice(b"--gfx803");
    let error = refused(&backend, &other);
    let expected = "it is for gfx803:sramecc+:xnack-, and the device is gfx906:sramecc+:xnack-";
    assert!(error.ends_with(expected), "{error}");
    let error = backend.load(&source("geglu"), &image).unwrap_err().to_string();
    assert!(error.ends_with("it has no kernel geglu"), "{error}");
}

#[test]
fn an_argument_that_the_code_object_has_otherwise_is_refused() {
    if !inside("an_argument_that_the_code_object_has_otherwise_is_refused", &[]) {
        return;
    }
    let backend = entry().open().unwrap();
    let program = backend.build(&source("layer_norm")).unwrap();
    let buffer = backend.allocate(64).unwrap();
    let launch = |arguments: &[Argument]| {
        let launch = Launch { arguments, groups: [1; 3], local: [256, 1, 1] };
        backend.launch(&program, &launch).map(drop).unwrap_err().to_string()
    };
    let argument = |name, value| Argument { name, value };
    let mut arguments = vec![
        argument("x", Value::Input(&buffer)),
        argument("gamma", Value::Input(&buffer)),
        argument("beta", Value::Input(&buffer)),
        argument("y", Value::Output(&buffer)),
        argument("rows", Value::U32(0)),
        argument("channels", Value::U32(0)),
    ];
    let few = launch(&arguments);
    assert_eq!(few, "packing arguments failed: expected 7 arguments, got 6");
    arguments.push(argument("epsilon", Value::F32(0.0)));
    let expected = "packing arguments failed: argument 6 is \"eps\" (by_value, 4 B) in the code \
                    object, expected \"epsilon\" (by_value, 4 B)";
    assert_eq!(launch(&arguments), expected);
    arguments[6] = argument("eps", Value::Absent);
    assert!(launch(&arguments).contains("expected \"eps\" (global_buffer, 8 B)"));
    arguments[1].name = "beta";
    assert!(launch(&arguments).contains("argument 1 is \"gamma\""));
}
