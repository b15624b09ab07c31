//! From a model to the same in fewer bits, in one GGUF file: `quantize --help`.

#![forbid(unsafe_code)]

mod assign;
mod convert;
mod rules;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ellesmere::io::atomic;
use ellesmere::io::tensors::StoredType;
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::{Error, Format, Result};

use rules::Rules;

const EXAMPLES: &str = "\
Examples:
  quantize ~/models/stable-diffusion-v1-5 v1-5-q8_0.gguf --type q8_0
  quantize ~/models/v1-5.safetensors v1-5-q4_0.gguf --type q4_0
  quantize ~/models/stable-diffusion-v1-5 mixed.gguf --type q4_k --rules mixed.rules
  sd \"a lighthouse\" --model mixed.gguf

A file of rules has a pattern and a type in each line; * stands for anything, # starts a comment, and
the first pattern that fits a tensor's name decides:
  vae.*                       f16     # the decoder draws every pixel
  unet.*.attn2.to_k.weight    q8_0
  unet.mid_block.*            q6_k

Bits a weight: q8_0 8.5, q6_k 6.6, q5_1 6, q5_0 and q5_k 5.5, q4_1 5, q4_0 and q4_k 4.5, f16 16. A K format
wants rows of a multiple of 256; others are stored as q5_0 (q4_k), q5_1 (q5_k) or q8_0 (q6_k).";

/// Writes a model with its weights in blocks of few bits, as one GGUF file that `sd --model` takes.
///
/// Weights of linear layers and convolutions get the type; norms and biases stay f32, embeddings and
/// rows that are no multiple of 32 stay f16. A diffusers folder becomes one file with its configurations
/// and tokenizer inside, in which convolutions lie with their channels together. A single-file checkpoint
/// keeps its names and order, as stable-diffusion.cpp has them: its convolutions stay f16.
#[derive(Parser, Debug)]
#[command(name = "quantize", version, after_help = EXAMPLES)]
struct Arguments {
    /// A diffusers folder, or a single .safetensors or .gguf file
    model: PathBuf,

    /// The GGUF file to write
    output: PathBuf,

    /// How weights are stored where no rule says otherwise: q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k,
    /// q6_k, f16, bf16 or f32
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    stored: StoredType,

    /// A file of patterns of names, each with a type; see below
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            eprintln!("stopped; {} was not written", arguments.output.display());
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let rules = arguments.rules.as_deref().map(Rules::open).transpose()?.unwrap_or_default();
    atomic::check_writable(&arguments.output)?;
    let files = ModelFiles::open(&arguments.model, Variant::Any)?;
    let plan = assign::plan(files, arguments.stored, &rules)?;
    let seconds = convert::write(&arguments.output, &plan)?;
    print!("{}", summary::of(&plan, &arguments.output, seconds));
    Ok(())
}

/// A type that weights are written as.
fn parse_type(name: &str) -> Result<StoredType, String> {
    match name {
        "f32" => Ok(StoredType::F32),
        "f16" => Ok(StoredType::F16),
        "bf16" => Ok(StoredType::BF16),
        _ => name.parse().map(StoredType::Blocks).map_err(|_| {
            let formats = Format::ALL.map(Format::name).join(", ");
            format!("expected one of {formats}, f16, bf16, f32, got {name:?}")
        }),
    }
}
