//! Weights on the host, copied beside the computing: the same picture, as planned.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::demo;
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::pipeline::{Component, LoadOptions, OffloadTo, Pipeline, Request, VaeTiling};
use ellesmere::{DType, Device, DeviceOptions, Error, Result};

fn request() -> Request {
    Request {
        prompt: "sunset over the sea".to_owned(),
        width: Some(64),
        height: Some(64),
        steps: 2,
        // No half of guidance goes first, and no tiles: either may change an order of summation.
        guidance_scale: 1.0,
        vae_tiling: VaeTiling::Off,
        ..Request::default()
    }
}

fn offloading(components: &[Component]) -> LoadOptions {
    LoadOptions { offload: components.iter().copied().collect(), ..LoadOptions::default() }
}

/// A picture; what was planned for it was held and copied, to the byte.
fn draw(
    device: &Device,
    pipeline: &Pipeline,
    files: &ModelFiles,
    dtype: DType,
    options: &LoadOptions,
) -> Result<Vec<f32>> {
    let plan = Pipeline::plan(device, files, dtype, options, &request());
    device.memory().trim();
    device.memory().reset_peaks();
    let before = device.memory_stats();
    let pictures = pipeline.generate(&request(), &mut |_| ControlFlow::Continue(()));
    let (plan, mut pictures) = match (plan, pictures) {
        (Ok(plan), Ok(pictures)) => (plan, pictures),
        (Err(error @ Error::OutOfMemory { .. }), Err(Error::OutOfMemory { .. })) => {
            return Err(error);
        }
        (plan, pictures) => panic!("planned {plan:?}, got {:?}", pictures.map(|list| list.len())),
    };
    let stats = device.memory_stats();
    let why = format!("{options:?} {dtype} on {}", device.info().name);
    assert_eq!(stats.peak_held_bytes, plan.peak_bytes, "{why}");
    assert_eq!(stats.copied_bytes - before.copied_bytes, plan.copied_bytes, "{why}");
    Ok(pictures.remove(0).rgb)
}

fn devices(options: &DeviceOptions) -> Vec<Device> {
    let mut devices = common::open_devices(options);
    devices.retain(|device| device.info().prefers_register_tiles());
    devices
}

#[test]
fn pictures_are_the_same_from_the_first_to_the_last_and_as_planned() {
    let files = demo::files();
    let poisoned = DeviceOptions { poison: true, ..Default::default() };
    // Bytes, by what is offloaded.
    let mut copied = HashMap::new();
    for device in devices(&poisoned) {
        for dtype in DType::ALL {
            let mut expected = None;
            for components in [&[][..], &[Component::UNet], &Component::ALL] {
                let options = offloading(components);
                let pipeline = Pipeline::load(&device, &files, dtype, &options).unwrap();
                for _ in 0..2 {
                    let before = device.memory_stats().copied_bytes;
                    let picture = draw(&device, &pipeline, &files, dtype, &options).unwrap();
                    let why = format!("{components:?} {dtype} on {}", device.info().name);
                    assert!(expected.get_or_insert(picture.clone()) == &picture, "{why}");
                    // With two slots on some devices, with one on others.
                    let bytes = device.memory_stats().copied_bytes - before;
                    let same = *copied.entry((components, dtype)).or_insert(bytes);
                    assert_eq!(bytes, same, "{why}: nothing is copied in vain");
                }
                drop(pipeline);
                device.memory().trim();
                assert_eq!(device.memory_stats().held_bytes, 0);
                assert_eq!(device.memory_stats().host_bytes, 0);
            }
        }
    }
}

#[test]
fn weights_up_to_a_threshold_are_on_the_device_whatever_is_offloaded() {
    let files = demo::files();
    for device in devices(&DeviceOptions::default()) {
        for dtype in DType::ALL {
            let (mut expected, mut copied) = (None, None);
            for offload_threshold_bytes in [0, 1_000, 50_000, 1 << 40] {
                let options =
                    LoadOptions { offload_threshold_bytes, ..offloading(&Component::ALL) };
                let pipeline = Pipeline::load(&device, &files, dtype, &options).unwrap();
                let before = device.memory_stats();
                let picture = draw(&device, &pipeline, &files, dtype, &options).unwrap();
                let bytes = device.memory_stats().copied_bytes - before.copied_bytes;
                let why = format!("{offload_threshold_bytes} B {dtype} on {}", device.info().name);
                assert!(expected.get_or_insert(picture.clone()) == &picture, "{why}");
                if let Some(more) = copied.replace((bytes, before.live_bytes)) {
                    assert!(bytes <= more.0 && before.live_bytes >= more.1, "{why}");
                }
                assert_eq!(bytes == 0, offload_threshold_bytes == 1 << 40, "{why}");
                assert_eq!(before.host_bytes == 0, bytes == 0, "{why}");
                drop(pipeline);
                device.memory().trim();
            }
        }
    }
}

#[test]
fn a_share_of_offloaded_weights_is_on_the_device_and_only_the_rest_is_copied() {
    let files = demo::files();
    for device in devices(&DeviceOptions::default()) {
        let (mut expected, mut copied) = (None, u64::MAX);
        for permille in [0, 250, 600, 1000] {
            let resident_permille = Component::ALL.map(|component| (component, permille)).into();
            let options = LoadOptions { resident_permille, ..offloading(&Component::ALL) };
            let pipeline = Pipeline::load(&device, &files, DType::F16, &options).unwrap();
            let before = device.memory_stats().copied_bytes;
            let picture = draw(&device, &pipeline, &files, DType::F16, &options).unwrap();
            let bytes = device.memory_stats().copied_bytes - before;
            let why = format!("{permille} thousandths on {}", device.info().name);
            assert!(expected.get_or_insert(picture.clone()) == &picture, "{why}");
            assert!(bytes < copied && (bytes == 0) == (permille == 1000), "{why}: {bytes} B");
            copied = bytes;
            drop(pipeline);
            device.memory().trim();
        }
    }
}

#[test]
fn what_a_budget_has_room_for_is_not_copied() {
    let files = demo::files();
    let all = LoadOptions::default();
    for (index, device) in devices(&DeviceOptions::default()).iter().enumerate() {
        let plan = |device: &Device, options: &LoadOptions| {
            Pipeline::plan(device, &files, DType::F16, options, &request()).unwrap()
        };
        let most = plan(device, &all).peak_bytes;
        let least = plan(device, &offloading(&Component::ALL)).peak_bytes;
        let pipeline = Pipeline::load(device, &files, DType::F16, &all).unwrap();
        let expected = draw(device, &pipeline, &files, DType::F16, &all).unwrap();
        let mut shares = 0;
        for percent in [15, 40, 65, 90] {
            let budget_bytes = least + (most - least) / 100 * percent;
            let within = DeviceOptions { budget_bytes: Some(budget_bytes), ..Default::default() };
            let device = &devices(&within)[index];
            let (options, planned) =
                LoadOptions::fitting(device, &files, DType::F16, &request()).unwrap();
            let why = format!("{percent} % on {}: {options:?}", device.info().name);
            let bare = LoadOptions { resident_permille: Default::default(), ..options.clone() };
            if !options.resident_permille.is_empty() {
                shares += 1;
                assert!(planned.host_bytes < plan(device, &bare).host_bytes, "{why}");
                assert!(planned.copied_bytes <= plan(device, &bare).copied_bytes, "{why}");
            }
            let pipeline = Pipeline::load(device, &files, DType::F16, &options).unwrap();
            let picture = draw(device, &pipeline, &files, DType::F16, &options).unwrap();
            assert!(picture == expected, "{why}");
            assert!(device.memory_stats().peak_held_bytes <= budget_bytes, "{why}");
        }
        assert!(shares > 1, "of {} on {}", 4, device.info().name);
    }
}

#[test]
fn any_budget_draws_the_same_picture_within_it_or_is_too_small() {
    let files = demo::files();
    let options = offloading(&Component::ALL);
    for (index, device) in devices(&DeviceOptions::default()).iter().enumerate() {
        let pipeline = Pipeline::load(device, &files, DType::F16, &options).unwrap();
        let expected = draw(device, &pipeline, &files, DType::F16, &options).unwrap();
        let most = device.memory_stats().peak_held_bytes;
        let (mut drawn, mut refused) = (0, 0);
        for percent in (20..140).step_by(5) {
            let budget_bytes = Some(most / 100 * percent);
            let within = DeviceOptions { budget_bytes, ..Default::default() };
            let device = &devices(&within)[index];
            let picture = Pipeline::load(device, &files, DType::F16, &options)
                .and_then(|pipeline| draw(device, &pipeline, &files, DType::F16, &options));
            match picture {
                Ok(picture) => {
                    assert!(picture == expected, "{percent} % of {most} B");
                    drawn += 1;
                }
                Err(Error::OutOfMemory { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            device.memory().trim();
            assert_eq!(device.memory_stats().held_bytes, 0);
        }
        assert!(drawn > 2 && refused > 0, "{drawn} drawn, {refused} refused");
    }
}

#[test]
fn transfers_are_in_the_profile_and_in_the_trace() {
    let files = demo::files();
    for device in devices(&DeviceOptions::default()) {
        let options = offloading(&[Component::UNet]);
        let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
        device.profile().set_enabled(true);
        draw(&device, &pipeline, &files, DType::F32, &options).unwrap();
        let transfers = device.profile().report().transfers.unwrap();
        assert_eq!(transfers.bytes, device.memory_stats().copied_bytes);
        // Where the driver has a clock.
        let has_clock = transfers.under_compute.is_some();
        assert!(transfers.under_compute.unwrap_or_default() <= transfers.device, "{transfers}");
        assert!(has_clock || device.info().backend != "cpu");
        let trace: serde_json::Value =
            serde_json::from_str(&device.profile().chrome_trace()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let row = events.iter().filter(|event| event["ph"] == "X" && event["tid"] == 2);
        assert_eq!(row.count() as u64, if has_clock { transfers.count } else { 0 });
        device.profile().set_enabled(false);
    }
}

#[test]
fn a_device_is_dropped_in_the_middle_of_a_picture() {
    let files = demo::files();
    for device in devices(&DeviceOptions::default()) {
        let options = offloading(&Component::ALL);
        let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
        let error = pipeline.generate(&request(), &mut |_| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        let memory = std::sync::Arc::clone(device.memory());
        drop((pipeline, device));
        memory.trim();
        assert_eq!((memory.stats().held_bytes, memory.stats().live_bytes), (0, 0));
    }
}

fn in_file() -> LoadOptions {
    LoadOptions { offload_to: OffloadTo::File, ..offloading(&Component::ALL) }
}

#[test]
fn weights_in_their_file_draw_the_same_picture_and_hold_no_copy_on_the_host() {
    let files = demo::files();
    // The largest allocation that makes some weights lie in pieces.
    let small = DeviceOptions { max_allocation_bytes: Some(300_000), ..Default::default() };
    for device in [&DeviceOptions::default(), &small].into_iter().flat_map(devices) {
        for dtype in DType::ALL {
            let on_host = offloading(&Component::ALL);
            let pipeline = Pipeline::load(&device, &files, dtype, &on_host).unwrap();
            let expected = draw(&device, &pipeline, &files, dtype, &on_host).unwrap();
            let host_bytes = device.memory_stats().host_bytes;
            drop(pipeline);
            device.memory().trim();

            let pipeline = Pipeline::load(&device, &files, dtype, &in_file()).unwrap();
            let why = format!("{dtype} on {}", device.info().name);
            let picture = draw(&device, &pipeline, &files, dtype, &in_file()).unwrap();
            assert!(picture == expected, "{why}");
            let stats = device.memory_stats();
            let plan = Pipeline::plan(&device, &files, dtype, &in_file(), &request()).unwrap();
            // The vocabulary is on the host where it is over the largest allocation.
            assert_eq!(stats.host_bytes + stats.file_bytes, host_bytes, "{why}");
            assert!(stats.file_bytes > host_bytes / 2, "{why}: {stats}");
            assert_eq!(stats.peak_host_bytes, plan.host_bytes, "{why}");
            assert_eq!(stats.file_bytes, plan.file_bytes, "{why}");
            let passing = stats.peak_host_bytes - stats.host_bytes;
            assert!(passing > 0 && passing < host_bytes / 4, "{why}: {stats}");
            assert!(stats.to_string().contains("\nin files "), "{stats}");
            drop(pipeline);
            device.memory().trim();
            let stats = device.memory_stats();
            assert_eq!([stats.held_bytes, stats.host_bytes, stats.file_bytes], [0; 3], "{why}");
        }
    }
}

#[test]
fn a_file_that_changes_while_weights_are_in_it_is_named_in_one_line() {
    let demo = demo::folder();
    let weights = "unet/diffusion_pytorch_model.safetensors";
    type Change = fn(&Path);
    let changes: [(&str, Change, &str); 5] = [
        ("longer", |path| append(path, b"more"), "B, and had "),
        ("cut short", |path| open(path).set_len(100_000).unwrap(), "it has 100000 B, and had "),
        ("empty", |path| open(path).set_len(0).unwrap(), "it has 0 B, and had "),
        ("gone", |path| fs::remove_file(path).unwrap(), "No such file"),
        ("written to", |path| touch(path), "it has another modification time"),
    ];
    for device in devices(&DeviceOptions::default()) {
        for (why, change, expected) in changes {
            let folder = tempfile::tempdir().unwrap();
            copy_folder(&demo, folder.path());
            let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
            let pipeline = Pipeline::load(&device, &files, DType::F32, &in_file()).unwrap();
            // Weights alone keep the file open.
            drop(files);
            device.memory().trim();
            let live_bytes = device.memory_stats().live_bytes;
            let draw = || pipeline.generate(&request(), &mut |_| ControlFlow::Continue(()));
            let path = folder.path().join(weights);
            let (content, modified) = (fs::read(&path).unwrap(), modified(&path));
            let picture = draw().unwrap();
            change(&path);
            let error = draw().unwrap_err();
            let text = error.to_string();
            assert!(matches!(&error, Error::File { path: named, .. } if *named == path), "{why}");
            assert!(text.contains("changed while it is used: "), "{why}: {text}");
            assert!(text.contains(expected), "{why}: {text}");
            assert_eq!(text.lines().count(), 1, "{why}: {text}");
            drop(error);
            device.memory().trim();
            let stats = device.memory_stats();
            assert_eq!([stats.live_bytes, stats.host_bytes], [live_bytes, 0], "{why}");
            // As it was: the next picture is right.
            fs::write(&path, content).unwrap();
            open(&path).set_modified(modified).unwrap();
            assert_eq!(draw().unwrap(), picture, "{why}");
            drop(pipeline);
            device.memory().trim();
            assert_eq!(device.memory_stats().held_bytes, 0, "{why}");
        }
    }
}

fn open(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

fn append(path: &Path, bytes: &[u8]) {
    File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// As if the same bytes had been written a minute later.
fn touch(path: &Path) {
    let later = modified(path) + Duration::from_secs(60);
    open(path).set_modified(later).unwrap();
}

fn copy_folder(source: &Path, target: &Path) {
    for entry in fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()) {
        let target = target.join(entry.file_name().unwrap());
        if entry.is_dir() {
            fs::create_dir(&target).unwrap();
            copy_folder(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}
