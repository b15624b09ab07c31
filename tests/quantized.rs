//! Whole pictures by weights of few bits: near those of f32, as planned, alike on every device.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::psnr::psnr_db;
use ellesmere::device::OffloadTo;
use ellesmere::io::safetensors::{self, SafeTensors};
use ellesmere::io::tensors::StoredType;
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::ops::Products;
use ellesmere::pipeline::{Component, LoadOptions, Pipeline, Request, VaeTiling};
use ellesmere::{DType, Device, DeviceOptions, Format, quant};

fn demo(format: Option<Format>) -> ModelFiles {
    let mut files = common::demo::files();
    files.quantize(format);
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
fn weights_take_fewer_bits_where_leaving_them_on_the_host_is_slower() {
    let mut files = demo(None);
    // Little is computed with each weight, so that copying them takes a good part of the time on any host.
    let request = || Request { width: Some(64), height: Some(64), ..request() };
    let within = |budget_bytes| {
        Device::cpu_with(&DeviceOptions { budget_bytes, ..DeviceOptions::default() })
    };
    let options = LoadOptions::default();
    let mut fitted = |device: &Device| {
        let fitted = options.fitted_in_fewer_bits(device, &mut files, DType::F32, &request());
        (fitted, files.clone())
    };
    let whole = fitted(&within(None)).0.unwrap().1;
    assert_eq!(whole.fewer_bits, None);

    let device = within(Some(whole.peak_bytes / 2));
    let (in_fewer, files) = fitted(&device);
    let (placed, mut plan) = in_fewer.unwrap();
    assert_eq!(plan.fewer_bits.as_deref(), Some("q8_0"));
    assert_eq!(files.format(), Some(Format::Q8_0));
    assert!(plan.peak_bytes <= whole.peak_bytes / 2);
    plan.time(&device, &files, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(plan.ladder[0].rung, "weights in q8_0");
    assert!(plan.ladder[0].saves_bytes > whole.peak_bytes / 4, "{:?}", plan.ladder);
    let (picture, _) = draw(&device, &files, DType::F32, &placed, &request());
    let cpu = Device::cpu();
    // Halves of guidance in turn, or tiles, change an order of summation at most.
    let unlimited = draw(&cpu, &demo(Some(Format::Q8_0)), DType::F32, &options, &request()).0;
    assert!(psnr_db(1.0, &picture, &unlimited) >= 80.0);

    let (refused, files) = fitted(&within(Some(1000)));
    let message = refused.unwrap_err().to_string();
    assert!(message.starts_with("a budget of 1000 B is too small: "), "{message}");
    assert_eq!(files.format(), None);
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

#[test]
fn a_weight_that_is_held_in_another_type_is_all_that_changes() {
    let device = Device::cpu();
    let request = Request { width: Some(64), height: Some(64), steps: 1, ..request() };
    let draw = |files: &ModelFiles| {
        let pipeline = Pipeline::load(&device, files, DType::F32, &LoadOptions::default()).unwrap();
        let mut pictures = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        pictures.remove(0).rgb
    };
    let exact = draw(&demo(None));
    let mut files = demo(None);
    files.unet.weights.keep_loaded();
    assert!(draw(&files) == exact);
    // A matrix of three that are held as one, a convolution, one of too few outputs for blocks, a
    // table and a vector: each is rounded, and only while it is asked for.
    let block = "mid_block.attentions.0.transformer_blocks.0";
    for (name, stored) in [
        (format!("{block}.attn1.to_k.weight"), StoredType::Blocks(Format::Q4_0)),
        ("mid_block.resnets.0.conv1.weight".to_string(), StoredType::Blocks(Format::Q4_1)),
        ("conv_out.weight".to_string(), StoredType::Blocks(Format::Q5_0)),
        ("mid_block.resnets.0.time_emb_proj.weight".to_string(), StoredType::BF16),
        ("mid_block.resnets.0.norm1.weight".to_string(), StoredType::BF16),
    ] {
        files.unet.weights.hold_as(&name, Some(stored)).unwrap();
        let changed = draw(&files);
        let distance = psnr_db(1.0, &changed, &exact);
        assert!(distance > 20.0 && distance.is_finite(), "{name} as {stored}: {distance} dB");
        assert!(draw(&files) == changed, "{name}: kept as it was");
        let mut alone = demo(None);
        alone.unet.weights.hold_as(&name, Some(stored)).unwrap();
        assert!(draw(&alone) == changed, "{name}: not from what was kept");
        files.unet.weights.hold_as(&name, None).unwrap();
        assert!(draw(&files) == exact, "{name}: as the file has it");
    }
    let message =
        files.unet.weights.hold_as("conv_in.weight", Some(StoredType::Blocks(Format::Q8_0)));
    let message = message.unwrap_err().to_string();
    assert!(message.ends_with("expected rows of a multiple of 32 for q8_0, got 4"), "{message}");
    let message = files.unet.weights.hold_as("conv_inn.weight", None).unwrap_err().to_string();
    assert!(message.ends_with("conv_inn.weight: is missing"), "{message}");
    // All that `quantize` holds in blocks, one by one: the same weights.
    let expected = draw(&demo(Some(Format::Q8_0)));
    let (blocks, mut files) = (demo(Some(Format::Q8_0)), demo(None));
    for (weights, of) in [
        (&mut files.text_encoder.weights, &blocks.text_encoder.weights),
        (&mut files.unet.weights, &blocks.unet.weights),
        (&mut files.vae.weights, &blocks.vae.weights),
    ] {
        // Tables are values whatever `quantize` says.
        let formats = of.formats().into_iter().filter(|(name, _)| !name.contains(".embeddings."));
        for (name, format) in formats {
            weights.hold_as(&name, Some(StoredType::Blocks(format))).unwrap();
        }
    }
    assert!(draw(&files) == expected);
}

#[test]
fn products_in_bytes_leave_pictures_near_those_of_f32() {
    let options = LoadOptions::default();
    let cpu = Device::cpu();
    let (exact, _) = draw(&cpu, &demo(None), DType::F32, &options, &request());
    let (numbers, _) = draw(&cpu, &demo(Some(Format::Q8_0)), DType::F32, &options, &request());
    let mut files = demo(Some(Format::Q8_0));
    files.multiply_in(Products::Int8);
    let (picture, _) = draw(&cpu, &files, DType::F32, &options, &request());
    assert!(picture != numbers);
    // What q8_0 is to hold by itself.
    let distance = psnr_db(1.0, &picture, &exact);
    assert!(distance >= 40.0, "{distance} dB");
    let tiled = Request { vae_tiling: VaeTiling::Exact, vae_tile: Some(64), ..request() };
    let (banded, _) = draw(&cpu, &files, DType::F32, &options, &tiled);
    assert!(banded == picture, "{} dB", psnr_db(1.0, &banded, &picture));
}

/// The demo model in a folder, its matrices and convolutions stored so.
fn stored_as(stored: StoredType) -> (tempfile::TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    let demo = common::demo::folder();
    let parts = ["unet", "vae", "text_encoder", "scheduler", "tokenizer"];
    for part in parts {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        for file in std::fs::read_dir(demo.join(part)).unwrap() {
            let file = file.unwrap();
            let target = folder.path().join(part).join(file.file_name());
            match file.path().extension().is_some_and(|ending| ending == "safetensors") {
                true => rewrite(&file.path(), &target, stored),
                false => std::fs::copy(file.path(), target).map(drop).unwrap(),
            }
        }
    }
    std::fs::copy(demo.join("model_index.json"), folder.path().join("model_index.json")).unwrap();
    let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
    (folder, files)
}

/// A file whose tensors of several axes are stored so; bytes have scales beside them.
fn rewrite(source: &Path, target: &Path, stored: StoredType) {
    let source = SafeTensors::open(source).unwrap();
    let format = stored.format().unwrap();
    let mut tensors: Vec<(String, StoredType, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, info) in source.iter() {
        let (shape, data) = (info.shape().to_vec(), source.data(name).unwrap());
        if shape.len() < 2 {
            tensors.push((name.to_string(), StoredType::F16, shape, data.to_vec()));
            continue;
        }
        let halves = data.as_chunks().0.iter();
        let values: Vec<f32> = halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
        let row = values.len() / shape[0];
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for values in values.chunks(row) {
            let mut values = values.to_vec();
            values.resize(row.next_multiple_of(32), 0.0);
            let mut blocks = vec![0; quant::bytes(format, values.len()).unwrap()];
            quant::encode(format, &values, &mut blocks).unwrap();
            if stored == StoredType::I8 {
                scales.extend_from_slice(&blocks[..4]);
                blocks = blocks.chunks(36).flat_map(|block| block[4..].to_vec()).collect();
            }
            bytes.extend_from_slice(&blocks[..row * stored.block_bytes()]);
        }
        if stored == StoredType::I8 {
            let scale = name.replace(".weight", ".weight_scale");
            tensors.push((scale, StoredType::F32, vec![shape[0], 1], scales));
        }
        tensors.push((name.to_string(), stored, shape, bytes));
    }
    let tensors = tensors.iter().map(|(name, stored, shape, bytes)| {
        (name.as_str(), *stored, shape.as_slice(), bytes.as_slice())
    });
    safetensors::write(target, tensors).unwrap();
}

#[test]
fn what_files_have_in_8_or_16_bits_stays_so_on_the_device() {
    let device = Device::cpu();
    let request = Request { width: Some(64), height: Some(64), steps: 2, ..request() };
    let options = LoadOptions::default();
    let of_file = LoadOptions {
        offload: Component::ALL.into(),
        offload_to: OffloadTo::File,
        ..options.clone()
    };
    let (original, _) = draw(&device, &demo(None), DType::F32, &options, &request);
    // At least so near to the model in f16: 8, 4, 3 and 8 bits and the sign; e4m3 has its least number
    // at 2^-9, where many of these weights are.
    for (stored, least) in [
        (StoredType::BF16, 40.0),
        (StoredType::F8E4M3, 15.0),
        (StoredType::F8E5M2, 15.0),
        (StoredType::I8, 30.0),
    ] {
        let (_folder, files) = stored_as(stored);
        let formats = files.unet.weights.formats();
        for name in ["mid_block.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"] {
            assert_eq!(formats.get(name).copied(), stored.format(), "{name}");
        }
        assert_eq!(formats.get("conv_in.weight"), None);
        let mut widened = files.clone();
        for weights in
            [&mut widened.text_encoder.weights, &mut widened.unet.weights, &mut widened.vae.weights]
        {
            let names: Vec<String> = weights.formats().into_keys().collect();
            for name in names {
                weights.hold_as(&name, Some(StoredType::F32)).unwrap();
            }
        }
        for dtype in DType::ALL {
            let (picture, bytes) = draw(&device, &files, dtype, &options, &request);
            let (wide, wide_bytes) = draw(&device, &widened, dtype, &options, &request);
            // The same numbers, added up in another order; and in f16 rounded otherwise then.
            let exact = dtype == DType::F32 || !matches!(stored, StoredType::BF16 | StoredType::I8);
            let distance = psnr_db(1.0, &picture, &wide);
            assert!(
                distance >= if exact { 50.0 } else { 40.0 },
                "{stored}, {dtype}: {distance} dB"
            );
            let smaller = dtype == DType::F32 || stored != StoredType::BF16;
            assert!(bytes < wide_bytes || !smaller, "{stored}: {bytes} B, {wide_bytes} B");
            let distance = psnr_db(1.0, &picture, &original);
            assert!(distance >= least, "{stored}, {dtype}: {distance} dB");
            // Left in the file, and read for each use: the same to the bit.
            let (again, less_bytes) = draw(&device, &files, dtype, &of_file, &request);
            assert!(again == picture && less_bytes < bytes, "{stored}, {dtype}");
            assert_eq!(device.memory_stats().host_bytes, 0);
        }
        // What takes fewer bytes is rounded again where that is asked for; what takes no fewer is not.
        for (asked, expected) in [
            (Format::Q4_0, Some(Format::Q4_0)),
            (
                Format::Q8_0,
                if stored == StoredType::BF16 || stored == StoredType::I8 {
                    Some(Format::Q8_0)
                } else {
                    stored.format()
                },
            ),
            (Format::BF16, stored.format()),
        ] {
            let mut files = files.clone();
            files.quantize(Some(asked));
            let formats = files.unet.weights.formats();
            assert_eq!(formats.get("mid_block.resnets.0.conv1.weight").copied(), expected);
        }
    }
}
