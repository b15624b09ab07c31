//! How long a picture takes, what it needs and what to run it with, all known before: times by
//! kernels measured on the device, peaks to the byte.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;

use std::fs;
use std::ops::ControlFlow;

use common::demo;

use ellesmere::pipeline::{
    Choice, Component, LoadOptions, Pipeline, Plan, Progress, Request, Rung, VaeTiling, recommend,
};
use ellesmere::{DType, Device, DeviceOptions, Error, Result};

fn small() -> Request {
    let prompt = "a red house in the snow".to_owned();
    Request { prompt, width: Some(64), height: Some(64), steps: 2, ..Request::default() }
}

fn go_on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The CPU and devices that are as quick: a software rasteriser takes half a minute for a picture.
fn quick_devices(options: &DeviceOptions) -> Vec<Device> {
    let devices = common::open_devices(options).into_iter();
    devices.filter(|device| device.info().prefers_register_tiles()).collect()
}

fn plan(device: &Device, dtype: DType, request: &Request) -> Result<Plan> {
    let options = LoadOptions::for_request(request);
    Pipeline::plan(device, &demo::files(), dtype, &options, request)
}

#[test]
fn a_plan_is_timed_by_its_parts_and_what_was_measured_is_remembered() {
    let files = demo::files();
    for device in quick_devices(&DeviceOptions::default()) {
        let mut first = plan(&device, DType::F32, &small()).unwrap();
        assert_eq!(first.times, None, "a plan alone measures nothing");
        let times = first.time(&device, &files, &mut go_on).unwrap().clone();
        assert_eq!(times.basis.estimated_launches, 0);
        assert!(times.basis.different_launches > 20);
        let stages: Vec<&str> = times.stages.iter().map(|stage| stage.stage).collect();
        assert_eq!(stages, ["text encoder", "unet", "vae decode"]);
        let sum: f64 = times.stages.iter().map(|stage| stage.seconds()).sum();
        assert!((sum - times.drawing_seconds).abs() < 1e-9);
        assert!(times.load_seconds > 0.0 && times.total_seconds > times.drawing_seconds);
        let unet = &times.stages[1];
        assert!((unet.seconds() - first.calls as f64 * times.call_seconds).abs() < 1e-9);
        assert!(unet.launch_seconds > unet.transfer_seconds && unet.weight_seconds == 0.0);
        assert_eq!(device.memory_stats().peak_held_bytes, 0, "measuring leaves no trace");

        let mut measured = 0;
        let mut again = plan(&device, DType::F32, &small()).unwrap();
        let observer = &mut |progress: &Progress| {
            if let Progress::Timing { total, .. } = progress {
                measured += total;
            }
            ControlFlow::Continue(())
        };
        let told = again.time(&device, &files, observer).unwrap();
        assert_eq!(told.stages, times.stages);
        assert_eq!(measured, 0, "everything was known");
        assert_eq!(again.estimate(&device).stages, times.stages, "what is known is not estimated");
        assert!(device.notes().is_empty(), "{:?}", device.notes());
    }
}

#[test]
fn times_outlive_the_device_in_its_cache_folder() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        DeviceOptions { cache_dir: Some(folder.path().to_owned()), ..DeviceOptions::default() };
    // How many launches had to be measured.
    let timed = |device: &Device| {
        let (mut plan, mut measured) = (plan(device, DType::F32, &small()).unwrap(), 0);
        let observer = &mut |progress: &Progress| {
            if let Progress::Timing { total, .. } = progress {
                measured = *total;
            }
            ControlFlow::Continue(())
        };
        plan.time(device, &demo::files(), observer).unwrap();
        measured
    };
    let first = timed(&Device::cpu_with(&options));
    assert!(first > 20, "{first}");
    assert_eq!(timed(&Device::cpu_with(&options)), 0);
    let find = |extension: &str| {
        let entries = fs::read_dir(folder.path().join("timings")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect::<Vec<_>>()
    };
    // A damaged file is put aside and said, and everything is measured again.
    let kept = find("json").remove(0);
    fs::write(&kept, "half of a fi").unwrap();
    let device = Device::cpu_with(&options);
    assert_eq!(timed(&device), first);
    assert!(device.notes()[0].contains("kept aside as"), "{:?}", device.notes());
    assert_eq!((find("json").len(), find("corrupt").len()), (1, 1));
}

#[test]
fn measuring_can_be_stopped_and_what_was_measured_holds() {
    let (device, files) = (Device::cpu(), demo::files());
    let mut plan = plan(&device, DType::F32, &small()).unwrap();
    let all = plan.estimate(&device).basis.estimated_launches;
    let stop_at_5 = &mut |progress: &Progress| match progress {
        Progress::Timing { done: 5.., .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = plan.time(&device, &files, stop_at_5).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    let estimated = plan.estimate(&device).basis.clone();
    assert_eq!(estimated.estimated_launches, all - 5);
    assert_eq!(estimated.estimated_from, "launches of the same kernels");
    plan.time(&device, &files, &mut go_on).unwrap();
}

#[test]
fn the_quickest_placement_is_taken_and_its_rungs_are_told() {
    let files = demo::files();
    let whole = plan(&Device::cpu(), DType::F32, &small()).unwrap();
    let mut seen = 0;
    for percent in [90, 70, 50, 30] {
        let budget_bytes = Some(whole.peak_bytes / 100 * percent);
        let device = Device::cpu_with(&DeviceOptions { budget_bytes, ..Default::default() });
        let fitting = LoadOptions::fitting(&device, &files, DType::F32, &small());
        let Ok((options, mut chosen)) = fitting else { continue };
        seen += 1;
        let seconds = chosen.times.as_ref().unwrap().drawing_seconds;
        // None of the placements that people think of first is quicker.
        for offload in [&Component::ALL[..], &[Component::UNet], &[Component::TextEncoder]] {
            let offload = offload.iter().copied().collect();
            let other = LoadOptions { offload, ..options.clone() };
            match Pipeline::plan(&device, &files, DType::F32, &other, &small()) {
                Ok(mut plan) => assert!(plan.estimate(&device).drawing_seconds >= seconds),
                Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
            }
        }
        chosen.time(&device, &files, &mut go_on).unwrap();
        let rungs = options.offload.len()
            + [Rung::GuidanceInTurn, Rung::ParkSkips]
                .iter()
                .filter(|rung| chosen.rungs.contains(rung))
                .count()
            + usize::from(chosen.vae_tile.is_some());
        assert_eq!(chosen.ladder.len(), rungs, "{:?}", chosen.ladder);
        if rungs == 0 {
            // What the pool keeps for later can be done without.
            assert!(percent > 70, "{percent} % is not enough for all");
            continue;
        }
        let saved: u64 = chosen.ladder.iter().map(|rung| rung.saves_bytes).sum();
        assert!(saved > 0 && saved < whole.peak_bytes, "{:?}", chosen.ladder);
        assert!(chosen.ladder.iter().any(|rung| rung.costs_seconds > 0.0), "{:?}", chosen.ladder);
        let text = chosen.to_string();
        assert!(text.contains("for want of room") && text.contains("predicted time"), "{text}");
    }
    assert!(seen >= 2, "some of the budgets have to do");
}

#[test]
fn what_is_recommended_holds_what_was_predicted_and_no_more_pictures_fit_than_that() {
    let files = demo::files();
    let base = LoadOptions::for_request(&small());
    let mut shares = 0;
    let budget_bytes = 20_000_000;
    let options = DeviceOptions { budget_bytes: Some(budget_bytes), ..Default::default() };
    for device in quick_devices(&options) {
        let told = recommend(&device, &files, &base, &small(), &mut go_on).unwrap();
        assert_eq!((told.size, told.budget_bytes), ([64, 64], budget_bytes));
        let seconds = |choice: &Choice| choice.picture_seconds;
        let best = &told.choices[told.recommended];
        assert!(told.choices.iter().all(|choice| seconds(choice) >= seconds(best)));
        assert!(told.to_string().contains("\n->"), "{told}");

        for dtype in DType::ALL {
            let of_type = |choice: &&Choice| choice.dtype == dtype.name();
            let choices: Vec<&Choice> = told.choices.iter().filter(of_type).collect();
            let counts: Vec<usize> = choices.iter().map(|choice| choice.count).collect();
            assert!(counts.is_sorted() && counts[0] == 1, "{counts:?}");
            let most = *counts.last().unwrap();
            if most < 64 {
                let more = Request { count: most + 1, ..small() };
                let fitted = base.fitted(&device, &files, dtype, &more);
                assert!(matches!(fitted, Err(Error::Budget { .. })), "{dtype} {counts:?}");
            }
            // What the load would do by itself, and the one with the most pictures.
            for choice in [choices[0], choices[choices.len() - 1], best].into_iter() {
                let request = Request { count: choice.count, ..small() };
                let load = choice.load_options(&base);
                shares += usize::from(!load.resident_permille.is_empty());
                let dtype = choice.dtype.parse().unwrap();
                device.memory().trim();
                device.memory().reset_peaks();
                let pipeline = Pipeline::load(&device, &files, dtype, &load).unwrap();
                let pictures = pipeline.generate(&request, &mut go_on).unwrap();
                assert_eq!(pictures.len(), choice.count);
                let peak_bytes = device.memory_stats().peak_held_bytes;
                assert_eq!(peak_bytes, choice.peak_bytes, "{choice:?}");
            }
            let one = Request { count: 1, ..small() };
            let (load, plan) = base.fitted(&device, &files, dtype, &one).unwrap();
            let alone = choices[0];
            assert_eq!((load, plan.peak_bytes), (alone.load_options(&base), alone.peak_bytes));
        }
    }
    assert!(shares > 0, "some weights of a component fit, and not all");
}

#[test]
fn where_nothing_fits_the_least_budget_is_told() {
    let options = DeviceOptions { budget_bytes: Some(1_000_000), ..Default::default() };
    let base = LoadOptions::default();
    let recommended =
        |device: &Device| recommend(device, &demo::files(), &base, &small(), &mut go_on);
    let error = recommended(&Device::cpu_with(&options)).unwrap_err();
    let Error::Budget { budget_bytes: 1_000_000, least_bytes } = error else { panic!("{error}") };
    let options = DeviceOptions { budget_bytes: Some(least_bytes), ..Default::default() };
    let told = recommended(&Device::cpu_with(&options)).unwrap();
    let smallest = |choice: &Choice| choice.dtype == "f16" && choice.offload == Component::ALL;
    assert!(told.choices.iter().all(smallest), "{told}");
}

/// So many drawn configurations.
const DRAWN: u64 = 60;

/// Numbers that depend on where they begin alone.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % count as u64) as usize
    }
}

#[test]
fn drawn_configurations_hold_what_was_predicted_and_never_more_than_the_budget() {
    let files = demo::files();
    let mut drawn = 0;
    for number in 0..DRAWN {
        let mut numbers = Numbers(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut below = |count| numbers.below(count);
        let side = |index| Some(64 + 8 * index);
        let request = Request {
            width: side(below(5)),
            height: side(below(5)),
            count: 1 + below(2),
            steps: 1 + below(2),
            guidance_scale: [1.0, 7.5][below(2)],
            vae_tiling: [VaeTiling::Auto, VaeTiling::Exact, VaeTiling::Off][below(3)],
            vae_tile: Some([64, 96][below(2)]),
            seed: number,
            ..small()
        };
        let dtype = DType::ALL[below(2)];
        let options = DeviceOptions {
            budget_bytes: Some(6_000_000 + 500_000 * below(80) as u64),
            ..DeviceOptions::default()
        };
        let mut devices = quick_devices(&options);
        let device = devices.remove(below(devices.len()));
        let why = format!("{number}: {dtype} on {}, {options:?}, {request:?}", device.info().name);
        let (load, plan) = match LoadOptions::fitting(&device, &files, dtype, &request) {
            Err(Error::Budget { .. }) => continue,
            planned => planned.unwrap_or_else(|error| panic!("{why}: {error}")),
        };
        let pictures = Pipeline::load(&device, &files, dtype, &load)
            .and_then(|pipeline| pipeline.generate(&request, &mut go_on))
            .unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(pictures.len(), request.count);
        let stats = device.memory_stats();
        assert!(stats.peak_held_bytes <= stats.budget_bytes, "{why}");
        // Nothing else uses these devices' memory by the manager: it is exact.
        assert_eq!(stats.peak_held_bytes, plan.peak_bytes, "{why}");
        assert_eq!(stats.peak_parked_bytes, plan.parked_bytes, "{why}");
        drawn += 1;
    }
    assert!(drawn >= DRAWN * 2 / 3, "most of them fit: {drawn}");
}
