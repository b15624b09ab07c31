//! How long do whole models take at their published sizes, on drawn weights?
//!
//!     cargo bench --bench models -- [--device ID]... [--dtype f32|f16] [--repeat N] [NAME-PART]
//!
//! A UNet's FLOP are those of its products and convolutions counted directly, whatever algorithm
//! computes them: what the same model is counted as elsewhere.

use std::path::Path;

use ellesmere::device::Tiling;
use ellesmere::models::config::{FromJson, UNetConfig, VaeConfig};
use ellesmere::models::{UNet, VaeDecoder, VaeEncoder};
use ellesmere::nn::TensorSource;
use ellesmere::{Device, Result, Tensor};

mod common;

use common::{Options, values};

const UNET: &str = r#"{
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
    "cross_attention_dim": 768, "down_block_types": ["CrossAttnDownBlock2D",
    "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"], "downsample_padding": 1,
    "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4,
    "sample_size": 64, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D",
    "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

const VAE: &str = r#"{
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D",
    "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types":
    ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
}"#;

/// Weights so small that activations stay as large as the inputs.
struct Drawn;

impl TensorSource for Drawn {
    fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs as f32).sqrt();
        Ok(values(shape.iter().product()).into_iter().map(|value| value * scale).collect())
    }
}

fn measure(device: &Device, options: &Options) -> Result<()> {
    let dtype = options.dtype;
    let tensor =
        |shape: &[usize]| Tensor::from_slice(device, shape, dtype, &values(shape.iter().product()));
    let name = "SD 1.5 UNet, one latent 64x64";
    if options.wants(name) {
        let config = UNetConfig::from_json(Path::new("unet"), UNET)?;
        let model = UNet::load(device, dtype, &config, &Drawn)?;
        let (latent, context) = (tensor(&[1, 64, 64, 4])?, tensor(&[1, 77, 768])?);
        report(device, options, name, 803.3, || model.forward(&latent, &[500.0], &context))?;
    }
    let config = VaeConfig::from_json(Path::new("vae"), VAE)?;
    for (side, gflop) in [(32, 622.2), (64, 2514.5)] {
        let name = format!("SD VAE decode to {0}x{0}", 8 * side);
        if options.wants(&name) {
            let model = VaeDecoder::load(device, dtype, &config, &Drawn)?;
            let latent = tensor(&[1, side, side, 4])?;
            report(device, options, &name, gflop, || model.decode(&latent))?;
        }
    }
    // Attention over 65,536 positions is 8,796 of these GFLOP; bands of a picture wait on the host.
    let name = "SD VAE decode to 2048x2048, tiles of 512";
    if options.wants(name) {
        let model = VaeDecoder::load(device, dtype, &config, &Drawn)?;
        let latent = tensor(&[1, 256, 256, 4])?;
        let tiling = Tiling::new([2048, 2048], 8, 512)?.expect("the picture is larger than a tile");
        let _tiled = device.tile(tiling);
        report(device, options, name, 48_478.0, || model.decode(&latent))?;
    }
    let name = "SD VAE encode from 512x512";
    if options.wants(name) {
        let model = VaeEncoder::load(device, dtype, &config, &Drawn)?;
        let picture = tensor(&[1, 512, 512, 3])?;
        report(device, options, name, 1116.6, || model.encode(&picture))?;
    }
    Ok(())
}

/// The row's time, and the memory that it takes beyond the weights.
fn report(
    device: &Device,
    options: &Options,
    name: &str,
    gflop: f64,
    run: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    let memory = device.memory();
    memory.trim();
    memory.reset_peaks();
    let weights = memory.stats().live_bytes;
    options.report(name, (gflop * 1e9) as usize, "GFLOP/s", run)?;
    let activations = memory.stats().peak_held_bytes - weights;
    println!("{:32} {:9.1} MB at most beside the weights", "", activations as f64 / 1e6);
    memory.trim();
    Ok(())
}

fn main() -> Result<()> {
    common::run(measure)
}
