use std::process::ExitCode;

use ellesmere::bench::Peaks;
use ellesmere::hardware::detect;
use ellesmere::{Device, DeviceOptions, Error, Result, knob};

use crate::{print_json, table};

/// Measure what a device can do at most: arithmetic, memory, transfers, launches
///
/// Each figure is the best of at least five runs; the spread says by how much the median run was
/// worse. A device takes about 3 seconds, and longer the first time, when the kernels are
/// compiled. `expected` is the data sheet's figure where the hardware is known.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clbench peak                      the device that programs take by default
  clbench peak --device all         every device, one after the other
  clbench peak --device cpu --save  keep the figures, for % of peak in `clbench run`

How to read it: f32, f16 and int8 bound what computes, `memory` what reads and writes much, `local
memory` what works on tiles, and a launch cannot be quicker than `launch, back to back`.")]
pub struct Arguments {
    /// auto, cpu, an id of `clbench devices`, or all
    #[arg(long, value_name = "ID|all")]
    device: Option<String>,
    /// Print the same facts as JSON: a list, one entry for each device
    #[arg(long)]
    json: bool,
    /// Keep them in the cache folder for this device and driver, where `clbench run` and
    /// `clbench report` find them
    #[arg(long)]
    save: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let folder = match arguments.save {
        true => Some(cache_folder()?),
        false => None,
    };
    let (mut all, mut failed) = (Vec::new(), false);
    for (index, device) in devices(&wanted)?.into_iter().enumerate() {
        let outcome = device.and_then(|device| {
            let peaks = measure(&device)?;
            if let Some(folder) = &folder {
                let path = peaks.save(folder, device.info())?;
                eprintln!("clbench: kept in {}", path.display());
            }
            Ok(peaks)
        });
        match outcome {
            Ok(peaks) if arguments.json => all.push(peaks),
            Ok(peaks) => {
                if index > 0 {
                    println!();
                }
                print(&peaks);
            }
            // One device that fails does not hide the others.
            Err(error) if wanted == "all" => {
                eprintln!("clbench: {error}");
                failed = true;
            }
            Err(error) => return Err(error),
        }
    }
    if arguments.json {
        print_json(&all);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is kept of a device, or measured now and kept.
pub fn kept_or_measured(device: &Device) -> Result<Peaks> {
    let folder = knob::cache_dir()?;
    if let Some(folder) = &folder {
        match Peaks::load(folder, device.info()) {
            Ok(Some(peaks)) => return Ok(peaks),
            Ok(None) => {}
            Err(error) => eprintln!("clbench: {error}; measured anew"),
        }
    }
    eprintln!("clbench: measuring the peaks of {}, about 3 s", device.info().name);
    let peaks = measure(device)?;
    if let Some(folder) = &folder
        && let Err(error) = peaks.save(folder, device.info())
    {
        eprintln!("clbench: {error}; the peaks are measured again next time");
    }
    Ok(peaks)
}

fn cache_folder() -> Result<std::path::PathBuf> {
    knob::cache_dir()?
        .ok_or_else(|| Error::argument("save", "expected a cache folder, got \"off\""))
}

/// The devices of that name; each opened when its turn comes.
fn devices(wanted: &str) -> Result<Vec<Result<Device>>> {
    let options = DeviceOptions::default();
    if wanted != "all" {
        return Ok(vec![Ok(Device::open(wanted, &options)?)]);
    }
    let entries = detect().entries;
    let usable =
        entries.iter().filter(|entry| entry.duplicate_of.is_none() && entry.unusable().is_none());
    Ok(usable.map(|entry| Device::open_entry(entry, &options)).collect())
}

fn measure(device: &Device) -> Result<Peaks> {
    device.notes().iter().for_each(|note| eprintln!("clbench: {note}"));
    ellesmere::bench::peak::measure(device, |_| {})
}

fn print(peaks: &Peaks) {
    println!("{}, {}, driver {}", peaks.device, peaks.platform, peaks.driver);
    match &peaks.preset {
        Some(facts) => println!("expected from {facts}"),
        None => println!("no preset: this hardware's data sheet is not known"),
    }
    let head = ["what", "best", "median", "unit", "spread", "runs", "expected", "", "how"];
    let mut rows: Vec<[String; 9]> = Vec::new();
    for (name, peak) in peaks.rows() {
        let share = peak.expected.map(|expected| 100.0 * peak.value / expected);
        rows.push([
            name.to_owned(),
            number(peak.value),
            number(peak.median),
            peak.unit.clone(),
            format!("{:.0} %", peak.spread_percent),
            peak.runs.to_string(),
            peak.expected.map_or("-".to_owned(), number),
            share.map_or(String::new(), |share| format!("{share:.0} %")),
            peak.how.clone(),
        ]);
        if name == "f32" && peaks.f16.is_none() {
            let mut row: [String; 9] = Default::default();
            row[0] = "f16".to_owned();
            row[1] = "-".to_owned();
            row[8] = "storage only: the device has no arithmetic in f16".to_owned();
            rows.push(row);
        }
    }
    table::print(head, &rows);
    println!("measured in {:.1} s", peaks.seconds);
}

/// Four digits that count.
fn number(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
