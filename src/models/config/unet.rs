//! `unet/config.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::FromJson;
use super::fields::Fields;
use crate::Result;

/// Whether the layers of a block look at the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// `DownBlock2D`, `UpBlock2D`: residual layers only.
    Plain,
    /// `CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`: each residual layer is followed by attention
    /// to the picture itself and to the prompt.
    CrossAttention,
}

/// The noise predictor: diffusers' `UNet2DConditionModel`, as far as Stable Diffusion 1.x and 2.x
/// and the models distilled from them go.
///
/// All per-block lists have one entry a level and run from the largest picture to the smallest,
/// except `up_blocks`, which runs the way the up path does: from the smallest to the largest.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of a latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Height and width of the latents that it was trained on.
    pub sample_size: [usize; 2],
    /// Channels at each level.
    pub block_out_channels: Vec<usize>,
    /// The kind of each block on the way down.
    pub down_blocks: Vec<BlockKind>,
    /// Whether there is a block in the middle (`UNetMidBlock2DCrossAttn`).
    pub mid_block: bool,
    /// The kind of each block on the way up.
    pub up_blocks: Vec<BlockKind>,
    /// Residual layers of each block on the way down; one more on the way up.
    pub layers_per_block: Vec<usize>,
    /// The number of attention heads at each level. This is what the file calls
    /// `attention_head_dim`.
    pub heads: Vec<usize>,
    /// Width of the text encoder's output.
    pub cross_attention_dim: usize,
    /// Whether attention blocks project by a linear layer instead of a 1×1 convolution.
    pub use_linear_projection: bool,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Added to the variance in the group norms of residual layers and in the last one; those of
    /// attention blocks have 1e-6, layer norms 1e-5.
    pub norm_eps: f64,
    /// Whether the timestep embedding has the cosines first.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the timestep embedding.
    pub freq_shift: f64,
}

const MOST_BLOCKS: usize = 8;
const MOST_CHANNELS: usize = 16_384;

impl FromJson for UNetConfig {
    fn from_json(path: &Path, text: &str) -> Result<Self> {
        use BlockKind::{CrossAttention, Plain};
        let mut fields = Fields::parse(path, text)?;
        fields.only("_class_name", &[json!("UNet2DConditionModel")])?;
        let channels = 1..=MOST_CHANNELS;
        let block_out_channels = fields.integer_list(
            "block_out_channels",
            &[320, 640, 1280, 1280],
            MOST_BLOCKS,
            channels.clone(),
        )?;
        let levels = block_out_channels.len();
        let down_words = [("CrossAttnDownBlock2D", CrossAttention), ("DownBlock2D", Plain)];
        let up_words = [("CrossAttnUpBlock2D", CrossAttention), ("UpBlock2D", Plain)];
        let down = fields.words("down_block_types", levels, &down_words)?;
        let up = fields.words("up_block_types", levels, &up_words)?;
        let config = UNetConfig {
            in_channels: fields.integer("in_channels", 4, 1..=256)?,
            out_channels: fields.integer("out_channels", 4, 1..=256)?,
            sample_size: fields.size("sample_size", 64)?,
            down_blocks: match down {
                Some(kinds) => kinds,
                None => default_blocks(&fields, "down_block_types", levels)?,
            },
            up_blocks: match up {
                Some(kinds) => kinds,
                None => {
                    let kinds = default_blocks(&fields, "up_block_types", levels)?;
                    kinds.into_iter().rev().collect()
                }
            },
            mid_block: mid_block(&mut fields)?,
            layers_per_block: fields.integers("layers_per_block", 2, levels, 1..=32)?,
            heads: heads(&mut fields, &block_out_channels)?,
            cross_attention_dim: cross_attention_dim(&mut fields, levels)?,
            use_linear_projection: fields.boolean("use_linear_projection", false)?,
            norm_groups: fields.integer("norm_num_groups", 32, channels)?,
            norm_eps: fields.number("norm_eps", 1e-5, 1e-12..=1.0)?,
            flip_sin_to_cos: fields.boolean("flip_sin_to_cos", true)?,
            freq_shift: fields.number("freq_shift", 0.0, 0.0..=1.0)?,
            block_out_channels,
        };
        refuse_the_rest(&mut fields)?;
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }
}

/// The kinds on the way down where the file has none: known for four levels only.
fn default_blocks(fields: &Fields<'_>, key: &str, levels: usize) -> Result<Vec<BlockKind>> {
    use BlockKind::{CrossAttention, Plain};
    if levels == 4 {
        return Ok(vec![CrossAttention, CrossAttention, CrossAttention, Plain]);
    }
    Err(fields.refuse(key, format!("a list of {levels}: one a block"), "nothing"))
}

/// Absent means the usual block, an explicit null means none.
fn mid_block(fields: &mut Fields<'_>) -> Result<bool> {
    match fields.take("mid_block_type") {
        None => Ok(true),
        Some(Value::Null) => Ok(false),
        Some(Value::String(name)) if name == "UNetMidBlock2DCrossAttn" => Ok(true),
        Some(other) => {
            let got = crate::io::one_line(other);
            Err(fields.refuse("mid_block_type", "UNetMidBlock2DCrossAttn or null", &got))
        }
    }
}

/// The number of heads at each level.
///
/// diffusers calls it `attention_head_dim` by an old mistake, and takes no `num_attention_heads`.
fn heads(fields: &mut Fields<'_>, channels: &[usize]) -> Result<Vec<usize>> {
    fields.only("num_attention_heads", &[])?;
    let heads = fields.integers("attention_head_dim", 8, channels.len(), 1..=1024)?;
    for (&heads, &channels) in heads.iter().zip(channels) {
        if !channels.is_multiple_of(heads) {
            let expected = format!("a number of heads that divides {channels} channels");
            return Err(fields.refuse("attention_head_dim", expected, &heads.to_string()));
        }
    }
    Ok(heads)
}

/// One width for all blocks: a list must repeat it.
fn cross_attention_dim(fields: &mut Fields<'_>, levels: usize) -> Result<usize> {
    let widths = fields.integers("cross_attention_dim", 1280, levels, 1..=MOST_CHANNELS)?;
    if widths.iter().any(|&width| width != widths[0]) {
        let got = format!("{widths:?}");
        return Err(fields.refuse("cross_attention_dim", "one width for all blocks", &got));
    }
    Ok(widths[0])
}

/// What diffusers can do and this crate does not.
fn refuse_the_rest(fields: &mut Fields<'_>) -> Result<()> {
    let no = json!(false);
    fields.only("act_fn", &[json!("silu"), json!("swish")])?;
    fields.only("addition_embed_type", &[])?;
    fields.only("addition_time_embed_dim", &[])?;
    fields.only("attention_type", &[json!("default")])?;
    fields.only("center_input_sample", std::slice::from_ref(&no))?;
    fields.only("class_embed_type", &[])?;
    fields.only("class_embeddings_concat", std::slice::from_ref(&no))?;
    fields.only("conv_in_kernel", &[json!(3)])?;
    fields.only("conv_out_kernel", &[json!(3)])?;
    fields.only("cross_attention_norm", &[])?;
    fields.only("downsample_padding", &[json!(1)])?;
    fields.only("dual_cross_attention", std::slice::from_ref(&no))?;
    fields.only("encoder_hid_dim", &[])?;
    fields.only("encoder_hid_dim_type", &[])?;
    fields.only("mid_block_only_cross_attention", std::slice::from_ref(&no))?;
    fields.only("mid_block_scale_factor", &[json!(1)])?;
    fields.only("num_class_embeds", &[])?;
    fields.only("only_cross_attention", std::slice::from_ref(&no))?;
    fields.only("projection_class_embeddings_input_dim", &[])?;
    fields.only("resnet_out_scale_factor", &[json!(1)])?;
    fields.only("resnet_skip_time_act", std::slice::from_ref(&no))?;
    fields.only("resnet_time_scale_shift", &[json!("default")])?;
    fields.only("reverse_transformer_layers_per_block", &[])?;
    fields.only("time_cond_proj_dim", &[])?;
    fields.only("time_embedding_act_fn", &[])?;
    fields.only("time_embedding_dim", &[])?;
    fields.only("time_embedding_type", &[json!("positional")])?;
    fields.only("timestep_post_act", &[])?;
    fields.only("transformer_layers_per_block", &[json!(1)])?;
    // Dropout is for training. Attention is computed in f32 here, which is what upcasting asks
    // for. The heads of an embedding that is refused above do not matter.
    fields.ignore(&["dropout", "upcast_attention", "addition_embed_type_num_heads"]);
    Ok(())
}

impl UNetConfig {
    fn check(&self, fields: &Fields<'_>) -> Result<()> {
        let groups = self.norm_groups;
        for channels in &self.block_out_channels {
            if !channels.is_multiple_of(groups) {
                let expected = format!("multiples of norm_num_groups, which is {groups}");
                return Err(fields.refuse("block_out_channels", expected, &channels.to_string()));
            }
        }
        let first = self.block_out_channels[0];
        if !first.is_multiple_of(2) {
            let expected = "an even first number, for sines and cosines";
            return Err(fields.refuse("block_out_channels", expected, &first.to_string()));
        }
        if self.freq_shift >= (first / 2) as f64 {
            let expected = format!("less than the number of frequencies, {}", first / 2);
            return Err(fields.refuse("freq_shift", expected, &self.freq_shift.to_string()));
        }
        Ok(())
    }
}
