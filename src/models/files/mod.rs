//! A model's files: a diffusers folder, a single-file checkpoint, or bytes in the program.
//!
//! # One file for a whole model
//!
//! A GGUF file can be a diffusers folder in one: tensors by diffusers' names after `unet.`, `vae.` and
//! `text_encoder.`, and the folder's texts as values whose keys are their paths:
//! `ellesmere.model_index.json`, `ellesmere.unet.config.json`, `ellesmere.tokenizer.vocab.json` and so on
//! ([`ModelFiles::values`] gives them). Its convolutions' weights may be `[O, kH, kW, I]`, so that blocks
//! lie along the channels; `ellesmere.convolutions` is `channels_last` then.
//!
//! Other GGUF files are single-file checkpoints with the names of the original code, as
//! stable-diffusion.cpp writes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::gguf::Value;
use crate::io::one_line;
use crate::io::tensors::TensorFile;
use crate::models::checkpoint::{CHANNELS_LAST, CONVOLUTIONS_KEY, Checkpoint};
use crate::models::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use crate::models::tokenizer::Tokenizer;
use crate::nn::TensorSource;
use crate::ops::Products;
use crate::{Error, Format, Result};

mod folder;
mod ldm;
mod source;

pub(crate) use ldm::{Configs, Kind};
use source::{Source, key_of};

/// Which of several files to take where a component has more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The plain file, or the `fp16` one if there is no other.
    #[default]
    Any,
    /// The `fp16` file, or the plain one if there is no other: half to read, and all that is
    /// needed where weights are kept as f16.
    F16,
}

/// One component of a model.
#[derive(Clone, Debug)]
pub struct Component<C> {
    /// What it is.
    pub config: C,
    /// Its tensors.
    pub weights: Checkpoint,
}

/// The scheduler's configuration as it is written, for whoever reads it.
#[derive(Clone, Debug)]
pub struct SchedulerFile {
    /// The file, for messages.
    pub path: PathBuf,
    /// Its JSON text.
    pub json: String,
}

/// Everything that a Stable Diffusion 1.x or 2.x model is made of, opened and checked against
/// each other. Weights are mapped, not read; cloning shares them.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The folder's or the file's name, without its ending.
    pub name: String,
    /// The folder or the file.
    pub path: PathBuf,
    /// From tokens to the context that the UNet attends to.
    pub text_encoder: Component<TextEncoderConfig>,
    /// The noise predictor.
    pub unet: Component<UNetConfig>,
    /// Between pictures and latents.
    pub vae: Component<VaeConfig>,
    /// From a prompt to tokens.
    pub tokenizer: Tokenizer,
    /// How it was trained to be sampled.
    pub scheduler: SchedulerFile,
    /// The folder's texts, by their paths inside it; none of a single file.
    texts: Vec<(&'static str, String)>,
}

impl ModelFiles {
    /// Opens a diffusers folder or a single file (`.safetensors` or `.gguf`).
    ///
    /// A single file has no configuration, unless it is a [GGUF of a folder](self): its tensors' shapes tell whether it is a Stable
    /// Diffusion 1.x or 2.x model, and the configuration of 1.5 or 2.1-base is taken. What shapes
    /// do not tell is whether a 2.x model predicts noise or velocity (`v_prediction`: the 768×768
    /// models do); `scheduler` says `epsilon`, and the caller must know better where it is not so.
    ///
    /// # Errors
    ///
    /// [`Error::File`] or [`Error::Tensor`] for the first file that is missing, damaged, of a
    /// class that this crate does not run, or does not fit the others.
    pub fn open(path: &Path, variant: Variant) -> Result<Self> {
        match std::fs::metadata(path) {
            Err(error) => Err(Error::file(path, format!("cannot be opened: {error}"))),
            Ok(metadata) if metadata.is_dir() => {
                folder::open(&Source::Folder(path.to_path_buf()), name_of(path), variant)
            }
            Ok(_) => {
                let file = Arc::new(TensorFile::open(path)?);
                check_convolutions(&file)?;
                let source = Source::Gguf(file.clone());
                if source.contains("model_index.json") {
                    folder::open(&source, name_of(path), variant)
                } else {
                    ldm::open(file, name_of(path))
                }
            }
        }
    }

    /// Opens a diffusers folder that is part of the program: paths inside the folder, such as
    /// `unet/config.json`, and the content of each file. `name` stands for the folder in messages.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::open`].
    pub fn embedded(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Result<Self> {
        let source = Source::Embedded { root: PathBuf::from(name), files };
        folder::open(&source, name.to_string(), Variant::Any)
    }

    /// The size of the pictures that the model was trained on, height and width in pixels.
    pub fn default_size(&self) -> [usize; 2] {
        let factor = self.vae.config.downscale();
        self.unet.config.sample_size.map(|latents| latents * factor)
    }

    /// Has devices hold the weights of all components in few bits: see [`Checkpoint::quantize`].
    pub fn quantize(&mut self, format: Option<Format>) {
        self.text_encoder.weights.quantize(format);
        self.unet.weights.quantize(format);
        self.vae.weights.quantize(format);
    }

    /// What [`ModelFiles::quantize`] was given.
    pub fn format(&self) -> Option<Format> {
        self.unet.weights.quantized()
    }

    /// Has devices multiply weights in blocks in this way: see [`Checkpoint::multiply_in`].
    pub fn multiply_in(&mut self, products: Products) {
        self.text_encoder.weights.multiply_in(products);
        self.unet.weights.multiply_in(products);
        self.vae.weights.multiply_in(products);
    }

    /// How weights in blocks are multiplied.
    pub fn products(&self) -> Products {
        self.unet.weights.products()
    }

    /// The size of all weights as they are stored.
    pub fn bytes(&self) -> u64 {
        self.text_encoder.weights.bytes() + self.unet.weights.bytes() + self.vae.weights.bytes()
    }

    /// What a GGUF file of this model has beside its tensors: configurations and tokenizer, by keys that
    /// [`ModelFiles::open`] knows. Of a single file without a configuration, nothing.
    pub fn values(&self) -> Vec<(String, Value)> {
        let value = |(name, text): &(&str, String)| (key_of(name), Value::Text(text.clone()));
        self.texts.iter().map(value).collect()
    }

    /// Whether the components fit together.
    fn check(self) -> Result<Self> {
        let (text, unet, vae) = (&self.text_encoder.config, &self.unet.config, &self.vae.config);
        let pairs = [
            ("unet in_channels", unet.in_channels, "vae latent_channels", vae.latent_channels),
            ("unet out_channels", unet.out_channels, "vae latent_channels", vae.latent_channels),
            (
                "unet cross_attention_dim",
                unet.cross_attention_dim,
                "text_encoder hidden_size",
                text.hidden_size,
            ),
        ];
        for (what, got, whose, expected) in pairs {
            if got != expected {
                let detail = format!("{what}: expected {expected}, the {whose}, got {got}");
                return Err(Error::file(&self.path, detail));
            }
        }
        let (tokens, longest) = (self.tokenizer.length(), text.max_position_embeddings);
        if tokens > longest {
            let detail = format!(
                "tokenizer model_max_length: expected at most {longest}, the text_encoder \
                 max_position_embeddings, got {tokens}"
            );
            return Err(Error::file(&self.path, detail));
        }
        let (tokens, known) = (self.tokenizer.vocabulary_size(), text.vocab_size);
        if tokens > known {
            let detail = format!(
                "tokenizer vocabulary: expected at most {known} tokens, the text_encoder \
                 vocab_size, got {tokens}"
            );
            return Err(Error::file(&self.path, detail));
        }
        Ok(self)
    }
}

/// Refuses an order of convolutions' weights that is not known.
fn check_convolutions(file: &TensorFile) -> Result<()> {
    match file.text(CONVOLUTIONS_KEY) {
        None | Some(CHANNELS_LAST) => Ok(()),
        Some(other) => {
            let other = one_line(other);
            let detail = format!("key {CONVOLUTIONS_KEY}: expected {CHANNELS_LAST}, got {other}");
            Err(Error::file(file.path(), detail))
        }
    }
}

fn name_of(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_string(), |name| name.to_string_lossy().into_owned())
}
