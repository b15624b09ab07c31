//! A single-file checkpoint, with the tensor names of the original `ldm` code.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Component, ModelFiles, SchedulerFile};
use crate::io::tensors::TensorFile;
use crate::models::checkpoint::{Checkpoint, Known, Part};
use crate::models::config::{FromJson, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::models::tokenizer::Tokenizer;
use crate::{Error, Result};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";

/// The models that such a file can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stable Diffusion 1.x, with CLIP ViT-L.
    One,
    /// Stable Diffusion 2.x, with OpenCLIP ViT-H.
    Two,
}

/// Opens a single file; `name` is the model's.
pub(super) fn open(file: Arc<TensorFile>, name: String) -> Result<ModelFiles> {
    let path = file.path();
    let kind = kind_of(&file)?;
    let configs = Configs::of(path, kind)?;
    let (levels, layers) = (configs.vae.block_out_channels.len(), configs.text_encoder.layers);
    let layers_per_block = configs.unet.layers_per_block[0];
    let component =
        |known_as: &dyn Fn(&str) -> Vec<Known>| Checkpoint::new(path, vec![file.clone()], known_as);
    let whole = |name: Option<String>| name.map(|name| (name, None)).into_iter().collect();
    let unet = component(&|stored| whole(unet_name(stored, layers_per_block)))?;
    let vae = component(&|stored| whole(vae_name(stored, levels)))?;
    let text_encoder = component(&|stored| match kind {
        Kind::One => whole(clip_name(stored)),
        Kind::Two => open_clip_names(stored, layers),
    })?;
    for (weights, prefix) in [
        (&unet, UNET),
        (&vae, VAE),
        (&text_encoder, if kind == Kind::One { CLIP } else { OPEN_CLIP }),
    ] {
        if weights.names().next().is_none() {
            let detail = format!("expected tensors named {prefix}…, got none: not a whole model");
            return Err(Error::file(path, detail));
        }
    }
    let pad = if kind == Kind::One { "<|endoftext|>" } else { "!" };
    ModelFiles {
        name,
        path: path.to_path_buf(),
        text_encoder: Component { config: configs.text_encoder, weights: text_encoder },
        unet: Component { config: configs.unet, weights: unet },
        vae: Component { config: configs.vae, weights: vae },
        tokenizer: Tokenizer::clip(pad)?,
        scheduler: SchedulerFile { path: path.to_path_buf(), json: scheduler_json() },
        texts: Vec::new(),
    }
    .check()
}

/// Which model it is, by the shapes of tensors that differ.
fn kind_of(file: &TensorFile) -> Result<Kind> {
    let refuse = |got: String| {
        let detail = format!("expected a Stable Diffusion 1.x or 2.x checkpoint, got {got}");
        Err(Error::file(file.path(), detail))
    };
    let unet = |name: &str| file.info(&format!("{UNET}{name}"));
    let Some(input) = unet("input_blocks.0.0.weight") else {
        return refuse(format!("a file without {UNET}input_blocks.0.0.weight"));
    };
    if file.iter().any(|(name, _)| name.starts_with("conditioner.embedders.")) {
        return refuse("Stable Diffusion XL".to_string());
    }
    if unet("label_emb.0.0.weight").is_some() || unet("label_emb.weight").is_some() {
        return refuse("one with class embeddings".to_string());
    }
    if input.shape().get(1) != Some(&4) {
        let shape = crate::io::one_line(format_args!("{:?}", input.shape()));
        return refuse(format!("one whose first convolution is {shape}, not [320, 4, 3, 3]"));
    }
    let context = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    match unet(context).map(|info| info.shape()) {
        Some([_, 768]) => Ok(Kind::One),
        Some([_, 1024]) => Ok(Kind::Two),
        Some(shape) => {
            let shape = crate::io::one_line(format_args!("{shape:?}"));
            refuse(format!("{UNET}{context} {shape}, not [320, 768] or [320, 1024]"))
        }
        None => refuse(format!("a file without {UNET}{context}")),
    }
}

/// What the folders of Stable Diffusion 1.5 and 2.1-base say.
pub(crate) struct Configs {
    pub text_encoder: TextEncoderConfig,
    pub unet: UNetConfig,
    pub vae: VaeConfig,
}

impl Configs {
    /// `path` is for messages.
    pub fn of(path: &Path, kind: Kind) -> Result<Self> {
        let one = kind == Kind::One;
        let unet = json!({
            "attention_head_dim": if one { json!(8) } else { json!([5, 10, 20, 20]) },
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": if one { 768 } else { 1024 },
            "use_linear_projection": !one,
            "sample_size": 64,
        });
        let vae = json!({
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": (["DownEncoderBlock2D"; 4]),
            "up_block_types": (["UpDecoderBlock2D"; 4]),
            "layers_per_block": 2,
            "sample_size": if one { 512 } else { 768 },
        });
        let text_encoder = json!({
            "hidden_act": if one { "quick_gelu" } else { "gelu" },
            "hidden_size": if one { 768 } else { 1024 },
            "intermediate_size": if one { 3072 } else { 4096 },
            // Of ViT-H's 24 layers the last is not used.
            "num_hidden_layers": if one { 12 } else { 23 },
            "num_attention_heads": if one { 12 } else { 16 },
        });
        Ok(Configs {
            text_encoder: TextEncoderConfig::from_json(path, &text_encoder.to_string())?,
            unet: UNetConfig::from_json(path, &unet.to_string())?,
            vae: VaeConfig::from_json(path, &vae.to_string())?,
        })
    }
}

/// The scheduler's configuration of Stable Diffusion 1.5 and 2.1-base.
fn scheduler_json() -> String {
    let config: Value = json!({
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "trained_betas": null,
    });
    config.to_string()
}

/// `name` without its first two numbers: `("3", "1", "norm.weight")` of `3.1.norm.weight`.
fn two_numbers(name: &str) -> Option<(usize, usize, &str)> {
    let (first, rest) = name.split_once('.')?;
    let (second, rest) = rest.split_once('.')?;
    Some((first.parse().ok()?, second.parse().ok()?, rest))
}

/// A UNet tensor's name in diffusers, `None` for a tensor of something else.
fn unet_name(stored: &str, layers_per_block: usize) -> Option<String> {
    let name = stored.strip_prefix(UNET)?;
    let (area, rest) = name.split_once('.')?;
    let layers = layers_per_block + 1;
    match area {
        "time_embed" => match rest.split_once('.')? {
            ("0", what) => Some(format!("time_embedding.linear_1.{what}")),
            ("2", what) => Some(format!("time_embedding.linear_2.{what}")),
            _ => None,
        },
        "out" => match rest.split_once('.')? {
            ("0", what) => Some(format!("conv_norm_out.{what}")),
            ("2", what) => Some(format!("conv_out.{what}")),
            _ => None,
        },
        "input_blocks" => {
            let (index, part, what) = two_numbers(rest)?;
            let Some(index) = index.checked_sub(1) else {
                return Some(format!("conv_in.{what}"));
            };
            let block = format!("down_blocks.{}", index / layers);
            if let Some(what) = what.strip_prefix("op.") {
                return Some(format!("{block}.downsamplers.0.conv.{what}"));
            }
            layer_name(&block, index % layers, part == 0, what)
        }
        "middle_block" => {
            let (index, what) = rest.split_once('.')?;
            let index: usize = index.parse().ok()?;
            layer_name("mid_block", index / 2, index.is_multiple_of(2), what)
        }
        "output_blocks" => {
            let (index, part, what) = two_numbers(rest)?;
            let block = format!("up_blocks.{}", index / layers);
            if part > 0
                && let Some(what) = what.strip_prefix("conv.")
            {
                return Some(format!("{block}.upsamplers.0.conv.{what}"));
            }
            layer_name(&block, index % layers, part == 0, what)
        }
        _ => None,
    }
}

/// A tensor of a residual layer or of the attention after it.
fn layer_name(block: &str, layer: usize, residual: bool, what: &str) -> Option<String> {
    const RENAMED: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    if !residual {
        return Some(format!("{block}.attentions.{layer}.{what}"));
    }
    let (old, new) = RENAMED.iter().find(|(old, _)| what.starts_with(old))?;
    Some(format!("{block}.resnets.{layer}.{new}{}", &what[old.len()..]))
}

/// A VAE tensor's name in diffusers; `levels` is the number of blocks up or down.
fn vae_name(stored: &str, levels: usize) -> Option<String> {
    let name = stored.strip_prefix(VAE)?;
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_string());
    }
    let (half, rest) = name.split_once('.')?;
    let (area, what) = rest.split_once('.')?;
    let rest = match area {
        "conv_in" | "conv_out" => rest.to_string(),
        "norm_out" => format!("conv_norm_out.{what}"),
        "mid" => vae_mid_name(what)?,
        "down" | "up" => {
            let (index, what) = what.split_once('.')?;
            let index: usize = index.parse().ok()?;
            // The original counts both ways from the largest picture.
            let index = if area == "up" { (levels - 1).checked_sub(index)? } else { index };
            let what = if let Some(what) = what.strip_prefix("block.") {
                format!("resnets.{}", what.replace("nin_shortcut.", "conv_shortcut."))
            } else {
                // `downsample.conv.weight`, `upsample.conv.weight`
                format!("{area}samplers.0.{}", what.split_once('.')?.1)
            };
            format!("{area}_blocks.{index}.{what}")
        }
        _ => return None,
    };
    Some(format!("{half}.{rest}"))
}

fn vae_mid_name(what: &str) -> Option<String> {
    const RENAMED: [(&str, &str); 5] = [
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
    ];
    if let Some(what) = what.strip_prefix("attn_1.") {
        let (old, new) = RENAMED.iter().find(|(old, _)| what.starts_with(old))?;
        return Some(format!("mid_block.attentions.0.{new}{}", &what[old.len()..]));
    }
    let (index, what) = what.strip_prefix("block_")?.split_once('.')?;
    let index: usize = index.parse().ok()?;
    Some(format!("mid_block.resnets.{}.{what}", index.checked_sub(1)?))
}

/// A text encoder's tensor in a 1.x file: transformers' own names, with or without `text_model.`.
fn clip_name(stored: &str) -> Option<String> {
    stored.strip_prefix(CLIP).map(super::folder::text_encoder_name)
}

/// What a tensor of OpenCLIP is called in transformers: one that stacks three is three.
fn open_clip_names(stored: &str, layers: usize) -> Vec<Known> {
    const RENAMED: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ];
    let whole = |name: String| vec![(format!("text_model.{name}"), None)];
    let Some(name) = stored.strip_prefix(OPEN_CLIP) else {
        return converted_open_clip_names(stored, layers);
    };
    match name {
        "positional_embedding" => {
            return whole("embeddings.position_embedding.weight".to_string());
        }
        "token_embedding.weight" => return whole("embeddings.token_embedding.weight".to_string()),
        _ => {}
    }
    if let Some(what) = name.strip_prefix("ln_final.") {
        return whole(format!("final_layer_norm.{what}"));
    }
    let layer = name.strip_prefix("transformer.resblocks.").and_then(|name| name.split_once('.'));
    let Some((Ok(layer), what)) = layer.map(|(layer, what)| (layer.parse::<usize>(), what)) else {
        return Vec::new();
    };
    if layer >= layers {
        return Vec::new();
    }
    if let Some(what) = what.strip_prefix("attn.in_proj_") {
        return stacked(layer, what);
    }
    let renamed = RENAMED.iter().find(|(old, _)| what.starts_with(old));
    renamed.map_or_else(Vec::new, |(old, new)| {
        whole(format!("encoder.layers.{layer}.{new}{}", &what[old.len()..]))
    })
}

/// The three projections that one tensor of a layer stacks.
fn stacked(layer: usize, what: &str) -> Vec<Known> {
    let parts = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
    let name = |part| format!("text_model.encoder.layers.{layer}.self_attn.{part}.{what}");
    parts.map(|(index, part)| (name(part), Some(Part { index, count: 3 }))).collect()
}

/// The same where stable-diffusion.cpp has converted names: transformers' own, but for what is
/// stacked.
fn converted_open_clip_names(stored: &str, layers: usize) -> Vec<Known> {
    let name = stored.strip_prefix(CLIP).and_then(|name| name.strip_prefix("text_model."));
    let Some(name) = name else { return Vec::new() };
    let layer = name.strip_prefix("encoder.layers.").and_then(|name| name.split_once('.'));
    match layer.map(|(layer, what)| (layer.parse::<usize>(), what)) {
        Some((Ok(layer), what)) if layer < layers => {
            match what.strip_prefix("self_attn.in_proj.") {
                Some(what) => stacked(layer, what),
                None => vec![(format!("text_model.{name}"), None)],
            }
        }
        None if name.starts_with("embeddings.") || name.starts_with("final_layer_norm.") => {
            vec![(format!("text_model.{name}"), None)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn golden(name: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn manifest(kind: &str, component: &str) -> BTreeSet<String> {
        let names = golden(&format!("{kind}/{component}/manifest.json"));
        names.as_object().unwrap().keys().cloned().collect()
    }

    /// The names that old files have for the VAE's attention, by today's.
    fn renewed(name: &str) -> String {
        super::super::folder::vae_name(name)
    }

    #[test]
    fn every_tensor_of_a_single_file_has_its_name_in_diffusers() {
        let names = golden("sd15/single_file.json");
        let mut mapped = BTreeSet::new();
        for (stored, what) in names.as_object().unwrap() {
            let found = [unet_name(stored, 2), vae_name(stored, 4), clip_name(stored)];
            let found: Vec<_> = found.into_iter().flatten().collect();
            let expected = renewed(what["name"].as_str().unwrap());
            assert_eq!(found, std::slice::from_ref(&expected), "{stored}");
            mapped.insert(expected);
        }
        let mut all = BTreeSet::new();
        for component in ["unet", "vae", "text_encoder"] {
            all.extend(manifest("sd15", component).iter().map(|name| renewed(name)));
        }
        assert_eq!(mapped, all);
    }

    #[test]
    fn every_tensor_of_open_clip_has_its_name_in_transformers() {
        let layers = golden("sd21-base/text_encoder/config.json")["num_hidden_layers"].clone();
        let layers = layers.as_u64().unwrap() as usize;
        let mut stored = vec![
            "token_embedding.weight".to_string(),
            "positional_embedding".to_string(),
            "ln_final.weight".to_string(),
            "ln_final.bias".to_string(),
            "text_projection".to_string(),
            "logit_scale".to_string(),
        ];
        // One layer more than the encoder has: it is not used.
        for layer in 0..=layers {
            for module in
                ["ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.", "attn.out_proj.", "attn.in_proj_"]
            {
                for what in ["weight", "bias"] {
                    stored.push(format!("transformer.resblocks.{layer}.{module}{what}"));
                }
            }
        }
        let known = |name: &String| open_clip_names(&format!("{OPEN_CLIP}{name}"), layers);
        let all: Vec<_> = stored.iter().flat_map(known).collect();
        let names: BTreeSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(names, manifest("sd21-base", "text_encoder"));
        let part = |name: &str| {
            let name = format!("text_model.encoder.layers.1.self_attn.{name}.weight");
            all.iter().find(|(known, _)| *known == name).unwrap().1
        };
        assert_eq!(part("q_proj"), Some(Part { index: 0, count: 3 }));
        assert_eq!(part("k_proj"), Some(Part { index: 1, count: 3 }));
        assert_eq!(part("v_proj"), Some(Part { index: 2, count: 3 }));
        assert_eq!(part("out_proj"), None);

        // The same encoder as stable-diffusion.cpp converts its names.
        let whole = |name: &String| {
            let stacked = ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
            (!stacked).then(|| format!("{CLIP}{name}"))
        };
        let mut converted: Vec<_> = names.iter().filter_map(whole).collect();
        converted.push(format!("{CLIP}text_model.text_projection"));
        for layer in 0..=layers {
            for what in ["weight", "bias"] {
                let name = format!("text_model.encoder.layers.{layer}.self_attn.in_proj.{what}");
                converted.push(format!("{CLIP}{name}"));
            }
        }
        let again = converted.iter().flat_map(|name| open_clip_names(name, layers));
        let mut again: Vec<_> = again.collect();
        let mut all = all.clone();
        again.sort_by(|a, b| a.0.cmp(&b.0));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(again, all);
    }

    #[test]
    fn tensors_of_something_else_have_no_name() {
        let names = [
            "model_ema.decay",
            "alphas_cumprod",
            "model.diffusion_model.input_blocks.x.0.weight",
            "model.diffusion_model.label_emb.0.0.weight",
            "first_stage_model.loss.logvar",
            "first_stage_model.decoder.up.9.block.0.norm1.weight",
            "first_stage_model.encoder.mid.block_0.norm1.weight",
            "cond_stage_model.model.transformer.resblocks.99999999999999999999.ln_1.weight",
        ];
        for name in names {
            assert_eq!((unet_name(name, 2), vae_name(name, 4)), (None, None), "{name}");
            assert!(open_clip_names(name, 23).is_empty(), "{name}");
        }
    }
}
