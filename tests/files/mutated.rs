//! Damaged files: every reader answers with a value that holds together or with one line.

use std::path::Path;
use std::sync::LazyLock;

use ellesmere::Result;
use ellesmere::io::gguf::Gguf;
use ellesmere::io::image::Image;
use ellesmere::io::safetensors::SafeTensors;
use ellesmere::io::tensors::TensorFile;
use ellesmere::models::Checkpoint;
use ellesmere::models::config::{
    FromJson, PipelineIndex, TextEncoderConfig, UNetConfig, VaeConfig,
};
use ellesmere::models::tokenizer::{Tokenizer, TokenizerFiles};
use ellesmere::nn::TensorSource as _;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::configs::config;
use crate::golden;

/// What happens to the bytes of a file.
#[derive(Clone, Debug)]
enum Damage {
    /// A byte becomes another.
    Byte(Index, u8),
    /// One bit flips.
    Bit(Index, u8),
    /// The file ends early.
    Cut(Index),
    /// A piece comes again somewhere else.
    Copied(Index, Index, usize),
    /// Bytes are put in.
    Inserted(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        // Digits and brackets, which keep a header readable and make it wrong.
        (any::<Index>(), prop::sample::select(b"0123456789[]{},\"-:e.".to_vec()))
            .prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<Index>(), 1..64usize)
            .prop_map(|(from, to, length)| Damage::Copied(from, to, length)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Inserted(at, bytes)),
    ];
    prop::collection::vec(one, 1..5)
}

/// `bytes` after some damage, all of it in the first `reach` bytes.
fn damaged(bytes: &[u8], damage: &[Damage], reach: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damage {
        let reach = reach.min(bytes.len());
        if reach == 0 {
            break;
        }
        match damage {
            Damage::Byte(at, byte) => bytes[at.index(reach)] = *byte,
            Damage::Bit(at, bit) => bytes[at.index(reach)] ^= 1 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(reach)),
            Damage::Copied(from, to, length) => {
                let from = from.index(reach);
                let piece = bytes[from..bytes.len().min(from + length)].to_vec();
                let to = to.index(reach);
                bytes.splice(to..to, piece);
            }
            Damage::Inserted(at, more) => {
                let at = at.index(reach);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

fn assert_one_line<T>(name: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(name) && !message.contains('\n'), "{message:?}");
            assert!(message.chars().count() < 1000, "{message:?}");
            None
        }
    }
}

/// A file of a few tensors of several types.
static TENSORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let header = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"a.bias":{"dtype":"F16","shape":[2],"data_offsets":[24,28]},"ids":{"dtype":"I64","shape":[1,2],"data_offsets":[28,44]},"b":{"dtype":"BF16","shape":[4,1,1],"data_offsets":[44,52]},"c.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[52,56]},"c.scale_weight":{"dtype":"F32","shape":[],"data_offsets":[56,60]},"d.weight":{"dtype":"I8","shape":[2,2],"data_offsets":[60,64]},"d.weight_scale":{"dtype":"F16","shape":[2,1],"data_offsets":[64,68]}}"#;
    let data = (0..68).collect::<Vec<u8>>();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
});

/// Reads `bytes`; what is accepted must hold together, and be what the `safetensors` crate sees.
fn check_tensors(bytes: &[u8]) {
    let path = Path::new("a.safetensors");
    let read = assert_one_line("a.safetensors: ", SafeTensors::read(path, bytes.to_vec().into()));
    let theirs = ::safetensors::SafeTensors::deserialize(bytes);
    if let Some(read) = read {
        let mut total = 0;
        for (name, info) in read.iter() {
            let data = read.data(name).expect("every tensor has data");
            assert_eq!(data.len(), info.size_bytes());
            let count = info.shape().iter().product::<usize>();
            if let Some(stored) = info.stored_type() {
                assert_eq!(stored.bytes(count), Some(data.len()));
            }
            if let Ok(theirs) = &theirs {
                let theirs = theirs.tensor(name).unwrap();
                assert_eq!((theirs.shape(), theirs.data()), (info.shape(), data));
            }
            total += data.len();
        }
        assert!(total <= bytes.len());
        check_weights(TensorFile::SafeTensors(read));
    }
}

/// Reads every weight of a file, by the scales beside it.
fn check_weights(file: TensorFile) {
    let Some(weights) = assert_one_line("a.", Checkpoint::of_file(file.into())) else { return };
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in names {
        let shape = weights.shape(&name).unwrap_or_default();
        let Some(read) = assert_one_line("a.", weights.tensor(&name, &shape)) else { continue };
        assert_eq!(read.to_f32().len(), shape.iter().product::<usize>());
        if let Some(format) = weights.format(&name, &shape) {
            assert_one_line("a.", weights.blocks(&name, &shape, format));
        }
    }
}

/// A file with a tensor of each type, and one with a value of each type.
static GGUF: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    ["tensors.gguf", "values.gguf"].map(|name| std::fs::read(golden(name)).unwrap())
});

fn check_gguf(bytes: &[u8]) {
    let path = Path::new("a.gguf");
    let read = assert_one_line("a.gguf: ", Gguf::read(path, bytes.to_vec().into()));
    let Some(read) = read else { return };
    for (name, info) in read.iter() {
        let data = read.data(name).expect("every tensor has data");
        assert_eq!(data.len(), info.size_bytes());
        assert!(info.shape().len() <= 4);
        if let Some(stored) = info.stored_type() {
            let count = info.shape().iter().product::<usize>();
            assert_eq!(stored.bytes(count), Some(data.len()));
        }
    }
}

/// Any JSON, with a liking for numbers at the edges.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..70u64).prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.0, 1e-300, 1e300, 0.5]).prop_map(Value::from),
        "[a-zA-Z\\n\u{2028}]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 16, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-z_\\n]{1,9}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// `config` with some keys replaced or added.
fn edited(mut config: Value, edits: &[(Index, String, Value)]) -> String {
    let object = config.as_object_mut().unwrap();
    for (which, name, value) in edits {
        let known = object.keys().nth(which.index(object.len() + 1)).cloned();
        object.insert(known.unwrap_or_else(|| name.clone()), value.clone());
    }
    config.to_string()
}

fn edits() -> impl Strategy<Value = Vec<(Index, String, Value)>> {
    prop::collection::vec((any::<Index>(), "[a-z\\n]{1,300}", any_json()), 1..4)
}

fn check_configs(texts: &[String; 4]) {
    let path = Path::new("config.json");
    let [unet, vae, text, index] = texts;
    if let Some(unet) = assert_one_line("config.json: ", UNetConfig::from_json(path, unet)) {
        let levels = unet.block_out_channels.len();
        assert_eq!([unet.heads.len(), unet.layers_per_block.len()], [levels; 2]);
        assert_eq!([unet.down_blocks.len(), unet.up_blocks.len()], [levels; 2]);
        for (channels, heads) in unet.block_out_channels.iter().zip(&unet.heads) {
            assert_eq!((channels % heads, channels % unet.norm_groups), (0, 0));
        }
    }
    if let Some(vae) = assert_one_line("config.json: ", VaeConfig::from_json(path, vae)) {
        assert!(vae.block_out_channels.iter().all(|channels| channels % vae.norm_groups == 0));
        assert!(vae.scaling_factor > 0.0 && vae.downscale() <= 128);
    }
    if let Some(text) = assert_one_line("config.json: ", TextEncoderConfig::from_json(path, text)) {
        assert_eq!(text.hidden_size % text.heads, 0);
    }
    assert_one_line("config.json: ", PipelineIndex::from_json(path, index));
}

fn all_configs(edit: impl Fn(Value) -> String) -> [String; 4] {
    let index = json!({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]});
    let [unet, vae, text] = ["unet", "vae", "text_encoder"].map(|part| config("sd15", part));
    [unet, vae, text, index].map(edit)
}

/// The four files of a tokenizer folder.
static TOKENIZER: LazyLock<[String; 4]> = LazyLock::new(|| {
    ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]
        .map(|name| std::fs::read_to_string(golden("models/sd15/tokenizer").join(name)).unwrap())
});

fn check_tokenizer(texts: [&str; 4], prompt: &str) {
    let [vocabulary, merges, config, special_tokens] = texts.map(Some);
    let combined = vocabulary;
    let files = TokenizerFiles { vocabulary, merges, combined, config, special_tokens };
    let read = |files: &TokenizerFiles<'_>| Tokenizer::from_files(Path::new("tokens"), files, 77);
    if let Some(tokenizer) = assert_one_line("tokens", read(&files)) {
        let tokens = tokenizer.encode(prompt).unwrap();
        assert_eq!(tokens.ids.len(), tokenizer.length());
        assert!(tokens.ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
    }
    assert_one_line("tokens", read(&TokenizerFiles { vocabulary: None, ..files }));
}

/// A small picture in each format.
static PICTURES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    use image::ImageFormat::{Jpeg, Png, WebP};
    let picture = image::RgbImage::from_fn(20, 12, |x, y| {
        image::Rgb([x as u8 * 12, y as u8 * 20, (x * y) as u8])
    });
    [Png, Jpeg, WebP].map(|format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::from(picture.clone()).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    })
});

fn check_picture(bytes: &[u8]) {
    let decoded = Image::decode(Path::new("a.png"), bytes);
    if let Some(image) = assert_one_line("a.png: ", decoded) {
        assert_eq!(
            image.pixels().len() as u64,
            3 * u64::from(image.width()) * u64::from(image.height())
        );
    }
}

/// `PROPTEST_CASES` asks for more.
fn at_least(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(cases), ..config }
}

proptest! {
    #![proptest_config(at_least(2000))]

    #[test]
    fn safetensors(damage in damage(), in_header in any::<bool>()) {
        let reach = if in_header { TENSORS.len() - 68 } else { TENSORS.len() };
        check_tensors(&damaged(&TENSORS, &damage, reach));
        // With the length mended, so that the damage reaches what lies behind it.
        let mut bytes = damaged(&TENSORS[8..], &damage, reach - 8);
        let length = bytes.len().saturating_sub(52) as u64;
        bytes.splice(0..0, length.to_le_bytes());
        check_tensors(&bytes);
    }

    #[test]
    fn gguf(damage in damage(), in_header in any::<bool>()) {
        for file in GGUF.iter() {
            let reach = if in_header { 400 } else { file.len() };
            check_gguf(&damaged(file, &damage, reach));
        }
        // Sizes that shift nothing reach further than those that do.
        let in_place: Vec<_> = damage
            .into_iter()
            .filter(|damage| matches!(damage, Damage::Byte(..) | Damage::Bit(..)))
            .collect();
        for file in GGUF.iter() {
            check_gguf(&damaged(file, &in_place, 1024));
        }
    }

    #[test]
    fn headers(
        name in "[a-z.\\n]{0,300}",
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "I64", "F4", "X\n"]),
        shape in prop::collection::vec(prop_oneof![0..5u64, any::<u64>()], 0..5),
        offsets in prop_oneof![
            (0..9u64, 0..9u64).prop_map(|(start, end)| [start * 4, end * 4]),
            any::<[u64; 2]>(),
        ],
        other in any_json(),
        data in 0..40usize,
    ) {
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        for header in [json!({ name.clone(): entry }), json!({ name: other }), json!([entry])] {
            let header = header.to_string();
            let length = (header.len() as u64).to_le_bytes();
            check_tensors(&[&length[..], header.as_bytes(), &vec![0; data]].concat());
        }
    }

    #[test]
    fn configurations(damage in damage(), edits in edits()) {
        check_configs(&all_configs(|config| {
            let bytes = damaged(config.to_string().as_bytes(), &damage, usize::MAX);
            String::from_utf8_lossy(&bytes).into_owned()
        }));
        check_configs(&all_configs(|config| edited(config, &edits)));
    }

    #[test]
    fn pictures(damage in damage(), at_start in any::<bool>()) {
        for picture in PICTURES.iter() {
            let reach = if at_start { 64 } else { picture.len() };
            check_picture(&damaged(picture, &damage, reach));
        }
    }
}

proptest! {
    #![proptest_config(at_least(200))]

    #[test]
    fn tokenizers(damage in damage(), edits in edits(), prompt in "\\PC{0,80}") {
        for index in 0..4 {
            let bytes = damaged(TOKENIZER[index].as_bytes(), &damage, usize::MAX);
            let text = String::from_utf8_lossy(&bytes);
            let mut texts = TOKENIZER.each_ref().map(String::as_str);
            texts[index] = &text;
            check_tokenizer(texts, &prompt);
        }
        let [vocabulary, merges, ..] = TOKENIZER.each_ref().map(String::as_str);
        for index in 2..4 {
            let mut texts = TOKENIZER.each_ref().map(String::as_str);
            let text = edited(serde_json::from_str(texts[index]).unwrap(), &edits);
            texts[index] = &text;
            check_tokenizer(texts, &prompt);
        }
        let combined = json!({"model": {"vocab": {"a": 0}, "merges": edits.iter().map(|edit| &edit.2).collect::<Vec<_>>()}});
        check_tokenizer([&combined.to_string(), merges, "{}", "{}"], vocabulary);
    }

    #[test]
    fn prompts(prompt in any::<String>()) {
        static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::clip("!").unwrap());
        let tokens = CLIP.encode(&prompt).unwrap();
        assert_eq!(tokens.ids.len(), 77);
        assert!(tokens.dropped.is_none_or(|text| prompt.contains(&text)));
    }
}
