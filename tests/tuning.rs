//! Tuned configurations: found, remembered, and never in the way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ellesmere::backend::cpu::Cpu;
use ellesmere::backend::{
    Backend, Buffer, CopyRegion, Launch, Program, ProgramSource, Timer, Value,
};
use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::info::DeviceInfo;
use ellesmere::tune::{Autotune, Choice, Recording, StrategyKind, replay};
use ellesmere::{DType, Device, DeviceOptions, Error, Result, Tensor, ops};

/// The CPU behind a compiler that is not there: the value of `WG_SIZE` decides how long a launch
/// takes, by its own clock, and what becomes of it.
#[derive(Debug)]
struct Fake {
    cpu: Cpu,
    launches: AtomicU64,
}

#[derive(Debug)]
struct FakeProgram {
    program: Program,
    items: u32,
}

struct FakeTimer(Duration);

impl Timer for FakeTimer {
    fn elapsed(&self) -> Option<Duration> {
        Some(self.0)
    }
}

const DEFAULT: u32 = 64;
const QUICKEST: u32 = 128;
/// As quick as none, and wrong.
const WRONG: u32 = 256;
/// Does not build.
const BROKEN: u32 = 1;

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self { cpu: gpu(), launches: AtomicU64::new(0) })
    }
}

impl Backend for Fake {
    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        self.cpu.allocate(bytes)
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        self.cpu.part(whole, offset, bytes)
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.cpu.write(target, offset, data)
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        self.cpu.read(source, offset, data)
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        self.cpu.copy(region)
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        let items = source.parameters.iter().find(|(name, _)| *name == "WG_SIZE").unwrap().1;
        if items == BROKEN {
            let (kernel, device) = (source.kernel.to_owned(), "the fake".to_owned());
            return Err(Error::Build { kernel, device, log: "no".to_owned() });
        }
        Ok(Program::new(FakeProgram { program: self.cpu.build(source)?, items }))
    }

    fn binary(&self, _program: &Program) -> Option<Vec<u8>> {
        None
    }

    fn load(&self, source: &ProgramSource, _binary: &[u8]) -> Result<Program> {
        self.build(source)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        self.launches.fetch_add(1, Ordering::SeqCst);
        let FakeProgram { program, items } = program.handle();
        assert_eq!(launch.local[0], *items as usize, "the launch is that of the configuration");
        self.cpu.launch(program, launch)?;
        let micros = match *items {
            WRONG => {
                for argument in launch.arguments {
                    if let Value::Output(buffer) = argument.value {
                        self.cpu.write(buffer, 0, &1.0e9f32.to_ne_bytes())?;
                    }
                }
                1
            }
            QUICKEST => 10,
            DEFAULT => 100,
            _ => 1000,
        };
        Ok(Box::new(FakeTimer(Duration::from_micros(micros))))
    }

    fn finish(&self) -> Result<()> {
        self.cpu.finish()
    }
}

/// The host under the description of a GPU, for which layer_norm suggests its defaults.
fn gpu() -> Cpu {
    let info = Cpu::new().info().clone();
    Cpu::definitions_for(DeviceInfo { vector_width: 1, ..info })
}

const ON_FIRST_USE: Autotune = Autotune::OnFirstUse { limit: Duration::from_secs(30) };

fn options(autotune: Autotune, file: &Path) -> DeviceOptions {
    DeviceOptions { autotune, tuning: Some(file.to_owned()), ..DeviceOptions::default() }
}

/// layer_norm of so many rows of two values.
fn run(device: &Device, rows: usize) -> Vec<f32> {
    let tensor =
        |shape: &[usize], values: &[f32]| Tensor::from_slice(device, shape, DType::F32, values);
    let x = tensor(&[rows, 2], &[3.0, 5.0].repeat(rows)).unwrap();
    let (gamma, beta) = (tensor(&[2], &[1.0, 1.0]).unwrap(), tensor(&[2], &[0.0, 0.5]).unwrap());
    ops::layer_norm(&x, &gamma, &beta, 0.0).unwrap().to_vec().unwrap()
}

fn choice(device: &Device, rows: usize) -> Choice {
    let mut choices = device.choices();
    choices.retain(|choice| choice.class.sizes()["rows"] == rows);
    choices.pop().expect("the op asked for a configuration")
}

fn items(device: &Device, rows: usize) -> u32 {
    choice(device, rows).configuration.get("WG_SIZE")
}

#[test]
fn a_new_shape_is_tuned_once_and_remembered_for_the_next_device() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    let expected = run(&Device::cpu(), 8);

    let fake = Fake::new();
    let device = Device::new(Arc::clone(&fake) as _, &options(ON_FIRST_USE, &file));
    assert_eq!(run(&device, 8), expected, "the result is the default's, or as good");
    assert_eq!(items(&device, 8), QUICKEST, "neither the wrong nor the broken one");
    let launches = fake.launches.swap(0, Ordering::SeqCst);
    assert!(launches > 9, "candidates were timed: {launches} launches");
    assert_eq!(run(&device, 8), expected);
    assert_eq!(fake.launches.load(Ordering::SeqCst), 1, "it is not tuned again");
    assert_eq!(device.work().flop, 2 * 8 * 8 * 2, "what is tried is no work of the caller's");

    // A second device with the same file uses what the first remembered.
    for autotune in [Autotune::Cached, ON_FIRST_USE] {
        let fake = Fake::new();
        let second = Device::new(Arc::clone(&fake) as _, &options(autotune, &file));
        assert_eq!(run(&second, 8), expected);
        assert_eq!(items(&second, 8), QUICKEST, "{autotune:?}");
        assert_eq!(fake.launches.load(Ordering::SeqCst), 1, "{autotune:?} does not tune it");
        assert_eq!(second.notes(), [""; 0]);
        let dry = second.dry_run();
        run(&dry, 8);
        assert_eq!(items(&dry, 8), QUICKEST, "a dry run takes the same");
    }
    let entries = Device::new(Fake::new(), &options(Autotune::Cached, &file)).tuning().entries();
    let (_, entry) = entries.iter().find(|(_, entry)| entry.kernel == "layer_norm").unwrap();
    assert_eq!(entry.seconds, Some(10e-6));
    // As quick, by values of other parameters, which make no difference here.
    let runner_up = &entry.runner_up.as_ref().unwrap().configuration;
    assert_eq!(runner_up["WG_SIZE"], QUICKEST);
    assert_ne!(*runner_up, entry.configuration);
}

#[test]
fn only_a_device_that_tunes_on_first_use_does_and_off_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    for autotune in [Autotune::Off, Autotune::Cached] {
        let fake = Fake::new();
        let device = Device::new(Arc::clone(&fake) as _, &options(autotune, &file));
        run(&device, 8);
        assert_eq!(items(&device, 8), DEFAULT);
        assert_eq!(fake.launches.load(Ordering::SeqCst), 1);
        assert!(!file.exists());
    }
    run(&Device::new(Fake::new(), &options(ON_FIRST_USE, &file)), 8);
    let off = Device::new(Fake::new(), &options(Autotune::Off, &file));
    run(&off, 8);
    assert_eq!(items(&off, 8), DEFAULT);
    assert_eq!(choice(&off, 8).chain, []);
}

#[test]
fn a_shape_near_a_tuned_one_takes_its_configuration_and_one_far_away_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    run(&Device::new(Fake::new(), &options(ON_FIRST_USE, &file)), 64);
    let device = Device::new(Fake::new(), &options(Autotune::Cached, &file));
    for (rows, expected) in [(64, QUICKEST), (16, QUICKEST), (15, DEFAULT), (257, DEFAULT)] {
        run(&device, rows);
        assert_eq!(items(&device, rows), expected, "{rows} rows");
    }
}

#[test]
fn no_time_at_all_leaves_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    let fake = Fake::new();
    let at_once = Autotune::OnFirstUse { limit: Duration::ZERO };
    let device = Device::new(Arc::clone(&fake) as _, &options(at_once, &file));
    let expected = run(&Device::cpu(), 8);
    assert_eq!(run(&device, 8), expected);
    assert_eq!(items(&device, 8), DEFAULT);
    assert!(!file.exists(), "nothing was measured");
    fake.launches.store(0, Ordering::SeqCst);
    run(&device, 8);
    assert_eq!(fake.launches.load(Ordering::SeqCst), 1, "it is not tried again");
}

#[test]
fn a_file_that_is_damaged_or_cannot_be_written_is_said_and_gone_on_without() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    fs::write(&file, "{").unwrap();
    let expected = run(&Device::cpu(), 8);
    let device = Device::new(Fake::new(), &options(Autotune::Cached, &file));
    assert_eq!(run(&device, 8), expected);
    assert_eq!(device.notes().len(), 1);
    assert!(device.notes()[0].contains("damaged, kept aside as "), "{:?}", device.notes());
    assert_eq!(fs::read(folder.path().join("tuning.json.corrupt")).unwrap(), b"{");

    // A file where the folder should be: not even the superuser can write below it.
    let below = folder.path().join("tuning.json.corrupt").join("tuning.json");
    let device = Device::new(Fake::new(), &options(ON_FIRST_USE, &below));
    for rows in [8, 64] {
        run(&device, rows);
        assert_eq!(items(&device, rows), QUICKEST, "it holds until the device is closed");
    }
    let kept = |note: &&String| note.starts_with("tuned configurations are not kept: ");
    assert_eq!(device.notes().iter().filter(kept).count(), 1, "{:?}", device.notes());
}

/// Devices whose programs are compiled at run time, the slow ones apart.
fn compiling() -> Vec<DeviceEntry> {
    let usable = |entry: &DeviceEntry| {
        entry.id != "cpu" && entry.unusable().is_none() && entry.info.vector_width >= 4
    };
    detect().entries.into_iter().filter(usable).collect()
}

#[test]
fn a_real_device_tunes_a_product_and_another_uses_what_it_remembered() {
    for entry in compiling() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tuning.json");
        let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        let open = |autotune| {
            let options =
                DeviceOptions { cache_dir: cache_dir.clone(), ..options(autotune, &file) };
            Device::open_entry(&entry, &options).unwrap()
        };
        let run =
            |device: &Device| {
                let values = |count: usize| (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0);
                let x: Vec<f32> = values(96 * 64).collect();
                let x = Tensor::from_slice(device, &[96, 64], DType::F32, &x).unwrap();
                let weights = ops::Weights::linear(device, DType::F32, [64, 64], || {
                    Ok(values(64 * 64).collect())
                });
                let y = ops::gemm(&x, None, &weights.unwrap(), ops::Epilogue::default()).unwrap();
                y.to_vec().unwrap()
            };
        let expected = run(&Device::definitions(Some(entry.info.clone())));
        let close = |actual: Vec<f32>| {
            // 64 products of at most 1, summed in f32 in any order.
            let off = |(a, e): (&f32, &f32)| (a - e).abs() > 64.0 * 64.0 * f32::EPSILON;
            assert!(!actual.iter().zip(&expected).any(off), "on {}", entry.info.name);
        };
        let first = open(Autotune::OnFirstUse { limit: Duration::from_secs(2) });
        close(run(&first));
        let chosen = first.choices().pop().unwrap();
        let entries = first.tuning().entries();
        let (_, kept) = entries.first().expect("the default was timed within the limit");
        assert!(kept.seconds.unwrap() > 0.0 && kept.kernel == chosen.kernel);
        let second = open(Autotune::Cached);
        close(run(&second));
        assert_eq!(second.choices().pop().unwrap().configuration, chosen.configuration);
    }
}

#[test]
fn the_default_strategy_reaches_95_percent_in_5_percent_of_recorded_spaces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert!(!files.is_empty());
    for path in files {
        let recording = Recording::read(&path).unwrap();
        let at_5_percent = |strategy| {
            let replay = replay(&recording, strategy, 20).unwrap();
            replay.reached.into_iter().find(|at| at.percent == 5).unwrap()
        };
        let [default, drawn] = [StrategyKind::default(), StrategyKind::Random].map(at_5_percent);
        let path = path.display();
        assert!(default.mean >= 0.97 && default.least >= 0.9, "{path}: {default:?}");
        assert!(default.mean > drawn.mean, "{path}: {default:?}, drawn {drawn:?}");
    }
}
