//! A device that fails: the error says so, memory goes back, and the next call works.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/demo.rs"]
mod demo;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ellesmere::backend::cpu::Cpu;
use ellesmere::backend::{Backend, Buffer, CopyRegion, Launch, Program, ProgramSource, Timer};
use ellesmere::info::DeviceInfo;
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::pipeline::{
    Component, LoadOptions, Part, Pipeline, Progress, Request, Rung, VaeTiling,
};
use ellesmere::{DType, Device, DeviceOptions, Error, Result};

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Allocate,
    Write,
    Read,
    Build,
    Launch,
}

const CALLS: [Call; 5] = [Call::Allocate, Call::Write, Call::Read, Call::Build, Call::Launch];

/// The CPU, on which one kind of call, or any call, fails once, or from then on.
#[derive(Debug)]
struct Failing {
    cpu: Cpu,
    /// The only kind that is counted and fails, if there is one.
    call: Option<Call>,
    /// Calls of that kind so far.
    count: AtomicU64,
    /// The first that fails, from 1; 0 for none.
    at: AtomicU64,
    /// As if copies took place beside launches, so that they are made ahead.
    overlaps_transfers: bool,
    /// How many allocations fail in a row. The manager asks a second time, after it has let go of
    /// what nobody uses, so an odd one out goes unnoticed.
    failures: AtomicU64,
}

impl Failing {
    fn new(call: impl Into<Option<Call>>) -> Arc<Self> {
        Self::overlapping(call, false)
    }

    fn overlapping(call: impl Into<Option<Call>>, overlaps_transfers: bool) -> Arc<Self> {
        let (call, count, at) = (call.into(), AtomicU64::new(0), AtomicU64::new(0));
        let failures = AtomicU64::new(2);
        Arc::new(Self { cpu: Cpu::new(), call, count, at, overlaps_transfers, failures })
    }

    fn fail_at(&self, at: u64) {
        self.count.store(0, Ordering::SeqCst);
        self.at.store(at, Ordering::SeqCst);
    }

    fn pass(&self, call: Call) -> Result<()> {
        if self.call.is_some_and(|only| only != call) {
            return Ok(());
        }
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let at = self.at.load(Ordering::SeqCst);
        let failures = match call {
            Call::Allocate => self.failures.load(Ordering::SeqCst),
            _ => 1,
        };
        if at == 0 || !(at..at + failures).contains(&count) {
            return Ok(());
        }
        let device = "the failing device".to_owned();
        Err(match call {
            Call::Allocate => {
                Error::OutOfMemory { requested_bytes: 0, held_bytes: 0, budget_bytes: 0 }
            }
            Call::Build => Error::Build { kernel: "any".to_owned(), device, log: String::new() },
            Call::Write | Call::Read | Call::Launch => {
                Error::Device { call: "a driver call", detail: "lost (-1)".to_owned() }
            }
        })
    }
}

impl Backend for Failing {
    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }

    fn overlaps_transfers(&self) -> bool {
        self.overlaps_transfers
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        self.pass(Call::Allocate)?;
        self.cpu.allocate(bytes)
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        self.cpu.part(whole, offset, bytes)
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.pass(Call::Write)?;
        self.cpu.write(target, offset, data)
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        self.pass(Call::Read)?;
        self.cpu.read(source, offset, data)
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        self.cpu.copy(region)
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        self.pass(Call::Build)?;
        self.cpu.build(source)
    }

    fn binary(&self, program: &Program) -> Option<Vec<u8>> {
        self.cpu.binary(program)
    }

    fn load(&self, source: &ProgramSource, binary: &[u8]) -> Result<Program> {
        self.cpu.load(source, binary)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        self.pass(Call::Launch)?;
        self.cpu.launch(program, launch)
    }

    fn finish(&self) -> Result<()> {
        self.cpu.finish()
    }
}

fn small_request() -> Request {
    Request {
        prompt: "a cat".to_owned(),
        width: Some(32),
        height: Some(32),
        steps: 1,
        guidance_scale: 1.0,
        ..Request::default()
    }
}

fn draw(device: &Device, files: &ModelFiles, options: &LoadOptions) -> Result<Vec<f32>> {
    let pipeline = Pipeline::load(device, files, DType::F32, options)?;
    let mut pictures = pipeline.generate(&small_request(), &mut |_| ControlFlow::Continue(()))?;
    Ok(pictures.remove(0).rgb)
}

#[test]
fn a_failure_at_any_call_is_an_error_and_the_next_picture_is_right() {
    let folder = random_model::write("bk-tiny");
    let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
    let offloaded = LoadOptions { offload: Component::ALL.into(), ..Default::default() };
    let placements =
        [(LoadOptions::default(), false), (offloaded.clone(), false), (offloaded, true)];
    for (call, (options, overlaps)) in
        CALLS.iter().flat_map(|call| placements.iter().map(|placement| (*call, placement)))
    {
        let backend = Failing::overlapping(call, *overlaps);
        let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
        let expected = draw(&device, &files, options).unwrap();
        device.memory().trim();
        let calls = backend.count.load(Ordering::SeqCst);
        assert!(calls > 0, "a picture makes no {call:?}");
        // A device of its own for each, so that programs are built anew.
        for at in [1, 2, calls / 3, calls / 2, calls - 1, calls] {
            let backend = Failing::overlapping(call, *overlaps);
            let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
            // More than what is repeated with less memory can take.
            backend.failures.store(100, Ordering::SeqCst);
            backend.fail_at(at.max(1));
            let error = draw(&device, &files, options).unwrap_err();
            let fits = match call {
                Call::Allocate => matches!(error, Error::OutOfMemory { .. }),
                Call::Build => matches!(error, Error::Build { .. }),
                _ => matches!(error, Error::Device { .. }),
            };
            assert!(fits, "{call:?} {at} of {calls} failed with {error}");
            device.memory().trim();
            assert_eq!(device.memory_stats().held_bytes, 0, "after {call:?} {at} of {calls}");
            assert_eq!(device.memory_stats().live_bytes, 0, "after {call:?} {at} of {calls}");
            assert_eq!(device.memory_stats().host_bytes, 0, "after {call:?} {at} of {calls}");
            backend.fail_at(0);
            assert_eq!(
                draw(&device, &files, options).unwrap(),
                expected,
                "after {call:?} {at} of {calls}"
            );
        }
    }
}

#[test]
fn an_allocation_that_fails_says_what_was_asked_for_and_what_was_held() {
    let backend = Failing::new(Call::Allocate);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    backend.fail_at(1);
    let error = ellesmere::Tensor::from_slice(&device, &[4], DType::F32, &[0.0; 4]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "device out of memory: 256 B requested, 0 B of {} B held",
            device.info().memory_bytes
        )
    );
    backend.fail_at(0);
    ellesmere::Tensor::from_slice(&device, &[4], DType::F32, &[0.0; 4]).unwrap();
    assert_eq!(backend.count.load(Ordering::SeqCst), 1);
}

#[test]
fn each_of_the_first_calls_can_fail_in_turn() {
    const FIRST: u64 = 500;
    let folder = random_model::write("bk-tiny");
    let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
    let backend = Failing::new(None);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    let options = LoadOptions::default();
    let expected = draw(&device, &files, &options).unwrap();
    let calls = || backend.count.load(Ordering::SeqCst);
    // The same picture, or one line.
    let check = |result: Result<Vec<f32>>, why: &str| match result {
        Ok(picture) => {
            assert!(picture == expected, "{why}");
            true
        }
        Err(error) => {
            let known = matches!(error, Error::OutOfMemory { .. } | Error::Device { .. });
            assert!(known && error.to_string().lines().count() == 1, "{why}: {error}");
            false
        }
    };

    // Of loading and drawing, with programs that are built already.
    backend.fail_at(0);
    draw(&device, &files, &options).unwrap();
    for at in 1..=FIRST.min(calls()) {
        let why = format!("call {at}");
        backend.fail_at(at);
        check(draw(&device, &files, &options), &why);
        device.memory().trim();
        let stats = device.memory_stats();
        assert_eq!([stats.held_bytes, stats.live_bytes], [0, 0], "{why}");
        if at % 50 == 0 {
            backend.fail_at(0);
            assert!(check(draw(&device, &files, &options), &why), "{why}: the next call works");
            device.memory().trim();
        }
    }

    // Of drawing alone.
    backend.fail_at(0);
    let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
    device.memory().trim();
    let held_bytes = device.memory_stats().held_bytes;
    let draw = || {
        let mut warnings = 0;
        let pictures = pipeline.generate(&small_request(), &mut |progress| {
            warnings += u32::from(matches!(progress, Progress::LowMemory { .. }));
            ControlFlow::Continue(())
        });
        (pictures.map(|mut pictures| pictures.remove(0).rgb), warnings)
    };
    backend.fail_at(0);
    assert!(check(draw().0, "nothing fails"));
    let all = calls();
    let (mut warned, mut failed) = (0, 0);
    for at in 1..=FIRST.min(all) {
        let why = format!("call {at} of {all} of drawing");
        device.memory().trim();
        backend.fail_at(at);
        let (picture, warnings) = draw();
        match check(picture, &why) {
            true => {
                assert_eq!(warnings, 1, "{why}: an allocation");
                warned += 1;
            }
            false => failed += 1,
        }
        device.memory().trim();
        let stats = device.memory_stats();
        assert_eq!([stats.held_bytes, stats.live_bytes], [held_bytes; 2], "{why}");
        if at % 50 == 0 {
            backend.fail_at(0);
            assert!(check(draw().0, &why), "{why}: the next call works");
        }
    }
    assert!(warned > 0 && failed > 0, "{warned} warned, {failed} failed of {all}");
    drop(pipeline);
    device.memory().trim();
    assert_eq!(device.memory_stats().held_bytes, 0);
}

#[test]
fn a_decoder_without_room_takes_smaller_tiles_until_it_has() {
    let files = demo::files();
    let backend = Failing::new(Call::Allocate);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    let pipeline = Pipeline::load(&device, &files, DType::F32, &LoadOptions::default()).unwrap();
    let draw = |vae_tiling, failures| {
        let request =
            Request { width: Some(192), height: Some(192), vae_tiling, ..small_request() };
        backend.failures.store(failures, Ordering::SeqCst);
        let mut rungs = Vec::new();
        let pictures = pipeline.generate(&request, &mut |progress| {
            match progress {
                Progress::Decoding if failures > 0 => backend.fail_at(3),
                Progress::LowMemory { part: Part::Decoding, rung, .. } => rungs.push(*rung),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        backend.fail_at(0);
        (pictures.map(|mut pictures| pictures.remove(0).rgb), rungs)
    };
    let expected = draw(VaeTiling::Auto, 0).0.unwrap();
    // Two calls for each attempt; tiles of 128 and 64 pixels are smaller than the picture.
    let tiles = Rung::SmallerTiles;
    for (failures, rungs) in [(4, vec![Rung::Again, tiles]), (6, vec![Rung::Again, tiles, tiles])] {
        let (picture, taken) = draw(VaeTiling::Auto, failures);
        assert_eq!(taken, rungs);
        assert!(picture.unwrap() == expected, "the same to the bit after {taken:?}");
    }
    for (tiling, failures) in [(VaeTiling::Auto, 100), (VaeTiling::Off, 4)] {
        let (picture, taken) = draw(tiling, failures);
        assert!(matches!(picture, Err(Error::OutOfMemory { .. })), "{tiling:?} after {taken:?}");
        assert_eq!(taken.contains(&tiles), tiling == VaeTiling::Auto);
    }
}

/// What became of a request of two guided steps, and the rungs that it went down.
fn draw_guided(pipeline: &Pipeline) -> (Result<Vec<f32>>, Vec<(Part, Rung)>) {
    let request = Request {
        prompt: "sunset over the sea".to_owned(),
        width: Some(64),
        height: Some(64),
        steps: 2,
        guidance_scale: 4.0,
        ..Request::default()
    };
    let mut rungs = Vec::new();
    let pictures = pipeline.generate(&request, &mut |progress| {
        if let Progress::LowMemory { part, rung, .. } = progress {
            rungs.push((*part, *rung));
        }
        ControlFlow::Continue(())
    });
    (pictures.map(|mut pictures| pictures.remove(0).rgb), rungs)
}

#[test]
fn each_of_the_first_allocations_can_fail_in_turn() {
    const ALLOCATIONS: u64 = 500;
    let files = demo::files();
    let backend = Failing::new(Call::Allocate);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    let load = || Pipeline::load(&device, &files, DType::F32, &LoadOptions::default());
    let allocations = || backend.count.load(Ordering::SeqCst);

    // Nothing can be repeated with less while weights are loaded: one line.
    drop(load().unwrap());
    let weights = allocations();
    for at in 1..=weights.min(ALLOCATIONS) {
        backend.fail_at(at);
        let error = load().unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{at}: {error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        device.memory().trim();
        assert_eq!(device.memory_stats().held_bytes, 0, "after allocation {at}");
    }

    // A picture is drawn all the same, after a warning.
    backend.fail_at(0);
    let mut pipeline = load().unwrap();
    device.memory().trim();
    let held = device.memory_stats().held_bytes;
    let (expected, rungs) = draw_guided(&pipeline);
    let expected = expected.unwrap();
    let drawing = allocations() - weights;
    assert_eq!(rungs, []);
    let (mut warned, mut in_turn, mut offloaded) = (0, 0, 0);
    for at in 1..=drawing.min(ALLOCATIONS) {
        // Alone; and with what is asked for when the part is repeated.
        let failures = if at % 8 == 0 { 4 } else { 2 };
        backend.failures.store(failures, Ordering::SeqCst);
        device.memory().trim();
        backend.fail_at(at);
        let (picture, rungs) = draw_guided(&pipeline);
        if allocations() < at {
            break;
        }
        let last = rungs.last();
        match picture {
            Ok(picture) if last.is_some_and(|(_, rung)| *rung == Rung::GuidanceInTurn) => {
                // To rounding: a batch of one takes other kernels' paths.
                let off = |(a, b): (&f32, &f32)| (a - b).abs();
                let most = picture.iter().zip(&expected).map(off).fold(0.0, f32::max);
                assert!(most < 1e-3, "after allocation {at}: {most}");
                in_turn += 1;
            }
            Ok(picture) => {
                assert!(picture == expected, "after allocation {at}: the same to the bit");
                match rungs.as_slice() {
                    [(_, Rung::Again)] => warned += 1,
                    // All that there is to do but for the UNet.
                    [(_, Rung::Again), (part, Rung::OffloadOthers)] if *part != Part::UNet => {
                        offloaded += 1;
                        assert!(device.memory_stats().host_bytes > 0, "after allocation {at}");
                        backend.fail_at(0);
                        drop(pipeline);
                        pipeline = load().unwrap();
                    }
                    _ => panic!("{at}: {rungs:?}"),
                }
            }
            Err(error) => panic!("{at}, {failures} failures: {error} after {rungs:?}"),
        }
        device.memory().trim();
        assert_eq!(device.memory_stats().held_bytes, held, "after allocation {at}");
    }
    let counts = format!("{warned} warned, {in_turn} in turn, {offloaded} offloaded");
    assert!(warned > 0 && in_turn > 0 && offloaded > 0, "{counts}");
    drop(pipeline);
    device.memory().trim();
    assert_eq!(device.memory_stats().held_bytes, 0);
    assert_eq!(device.memory_stats().live_bytes, 0);
}

#[test]
fn an_allocation_that_fails_while_weights_are_copied_ahead_leaves_the_picture_as_it_is() {
    let files = demo::files();
    let backend = Failing::overlapping(Call::Allocate, true);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    let options = LoadOptions { offload: Component::ALL.into(), ..Default::default() };
    let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
    device.memory().trim();
    let held = device.memory_stats().held_bytes;
    backend.fail_at(0);
    let (expected, rungs) = draw_guided(&pipeline);
    assert_eq!(rungs, []);
    let expected = expected.unwrap();
    let drawing = backend.count.load(Ordering::SeqCst);
    let (mut unnoticed, mut warned) = (0, 0);
    for at in (1..=drawing).step_by(5) {
        device.memory().trim();
        backend.fail_at(at);
        let (picture, rungs) = draw_guided(&pipeline);
        assert!(picture.unwrap() == expected, "after allocation {at}: {rungs:?}");
        match rungs.as_slice() {
            // The second slot was done without.
            [] => unnoticed += 1,
            [(_, Rung::Again)] => warned += 1,
            _ => panic!("{at}: {rungs:?}"),
        }
        device.memory().trim();
        assert_eq!(device.memory_stats().held_bytes, held, "after allocation {at}");
    }
    assert!(unnoticed > 0 && warned > 0, "{unnoticed} unnoticed, {warned} warned");
}

/// Draws two steps without guidance. As soon as `part` begins (the UNet's second step), so many
/// allocations fail in a row.
fn draw_failing(
    pipeline: &Pipeline,
    device: &Device,
    backend: &Failing,
    part: Part,
    failures: u64,
) -> (Result<Vec<f32>>, Vec<Rung>) {
    let request = Request { steps: 2, vae_tiling: VaeTiling::Off, ..small_request() };
    backend.failures.store(failures, Ordering::SeqCst);
    let fail = || backend.fail_at(u64::from(failures > 0));
    backend.fail_at(0);
    if part == Part::TextEncoding {
        fail();
    }
    let mut rungs = Vec::new();
    let pictures = pipeline.generate(&request, &mut |progress| {
        match progress {
            Progress::Step { done: 1, .. } if part == Part::UNet => {
                // The first step's blocks would do for the second.
                device.memory().trim();
                fail();
            }
            Progress::Decoding if part == Part::Decoding => fail(),
            Progress::LowMemory { part: at, rung, .. } => {
                assert_eq!(*at, part);
                rungs.push(*rung);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    backend.fail_at(0);
    (pictures.map(|mut pictures| pictures.remove(0).rgb), rungs)
}

#[test]
fn weights_make_room_for_a_part_that_finds_none() {
    use Component::{TextEncoder, UNet, Vae};
    let files = demo::files();
    let backend = Failing::new(Call::Allocate);
    let device = Device::new(Arc::clone(&backend) as _, &DeviceOptions::default());
    let load = |offload: &[Component]| {
        let offload = offload.iter().copied().collect();
        let options = LoadOptions { offload, ..LoadOptions::default() };
        let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
        device.memory().trim();
        pipeline
    };
    let places = || {
        device.memory().trim();
        let stats = device.memory_stats();
        assert_eq!(stats.held_bytes, stats.live_bytes);
        [stats.held_bytes, stats.host_bytes]
    };
    let expected = draw_failing(&load(&[]), &device, &backend, Part::UNet, 0).0.unwrap();
    let text_config = &files.text_encoder.config;
    let vocabulary = |tokens: usize| (tokens * text_config.hidden_size * 4) as u64;
    let tokens = text_config.vocab_size;
    let (again, parked) = (Rung::Again, Rung::ParkSkips);
    let (others, own) = (Rung::OffloadOthers, Rung::OffloadOwn);
    // Two calls for each attempt.
    let cases = [
        (Part::TextEncoding, vec![again, others], vec![UNet, Vae]),
        (Part::TextEncoding, vec![again, others, own], vec![TextEncoder, UNet, Vae]),
        (Part::UNet, vec![again, parked, others], vec![TextEncoder, Vae]),
        (Part::UNet, vec![again, parked, others, own], vec![TextEncoder, UNet, Vae]),
        (Part::Decoding, vec![again, others], vec![TextEncoder, UNet]),
        (Part::Decoding, vec![again, others, own], vec![TextEncoder, UNet, Vae]),
    ];
    for (part, rungs, offloaded) in cases {
        let placed = load(&offloaded);
        let [mut held, mut host] = places();
        drop(placed);
        // The vocabulary stays where it was loaded: on the device, in panels of 32 tokens.
        if offloaded.contains(&TextEncoder) {
            held += vocabulary(tokens.next_multiple_of(32));
            host -= vocabulary(tokens);
        }
        let pipeline = load(&[]);
        let (picture, taken) =
            draw_failing(&pipeline, &device, &backend, part, 2 * rungs.len() as u64);
        assert_eq!(taken, rungs, "{part}");
        assert!(picture.unwrap() == expected, "{part}: the same to the bit after {rungs:?}");
        assert_eq!(places(), [held, host], "{part} after {rungs:?}");
        // From now on.
        let copied = device.memory_stats().copied_bytes;
        let (picture, taken) = draw_failing(&pipeline, &device, &backend, part, 0);
        assert_eq!(taken, []);
        assert!(picture.unwrap() == expected, "{part}: the next picture");
        assert!(device.memory_stats().copied_bytes > copied, "{part}");
        assert_eq!(places(), [held, host], "{part}");
        drop(pipeline);
        assert_eq!(places(), [0, 0], "{part}");
    }
    let pipeline = load(&[]);
    let (picture, taken) = draw_failing(&pipeline, &device, &backend, Part::UNet, 100);
    assert!(matches!(picture, Err(Error::OutOfMemory { .. })), "nothing is left to be done");
    assert_eq!(taken, [again, parked, others, own]);
    assert!(draw_failing(&pipeline, &device, &backend, Part::UNet, 0).0.unwrap() == expected);
    assert_eq!(others.to_string(), "the weights of all else wait on the host from now on");
    assert_eq!(own.to_string(), "its own weights wait on the host, too, from now on");
}

#[test]
fn weights_make_room_for_what_others_have_registered() {
    let files = demo::files();
    let options = LoadOptions::default();
    let plan = Pipeline::plan(&Device::cpu(), &files, DType::F32, &options, &small_request());
    let budget_bytes = Some(plan.unwrap().peak_bytes);
    let device = Device::cpu_with(&DeviceOptions { budget_bytes, ..Default::default() });
    let pipeline = Pipeline::load(&device, &files, DType::F32, &options).unwrap();
    let draw = || {
        let mut rungs = Vec::new();
        let pictures = pipeline.generate(&small_request(), &mut |progress| {
            if let Progress::LowMemory { rung, .. } = progress {
                rungs.push(*rung);
            }
            ControlFlow::Continue(())
        });
        (pictures.map(|mut pictures| pictures.remove(0).rgb), rungs)
    };
    let (expected, rungs) = draw();
    assert_eq!(rungs, []);
    let other = device.memory().register("video encoder", device.memory_stats().live_bytes / 3);
    let (picture, rungs) = draw();
    assert!(rungs.contains(&Rung::OffloadOthers), "{rungs:?}");
    assert!(picture.unwrap() == expected.unwrap(), "the same to the bit after {rungs:?}");
    device.memory().trim();
    let stats = device.memory_stats();
    assert!(stats.held_bytes + other.bytes() <= stats.budget_bytes && stats.host_bytes > 0);
}
