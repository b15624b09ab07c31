//! How long until the first launch?
//!
//!     cargo bench --bench startup -- [--device ID]...
//!
//! With programs on disk, in a process of its own each time: opening the device, then one launch
//! whose program is loaded. Without: the programs of every op compiled one after the other, and all
//! at once by `Device::prepare`. The best of five, programs in folders of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Parser;
use ellesmere::bench::{CASES, Inputs};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor, ops};

#[derive(Parser)]
struct Options {
    /// Devices to measure, as `clbench devices` lists them; can be given several times
    #[arg(long, value_name = "ID", default_value = "opencl:0")]
    device: Vec<String>,
    /// Open the device with programs in this folder, launch once, print the times of both
    #[arg(long, value_name = "FOLDER", hide = true)]
    first: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// The least of five times in ms.
fn best(mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..5).try_fold(f64::INFINITY, |best, _| Ok(best.min(run()?)))
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn first_launch(device: &Device) -> Result<()> {
    let x = Tensor::from_slice(device, &[1, 1, 2], DType::F32, &[3.0, 5.0])?;
    let one = Tensor::from_slice(device, &[2], DType::F32, &[1.0, 1.0])?;
    ops::layer_norm(&x, &one, &one, 0.0)?;
    device.finish()
}

fn every_op(device: &Device) -> Result<()> {
    for case in CASES {
        for dtype in DType::ALL {
            (case.prepare)(&Inputs::new(device, dtype, &case.sizes(&[])?))?()?;
        }
    }
    device.finish()
}

fn open(id: &str, folder: &Path) -> Result<Device> {
    let cache_dir = Some(folder.to_owned());
    Device::open(id, &DeviceOptions { cache_dir, ..DeviceOptions::default() })
}

/// The ms of opening a device, and until the first launch has ended, in another process.
fn in_a_process(id: &str, folder: &Path) -> [f64; 2] {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).args(["--device", id, "--first"]).arg(folder).output();
    let text = String::from_utf8(output.expect("this program runs").stdout).expect("numbers");
    let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    [(); 2].map(|()| numbers.next().expect("two numbers"))
}

fn main() -> Result<()> {
    let arguments = Options::parse();
    for id in &arguments.device {
        if let Some(folder) = &arguments.first {
            let start = Instant::now();
            let device = open(id, folder)?;
            let opened = ms(start);
            first_launch(&device)?;
            println!("{opened} {}", ms(start));
            continue;
        }
        let folder = || tempfile::tempdir().expect("a folder for programs");
        let warm = folder();
        let device = open(id, warm.path())?;
        first_launch(&device)?;
        println!("{}", device.info().name);
        let runs: Vec<[f64; 2]> = (0..5).map(|_| in_a_process(id, warm.path())).collect();
        let least = |index: usize| runs.iter().map(|run| run[index]).fold(f64::INFINITY, f64::min);
        println!("open                     {:9.2} ms", least(0));
        println!("open and launch, warm    {:9.2} ms", least(1));
        let dry = device.dry_run();
        every_op(&dry)?;
        let programs = dry.recorded_programs().expect("a dry run records");
        let count = programs.len();
        let in_turn = best(|| {
            let (folder, start) = (folder(), Instant::now());
            let device = open(id, folder.path())?;
            for program in &programs {
                device.prepare(std::slice::from_ref(program), |_, _| ())?;
            }
            Ok(ms(start))
        })?;
        println!("{count:2} programs one by one   {in_turn:9.2} ms");
        let at_once = best(|| {
            let (folder, start) = (folder(), Instant::now());
            open(id, folder.path())?.prepare(&programs, |_, _| ())?;
            Ok(ms(start))
        })?;
        println!("{count:2} programs at once      {at_once:9.2} ms");
    }
    Ok(())
}
