//! A diffusers folder, or what was put of one into a GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::source::Source;
use super::{Component, ModelFiles, SchedulerFile, Variant};
use crate::io::one_line;
use crate::io::tensors::TensorFile;
use crate::models::checkpoint::{Checkpoint, Known};
use crate::models::config::{FromJson, PipelineIndex, TextEncoderConfig};
use crate::models::tokenizer::{Tokenizer, TokenizerFiles};
use crate::{Error, Result};

/// Opens every part of a folder.
pub(super) fn open(source: &Source, name: String, variant: Variant) -> Result<ModelFiles> {
    let index = source.expect_text("model_index.json")?;
    PipelineIndex::from_json(&source.path("model_index.json"), &index)?;
    let text_encoder: Component<TextEncoderConfig> =
        component(source, "text_encoder", variant, text_encoder_name)?;
    let unet = component(source, "unet", variant, str::to_string)?;
    let vae = component(source, "vae", variant, vae_name)?;
    let tokenizer = tokenizer(source, text_encoder.config.max_position_embeddings)?;
    let scheduler = "scheduler/scheduler_config.json";
    let scheduler =
        SchedulerFile { path: source.path(scheduler), json: source.expect_text(scheduler)? };
    let path = source.path("");
    let texts = texts(source)?;
    ModelFiles { name, path, text_encoder, unet, vae, tokenizer, scheduler, texts }.check()
}

/// Everything of a folder that is not weights, by its path inside it.
const TEXTS: [&str; 9] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "unet/config.json",
    "vae/config.json",
];

fn texts(source: &Source) -> Result<Vec<(&'static str, String)>> {
    // The vocabulary and the merges again, for those who lack these.
    let combined = (!source.contains("tokenizer/vocab.json")).then_some("tokenizer/tokenizer.json");
    let names = TEXTS.into_iter().chain(combined);
    let texts = names.map(|name| Ok(source.text(name)?.map(|text| (name, text))));
    texts.filter_map(Result::transpose).collect()
}

fn component<C: FromJson>(
    source: &Source,
    folder: &str,
    variant: Variant,
    canonical: impl Fn(&str) -> String,
) -> Result<Component<C>> {
    let name = format!("{folder}/config.json");
    let config = C::from_json(&source.path(&name), &source.expect_text(&name)?)?;
    let files = weight_files(source, folder, variant)?;
    let prefix = match source {
        Source::Gguf(_) => format!("{folder}."),
        _ => String::new(),
    };
    let known_as = |stored: &str| -> Vec<Known> {
        let name = stored.strip_prefix(&prefix);
        name.map(|name| (canonical(name), None)).into_iter().collect()
    };
    // One file is named itself in messages; of several, the folder.
    let origin = match files.as_slice() {
        [file] => file.path().to_path_buf(),
        _ => source.path(folder),
    };
    Ok(Component { config, weights: Checkpoint::new(&origin, files, known_as)? })
}

/// The weights of one component: one file, or the shards that an index names.
fn weight_files(source: &Source, folder: &str, variant: Variant) -> Result<Vec<Arc<TensorFile>>> {
    if let Source::Gguf(file) = source {
        return Ok(vec![file.clone()]);
    }
    let middles = match variant {
        Variant::Any => ["", ".fp16"],
        Variant::F16 => [".fp16", ""],
    };
    for middle in middles {
        for stem in ["model", "diffusion_pytorch_model"] {
            let name = format!("{folder}/{stem}{middle}.safetensors");
            if let Some(bytes) = source.bytes(&name)? {
                return Ok(vec![Arc::new(TensorFile::read(&source.path(&name), bytes)?)]);
            }
            let index = format!("{folder}/{stem}.safetensors.index{middle}.json");
            if let Some(text) = source.text(&index)? {
                return shards(source, folder, &index, &text);
            }
        }
    }
    let old = ["model", "diffusion_pytorch_model", "pytorch_model"]
        .map(|stem| format!("{folder}/{stem}.bin"))
        .into_iter()
        .find(|name| source.contains(name));
    let (path, detail) = match old {
        Some(name) => (source.path(&name), "expected weights as .safetensors, got a pickle"),
        None => (
            source.path(folder),
            "expected model.safetensors or diffusion_pytorch_model.safetensors (or .fp16, or an \
             index of shards), got none of them",
        ),
    };
    Err(Error::file(path, detail))
}

/// The files that an index names, each with the tensors that the index says it has.
fn shards(source: &Source, folder: &str, index: &str, text: &str) -> Result<Vec<Arc<TensorFile>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let path = source.path(index);
    let refuse = |detail: String| Error::file(&path, detail);
    let index: Index = serde_json::from_str(text)
        .map_err(|error| refuse(format!("expected an index of shards: {}", one_line(error))))?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    if names.is_empty() {
        return Err(refuse("weight_map: expected tensors, got none".to_string()));
    }
    let mut files = BTreeMap::new();
    for name in names {
        // The index comes with the model: it must not reach for other files of the machine.
        if !name.ends_with(".safetensors") || name.contains(['/', '\\', ':']) {
            let name = one_line(name);
            let detail = format!("weight_map: expected a .safetensors file beside it, got {name}");
            return Err(refuse(detail));
        }
        let inside = format!("{folder}/{name}");
        let path = source.path(&inside);
        let missing = || Error::file(&path, "is missing: expected a shard of the model");
        let bytes = source.bytes(&inside)?.ok_or_else(missing)?;
        files.insert(name, Arc::new(TensorFile::read(&path, bytes)?));
    }
    for (tensor, name) in &index.weight_map {
        let file = &files[name];
        if file.info(tensor).is_none() {
            let detail = "is missing: the index says that it is here".to_string();
            let path = file.path().to_path_buf();
            return Err(Error::Tensor { path, tensor: one_line(tensor), detail });
        }
    }
    Ok(files.into_values().collect())
}

fn tokenizer(source: &Source, longest: usize) -> Result<Tokenizer> {
    let text = |name: &str| source.text(&format!("tokenizer/{name}"));
    let vocabulary = text("vocab.json")?;
    let merges = text("merges.txt")?;
    let combined = text("tokenizer.json")?;
    let config = text("tokenizer_config.json")?;
    let special_tokens = text("special_tokens_map.json")?;
    let files = TokenizerFiles {
        vocabulary: vocabulary.as_deref(),
        merges: merges.as_deref(),
        combined: combined.as_deref(),
        config: config.as_deref(),
        special_tokens: special_tokens.as_deref(),
    };
    Tokenizer::from_files(&source.path("tokenizer"), &files, longest)
}

/// transformers 5 writes the text model without its prefix, all before it with.
pub(super) fn text_encoder_name(stored: &str) -> String {
    let parts = ["embeddings.", "encoder.", "final_layer_norm."];
    if parts.iter().any(|part| stored.starts_with(part)) {
        format!("text_model.{stored}")
    } else {
        stored.to_string()
    }
}

/// The projections of the VAE's attention had other names before diffusers 0.17.
pub(super) fn vae_name(stored: &str) -> String {
    const RENAMED: [(&str, &str); 4] = [
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ];
    if !stored.contains(".attentions.") {
        return stored.to_string();
    }
    RENAMED.iter().fold(stored.to_string(), |name, (old, new)| name.replace(old, new))
}
