//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use ellesmere::pipeline::scheduler::{PredictionType, SchedulerKind};
use ellesmere::pipeline::{Component, OffloadTo, VaeTiling};
use ellesmere::{DType, Format};

/// Draws a picture from a prompt, on whatever the machine has: a GPU through OpenCL, or the CPU.
///
/// Without --model a small model of simple landscapes is used, which the program carries in itself.
/// It knows skies (dawn, day, sunset, night, storm), lands (mountains, hills, desert, sea, city,
/// snow) and objects in a colour (tree, house, boat, tower).
#[derive(Parser, Debug)]
#[command(name = "sd", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// What should be in the picture
    #[arg(required_unless_present = "list_devices")]
    pub prompt: Option<String>,

    /// What should not be in the picture
    #[arg(long, value_name = "PROMPT", default_value = "")]
    pub negative: String,

    /// A diffusers folder, or a single .safetensors or .gguf file, of Stable Diffusion 1.x or 2.x or
    /// BK-SDM [default: the model inside the program]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,

    /// The PNG to write; with --count, a number is put before the extension
    #[arg(short, long, value_name = "FILE", default_value = "picture.png")]
    pub output: PathBuf,

    /// Width and height in pixels, multiples of 8 [default: the model's own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,

    /// Steps from noise to picture
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: usize,

    /// How much the prompt counts; 1 is no guidance and half the work [default: 7.5, or what suits
    /// the model inside the program]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub guidance: Option<f32>,

    /// The scheduler: ddim, pndm, euler, euler-ancestral, dpm++2m, dpm++2m-karras, heun, lcm or
    /// unipc [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<SchedulerKind>,

    /// What the model was trained to predict: epsilon, v_prediction or sample; needed for
    /// single-file checkpoints of Stable Diffusion 2.x at 768x768 [default: what the files say]
    #[arg(long, value_name = "TYPE")]
    pub prediction: Option<PredictionType>,

    /// Where the noise starts, as in torch.Generator("cpu").manual_seed(N) [default: drawn, and
    /// written into the picture]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// How many pictures to draw, with seeds N, N+1, ..
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub count: u64,

    /// Start from this picture instead of from noise
    #[arg(long, value_name = "FILE")]
    pub init_image: Option<PathBuf>,

    /// How much of the init image is drawn anew, from 0 to 1
    #[arg(
        long,
        value_name = "FRACTION",
        default_value_t = 0.8,
        requires = "init_image",
        allow_negative_numbers = true
    )]
    pub strength: f64,

    /// Where to run: auto, cpu, opencl:N or hip:N (see --list-devices)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    /// How weights and activations are stored [default: f16 on a GPU, f32 on a CPU]
    #[arg(long, value_name = "f32|f16")]
    pub dtype: Option<DType>,

    /// Hold matrices and convolutions in blocks of few bits, which kernels decode as they read them:
    /// q8_0, q6_k, q5_0, q5_1, q5_k, q4_0, q4_1 or q4_k. A half to a quarter of the memory of f16, and
    /// somewhat another picture. Where inputs are no multiple of 256, a K format gives way to one with
    /// blocks of 32. Also i8 (bytes with a scale for each output), f8_e4m3, f8_e5m2 and bf16 (the nearest
    /// number, the largest for what is larger). What a model has in blocks, or in no more bytes, stays so
    #[arg(long, value_name = "FORMAT")]
    pub quantize: Option<Format>,

    /// Where the budget has no room for all weights, hold them in q8_0, q5_0 or q4_0 if that draws the
    /// picture at least a twentieth quicker than leaving weights on the host: somewhat another picture
    #[arg(long, conflicts_with_all = ["quantize", "recommend"])]
    pub allow_quantize: bool,

    /// Multiply matrices in blocks in bytes, with activations rounded to bytes for each product: quicker
    /// where the device multiplies bytes quicker than floats (CPUs with AVX-512 VNNI), and somewhat
    /// another picture again. Needs --quantize, or a model in blocks
    #[arg(long)]
    pub int8_products: bool,

    /// What the device may hold at once, e.g. 3584MB or 3.5GiB [default: most of what is free, or all
    /// of its memory where the driver does not tell]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, allow_hyphen_values = true)]
    pub memory_budget: Option<u64>,

    /// The most that is allocated at once, e.g. 256MiB: larger weights and activations lie in
    /// pieces, and the picture is the same [default: what the driver allows]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, allow_hyphen_values = true)]
    pub max_allocation: Option<u64>,

    /// For how many milliseconds a launch may keep the card, where it also draws the screen: one that
    /// would take longer is cut into several of part of the work, and the picture is the same. No
    /// effect on cpu; an OpenCL device that is a CPU cuts what it can [default: no limit]
    #[arg(long, value_name = "N", value_parser = parse_milliseconds, allow_negative_numbers = true)]
    pub launch_limit_ms: Option<u64>,

    /// Components whose weights stay on the host, each copied to the device for its use, where the
    /// device can beside the computing: some of text-encoder, unet, vae; none; or auto: those for which
    /// the budget has no room, and of their weights no more than it has no room for. Less memory,
    /// somewhat slower, the same picture
    #[arg(long, value_name = "auto|none|NAME,..", default_value = "auto")]
    pub offload: Offload,

    /// Where weights stay that are not on the device. host: in memory, ready to be copied; file: where
    /// they are, each read and packed anew for each use, 2 to 4 s a gigabyte on two cores, for hosts with
    /// little memory. The file must not change meanwhile
    #[arg(long, value_name = "host|file", default_value = "host")]
    pub offload_to: OffloadTo,

    /// Of components whose weights stay on the host, weights of at most so many megabytes each are on
    /// the device all the same: small ones cost a copy's latency and give little room
    #[arg(long, value_name = "MB", default_value_t = 0.0, value_parser = parse_megabytes, allow_negative_numbers = true)]
    pub offload_threshold: f64,

    /// Whether the VAE works on the picture in tiles. exact: in bands of rows that wait on the host,
    /// the same picture; auto: so where the picture needs it; blend: in squares that overlap, each by
    /// itself, which is the picture of diffusers' enable_tiling and may show seams; off: never
    #[arg(long, value_name = "auto|exact|blend|off", default_value = "auto")]
    pub vae_tiling: VaeTiling,

    /// Pixels on a side of a tile (of a square as large as a band), a multiple of 8, at least 64; auto
    /// also tries smaller ones, and blend needs a multiple of 32 [default: 512; with blend, that of the
    /// VAE's configuration]
    #[arg(long, value_name = "N", value_parser = parse_tile)]
    pub vae_tile: Option<usize>,

    /// Print what the picture would take, memory and time, and draw nothing. Kernels that were never
    /// timed on this device are timed now, which takes seconds
    #[arg(long)]
    pub plan: bool,

    /// Print what there is to choose for this picture on this device, within its budget: element type,
    /// what stays on the host, pictures at once; with memory and time of each, and draw nothing
    #[arg(long, conflicts_with_all = ["plan", "dtype", "count"])]
    pub recommend: bool,

    /// Print the time of every stage and kernel
    #[arg(long)]
    pub profile: bool,

    /// Write the timeline as a Chrome trace, for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Print what was done as one JSON document
    #[arg(long)]
    pub json: bool,

    /// Print the devices that --device can name
    #[arg(long)]
    pub list_devices: bool,
}

/// What stays on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offload {
    /// As the budget asks for.
    Auto,
    These(Vec<Component>),
}

impl FromStr for Offload {
    type Err = ellesmere::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::These(Vec::new())),
            names => names.split(',').map(str::parse).collect::<Result<_, _>>().map(Self::These),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  sd \"sunset over the sea with a white boat\"
  sd \"a red house in the snow at night\" --seed 7 --count 4 --output house.png
  sd \"a lighthouse, oil painting\" --model ~/models/sd15 --steps 30 --scheduler dpm++2m-karras
  sd \"a lighthouse\" --model ~/models/sd15 --plan --memory-budget 4GB
  sd \"a lighthouse\" --model ~/models/sd15 --memory-budget 1GB

Exit status: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C.";

fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once(['x', 'X']).and_then(|(width, height)| {
        Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
    });
    match sides {
        Some([width, height])
            if [width, height].iter().all(|&side: &usize| side > 0 && side % 8 == 0) =>
        {
            Ok([width, height])
        }
        Some(_) => Err("width and height must be multiples of 8".to_owned()),
        None => Err("expected WIDTHxHEIGHT, such as 512x512".to_owned()),
    }
}

fn parse_tile(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(tile) if tile >= 64 && tile % 8 == 0 => Ok(tile),
        _ => Err("expected a multiple of 8 of at least 64".to_owned()),
    }
}

fn parse_megabytes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1e9).contains(&number) => Ok(number),
        _ => Err("expected a number of megabytes, such as 2 or 0.5".to_owned()),
    }
}

fn parse_milliseconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if (1..=3_600_000).contains(&number) => Ok(number),
        _ => Err("expected whole milliseconds, at least 1, such as 20".to_owned()),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 6] = [
        ("gib", (1u64 << 30) as f64),
        ("mib", (1u64 << 20) as f64),
        ("kib", 1024.0),
        ("gb", 1e9),
        ("mb", 1e6),
        ("kb", 1e3),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find(|(unit, _)| lower.ends_with(unit));
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    match (number.parse::<f64>(), unit) {
        (Ok(number), _) if number <= 0.0 => Err("expected a size above zero".to_owned()),
        (Ok(number), Some((_, factor))) if (1.0..1e18).contains(&(number * factor)) => {
            Ok((number * factor) as u64)
        }
        _ => Err("expected a size with a unit, such as 3584MB or 3.5GiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_above_zero_with_a_unit() {
        let sizes = [
            ("3584MB", 3_584_000_000),
            ("3.5GB", 3_500_000_000),
            ("3.5 GiB", 3_758_096_384),
            ("64kib", 65_536),
            ("1e3KB", 1_000_000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "4", "GB", "4 4GB", "4TB4", "4G", "infGB", "nanMB", "1e30GB"] {
            assert!(parse_bytes(text).unwrap_err().contains("with a unit"), "{text}");
        }
        for text in ["0", "0GB", "-4GB", "-0.5MiB", "-infGB"] {
            assert!(parse_bytes(text).unwrap_err().contains("above zero"), "{text}");
        }
    }
}
