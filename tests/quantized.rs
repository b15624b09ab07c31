//! Whole pictures by weights of few bits: near those of f32, as planned, alike on every device.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use std::ops::ControlFlow;

use common::psnr::psnr_db;
use ellesmere::models::ModelFiles;
use ellesmere::pipeline::{Component, LoadOptions, Pipeline, Request, VaeTiling};
use ellesmere::{DType, Device, DeviceOptions, Format};

fn demo(format: Option<Format>) -> ModelFiles {
    let mut files = common::demo::files();
    if let Some(format) = format {
        files.quantize(format);
    }
    files
}

fn request() -> Request {
    Request {
        prompt: "sunset over the sea with a white boat".to_owned(),
        seed: 7,
        steps: 4,
        guidance_scale: 4.0,
        ..Request::default()
    }
}

/// A picture that held what was planned, to the byte; and how much that was.
fn draw(
    device: &Device,
    files: &ModelFiles,
    dtype: DType,
    options: &LoadOptions,
    request: &Request,
) -> (Vec<f32>, u64) {
    let plan = Pipeline::plan(device, files, dtype, options, request).unwrap();
    device.memory().trim();
    device.memory().reset_peaks();
    let pipeline = Pipeline::load(device, files, dtype, options).unwrap();
    let mut pictures = pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(device.memory_stats().peak_held_bytes, plan.peak_bytes);
    (pictures.remove(0).rgb, plan.peak_bytes)
}

#[test]
fn pictures_are_near_those_of_f32_and_the_same_on_every_device() {
    let options = LoadOptions::default();
    let mut devices = common::devices();
    // GPU kernels take minutes to compile there; `ops` runs them.
    devices.retain(|device| device.info().prefers_register_tiles());
    let cpu = Device::cpu();
    let (exact, most_bytes) = draw(&cpu, &demo(None), DType::F32, &options, &request());
    // At least so near. Weights' relative errors double with each bit less; what that makes of a
    // picture is the model's. 40 dB is what q8_0 is to hold; the others have about 6 dB a bit less,
    // and 3 dB of room: a picture of this size differs by that from seed to seed.
    for (format, least) in [(Format::Q8_0, 40.0), (Format::Q6K, 32.0), (Format::Q4K, 22.0)] {
        let files = demo(Some(format));
        let (picture, peak_bytes) = draw(&cpu, &files, DType::F32, &options, &request());
        let distance = psnr_db(1.0, &picture, &exact);
        assert!(distance >= least && distance < 90.0, "{format}: {distance} dB");
        assert!(peak_bytes < most_bytes, "{format}: {peak_bytes} B of {most_bytes} B");
        for device in &devices {
            let (other, peak_bytes_there) = draw(device, &files, DType::F32, &options, &request());
            let distance = psnr_db(1.0, &other, &picture);
            assert!(distance >= 60.0, "{format} on {}: {distance} dB", device.info().name);
            assert_eq!(peak_bytes_there, peak_bytes);
        }
    }
}

#[test]
fn what_saves_memory_leaves_the_picture_as_it_is() {
    let files = demo(Some(Format::Q5_0));
    let device = Device::cpu_with(&DeviceOptions { poison: true, ..DeviceOptions::default() });
    let draw = |options: &LoadOptions, request: &Request| {
        draw(&device, &files, DType::F16, options, request)
    };
    let untiled = Request { vae_tiling: VaeTiling::Off, ..request() };
    let (expected, peak_bytes) = draw(&LoadOptions::default(), &untiled);
    let offloaded = LoadOptions { offload: Component::ALL.into(), ..LoadOptions::default() };
    let tiled = Request { vae_tiling: VaeTiling::Exact, vae_tile: Some(64), ..request() };
    let (picture, less_bytes) = draw(&offloaded, &tiled);
    assert!(less_bytes < peak_bytes);
    assert!(picture == expected, "{} dB", psnr_db(1.0, &picture, &expected));
}
