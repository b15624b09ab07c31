use std::collections::BTreeMap;
use std::process::ExitCode;

use ellesmere::bench::Problem;
use ellesmere::info::DeviceInfo;
use ellesmere::tune::database::{Basis, Query};
use ellesmere::tune::{Answer, Step};
use ellesmere::{DType, Device, DeviceOptions, Result, knob};
use serde::Serialize;

use crate::print_json;
use crate::run::size;

#[derive(clap::Args)]
pub struct Arguments {
    /// The kernel, or the op that chooses between kernels
    kernel: String,
    /// auto, cpu or an id of `clbench devices`
    #[arg(long)]
    device: Option<String>,
    /// How elements are stored
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Sizes that differ from the defaults, such as rows=4096,channels=320
    #[arg(long, value_delimiter = ',', value_parser = size)]
    shape: Vec<(String, usize)>,
    /// Print the same facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Facts {
    kernel: &'static str,
    dtype: &'static str,
    class: BTreeMap<String, usize>,
    configuration: BTreeMap<&'static str, u32>,
    /// What holds where nothing was measured.
    default: BTreeMap<&'static str, u32>,
    /// The entry of the database that answers, if one does.
    answer: Option<Answer>,
    /// Every place that was looked at, in order.
    chain: Vec<Step>,
}

#[derive(Serialize)]
struct Document<'a> {
    device: &'a DeviceInfo,
    /// What is wrong with the database, a line each.
    notes: Vec<String>,
    problems: Vec<Facts>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let dtype: DType = arguments.dtype.parse()?;
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => knob::device()?,
    };
    let device = Device::open(&name, &DeviceOptions::default())?;
    let notes = device.notes();
    notes.iter().for_each(|note| eprintln!("clbench: {note}"));
    let problems = Problem::named(&arguments.kernel, dtype, &arguments.shape, device.info())?;
    let problems: Vec<Facts> = problems.iter().map(|problem| explain(&device, problem)).collect();
    if arguments.json {
        print_json(&Document { device: device.info(), notes, problems });
    } else {
        println!("{}, {}", device.info().name, device.info().platform);
        problems.iter().for_each(print);
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(device: &Device, problem: &Problem) -> Facts {
    let Problem { kernel, dtype, class, default, .. } = problem;
    let query = Query { kernel, dtype: *dtype, class, base: default, info: device.info() };
    let (found, mut chain) = device.tuning().look_up(&query);
    let (answer, configuration) = match found {
        Some((answer, configuration)) => (Some(answer), configuration),
        None => {
            let (place, found) = ("the op".to_owned(), "its default holds".to_owned());
            chain.push(Step { place, found });
            (None, default.clone())
        }
    };
    Facts {
        kernel: kernel.name,
        dtype: dtype.name(),
        class: class.sizes(),
        configuration: configuration.values().iter().copied().collect(),
        default: default.values().iter().copied().collect(),
        answer,
        chain,
    }
}

fn print(facts: &Facts) {
    let pairs = |values: &mut dyn Iterator<Item = (&str, u64)>| {
        values.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let values = |map: &BTreeMap<&'static str, u32>| {
        pairs(&mut map.iter().map(|(&name, &value)| (name, value.into())))
    };
    let sizes = pairs(&mut facts.class.iter().map(|(name, &size)| (name.as_str(), size as u64)));
    println!();
    println!("{} {} {sizes}", facts.kernel, facts.dtype);
    println!("uses       {}", values(&facts.configuration));
    println!("default    {}", values(&facts.default));
    if let Some(answer) = &facts.answer {
        let Answer { source, nearness, distance, entry } = answer;
        let time = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("{:.4} ms", seconds * 1e3),
            None => "not measured".to_owned(),
        };
        let basis = match entry.basis {
            Basis::Measured => "measured",
            Basis::Static => "chosen by the compiler's report",
        };
        println!("from       {source}, {nearness}, a class {distance:.1} away, {basis}");
        println!("recorded   {}", time(entry.seconds));
        if let Some(second) = &entry.runner_up {
            let values = second.configuration.iter().map(|(n, &value)| (n.as_str(), value.into()));
            println!("runner-up  {}, {}", time(second.seconds), pairs(&mut { values }));
        }
    }
    println!("looked at");
    for (number, step) in facts.chain.iter().enumerate() {
        println!("  {}. {}: {}", number + 1, step.place, step.found);
    }
}
