//! From a model to the same in fewer bits, in one GGUF file: `quantize --help`.

#![forbid(unsafe_code)]

mod assign;
mod convert;
mod gallery;
mod layers;
mod report;
mod rules;
mod stop;
mod summary;
mod target;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ellesmere::io::atomic;
use ellesmere::io::gguf;
use ellesmere::io::tensors::StoredType;
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::{Device, DeviceOptions, Error, Format, Result, knob};
use serde_json::{Map, Value};

use gallery::{Gallery, Settings};
use rules::Rules;

const EXAMPLES: &str = "\
Examples:
  quantize ~/models/stable-diffusion-v1-5 v1-5-q8_0.gguf --type q8_0
  quantize ~/models/v1-5.safetensors v1-5-q4_0.gguf --type q4_0
  quantize ~/models/stable-diffusion-v1-5 mixed.gguf --type q4_k --rules mixed.rules
  quantize ~/models/stable-diffusion-v1-5 --type q4_k --report --size 256x256
  quantize ~/models/stable-diffusion-v1-5 near.gguf --target-psnr 35 --rules-out near.rules
  sd \"a lighthouse\" --model mixed.gguf

A file of rules has a pattern and a type in each line; * stands for anything, # starts a comment, and
the first pattern that fits a tensor's name decides:
  vae.*                       f16     # the decoder draws every pixel
  unet.*.attn2.to_k.weight    q8_0
  unet.mid_block.*            q6_k

Bits a weight: q8_0 8.5, q6_k 6.6, q5_1 6, q5_0 and q5_k 5.5, q4_1 5, q4_0 and q4_k 4.5, f16 16. A K format
wants rows of a multiple of 256; others are stored as q5_0 (q4_k), q5_1 (q5_k) or q8_0 (q6_k).";

/// Writes a model with its weights in blocks of few bits, as one GGUF file that `sd --model` takes, and
/// measures what that does to its pictures.
///
/// Weights of linear layers and convolutions get the type; norms and biases stay f32, embeddings and
/// rows that are no multiple of 32 stay f16. A diffusers folder becomes one file with its configurations
/// and tokenizer inside, in which convolutions lie with their channels together. A single-file checkpoint
/// keeps its names and order, as stable-diffusion.cpp has them: its convolutions stay f16.
///
/// With --report each layer is put into its type by itself, and pictures are drawn: the ranking says what
/// each costs and saves. With --target-psnr the types are found: as few bytes as leave a fixed set of pictures,
/// which is drawn with them, that near to what the model draws as it is.
#[derive(Parser, Debug)]
#[command(name = "quantize", version, after_help = EXAMPLES)]
struct Arguments {
    /// A diffusers folder, or a single .safetensors or .gguf file
    model: PathBuf,

    /// The GGUF file to write; with --report it may be left out
    #[arg(required_unless_present = "report")]
    output: Option<PathBuf>,

    /// How weights are stored where no rule says otherwise: q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k,
    /// q6_k, f16, bf16 or f32
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_parser = parse_type,
        required_unless_present = "target_psnr",
        conflicts_with = "target_psnr"
    )]
    stored: Option<StoredType>,

    /// A file of patterns of names, each with a type; see below
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Draw pictures with each layer by itself in its type, all others as they are, and print what
    /// comes of it, worst first: PSNR of the pictures, relative error of the latents, bytes saved
    #[arg(long)]
    report: bool,

    /// Find types (of q4_0, q4_k, q5_0, q6_k, q8_0, f16) that take the fewest bytes and leave the pictures
    /// within so many dB, all pixels together. What rules decide stays so
    #[arg(long, value_name = "DB", value_parser = parse_target, allow_negative_numbers = true)]
    target_psnr: Option<f64>,

    /// Write the types that were found as a file of rules, for --type f16 --rules FILE
    #[arg(long, value_name = "FILE", conflicts_with = "stored")]
    rules_out: Option<PathBuf>,

    /// Where pictures are drawn: auto, cpu or opencl:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,

    /// How many pictures are drawn each time: fixed prompts and seeds, the last picture starts from the
    /// first one and so measures the encoder too
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_pictures)]
    pictures: usize,

    /// Steps of each picture
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_steps)]
    steps: usize,

    /// Width and height of the pictures [default: the model's own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<[usize; 2]>,

    /// Print what was measured and written as one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            let outputs = [&arguments.output, &arguments.rules_out];
            match outputs.into_iter().flatten().map(|path| path.display().to_string()).next() {
                Some(path) => eprintln!("stopped; {path} was not written"),
                None => eprintln!("stopped"),
            }
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    stop::on_ctrl_c()?;
    let mut rules = arguments.rules.as_deref().map(Rules::open).transpose()?.unwrap_or_default();
    for path in [&arguments.output, &arguments.rules_out].into_iter().flatten() {
        atomic::check_writable(path)?;
    }
    let open = || ModelFiles::open(&arguments.model, Variant::Any);
    let fewest = StoredType::Blocks(Format::Q4_0);
    let mut plan = assign::plan(open()?, arguments.stored.unwrap_or(fewest), &rules)?;
    let mut facts = Map::new();
    let (mut told, mut headline) = (String::new(), String::new());
    if arguments.report || arguments.target_psnr.is_some() {
        let mut gallery = gallery(arguments)?;
        let rows = match arguments.target_psnr {
            None => report::measure(&mut gallery, &plan)?,
            Some(target) => {
                let found = target::find(&mut gallery, &plan, target)?;
                facts.insert("target".to_string(), found.json());
                (told, headline) = (found.table(), found.headline());
                rules = rules.with(&found.stored);
                plan = assign::plan(open()?, StoredType::F16, &rules)?;
                found.rows
            }
        };
        if arguments.report {
            told = report::table(&rows) + &told;
            facts.insert("layers".to_string(), report::json(&rows));
        }
    }
    if !arguments.json {
        print!("{told}");
    }
    if let Some(path) = &arguments.output {
        let seconds = convert::write(path, &plan)?;
        facts.insert("file".to_string(), summary::json(&plan, path));
        if !arguments.json {
            print!("{}", summary::of(&plan, path, seconds));
        }
    }
    if let Some(path) = &arguments.rules_out {
        let text = format!("# --type f16 --rules with this: {headline}\n{rules}");
        atomic::write(path, |file| file.write_all(text.as_bytes()))?;
    }
    if arguments.json {
        println!("{}", Value::from(facts));
    }
    Ok(())
}

/// The pictures of the model as it is, on the device that was asked for.
fn gallery(arguments: &Arguments) -> Result<Gallery> {
    let name = arguments.device.clone().map_or_else(knob::device, Ok)?;
    let device = Device::open(&name, &DeviceOptions::default())?;
    device.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let settings =
        Settings { pictures: arguments.pictures, steps: arguments.steps, size: arguments.size };
    Gallery::open(&arguments.model, &device, settings)
}

fn parse_target(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(target) if (1.0..=200.0).contains(&target) => Ok(target),
        _ => Err("expected dB from 1 to 200, such as 35".to_string()),
    }
}

fn parse_pictures(text: &str) -> Result<usize, String> {
    let most = gallery::MOST_PICTURES;
    match text.parse() {
        Ok(pictures) if (2..=most).contains(&pictures) => Ok(pictures),
        _ => Err(format!("expected 2 to {most}")),
    }
}

fn parse_steps(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(steps) if (2..=1000).contains(&steps) => Ok(steps),
        _ => Err("expected 2 to 1000".to_string()),
    }
}

fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(width, height)| {
        Some([width.parse::<usize>().ok()?, height.parse::<usize>().ok()?])
    });
    match sides {
        Some(sides) if sides.iter().all(|side| *side > 0 && side.is_multiple_of(8)) => Ok(sides),
        _ => Err("expected WIDTHxHEIGHT in multiples of 8, such as 256x256".to_string()),
    }
}

/// A type that weights are written as.
fn parse_type(name: &str) -> Result<StoredType, String> {
    match name {
        "f32" => Ok(StoredType::F32),
        "f16" => Ok(StoredType::F16),
        _ => {
            let known = Format::ALL.map(StoredType::from).into_iter().filter(|one| gguf::has(*one));
            let known: Vec<StoredType> = known.collect();
            known.iter().copied().find(|stored| stored.name() == name).ok_or_else(|| {
                let names: Vec<&str> = known.iter().map(|stored| stored.name()).collect();
                format!("expected one of {}, f16, f32, got {name:?}", names.join(", "))
            })
        }
    }
}
