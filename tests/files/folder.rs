//! Model folders, single-file checkpoints and models in the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ellesmere::io::safetensors::StoredType;
use ellesmere::models::checkpoint::Checkpoint;
use ellesmere::models::config::Activation;
use ellesmere::models::files::{ModelFiles, Variant};
use serde_json::{Value, json};

use crate::{Tensor, WEIGHTS, assert_fails, golden_json, model, tensors, write_tensors};

const KINDS: [&str; 6] = ["sd15", "sd21-base", "sd21", "bk-base", "bk-small", "bk-tiny"];

fn open(folder: &Path) -> ellesmere::Result<ModelFiles> {
    ModelFiles::open(folder, Variant::Any)
}

/// Asserts that every tensor of the manifest is there, by today's name and with its values.
#[track_caller]
fn assert_has(weights: &Checkpoint, tensors: &[Tensor]) {
    for tensor in tensors {
        let name = today(&tensor.name);
        let read = weights.tensor(&name, &tensor.shape).unwrap();
        assert_eq!(read.to_f32(), tensor.values, "{name}");
    }
    assert_eq!(weights.names().count(), tensors.len());
}

fn today(name: &str) -> String {
    let renamed =
        [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    let old = renamed.iter().find(|(old, _)| name.contains(&format!(".attentions.0.{old}.")));
    old.map_or(name.to_string(), |(old, new)| {
        name.replace(&format!(".{old}."), &format!(".{new}."))
    })
}

#[test]
fn every_kind_of_folder_opens_with_every_tensor() {
    for kind in KINDS {
        let folder = model(kind, |_, _| {});
        let files = open(folder.path()).unwrap();
        assert_has(&files.text_encoder.weights, &tensors(kind, "text_encoder"));
        assert_has(&files.unet.weights, &tensors(kind, "unet"));
        assert_has(&files.vae.weights, &tensors(kind, "vae"));
        assert_eq!(files.name, folder.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(files.tokenizer.length(), 77);
        let scheduler: Value = serde_json::from_str(&files.scheduler.json).unwrap();
        assert_eq!(
            scheduler,
            golden_json(&format!("models/{kind}/scheduler/scheduler_config.json"))
        );
        assert!(files.scheduler.path.ends_with("scheduler/scheduler_config.json"));
    }
}

#[test]
fn a_text_encoder_without_its_prefix_is_the_same() {
    let folder = model("sd15", |component, tensors| {
        if component == "text_encoder" {
            for tensor in tensors {
                tensor.name = tensor.name.replace("text_model.", "");
            }
        }
    });
    let files = open(folder.path()).unwrap();
    assert_has(&files.text_encoder.weights, &tensors("sd15", "text_encoder"));
}

#[test]
fn the_variant_that_is_asked_for_comes_first() {
    let folder = model("bk-tiny", |_, _| {});
    for (component, stem) in WEIGHTS {
        let path = folder.path().join(component).join(format!("{stem}.fp16.safetensors"));
        write_tensors(&path, StoredType::BF16, &tensors("bk-tiny", component));
    }
    let stored = |variant| {
        let files = ModelFiles::open(folder.path(), variant).unwrap();
        let tensor = files.unet.weights.tensor("conv_in.bias", &[32]).unwrap().stored_type();
        (tensor, files.vae.weights.path().to_path_buf())
    };
    let (plain, path) = stored(Variant::Any);
    assert_eq!(plain, StoredType::F16);
    assert!(path.ends_with("vae/diffusion_pytorch_model.safetensors"));
    let (half, path) = stored(Variant::F16);
    assert_eq!(half, StoredType::BF16);
    assert!(path.ends_with("vae/diffusion_pytorch_model.fp16.safetensors"));
    // Either serves where it is the only one.
    fs::remove_file(folder.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    fs::remove_file(folder.path().join("unet/diffusion_pytorch_model.fp16.safetensors")).unwrap();
    assert_eq!(stored(Variant::Any), (StoredType::F16, path.clone()));
    assert_eq!(stored(Variant::F16), (StoredType::F16, path));
}

/// Splits the UNet of a folder into two shards under an index; `edit` may damage the index.
fn shard(folder: &Path, suffix: &str, edit: impl Fn(&mut BTreeMap<String, String>)) {
    let unet = folder.join("unet");
    fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).ok();
    let tensors = tensors("bk-tiny", "unet");
    let mut map = BTreeMap::new();
    for (number, part) in [&tensors[..100], &tensors[100..]].into_iter().enumerate() {
        let name = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", number + 1);
        write_tensors(&unet.join(&name), StoredType::F16, part);
        map.extend(part.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    edit(&mut map);
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    let name = format!("diffusion_pytorch_model.safetensors.index{suffix}.json");
    fs::write(unet.join(name), index.to_string()).unwrap();
}

#[test]
fn shards_are_one_component() {
    let folder = model("bk-tiny", |_, _| {});
    for suffix in ["", ".fp16"] {
        shard(folder.path(), suffix, |_| {});
        let files = open(folder.path()).unwrap();
        assert_has(&files.unet.weights, &tensors("bk-tiny", "unet"));
        assert!(files.unet.weights.path().ends_with("unet"));
        let index = format!("unet/diffusion_pytorch_model.safetensors.index{suffix}.json");
        fs::remove_file(folder.path().join(index)).unwrap();
    }
}

#[test]
fn each_defect_of_an_index_is_named() {
    let folder = model("bk-tiny", |_, _| {});
    let first = "conv_in.bias";
    let second = "diffusion_pytorch_model-00002-of-00002.safetensors";
    let name = |value: &'static str| {
        move |map: &mut BTreeMap<String, String>| {
            map.insert(first.to_string(), value.to_string());
        }
    };
    let failure = |edit: &dyn Fn(&mut BTreeMap<String, String>)| {
        shard(folder.path(), "", edit);
        open(folder.path())
    };
    let outside = "expected a .safetensors file beside it, got ";
    assert_fails("up", failure(&name("../../a.safetensors")), &["index.json: weight_map", outside]);
    assert_fails("root", failure(&name("/a.safetensors")), &[outside]);
    assert_fails("device", failure(&name("C:a.safetensors")), &[outside]);
    assert_fails("pickle", failure(&name("a.bin")), &[outside]);
    assert_fails("gone", failure(&name("a.safetensors")), &["unet/a.safetensors: is missing"]);
    assert_fails("none", failure(&|map| map.clear()), &["weight_map: expected tensors, got none"]);
    let elsewhere = |map: &mut BTreeMap<String, String>| {
        let file = if map[first] == second {
            second.replace("00002-", "00001-")
        } else {
            second.to_string()
        };
        map.insert(first.to_string(), file);
    };
    assert_fails("elsewhere", failure(&elsewhere), &["tensor conv_in.bias: is missing: the index"]);
    let index = folder.path().join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": [1]}"#).unwrap();
    assert_fails("not a map", open(folder.path()), &["index.json: expected an index of shards: "]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = model("bk-tiny", |_, _| {});
    shard(folder.path(), "", |_| {});
    let name = "diffusion_pytorch_model-00002-of-00002.safetensors";
    let mut all = tensors("bk-tiny", "unet");
    all.truncate(101);
    write_tensors(&folder.path().join("unet").join(name), StoredType::F16, &all);
    let unet = folder.path().join("unet/diffusion_pytorch_model.safetensors.index.json");
    let map: BTreeMap<_, _> = all.iter().map(|tensor| (tensor.name.as_str(), name)).collect();
    let mut map = serde_json::to_value(map).unwrap();
    map[all[0].name.as_str()] = json!(name.replace("00002-", "00001-"));
    fs::write(unet, json!({"weight_map": map}).to_string()).unwrap();
    assert_fails(
        "twice",
        open(folder.path()),
        &["00002-of-00002", "is also in ", "00001-of-00002"],
    );
}

#[test]
fn each_file_that_is_missing_is_named() {
    let cases = [
        ("model_index.json", "model_index.json: is missing"),
        ("unet/config.json", "unet/config.json: is missing"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json: is missing"),
        ("tokenizer/vocab.json", "tokenizer/vocab.json: is missing"),
        ("tokenizer/merges.txt", "tokenizer/merges.txt: is missing"),
        ("vae/diffusion_pytorch_model.safetensors", "vae: expected model.safetensors or diff"),
    ];
    let folder = model("bk-tiny", |_, _| {});
    for (name, expected) in cases {
        let path = folder.path().join(name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_fails(name, open(folder.path()), &[folder.path().to_str().unwrap(), expected]);
        fs::write(&path, bytes).unwrap();
    }
    assert_fails("no folder", open(Path::new("/none")), &["/none: cannot be opened: "]);
    fs::remove_file(folder.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    fs::write(folder.path().join("vae/diffusion_pytorch_model.bin"), b"").unwrap();
    assert_fails(
        "a pickle",
        open(folder.path()),
        &["model.bin: expected weights as .safetensors, got a pickle"],
    );
}

#[test]
fn components_that_do_not_fit_each_other_are_refused() {
    let cases = [
        (
            "unet/config.json",
            "cross_attention_dim",
            json!(32),
            "unet cross_attention_dim: expected 64, the text_encoder hidden_size, got 32",
        ),
        (
            "unet/config.json",
            "in_channels",
            json!(9),
            "unet in_channels: expected 4, the vae latent_channels, got 9",
        ),
        (
            "unet/config.json",
            "out_channels",
            json!(8),
            "unet out_channels: expected 4, the vae latent_channels, got 8",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "model_max_length",
            json!(78),
            "tokenizer model_max_length: expected at most 77, the text_encoder max_position_embeddings, got 78",
        ),
        (
            "text_encoder/config.json",
            "vocab_size",
            json!(710),
            "tokenizer vocabulary: expected at most 710 tokens, the text_encoder vocab_size, got 711",
        ),
    ];
    let folder = model("bk-tiny", |_, _| {});
    for (name, key, value, expected) in cases {
        let path = folder.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert_fails(key, open(folder.path()), &[expected]);
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn a_folder_in_the_program_is_like_one_on_the_disk() {
    let folder = model("bk-tiny", |_, _| {});
    let mut files: Vec<(&'static str, &'static [u8])> = Vec::new();
    collect(folder.path(), folder.path(), &mut files);
    let opened = ModelFiles::embedded("demo", files.leak()).unwrap();
    assert_eq!((opened.name.as_str(), opened.path.as_path()), ("demo", Path::new("demo")));
    assert_has(&opened.unet.weights, &tensors("bk-tiny", "unet"));
    let files = vec![("model_index.json", b"{}".as_slice())].leak();
    let path = Path::new("demo").join("text_encoder/config.json");
    let expected = format!("{}: is missing", path.display());
    assert_fails("nothing", ModelFiles::embedded("demo", files), &[&expected]);
}

/// Every file below `folder`, for good: a test's program ends soon.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(&'static str, &'static [u8])>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let parts = path.strip_prefix(root).unwrap().iter().map(|part| part.to_str().unwrap());
            let name = parts.collect::<Vec<_>>().join("/");
            files.push((name.leak(), fs::read(&path).unwrap().leak()));
        }
    }
}

/// The tensors that tell a single file's kind, and one or two of each component.
fn single(context: usize, clip: &[(&str, &[usize])]) -> Vec<Tensor> {
    let unet = "model.diffusion_model.";
    let mut tensors = vec![
        Tensor::new(&format!("{unet}input_blocks.0.0.weight"), &[320, 4, 3, 3]),
        Tensor::new(
            &format!("{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"),
            &[320, context],
        ),
        Tensor::new("first_stage_model.decoder.mid.attn_1.q.weight", &[512, 512, 1, 1]),
        Tensor::new("model_ema.decay", &[]),
    ];
    tensors.extend(clip.iter().map(|(name, shape)| Tensor::new(name, shape)));
    tensors
}

const CLIP: &str = "cond_stage_model.transformer.text_model.final_layer_norm.weight";
const OPEN_CLIP: &str = "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight";
const LAST: &str = "cond_stage_model.model.transformer.resblocks.23.ln_1.weight";

#[test]
fn a_single_file_is_told_by_its_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model-v1.safetensors");
    write_tensors(&path, StoredType::F16, &single(768, &[(CLIP, &[768])]));
    let one = open(&path).unwrap();
    assert_eq!((one.name.as_str(), one.path.as_path()), ("model-v1", path.as_path()));
    assert_eq!(
        (one.unet.config.heads.as_slice(), one.unet.config.cross_attention_dim),
        (&[8; 4][..], 768)
    );
    assert_eq!((one.vae.config.sample_size, one.vae.config.layers_per_block), ([512, 512], 2));
    let text = &one.text_encoder.config;
    assert_eq!((text.layers, text.heads, text.activation), (12, 12, Activation::QuickGelu));
    assert_eq!(one.tokenizer.pad(), one.tokenizer.eos());
    let name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    one.unet.weights.tensor(name, &[320, 768]).unwrap();
    one.vae.weights.tensor("decoder.mid_block.attentions.0.to_q.weight", &[512, 512]).unwrap();
    one.text_encoder.weights.tensor("text_model.final_layer_norm.weight", &[768]).unwrap();
    let scheduler: Value = serde_json::from_str(&one.scheduler.json).unwrap();
    assert_eq!(scheduler["prediction_type"], "epsilon");
    assert_fails(
        "a tensor that is not there",
        one.unet.weights.tensor("conv_out.bias", &[4]),
        &["model-v1.safetensors: tensor conv_out.bias: expected [4], but it is missing"],
    );
}

#[test]
fn what_open_clip_stacks_is_taken_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model-v2.safetensors");
    let stacked = Tensor::new(OPEN_CLIP, &[3 * 1024, 1024]);
    let bias = OPEN_CLIP.replace("_weight", "_bias");
    let clip = [(OPEN_CLIP, &[3 * 1024, 1024][..]), (&bias, &[3 * 1024]), (LAST, &[1024])];
    write_tensors(&path, StoredType::F16, &single(1024, &clip));
    let two = open(&path).unwrap();
    assert_eq!(two.unet.config.heads, [5, 10, 20, 20]);
    assert!(two.unet.config.use_linear_projection);
    assert_eq!(two.vae.config.sample_size, [768, 768]);
    let text = &two.text_encoder;
    assert_eq!((text.config.layers, text.config.heads), (23, 16));
    assert_eq!(text.config.activation, Activation::Gelu);
    assert_eq!(two.tokenizer.pad(), 0);
    for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        let name = format!("text_model.encoder.layers.22.self_attn.{part}");
        let weight = text.weights.tensor(&format!("{name}.weight"), &[1024, 1024]).unwrap();
        let rows = 1024 * 1024;
        assert_eq!(weight.to_f32(), stacked.values[index * rows..(index + 1) * rows]);
        let bias = text.weights.tensor(&format!("{name}.bias"), &[1024]).unwrap();
        assert_eq!(bias.to_f32()[0], (index * 1024 % 251) as f32);
    }
    assert_eq!(text.weights.names().count(), 6, "the last layer is left out");
    assert_eq!(text.weights.bytes(), 2 * 3 * 1024 * 1025);
}

#[test]
fn a_single_file_may_be_gguf_with_everything_in_blocks() {
    use ellesmere::io::gguf::{self, NewTensor};
    use ellesmere::{Format, nn::TensorSource as _, quant};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model-v1-q8_0.gguf");
    let tensors = single(768, &[(CLIP, &[768])]);
    // As stable-diffusion.cpp has it: norms too, but no convolution, whose rows are its kernel's.
    let blocks = |tensor: &&Tensor| tensor.shape.last().is_some_and(|size| size % 32 == 0);
    let new = tensors.iter().map(|tensor| {
        let format = StoredType::Blocks(Format::Q8_0);
        let stored = if blocks(&tensor) { format } else { StoredType::F16 };
        NewTensor { name: tensor.name.clone(), stored, shape: tensor.shape.clone() }
    });
    let new: Vec<_> = new.collect();
    gguf::write(&path, &[], &new, |index, data| {
        let tensor = &tensors[index];
        if !blocks(&tensor) {
            return data.write(&tensor.bytes(StoredType::F16));
        }
        let mut bytes = vec![0; new[index].size_bytes().unwrap()];
        quant::encode(Format::Q8_0, &tensor.values, &mut bytes)?;
        data.write(&bytes)
    })
    .unwrap();
    let one = open(&path).unwrap();
    assert_eq!((one.name.as_str(), one.text_encoder.config.layers), ("model-v1-q8_0", 12));
    assert!(one.values().is_empty());
    let near = |got: &[f32], expected: &[f32]| {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 250.0 / 127.0 * 0.51));
    };
    let name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    near(&one.unet.weights.tensor(name, &[320, 768]).unwrap().to_f32(), &tensors[1].values);
    assert_eq!(one.unet.weights.stored(name).unwrap().0, Format::Q8_0);
    let norm = "text_model.final_layer_norm.weight";
    near(&one.text_encoder.weights.tensor(norm, &[768]).unwrap().to_f32(), &tensors[4].values);
    let name = "decoder.mid_block.attentions.0.to_q.weight";
    assert_eq!(one.vae.weights.tensor(name, &[512, 512]).unwrap().to_f32(), tensors[2].values);
    assert_eq!(one.vae.weights.stored(name), None);
}

#[test]
fn a_single_file_of_something_else_is_refused() {
    let clip: &[(&str, &[usize])] = &[(CLIP, &[768])];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let edited = |edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = single(768, clip);
        edit(&mut tensors);
        write_tensors(&path, StoredType::F16, &tensors);
        open(&path)
    };
    let what = "expected a Stable Diffusion 1.x or 2.x checkpoint, got ";
    let add =
        |name: &'static str| move |tensors: &mut Vec<Tensor>| tensors.push(Tensor::new(name, &[1]));
    let cases: [(&str, ellesmere::Result<ModelFiles>, &str); 8] = [
        (
            "a component",
            edited(&|tensors| tensors.clear()),
            "a file without model.diffusion_model.input_blocks.0.0.weight",
        ),
        (
            "inpainting",
            edited(&|tensors| tensors[0] = Tensor::new(&tensors[0].name, &[320, 9, 3, 3])),
            "one whose first convolution is [320, 9, 3, 3]",
        ),
        (
            "another width",
            edited(&|tensors| tensors[1] = Tensor::new(&tensors[1].name, &[320, 2048])),
            "attn2.to_k.weight [320, 2048], not [320, 768] or [320, 1024]",
        ),
        (
            "no attention",
            edited(&|tensors| drop(tensors.remove(1))),
            "a file without model.diffusion_model.input_blocks.1.1",
        ),
        ("XL", edited(&add("conditioner.embedders.0.x")), "Stable Diffusion XL"),
        (
            "unCLIP",
            edited(&add("model.diffusion_model.label_emb.0.0.weight")),
            "one with class embeddings",
        ),
        (
            "no VAE",
            edited(&|tensors| drop(tensors.remove(2))),
            "expected tensors named first_stage_model.…, got none: not a whole model",
        ),
        (
            "no text encoder",
            edited(&|tensors| drop(tensors.pop())),
            "expected tensors named cond_stage_model.transformer.…, got none",
        ),
    ];
    for (why, result, expected) in cases {
        let parts: &[&str] =
            if expected.starts_with("expected") { &[expected] } else { &[what, expected] };
        assert_fails(why, result, parts);
    }
    fs::write(&path, b"PK\x03\x04 a pickle of PyTorch").unwrap();
    assert_fails(
        "a pickle",
        open(&path),
        &["a.safetensors: expected a safetensors header of at most"],
    );
}
