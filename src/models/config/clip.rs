//! `text_encoder/config.json`.

use std::path::Path;

use serde_json::json;

use super::FromJson;
use super::fields::Fields;
use crate::Result;

/// The activation between the two layers of a text encoder's perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`: Stable Diffusion 1.x.
    QuickGelu,
    /// `x · Φ(x)`, by the exact error function: Stable Diffusion 2.x.
    Gelu,
}

/// The text encoder: transformers' `CLIPTextModel`.
///
/// The file's token numbers (`bos_token_id`, `eos_token_id`, `pad_token_id`) are not here, for
/// they are often wrong; the tokenizer's are right.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a token's state, and of the output.
    pub hidden_size: usize,
    /// Width between the two layers of a perceptron.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// The longest prompt in tokens, with the two that mark its ends.
    pub max_position_embeddings: usize,
    /// The activation of the perceptrons.
    pub activation: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
}

impl FromJson for TextEncoderConfig {
    fn from_json(path: &Path, text: &str) -> Result<Self> {
        let mut fields = Fields::parse(path, text)?;
        fields.only(
            "architectures",
            &[json!("CLIPTextModel"), json!("CLIPTextModelWithProjection")],
        )?;
        fields.only("model_type", &[json!("clip_text_model")])?;
        let words = [("quick_gelu", Activation::QuickGelu), ("gelu", Activation::Gelu)];
        let config = TextEncoderConfig {
            vocab_size: fields.integer("vocab_size", 49_408, 1..=1_000_000)?,
            hidden_size: fields.integer("hidden_size", 512, 1..=16_384)?,
            intermediate_size: fields.integer("intermediate_size", 2048, 1..=65_536)?,
            layers: fields.integer("num_hidden_layers", 12, 1..=256)?,
            heads: fields.integer("num_attention_heads", 8, 1..=1024)?,
            max_position_embeddings: fields.integer("max_position_embeddings", 77, 2..=4096)?,
            activation: fields.word("hidden_act", &words)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-5, 1e-12..=1.0)?,
        };
        if !config.hidden_size.is_multiple_of(config.heads) {
            let expected = format!("a divisor of hidden_size, which is {}", config.hidden_size);
            let got = config.heads.to_string();
            return Err(fields.refuse("num_attention_heads", expected, &got));
        }
        // What is left does not reach this class: old files carry every default of text
        // generation (`num_beams`, `top_k`, …).
        Ok(config)
    }
}
