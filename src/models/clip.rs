//! The text encoder: token ids to states that the UNet attends to.

use super::config::{self, TextEncoderConfig};
use crate::nn::{Heads, LayerNorm, Linear, Loader, SelfAttention, Table, TensorSource};
use crate::ops::{self, Activation};
use crate::tensor::Tensor;
use crate::{DType, Device, Error, Result};

/// The text encoder of CLIP.
///
/// Stable Diffusion 2.x has the next-to-last layer's output of a larger encoder: its files leave
/// out the last layer, so that nothing is different here.
///
/// Reference: `CLIPTextModel` in transformers' `models/clip/modeling_clip.py`; the output is its
/// `last_hidden_state`.
#[derive(Debug)]
pub struct ClipTextEncoder {
    config: TextEncoderConfig,
    tokens: Table,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    attention: SelfAttention,
    norm2: LayerNorm,
    widen: Linear,
    narrow: Linear,
    activation: Activation,
}

impl ClipTextEncoder {
    /// Loads the weights to `device`, matrices and tables stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] for a tensor that is missing or does not fit `config`;
    /// [`Error::OutOfMemory`].
    pub fn load(
        device: &Device,
        dtype: DType,
        config: &TextEncoderConfig,
        source: &dyn TensorSource,
    ) -> Result<Self> {
        let root = Loader::new(device, dtype, source).at("text_model");
        let (channels, eps) = (config.hidden_size, config.layer_norm_eps as f32);
        let embeddings = root.at("embeddings");
        let layers = root.at("encoder").at("layers");
        let (vocabulary, longest) = (config.vocab_size, config.max_position_embeddings);
        Ok(Self {
            config: config.clone(),
            tokens: Table::load(&embeddings, "token_embedding.weight", [vocabulary, channels])?,
            positions: embeddings.table("position_embedding.weight", [longest, channels])?,
            layers: (0..config.layers)
                .map(|index| Layer::load(&layers.at(index), config))
                .collect::<Result<_>>()?,
            final_norm: LayerNorm::load(&root.at("final_layer_norm"), channels, eps)?,
        })
    }

    /// The states of the tokens of one or several prompts, one after the other, each as long as
    /// the longest prompt may be.
    ///
    /// # Shapes
    ///
    /// - `ids`: `N * max_position_embeddings`
    /// - result: `[N, max_position_embeddings, hidden_size]`, of the model's element type
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `ids` is empty, of another length or has an id that is not in the
    /// vocabulary; [`Error::OutOfMemory`], [`Error::Device`].
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor> {
        let (length, vocabulary) = (self.config.max_position_embeddings, self.config.vocab_size);
        if ids.is_empty() || !ids.len().is_multiple_of(length) {
            let detail = format!("ids must be a multiple of {length}, got {}", ids.len());
            return Err(Error::shape("text encoder", detail));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            let detail = format!("ids must be less than {vocabulary}, got {id}");
            return Err(Error::shape("text encoder", detail));
        }
        let (tokens, ids) = self.tokens.rows(ids)?;
        let mut states = ops::token_embedding(&ids, length, &tokens, &self.positions)?;
        drop(tokens);
        for layer in &self.layers {
            states = layer.forward(states)?;
        }
        self.final_norm.forward(&states)
    }
}

impl Layer {
    fn load(loader: &Loader, config: &TextEncoderConfig) -> Result<Self> {
        let (channels, inner) = (config.hidden_size, config.intermediate_size);
        let eps = config.layer_norm_eps as f32;
        let heads = Heads::of(config.heads, channels);
        let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
        Ok(Self {
            norm1: LayerNorm::load(&loader.at("layer_norm1"), channels, eps)?,
            attention: SelfAttention::load(&loader.at("self_attn"), names, heads, true, true)?,
            norm2: LayerNorm::load(&loader.at("layer_norm2"), channels, eps)?,
            widen: Linear::load(&loader.at("mlp.fc1"), channels, inner)?,
            narrow: Linear::load(&loader.at("mlp.fc2"), inner, channels)?,
            activation: match config.activation {
                config::Activation::QuickGelu => Activation::QuickGelu,
                config::Activation::Gelu => Activation::Gelu,
            },
        })
    }

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        x = self.attention.forward(self.norm1.forward(&x)?, &x)?;
        let wide = self.widen.activated(&self.norm2.forward(&x)?, self.activation)?;
        self.narrow.added_to(&wide, &x)
    }
}
