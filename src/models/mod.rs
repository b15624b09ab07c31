//! Models: their files, their configurations, their layers.

pub mod checkpoint;
pub mod config;
pub mod files;
pub mod tokenizer;
