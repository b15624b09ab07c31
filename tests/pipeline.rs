//! Whole pictures against diffusers, and what else a picture must hold to.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::collections::HashMap;
use std::ops::ControlFlow;

use common::psnr::psnr_db;
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::pipeline::scheduler::PredictionType;
use ellesmere::pipeline::{
    Component, InitImage, LoadOptions, Part, Pipeline, Progress, Request, Rung,
};
use ellesmere::{DType, Device, DeviceOptions, Error, Result};
use safetensors::SafeTensors;
use serde::Deserialize;
use tempfile::TempDir;

/// One picture of `tests/golden/pipelines/cases.json`.
#[derive(Clone, Debug, Deserialize)]
struct Case {
    name: String,
    model: String,
    scheduler: String,
    steps: usize,
    height: usize,
    width: usize,
    prompt: String,
    negative_prompt: Option<String>,
    guidance_scale: f32,
    seed: u64,
    images: usize,
    strength: Option<f64>,
    eta: Option<f64>,
}

fn cases() -> Vec<Case> {
    let text =
        std::fs::read_to_string(random_model::golden().join("pipelines/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    // The request has no eta: DDIM is deterministic here, and its noise is tested in `schedulers`.
    cases.into_iter().filter(|case| case.eta.unwrap_or(0.0) == 0.0).collect()
}

fn request(case: &Case) -> Request {
    let image = |strength| InitImage { rgb: init_image(case), strength };
    Request {
        prompt: case.prompt.clone(),
        negative_prompt: case.negative_prompt.clone().unwrap_or_default(),
        width: Some(case.width),
        height: Some(case.height),
        steps: case.steps,
        guidance_scale: case.guidance_scale,
        scheduler: Some(case.scheduler.parse().unwrap()),
        prediction_type: None,
        seed: case.seed,
        count: case.images,
        init_image: case.strength.map(image),
        ..Request::default()
    }
}

/// The picture that image to image starts from, rows of red, green and blue.
fn init_image(case: &Case) -> Vec<f32> {
    let planes = random_model::image("input.pipeline.image", 3 * case.height * case.width);
    rgb_of(&planes, case.height * case.width)
}

/// Three planes to pixels.
fn rgb_of(planes: &[f32], pixels: usize) -> Vec<f32> {
    (0..pixels).flat_map(|pixel| (0..3).map(move |c| planes[c * pixels + pixel])).collect()
}

/// The pictures that diffusers drew, each as rows of red, green and blue.
fn expected(case: &Case) -> Vec<Vec<f32>> {
    let path = random_model::golden().join(format!("pipelines/{}.safetensors", case.model));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(&format!("{}/image", case.name)).unwrap();
    let values: Vec<f32> =
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let pixels = case.height * case.width;
    values.chunks_exact(3 * pixels).map(|planes| rgb_of(planes, pixels)).collect()
}

/// A model on disk, removed when dropped.
struct Model {
    files: ModelFiles,
    _folder: TempDir,
}

impl Model {
    fn write(kind: &str) -> Self {
        let folder = random_model::write(kind);
        Self { files: ModelFiles::open(folder.path(), Variant::Any).unwrap(), _folder: folder }
    }
}

/// The case of that name and its model.
fn case(name: &str) -> (Case, Model) {
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    let model = Model::write(&case.model);
    (case, model)
}

fn draw(device: &Device, files: &ModelFiles, request: &Request) -> Result<Vec<Vec<f32>>> {
    let pipeline = Pipeline::load(device, files, DType::F32, &LoadOptions::for_request(request))?;
    let pictures = pipeline.generate(request, &mut |_| ControlFlow::Continue(()))?;
    Ok(pictures.into_iter().map(|picture| picture.rgb).collect())
}

/// Draws each case and holds it against diffusers' picture.
///
/// Two orders of summation in f32 agree to about 120 dB, and no two cases agree better than 40 dB
/// (`tests/golden/README.md`): 80 dB tells a right scheduler from a wrong one, and is 30 dB above
/// what is promised.
#[track_caller]
fn check(device: &Device, cases: &[Case]) {
    let mut models = HashMap::new();
    for case in cases {
        let model = models.entry(&case.model).or_insert_with(|| Model::write(&case.model));
        let pictures = draw(device, &model.files, &request(case)).unwrap();
        let expected = expected(case);
        assert_eq!(pictures.len(), expected.len(), "{}", case.name);
        for (picture, expected) in pictures.iter().zip(&expected) {
            let psnr = psnr_db(1.0, picture, expected);
            let name = &device.info().name;
            eprintln!("{} on {name}: {psnr:.1} dB", case.name);
            assert!(psnr >= 80.0, "{} on {name}: {psnr:.1} dB", case.name);
        }
    }
}

#[test]
fn pictures_are_those_of_diffusers() {
    check(&Device::cpu(), &cases());
}

#[test]
fn every_device_draws_the_same_pictures() {
    let names = ["sd15/text", "sd21/text", "bk-tiny/text", "sd15/image"];
    let some: Vec<Case> =
        cases().into_iter().filter(|case| names.contains(&case.name.as_str())).collect();
    assert_eq!(some.len(), names.len());
    for device in common::devices().iter().filter(|device| device.info().backend != "cpu") {
        // A software rasteriser takes half a minute for a picture of 64 x 64.
        let few = if device.info().prefers_register_tiles() { &some[..] } else { &some[..1] };
        check(device, few);
    }
}

#[test]
fn a_plan_is_the_run_to_the_byte_and_the_launch() {
    let (case, model) = case("sd15/image");
    let (request, files) = (request(&case), &model.files);
    for dtype in DType::ALL {
        let device = Device::cpu();
        let plan =
            Pipeline::plan(&device, files, dtype, &LoadOptions::for_request(&request), &request)
                .unwrap();
        assert_eq!(device.memory_stats().peak_held_bytes, 0, "a plan allocates nothing");
        let pipeline = Pipeline::load(
            &device,
            files,
            dtype,
            &LoadOptions { vae_encoder: true, ..Default::default() },
        )
        .unwrap();
        pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(device.memory_stats(), plan.memory);
        assert_eq!(device.work(), plan.work);
        drop(pipeline);
        device.memory().trim();
        assert_eq!(device.memory_stats().held_bytes, 0, "everything was given back");
    }
}

#[test]
fn offloaded_weights_draw_the_same_picture_in_less_memory_and_as_planned() {
    let (case, model) = case("sd15/image");
    let (request, files) = (request(&case), &model.files);
    let resident = LoadOptions::for_request(&request);
    let offloading = |components: &[Component]| LoadOptions {
        offload: components.iter().copied().collect(),
        ..resident.clone()
    };
    let placements = [
        resident.clone(),
        offloading(&[Component::TextEncoder, Component::Vae]),
        offloading(&[Component::UNet]),
        offloading(&Component::ALL),
    ];
    let devices = common::devices();
    for device in devices.iter().filter(|device| device.info().prefers_register_tiles()) {
        for dtype in DType::ALL {
            let mut drawn: Vec<(Vec<f32>, u64)> = Vec::new();
            for options in &placements {
                device.memory().trim();
                device.memory().reset_peaks();
                let plan = Pipeline::plan(device, files, dtype, options, &request).unwrap();
                let pipeline = Pipeline::load(device, files, dtype, options).unwrap();
                let pictures =
                    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
                let stats = device.memory_stats();
                let why = format!("{:?} {dtype} on {}", options.offload, device.info().name);
                assert_eq!(stats.peak_held_bytes, plan.peak_bytes, "{why}");
                assert_eq!(stats.peak_host_bytes, plan.host_bytes, "{why}");
                assert_eq!(plan.host_bytes > 0, !options.offload.is_empty(), "{why}");
                drawn.push((pictures[0].rgb.clone(), stats.peak_held_bytes));
                drop(pipeline);
                assert_eq!(device.memory_stats().host_bytes, 0, "{why}: it was given back");
            }
            for (index, (picture, peak_bytes)) in drawn.iter().enumerate().skip(1) {
                let why = format!("{:?} {dtype}", placements[index].offload);
                assert_eq!(picture, &drawn[0].0, "{why}");
                assert!(peak_bytes < &drawn[0].1, "{why}: {peak_bytes} B");
            }
        }
    }
}

#[test]
fn what_fits_a_budget_is_found_and_the_least_budget_is_told() {
    let (case, model) = case("sd15/image");
    let (request, files) = (request(&case), &model.files);
    let within = |budget_bytes| {
        let budget_bytes = Some(budget_bytes);
        let device = Device::cpu_with(&DeviceOptions { budget_bytes, ..Default::default() });
        LoadOptions::fitting(&device, files, DType::F32, &request)
    };
    let (options, plan) = within(1 << 40).unwrap();
    assert_eq!(options, LoadOptions::for_request(&request), "there is room for all");
    let mut seconds = 0.0;
    for budget_bytes in (1..100).rev().map(|percent| plan.peak_bytes / 100 * percent) {
        match within(budget_bytes) {
            Ok((_, plan)) => {
                assert!(plan.peak_bytes <= budget_bytes);
                let predicted = plan.times.expect("it was chosen by its time").drawing_seconds;
                // What is tried before memory runs out takes some time as well.
                assert!(predicted >= 0.95 * seconds, "less room, but less time");
                seconds = predicted.max(seconds);
            }
            Err(Error::Budget { budget_bytes: told, least_bytes }) => {
                assert_eq!(told, budget_bytes);
                assert!(least_bytes > budget_bytes && seconds > 0.0);
                assert!(within(least_bytes).is_ok(), "{least_bytes} B are said to do");
                assert!(within(least_bytes / 100 * 97).is_err(), "{least_bytes} B are the least");
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("1 % of the peak cannot be enough");
}

#[test]
fn a_unet_that_needs_less_memory_draws_the_same_picture() {
    let (case, model) = case("sd15/text");
    // Several pictures, so that the UNet's activations are more than the decoder's.
    let request = Request { count: 32, steps: 2, ..request(&case) };
    let files = &model.files;
    let together = draw(&Device::cpu(), files, &request).unwrap();
    let peak_bytes = Pipeline::plan(
        &Device::cpu(),
        files,
        DType::F32,
        &LoadOptions::for_request(&request),
        &request,
    )
    .unwrap()
    .peak_bytes;
    for expected in [&[Rung::GuidanceInTurn][..], &[Rung::GuidanceInTurn, Rung::ParkSkips]] {
        // The largest budget, in steps of 1 %, that asks for these rungs.
        let device = (1..100).find_map(|percent| {
            let budget_bytes = Some(peak_bytes / 100 * (100 - percent));
            let device = Device::cpu_with(&DeviceOptions { budget_bytes, ..Default::default() });
            let options = LoadOptions::for_request(&request);
            let plan = Pipeline::plan(&device, files, DType::F32, &options, &request).ok()?;
            let parks = plan.rungs.contains(&Rung::ParkSkips);
            assert_eq!(plan.parked_bytes > 0, parks, "what is parked is counted");
            (plan.rungs == expected).then_some((device, plan))
        });
        let (device, plan) = device.expect("some budget has room after these rungs");
        let pipeline = Pipeline::load(&device, files, DType::F32, &LoadOptions::default()).unwrap();
        let mut said = Vec::new();
        let pictures = pipeline.generate(&request, &mut |progress| {
            if let Progress::LowMemory { part: Part::UNet, rung, .. } = progress {
                said.push(*rung);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(said, expected, "each change is said");
        for (picture, expected) in pictures.unwrap().iter().zip(&together) {
            assert!(psnr_db(1.0, &picture.rgb, expected) >= 100.0);
        }
        let stats = device.memory_stats();
        assert!(stats.peak_held_bytes <= stats.budget_bytes);
        assert_eq!(stats.peak_held_bytes, plan.peak_bytes);
        assert_eq!(stats.peak_parked_bytes, plan.parked_bytes);
    }
}

#[test]
fn outputs_over_the_largest_allocation_are_split() {
    let (case, model) = case("sd15/image");
    let mut request = Request { width: Some(128), height: Some(96), steps: 2, ..request(&case) };
    let rgb = random_model::image("input.split.image", 3 * 128 * 96);
    request.init_image = Some(InitImage { rgb, strength: 1.0 });
    let files = &model.files;
    let largest_bytes = |device: &Device| {
        let plan = Pipeline::plan(
            device,
            files,
            DType::F32,
            &LoadOptions::for_request(&request),
            &request,
        )
        .unwrap();
        plan.largest_allocation_bytes
    };
    assert!(largest_bytes(&Device::cpu()) > 1_400_000);
    let expected = draw(&Device::cpu(), files, &request).unwrap().remove(0);
    // Room for the largest weight, and for a third of the autoencoder's largest activations; and
    // for half the weight.
    for limit_bytes in [700_000, 350_000] {
        let max_allocation_bytes = Some(limit_bytes);
        let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
        for device in common::open_devices(&options) {
            // A software rasteriser takes half a minute for a picture.
            if !device.info().prefers_register_tiles() {
                continue;
            }
            let planned = largest_bytes(&device);
            let picture = draw(&device, files, &request).unwrap().remove(0);
            let psnr = psnr_db(1.0, &picture, &expected);
            assert!(psnr >= 100.0, "{}: {psnr:.1} dB", device.info().name);
            assert_eq!(device.memory_stats().largest_allocation_bytes, planned);
            assert!(planned <= limit_bytes, "{planned} of {limit_bytes} B");
        }
    }
}

#[test]
fn weights_in_pieces_draw_the_same_picture_to_the_bit() {
    let (case, model) = case("sd15/text");
    let request = Request { width: Some(32), height: Some(32), steps: 2, ..request(&case) };
    let files = &model.files;
    let draw = |device: &Device, dtype, options: &LoadOptions| {
        let pipeline = Pipeline::load(device, files, dtype, options).unwrap();
        let pictures = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()));
        pictures.unwrap().remove(0).rgb
    };
    let resident = LoadOptions::default();
    let offloaded = LoadOptions { offload: Component::ALL.into(), ..Default::default() };
    for dtype in DType::ALL {
        // The largest activations fit, weights of three of their panels do not.
        let limit_bytes = 75_000 * dtype.size() as u64;
        let max_allocation_bytes = Some(limit_bytes);
        let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
        let unlimited = common::open_devices(&DeviceOptions::default());
        for (whole, split) in unlimited.iter().zip(&common::open_devices(&options)) {
            if !whole.info().prefers_register_tiles() {
                continue;
            }
            let expected = draw(whole, dtype, &resident);
            for load in [&resident, &offloaded] {
                let why = format!("{dtype}, {:?} on {}", load.offload, split.info().name);
                let split = split.sharing_programs(&options);
                let plan = Pipeline::plan(&split, files, dtype, load, &request).unwrap();
                assert!(draw(&split, dtype, load) == expected, "{why}");
                let stats = split.memory_stats();
                assert_eq!(stats.largest_allocation_bytes, plan.largest_allocation_bytes, "{why}");
                assert!(stats.largest_allocation_bytes <= limit_bytes, "{why}: {stats:?}");
            }
            assert!(whole.memory_stats().largest_allocation_bytes > 2 * limit_bytes);
        }
    }
}

#[test]
fn the_prediction_type_of_a_request_wins_over_that_of_the_files() {
    // The same model but for what its scheduler's file says it predicts.
    let (case, model) = case("sd21/text");
    let request = request(&case);
    let draw = |prediction_type| {
        let request = Request { prediction_type, ..request.clone() };
        draw(&Device::cpu(), &model.files, &request).unwrap().remove(0)
    };
    let from_file = draw(None);
    assert_eq!(from_file, draw(Some(PredictionType::VPrediction)));
    assert!(psnr_db(1.0, &from_file, &draw(Some(PredictionType::Epsilon))) < 40.0);
}

#[test]
fn a_picture_can_be_stopped() {
    let (case, model) = case("sd15/text");
    let device = Device::cpu();
    let pipeline =
        Pipeline::load(&device, &model.files, DType::F32, &LoadOptions::default()).unwrap();
    let mut steps = 0;
    let result = pipeline.generate(&request(&case), &mut |progress| match progress {
        Progress::Step { done, .. } => {
            steps = *done;
            if *done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(steps, 2);
    // The pipeline is as good as new.
    let pictures = pipeline.generate(&request(&case), &mut |_| ControlFlow::Continue(()));
    assert!(psnr_db(1.0, &pictures.unwrap()[0].rgb, &expected(&case)[0]) >= 80.0);
}

#[test]
fn requests_that_cannot_be_drawn_are_refused_by_name() {
    let device = Device::cpu();
    let model = Model::write("sd15");
    let pipeline =
        Pipeline::load(&device, &model.files, DType::F32, &LoadOptions::default()).unwrap();
    let image = InitImage { rgb: vec![0.0; 64 * 64 * 3], strength: 0.5 };
    let small = Request { width: Some(64), height: Some(64), steps: 2, ..Request::default() };
    let refused = [
        (Request { width: Some(60), ..small.clone() }, "width: expected a multiple of 8"),
        (Request { height: Some(0), ..small.clone() }, "height: expected a multiple of 8"),
        (Request { steps: 0, ..small.clone() }, "steps: expected 1 to 1000, got 0"),
        (Request { count: 0, ..small.clone() }, "count: expected 1 to 64, got 0"),
        (Request { guidance_scale: f32::NAN, ..small.clone() }, "guidance scale: expected"),
        (Request { init_image: Some(image), ..small.clone() }, "init image: the pipeline was"),
    ];
    for (request, message) in refused {
        let error = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
}
