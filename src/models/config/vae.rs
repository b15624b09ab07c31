//! `vae/config.json`.

use std::path::Path;

use serde_json::json;

use super::FromJson;
use super::fields::Fields;
use crate::Result;

/// The autoencoder between pictures and latents: diffusers' `AutoencoderKL`.
///
/// Every group norm adds 1e-6 to the variance; attention in the middle has one head.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels at each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers of each block on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Height and width of the pictures that it was trained on: the size of a tile.
    pub sample_size: [usize; 2],
    /// Latents are multiplied by it after encoding and divided by it before decoding.
    pub scaling_factor: f64,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution stands before the decoder.
    pub use_post_quant_conv: bool,
}

impl VaeConfig {
    /// How many pixels a latent is wide: 2 for each level but the first.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl FromJson for VaeConfig {
    fn from_json(path: &Path, text: &str) -> Result<Self> {
        let mut fields = Fields::parse(path, text)?;
        fields.only("_class_name", &[json!("AutoencoderKL")])?;
        let block_out_channels = fields.integer_list("block_out_channels", &[64], 8, 1..=16_384)?;
        let levels = block_out_channels.len();
        for (key, word) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            if fields.words(key, levels, &[(word, ())])?.is_none() && levels != 1 {
                let expected = format!("a list of {levels}: one a block");
                return Err(fields.refuse(key, expected, "nothing"));
            }
        }
        let config = VaeConfig {
            latent_channels: fields.integer("latent_channels", 4, 1..=256)?,
            layers_per_block: fields.integer("layers_per_block", 1, 1..=32)?,
            norm_groups: fields.integer("norm_num_groups", 32, 1..=16_384)?,
            sample_size: fields.size("sample_size", 32)?,
            scaling_factor: fields.number("scaling_factor", 0.18215, 1e-6..=1e6)?,
            use_quant_conv: fields.boolean("use_quant_conv", true)?,
            use_post_quant_conv: fields.boolean("use_post_quant_conv", true)?,
            block_out_channels,
        };
        fields.only("act_fn", &[json!("silu"), json!("swish")])?;
        fields.only("in_channels", &[json!(3)])?;
        fields.only("out_channels", &[json!(3)])?;
        fields.only("shift_factor", &[])?;
        fields.only("latents_mean", &[])?;
        fields.only("latents_std", &[])?;
        fields.only("mid_block_add_attention", &[json!(true)])?;
        // A note for whoever would compute in f16: arithmetic is f32 here.
        fields.ignore(&["force_upcast"]);
        let groups = config.norm_groups;
        for channels in &config.block_out_channels {
            if !channels.is_multiple_of(groups) {
                let expected = format!("multiples of norm_num_groups, which is {groups}");
                return Err(fields.refuse("block_out_channels", expected, &channels.to_string()));
            }
        }
        fields.finish()?;
        Ok(config)
    }
}
