//! The model inside the program: see `examples/assets/demo/README.md`.

use ellesmere::Result;
use ellesmere::models::ModelFiles;

/// The guidance scale that suits it.
pub const GUIDANCE: f32 = 4.0;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../assets/demo/", $path)) as &[u8])),*]
    };
}

pub fn model() -> Result<ModelFiles> {
    ModelFiles::embedded(
        "demo",
        files![
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ],
    )
}
