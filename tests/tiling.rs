//! The VAE in bands that are parked on the host: the same picture, less memory, known before.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::ops::ControlFlow;

use common::psnr::psnr_db;
use ellesmere::device::Tiling;
use ellesmere::memory::MemoryStats;
use ellesmere::models::vae::{Blend, VaeDecoder, VaeEncoder};
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::ops::{self, Activation, Conv2d, Epilogue, GroupNorm, Padding, Weights};
use ellesmere::pipeline::{InitImage, LoadOptions, Pipeline, Progress, Request, VaeTiling};
use ellesmere::{DType, Device, DeviceOptions, Tensor};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// Tiles of a picture of 256 x 256 in the proportions of 256, 384 and 200 to 512, and the least.
const TILES: [usize; 4] = [128, 192, 104, 64];
const SIDE: usize = 256;

struct Model {
    files: ModelFiles,
    _folder: TempDir,
}

impl Model {
    fn write() -> Self {
        let folder = random_model::write("sd15");
        Self { files: ModelFiles::open(folder.path(), Variant::Any).unwrap(), _folder: folder }
    }

    /// What the VAE makes of drawn data, decoded and encoded, and what it held; `tile` if it is to
    /// be tiled.
    fn run(&self, device: &Device, dtype: DType, tile: Option<usize>) -> ([Vec<f32>; 2], Memory) {
        let vae = &self.files.vae;
        let decoder = VaeDecoder::load(device, dtype, &vae.config, &vae.weights).unwrap();
        let encoder = VaeEncoder::load(device, dtype, &vae.config, &vae.weights).unwrap();
        device.memory().trim();
        device.memory().reset_peaks();
        let tiling = tile.map(|tile| Tiling::new([SIDE; 2], 8, tile).unwrap().unwrap());
        let _tiled = tiling.map(|tiling| device.tile(tiling));
        let drawn = |name, shape: [usize; 4]| {
            let values = random_model::normal_like(name, shape.iter().product());
            Tensor::from_slice(device, &shape, dtype, &values).unwrap()
        };
        let latent = drawn("tiling.latent", [1, SIDE / 8, SIDE / 8, 4]);
        let decoded = decoder.decode(&latent).unwrap().to_vec().unwrap();
        drop(latent);
        let picture = drawn("tiling.picture", [1, SIDE, SIDE, 3]);
        let encoded = encoder.encode(&picture).unwrap().to_vec().unwrap();
        drop(picture);
        let memory = Memory::of(&device.memory_stats());
        assert_eq!(device.memory_stats().parked_bytes, 0, "everything was given back");
        ([decoded, encoded], memory)
    }
}

#[derive(Debug, PartialEq)]
struct Memory {
    peak_held_bytes: u64,
    peak_parked_bytes: u64,
}

impl Memory {
    fn of(stats: &MemoryStats) -> Self {
        let &MemoryStats { peak_held_bytes, peak_parked_bytes, .. } = stats;
        Self { peak_held_bytes, peak_parked_bytes }
    }
}

/// The range of what is compared: about that of a picture before it is clamped, -1..1.
const RANGE: f64 = 2.0;

#[test]
fn tiled_is_the_same_as_untiled_and_is_predicted_to_the_byte() {
    let model = Model::write();
    for device in common::open_devices(&DeviceOptions::default()) {
        // A software rasteriser takes half a minute for a picture.
        if !device.info().prefers_register_tiles() {
            continue;
        }
        for dtype in DType::ALL {
            let (expected, untiled) = model.run(&device, dtype, None);
            assert_eq!(untiled.peak_parked_bytes, 0);
            for tile in TILES {
                let why = format!("{dtype}, tiles of {tile}, {}", device.info().name);
                let (got, memory) = model.run(&device, dtype, Some(tile));
                for (name, expected, got) in
                    [("decoded", &expected[0], &got[0]), ("encoded", &expected[1], &got[1])]
                {
                    let psnr = psnr_db(RANGE, expected, got);
                    eprintln!("{why}: {name} {psnr:.1} dB");
                    assert!(psnr >= 90.0, "{why}: {name} {psnr:.1} dB");
                }
                assert!(memory.peak_held_bytes < untiled.peak_held_bytes, "{why}: {memory:?}");
                let (_, predicted) = model.run(&device.dry_run(), dtype, Some(tile));
                assert_eq!(memory, predicted, "{why}");
            }
        }
    }
}

#[test]
fn tiles_and_a_small_largest_allocation_go_together() {
    let model = Model::write();
    let ([expected, _], _) = model.run(&Device::cpu(), DType::F32, None);
    // Room for the queries, keys and values of all positions, and for less than a band.
    let max_allocation_bytes = Some(1_200_000);
    let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
    let device = Device::cpu_with(&options);
    let ([got, _], _) = model.run(&device, DType::F32, Some(192));
    let psnr = psnr_db(RANGE, &expected, &got);
    assert!(psnr >= 90.0, "{psnr:.1} dB");
}

/// A tensor of `modules/tiling.safetensors`, whose layout is `[1, C, H, W]`, channels last.
fn golden(name: &str) -> Vec<f32> {
    let path = random_model::golden().join("modules/tiling.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values: Vec<f32> =
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    channels_last(&values, tensor.shape()[1])
}

fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    (0..values.len()).map(|i| values[i % channels * pixels + i / channels]).collect()
}

#[test]
fn blended_tiles_are_those_of_diffusers() {
    let model = Model::write();
    let vae = &model.files.vae;
    let blend = Blend::new(vae.config.sample_size[0], vae.config.downscale()).unwrap();
    assert_eq!(blend.tile(), 64);
    let latent = channels_last(&random_model::normal_like("input.tiling.latent", 4 * 13 * 10), 4);
    let picture: Vec<f32> = random_model::image("input.tiling.image", 3 * 104 * 80);
    let picture: Vec<f32> = picture.iter().map(|value| 2.0 * value - 1.0).collect();
    let picture = channels_last(&picture, 3);
    for device in common::open_devices(&DeviceOptions::default()) {
        // A software rasteriser takes half a minute for a picture.
        if !device.info().prefers_register_tiles() {
            continue;
        }
        for dtype in DType::ALL {
            let decoder = VaeDecoder::load(&device, dtype, &vae.config, &vae.weights).unwrap();
            let encoder = VaeEncoder::load(&device, dtype, &vae.config, &vae.weights).unwrap();
            let tensor = |values: &[f32], [height, width]: [usize; 2]| {
                let shape = [1, height, width, values.len() / (height * width)];
                Tensor::from_slice(&device, &shape, dtype, values)
            };
            let decoded = blend.decode(&latent, [13, 10], |latent, size| {
                decoder.decode(&tensor(latent, size)?)?.to_vec()
            });
            let encoded = blend.encode(&picture, [104, 80], |pixels, size| {
                encoder.encode(&tensor(pixels, size)?)?.to_vec()
            });
            for (name, got) in [("decode.image", decoded), ("encode.moments", encoded)] {
                let psnr = psnr_db(RANGE, &golden(name), &got.unwrap());
                let why = format!("{name}, {dtype} on {}", device.info().name);
                eprintln!("{why}: {psnr:.1} dB");
                // Two orders of summation in f32 agree to about 120 dB, storage in f16 to 60 dB.
                let least = if dtype == DType::F32 { 100.0 } else { 50.0 };
                assert!(psnr >= least, "{why}: {psnr:.1} dB");
            }
        }
    }
}

#[test]
fn blended_pictures_are_planned_to_the_byte_and_take_the_memory_of_a_tile() {
    let model = Model::write();
    let files = &model.files;
    let rgb = random_model::image("tiling.image", 3 * SIDE * SIDE);
    let whole = Request {
        width: Some(SIDE),
        height: Some(SIDE),
        steps: 2,
        init_image: Some(InitImage { rgb, strength: 1.0 }),
        vae_tiling: VaeTiling::Off,
        ..Request::default()
    };
    let blended = Request { vae_tiling: VaeTiling::Blend, ..whole.clone() };
    let peak = |request: &Request| {
        let device = Device::cpu();
        let options = LoadOptions::for_request(request);
        let plan = Pipeline::plan(&device, files, DType::F32, &options, request).unwrap();
        let pipeline = Pipeline::load(&device, files, DType::F32, &options).unwrap();
        let mut tiles = Vec::new();
        let pictures = pipeline.generate(request, &mut |progress| {
            match progress {
                Progress::VaeBlended { tile } => tiles.push([*tile, 0]),
                Progress::VaeTile { done, total } => tiles.push([*done, *total]),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        assert_eq!(device.memory_stats(), plan.memory);
        let labels = &plan.memory.labels;
        let halves = ["vae encode", "vae decode"].map(|label| labels[label].peak_live_bytes);
        assert_eq!(plan.vae_blended, !tiles.is_empty());
        (pictures.unwrap().remove(0).rgb, halves, tiles)
    };
    let (expected, whole_bytes, tiles) = peak(&whole);
    assert_eq!(tiles, [[0, 0]; 0]);
    // The VAE was trained on 64 x 64: tiles are 48 pixels apart, 6 each way.
    let (picture, tile_bytes, tiles) = peak(&blended);
    let of_a_half = [[64, 0]].into_iter().chain((1..=36).map(|done| [done, 36]));
    assert_eq!(tiles, [of_a_half.clone().collect::<Vec<_>>(), of_a_half.collect()].concat());
    for (tile, whole) in tile_bytes.iter().zip(whole_bytes) {
        assert!(tile * 4 < whole, "{tile} of {whole} B");
    }
    let psnr = psnr_db(RANGE, &expected, &picture);
    assert!(psnr < 40.0, "it is another picture: {psnr:.1} dB");
    // Where a picture is no larger than a tile, it is the same.
    let one = Request { vae_tile: Some(SIDE), ..blended };
    let (picture, _, tiles) = peak(&one);
    assert!(picture == expected && tiles.is_empty());
}

fn draw(device: &Device, files: &ModelFiles, request: &Request) -> (Vec<f32>, Option<usize>) {
    let pipeline =
        Pipeline::load(device, files, DType::F32, &LoadOptions::for_request(request)).unwrap();
    let mut tile = None;
    let pictures = pipeline.generate(request, &mut |progress| {
        match progress {
            Progress::VaeTiled { tile: told } => tile = Some(*told),
            Progress::Decoding => tile = None,
            _ => {}
        }
        ControlFlow::Continue(())
    });
    (pictures.unwrap().remove(0).rgb, tile)
}

#[test]
fn auto_tiles_where_the_picture_does_not_fit_and_a_plan_knows_it() {
    let model = Model::write();
    let rgb = random_model::image("tiling.image", 3 * SIDE * SIDE);
    let whole = Request {
        width: Some(SIDE),
        height: Some(SIDE),
        steps: 2,
        init_image: Some(InitImage { rgb, strength: 1.0 }),
        vae_tile: Some(192),
        ..Request::default()
    };
    let files = &model.files;
    let (expected, tile) = draw(&Device::cpu(), files, &whole);
    assert_eq!(tile, None, "it fits");
    let exact = Request { vae_tiling: VaeTiling::Exact, ..whole.clone() };
    let (got, tile) = draw(&Device::cpu(), files, &exact);
    assert_eq!(tile, Some(192));
    assert!(psnr_db(RANGE, &expected, &got) >= 90.0);
    let plan = |device: &Device, request: &Request| {
        Pipeline::plan(device, files, DType::F32, &LoadOptions::for_request(request), request)
    };
    // From what all of it takes down, in steps of 5 %, until not even the least tiles fit.
    let peak_bytes = plan(&Device::cpu(), &whole).unwrap().peak_bytes;
    let mut tiles = Vec::new();
    for percent in (5..=100).rev().step_by(5) {
        let budget_bytes = Some(peak_bytes / 100 * percent);
        let device = Device::cpu_with(&DeviceOptions { budget_bytes, ..Default::default() });
        let Ok(planned) = plan(&device, &whole) else { break };
        if tiles.last() == Some(&planned.vae_tile) {
            continue;
        }
        tiles.push(planned.vae_tile);
        if planned.vae_tile.is_some() {
            let off = Request { vae_tiling: VaeTiling::Off, ..whole.clone() };
            assert!(plan(&device, &off).is_err(), "{percent} %: it does not fit untiled");
        }
        let (got, tile) = draw(&device, files, &whole);
        assert_eq!(tile, planned.vae_tile);
        assert_eq!(Memory::of(&device.memory_stats()), Memory::of(&planned.memory), "{percent} %");
        assert!(psnr_db(RANGE, &expected, &got) >= 90.0, "{percent} %");
    }
    assert!(tiles.len() > 2 && tiles.is_sorted_by(|a, b| a.is_none() || a > b), "{tiles:?}");
}

#[test]
fn tiles_that_cannot_be_are_refused_by_name() {
    let model = Model::write();
    let pipeline =
        Pipeline::load(&Device::cpu(), &model.files, DType::F32, &LoadOptions::default()).unwrap();
    for vae_tile in [0, 56, 100] {
        let request = Request { vae_tile: Some(vae_tile), ..Request::default() };
        let error = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().starts_with("vae tile: expected a multiple of 8"), "{error}");
    }
    let (vae_tiling, vae_tile) = (VaeTiling::Blend, Some(72));
    let request = Request { vae_tiling, vae_tile, ..Request::default() };
    let error = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().starts_with("vae tile: expected a multiple of 32"), "{error}");
}

#[test]
fn a_convolution_that_is_parked_has_its_norm_read_it_once() {
    const SHAPE: [usize; 4] = [1, SIDE, SIDE, 64];
    let drawn = |name: &str, count: usize| random_model::normal_like(name, count);
    let run = |device: &Device, shape: &[usize]| {
        let elements = SHAPE.iter().product();
        let values = drawn("once.x", elements);
        let x = Tensor::from_slice(device, &SHAPE, DType::F32, &values).unwrap();
        let weights = Weights::conv2d(device, DType::F32, [64, 64, 3, 3], || {
            Ok(drawn("once.weights", 64 * 64 * 9))
        });
        let params = Conv2d {
            kernel: [3, 3],
            stride: 1,
            padding: Padding::same(1),
            upsample: false,
            crop: [0, 0],
        };
        let y = ops::conv2d(&x, &weights.unwrap(), &params, Epilogue::default()).unwrap();
        let y = y.reshape(shape).unwrap();
        let channels = shape[3];
        let vector = |name| {
            let values = drawn(name, channels);
            Tensor::from_slice(device, &[channels], DType::F32, &values).unwrap()
        };
        let (gamma, beta) = (vector("once.gamma"), vector("once.beta"));
        let written_bytes = || device.recorded().map_or(0, |recorded| recorded.written_bytes);
        let before = written_bytes();
        let params = GroupNorm { groups: 8, eps: 1e-5, activation: Activation::Silu };
        let z = ops::group_norm(&y, None, &gamma, &beta, &params).unwrap();
        let unparked = (written_bytes() - before) as f64 / (4 * elements) as f64;
        (z.to_vec().unwrap(), unparked)
    };
    // Statistics of a tensor's channels are of no use to one of other channels.
    for (shape, reads) in [(SHAPE, 1.0), ([1, SIDE, 2 * SIDE, 32], 2.0)] {
        for device in common::open_devices(&DeviceOptions::default()) {
            if !device.info().prefers_register_tiles() {
                continue;
            }
            let (expected, _) = run(&device, &shape);
            let tiling = Tiling::new([SIDE; 2], 8, 64).unwrap().unwrap();
            let _tiled = device.tile(tiling);
            let (got, _) = run(&device, &shape);
            let psnr = psnr_db(RANGE, &expected, &got);
            assert!(psnr >= 90.0, "{shape:?}, {}: {psnr:.1} dB", device.info().name);
            let dry = device.dry_run();
            let _tiled = dry.tile(tiling);
            assert_eq!(run(&dry, &shape).1, reads, "{shape:?}");
        }
    }
}
