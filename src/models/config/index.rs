//! `model_index.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::FromJson;
use super::fields::Fields;
use crate::Result;

/// What a diffusers folder says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineIndex {
    /// The pipeline's class, such as `StableDiffusionPipeline`.
    pub class_name: String,
}

/// The parts of a pipeline and the classes of each that this crate runs.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel", "CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

impl FromJson for PipelineIndex {
    fn from_json(path: &Path, text: &str) -> Result<Self> {
        let mut fields = Fields::parse(path, text)?;
        let words = [
            ("StableDiffusionPipeline", "StableDiffusionPipeline"),
            ("StableDiffusionImg2ImgPipeline", "StableDiffusionImg2ImgPipeline"),
        ];
        let class_name = fields.word("_class_name", &words)?.to_string();
        for (part, classes) in PARTS {
            let found = match fields.take(part) {
                None => continue,
                Some(Value::Array(pair)) => pair.last().cloned().unwrap_or(Value::Null),
                Some(other) => other,
            };
            if !classes.iter().any(|class| found == json!(class)) {
                let got = crate::io::one_line(found);
                return Err(fields.refuse(part, classes.join(" or "), &got));
            }
        }
        // The scheduler's class is read with its own configuration. Safety checker and feature
        // extractor look at finished pictures; adapters are files of their own.
        fields.only("image_encoder", &[json!(null), json!([null, null])])?;
        Ok(PipelineIndex { class_name })
    }
}
