//! Models: their files, their configurations, their layers.

pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod files;
pub mod tokenizer;
pub mod unet;
pub mod vae;
