//! The program `quantize` as a person runs it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/demo.rs"]
mod demo;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/programs.rs"]
mod programs;
#[path = "common/psnr.rs"]
mod psnr;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::path::Path;

use ellesmere::Format;
use ellesmere::io::gguf::Gguf;
use ellesmere::io::image::Image;
use ellesmere::io::tensors::StoredType;
use programs::{run, text};
use psnr::psnr_db;
use tempfile::TempDir;

fn demo() -> String {
    demo::folder().into_os_string().into_string().unwrap()
}

/// Writes the demo model; answers with the table.
#[track_caller]
fn quantized(folder: &TempDir, output: &str, more: &[&str]) -> String {
    let demo = demo();
    let done = run("quantize", folder, &[&[demo.as_str(), output], more].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    text(&done.stdout)
}

/// Runs a command that must fail with `status` and one line with every one of `words`, and must leave
/// nothing behind.
#[track_caller]
fn refused(arguments: &[&str], rules: &str, status: i32, words: &[&str]) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("a.rules"), rules).unwrap();
    let output = run("quantize", &folder, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    let own = !message.contains("--help");
    assert!(!own || message.trim_end().lines().count() == 1, "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the rules are there");
}

fn picture(folder: &TempDir, model: &str) -> Vec<u8> {
    let arguments = ["a red house", "--device", "cpu", "--dtype", "f32", "--steps", "4"];
    let output = format!("{}.png", Path::new(model).file_stem().unwrap().to_str().unwrap());
    let more = ["--seed", "3", "--guidance", "3", "--model", model, "--output", &output];
    let done = run("sd", folder, &[&arguments[..], &more].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    Image::open(&folder.path().join(output)).unwrap().pixels().to_vec()
}

#[test]
fn a_model_in_one_file_draws_nearly_the_same_picture() {
    let folder = TempDir::new().unwrap();
    let expected = picture(&folder, &demo());
    for (stored, least) in [("f16", 60.0), ("q8_0", 30.0), ("q4_k", 15.0)] {
        let name = format!("{stored}.gguf");
        quantized(&folder, &name, &["--type", stored]);
        let got = picture(&folder, &name);
        let psnr = psnr_db(255.0, &got, &expected);
        println!("{stored}: {psnr:.1} dB");
        assert!(psnr >= least, "{stored}: {psnr:.1} dB");
    }
}

#[test]
fn rules_decide_and_the_table_says_what_became_of_it() {
    let folder = TempDir::new().unwrap();
    let rules = "# what draws every pixel\nvae.*  f16\n\nunet.*.to_q.weight q8_0 # queries\n*.to_q.* q4_0\n";
    std::fs::write(folder.path().join("a.rules"), rules).unwrap();
    let table = quantized(&folder, "a.gguf", &["--type", "q4_0", "--rules", "a.rules"]);
    let file = Gguf::open(&folder.path().join("a.gguf")).unwrap();
    let mut bytes = 0;
    for (name, info) in file.iter() {
        let stored = info.stored_type().unwrap();
        bytes += info.size_bytes();
        let small = info.shape().iter().product::<usize>() < 1024;
        if name.starts_with("vae.") && info.shape().len() > 1 {
            assert_eq!(stored, StoredType::F16, "{name}");
        } else if info.shape().len() < 2 || small {
            assert_eq!(stored, StoredType::F32, "{name}");
        } else if name.contains("embed") {
            assert_eq!(stored, StoredType::F16, "{name}");
        } else if name.starts_with("unet.") && name.ends_with(".to_q.weight") {
            assert_eq!(stored, StoredType::Blocks(Format::Q8_0), "{name}");
        } else if info.shape().last().unwrap() % 32 == 0 {
            assert_eq!(stored, StoredType::Blocks(Format::Q4_0), "{name}");
        }
    }
    assert_eq!(file.text("ellesmere.convolutions"), Some("channels_last"));
    assert!(file.text("ellesmere.unet.config.json").unwrap().contains("UNet2DConditionModel"));
    let total = table.lines().find(|line| line.starts_with("total")).unwrap();
    let megabytes: f64 = total.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((megabytes - bytes as f64 / 1e6).abs() < 0.06, "{table}");
    for word in ["q4_0", "q8_0", "f16", "f32", "no multiple of 32", "a.gguf: "] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn blocks_are_not_rounded_twice() {
    let folder = TempDir::new().unwrap();
    quantized(&folder, "once.gguf", &["--type", "q5_0"]);
    let done = run("quantize", &folder, &["once.gguf", "twice.gguf", "--type", "q5_0"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let [once, twice] =
        ["once.gguf", "twice.gguf"].map(|name| Gguf::open(&folder.path().join(name)).unwrap());
    assert!(once.iter().eq(twice.iter()));
    assert!(once.iter().all(|(name, _)| once.data(name) == twice.data(name)));
}

#[test]
fn misuse_is_one_line_that_says_what_is_wrong() {
    let demo = demo();
    let with = |rules: &str, words: &[&str]| {
        let arguments = [&demo, "a.gguf", "--type", "q8_0", "--rules", "a.rules"];
        refused(&arguments, rules, 1, words);
    };
    with("vae.* f16\nunet.nothing.* q8_0", &["a.rules: the pattern unet.nothing.* fits no tensor"]);
    with("vae.* f16 now", &["a.rules: line 1: expected a pattern and a type, got 3 words"]);
    with("\nvae.* q3_k", &["a.rules: line 2: expected one of q8_0, ", "got \"q3_k\""]);
    refused(&[&demo, "a.gguf", "--type", "q9"], "", 2, &["--type", "q4_k", "q9"]);
    refused(&[&demo, "no/such/a.gguf", "--type", "q8_0"], "", 1, &["no/such/a.gguf", "no folder"]);
    refused(&["missing", "a.gguf", "--type", "q8_0"], "", 1, &["missing: cannot be opened"]);
    let arguments = [&demo, "a.gguf", "--type", "q8_0", "--rules", "missing.rules"];
    refused(&arguments, "", 1, &["missing.rules: cannot be opened"]);
}

#[test]
fn integers_beside_the_weights_are_left_out() {
    let model = random_model::write("bk-tiny");
    let path = model.path().join("text_encoder/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u8> = (0..77u64).flat_map(u64::to_le_bytes).collect();
    let ids = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, 77], &ids);
    let name = "text_model.embeddings.position_ids".to_string();
    let mut all = tensors.tensors();
    let count = all.len();
    all.push((name.clone(), ids.unwrap()));
    safetensors::serialize_to_file(all, None, &path).unwrap();
    let folder = TempDir::new().unwrap();
    let model = model.path().to_str().unwrap();
    let done = run("quantize", &folder, &[model, "a.gguf", "--type", "q8_0"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let file = Gguf::open(&folder.path().join("a.gguf")).unwrap();
    let text_encoder = file.iter().filter(|(name, _)| name.starts_with("text_encoder."));
    assert_eq!(text_encoder.count(), count);
    assert!(file.info(&format!("text_encoder.{name}")).is_none());
}

#[test]
fn a_model_that_is_broken_leaves_no_file() {
    let model = random_model::write("bk-tiny");
    let weights = model.path().join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, &bytes).unwrap();
    let path = model.path().to_str().unwrap();
    refused(&[path, "a.gguf", "--type", "q8_0"], "", 1, &["tensor ", "expected finite values"]);
}
