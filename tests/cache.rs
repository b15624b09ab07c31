//! Compiled programs outlive their device, and nothing on disk can break a run.

use std::fs;
use std::path::{Path, PathBuf};

use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::kernel::ProgramStats;
use ellesmere::{DType, Device, DeviceOptions, Tensor, ops};

/// Devices whose programs are compiled at run time.
fn compiling() -> Vec<DeviceEntry> {
    let usable = |entry: &DeviceEntry| entry.id != "cpu" && entry.unusable().is_none();
    detect().entries.into_iter().filter(usable).collect()
}

/// Opens the device, runs one kernel, and tells where its program came from.
fn run(entry: &DeviceEntry, folder: &Path) -> ProgramStats {
    let options = DeviceOptions { cache_dir: Some(folder.to_owned()), ..DeviceOptions::default() };
    let device = Device::open_entry(entry, &options).unwrap();
    let tensor =
        |shape: &[usize], values: &[f32]| Tensor::from_slice(&device, shape, DType::F32, values);
    let x = tensor(&[1, 2], &[3.0, 5.0]).unwrap();
    let (gamma, beta) = (tensor(&[2], &[1.0, 1.0]).unwrap(), tensor(&[2], &[0.0, 0.5]).unwrap());
    for _ in 0..2 {
        let y = ops::layer_norm(&x, &gamma, &beta, 0.0).unwrap().to_vec().unwrap();
        assert!((y[0] + 1.0).abs() < 1e-5 && (y[1] - 1.5).abs() < 1e-5, "{y:?}");
    }
    device.program_stats()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("programs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

const BUILT: ProgramStats = ProgramStats { built: 1, loaded: 0 };
const LOADED: ProgramStats = ProgramStats { built: 0, loaded: 1 };

#[test]
fn a_second_device_loads_what_the_first_has_compiled() {
    let folder = tempfile::tempdir().unwrap();
    for entry in compiling() {
        assert_eq!(run(&entry, folder.path()), BUILT, "first run on {}", entry.info.platform);
        assert_eq!(run(&entry, folder.path()), LOADED, "second run on {}", entry.info.platform);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), usize::from(!compiling().is_empty()));
}

#[test]
fn programs_of_a_dry_run_are_compiled_together_and_once() {
    for entry in compiling() {
        let folder = tempfile::tempdir().unwrap();
        let cache_dir = Some(folder.path().to_owned());
        let options = DeviceOptions { cache_dir, ..DeviceOptions::default() };
        let work = |device: &Device| {
            let x =
                Tensor::from_slice(device, &[1, 2, 2], DType::F32, &[3.0, 5.0, 1.0, 0.5]).unwrap();
            let one = Tensor::from_slice(device, &[2], DType::F32, &[1.0, 1.0]).unwrap();
            let y = ops::layer_norm(&x, &one, &one, 0.0).unwrap();
            let y = ops::cast(&ops::geglu(&y).unwrap(), DType::F16).unwrap();
            ops::cast(&y, DType::F32).unwrap().to_vec().unwrap()
        };
        let device = Device::open_entry(&entry, &options).unwrap();
        let dry = device.dry_run();
        work(&dry);
        let programs = dry.recorded_programs().unwrap();
        assert_eq!(programs.len(), 4, "a norm, a gate, a cast each way: {programs:?}");
        assert!(device.recorded_programs().is_none(), "a device that runs records nothing");
        let mut seen = Vec::new();
        device.prepare(&programs, |ready, all| seen.push((ready, all))).unwrap();
        assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)], "on {}", entry.info.platform);
        let prepared = ProgramStats { built: 4, loaded: 0 };
        assert_eq!(device.program_stats(), prepared);
        let result = work(&device);
        assert_eq!(device.program_stats(), prepared, "nothing is compiled by the launches");
        let expected = work(&Device::cpu());
        // Each is a few roundings of f32 and at most one of f16 away from the other.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2.0 * DType::F16.rounding();
        assert!(result.iter().zip(&expected).all(close), "{result:?}, not {expected:?}");
        // A program that does not compile is said, and the others are as good as before.
        let mut broken = programs;
        broken[2].source = "no program";
        let error = device.prepare(&broken, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(broken[2].kernel), "{error}");
        assert_eq!(work(&device), result);
    }
}

#[test]
fn a_damaged_entry_is_compiled_again_and_replaced() {
    for entry in compiling() {
        let folder = tempfile::tempdir().unwrap();
        run(&entry, folder.path());
        let [file] = files(folder.path()).try_into().unwrap();
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 0x40;
        let cases: [(&str, &[u8]); 4] = [
            ("empty", &[]),
            ("truncated", &whole[..whole.len() / 2]),
            ("one bit flipped", &flipped),
            ("another file", b"#!/bin/sh\necho no\n"),
        ];
        for (why, bytes) in cases {
            fs::write(&file, bytes).unwrap();
            assert_eq!(run(&entry, folder.path()), BUILT, "{why} on {}", entry.info.platform);
            assert_eq!(run(&entry, folder.path()), LOADED, "{why}: it was replaced");
            assert_eq!(files(folder.path()), std::slice::from_ref(&file));
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_the_compilation() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: not even the superuser can write below it.
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    for entry in compiling() {
        assert_eq!(run(&entry, &file), BUILT);
        assert_eq!(run(&entry, &file), BUILT);
    }
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
}
