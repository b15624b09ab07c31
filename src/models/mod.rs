//! Models: their files, their configurations, their layers.

pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod files;
pub mod tokenizer;
pub mod unet;
pub mod vae;

pub use checkpoint::Checkpoint;
pub use clip::ClipTextEncoder;
pub use config::{TextEncoderConfig, UNetConfig, VaeConfig};
pub use files::{ModelFiles, Variant};
pub use tokenizer::{Tokenizer, Tokens};
pub use unet::UNet;
pub use vae::{VaeDecoder, VaeEncoder};
