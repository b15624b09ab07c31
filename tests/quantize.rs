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
use serde_json::Value;
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
    refused(&[&demo, "a.gguf"], "", 2, &["--type"]);
    refused(&[&demo, "--type", "q8_0"], "", 2, &["OUTPUT"]);
    let both = [&demo, "a.gguf", "--type", "q8_0", "--target-psnr", "35"];
    refused(&both, "", 2, &["--target-psnr", "cannot be used with"]);
    refused(&[&demo, "a.gguf", "--target-psnr", "-3"], "", 2, &["--target-psnr", "1 to 200"]);
    let rules_out = [&demo, "a.gguf", "--type", "f16", "--rules-out", "b"];
    refused(&rules_out, "", 2, &["--rules-out", "cannot be used with"]);
    refused(&[&demo, "--type", "q8_0", "--report", "--pictures", "1"], "", 2, &["--pictures"]);
    refused(&[&demo, "--type", "q8_0", "--report", "--size", "100x64"], "", 2, &["--size", "of 8"]);
}

/// The fewest pictures that show anything, and the device that is always there.
const SMALL: [&str; 8] = ["--device", "cpu", "--pictures", "2", "--steps", "2", "--size", "64x64"];

/// All but the middle of the UNet as they are.
const MIDDLE: &str = "unet.down_blocks.* f16\nunet.up_blocks.* f16\nunet.conv* f16\nunet.time* f16\n\
                      vae.* f16\ntext_encoder.* f16\n";

#[track_caller]
fn facts(folder: &TempDir, rules: &str, arguments: &[&str]) -> Value {
    std::fs::write(folder.path().join("some.rules"), rules).unwrap();
    let demo = demo();
    let arguments = [&[demo.as_str()], arguments, &SMALL, &["--rules", "some.rules"]].concat();
    let done = run("quantize", folder, &[&arguments[..], &["--json"]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let message = text(&done.stderr);
    assert!(message.contains("times all pictures: about "), "{message}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_report_ranks_layers_by_what_they_do_to_pictures() {
    let folder = TempDir::new().unwrap();
    let rules = "unet.mid_block.* q4_0\nvae.encoder.conv_out.* q4_0\n* f16\n";
    let report = facts(&folder, rules, &["--type", "f16", "--report"]);
    let layers = report["layers"].as_array().unwrap();
    assert!(layers.len() > 8, "{report}");
    let psnr: Vec<f64> = layers.iter().map(|layer| layer["psnr_db"].as_f64().unwrap()).collect();
    assert!(psnr.is_sorted(), "{psnr:?}");
    assert!(psnr[0] > 20.0 && psnr.last() > psnr.first(), "{psnr:?}");
    let mut fused = false;
    for layer in layers {
        let name = layer["layer"].as_str().unwrap();
        fused |= name.ends_with("attn1.to_{q,k,v}");
        assert!(name.starts_with("unet.mid_block.") || name == "vae.encoder.conv_out", "{name}");
        assert_eq!((&layer["from"], &layer["type"]), (&"f16".into(), &"q4_0".into()), "{name}");
        assert!(layer["saved_bytes"].as_i64().unwrap() > 0, "{name}");
        assert!(layer["latents_error"].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(fused, "{report}");
    assert!(report.get("file").is_none() && report.get("target").is_none());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(names.len() <= 2, "the rules, and perhaps a cache: {names:?}");
}

#[test]
fn a_target_is_met_by_fewer_bytes_than_one_type_would_take() {
    let folder = TempDir::new().unwrap();
    let target = ["near.gguf", "--target-psnr", "50", "--rules-out", "near.rules"];
    let found = &facts(&folder, MIDDLE, &target)["target"];
    let of = |candidate: &Value| {
        (
            candidate["psnr_db"].as_f64().unwrap_or(f64::INFINITY),
            candidate["bytes"].as_u64().unwrap(),
        )
    };
    let (psnr, bytes) = of(&found["chosen"]);
    assert!(psnr >= 50.0, "{found}");
    let drawn = found["drawn"].as_array().unwrap();
    for name in ["q4_0", "q4_k", "q5_0", "q6_k", "q8_0", "f16", "mixed 1"] {
        assert!(drawn.iter().any(|candidate| candidate["name"] == name), "{name}: {found}");
    }
    for candidate in drawn {
        let (psnr, more) = of(candidate);
        assert!(psnr < 50.0 || more >= bytes, "{found}");
    }
    // The picture that is drawn by the file is the one that was measured, in 8 bits.
    let draw = |model: &str, output: &str| {
        let prompt = ["sunset over the sea with a white boat", "--device", "cpu", "--dtype", "f32"];
        let how = ["--steps", "2", "--seed", "1", "--guidance", "4", "--size", "64x64"];
        let more = ["--model", model, "--output", output];
        let done = run("sd", &folder, &[&prompt[..], &how, &more].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        Image::open(&folder.path().join(output)).unwrap().pixels().to_vec()
    };
    let distance = psnr_db(255.0, &draw("near.gguf", "a.png"), &draw(&demo(), "b.png"));
    // Rounding to 8 bits adds a twelfth of a level squared to each of two pictures: 56 dB.
    let worst = found["chosen"]["worst_psnr_db"].as_f64().unwrap();
    let least = -10.0 * (10f64.powf(-worst / 10.0) + 10f64.powf(-5.6)).log10();
    assert!(distance >= least - 0.5, "{distance} dB, of {worst} dB at worst");
    // The rules say the same as the file.
    let demo = demo();
    let again = ["again.gguf", "--type", "f16", "--rules", "near.rules"];
    let done = run("quantize", &folder, &[&[demo.as_str()][..], &again].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let [near, again] =
        ["near.gguf", "again.gguf"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(near == again);
}

#[test]
fn a_target_that_cannot_be_met_says_what_can() {
    let demo = demo();
    let arguments = [&[demo.as_str(), "a.gguf", "--target-psnr", "150"], &SMALL[..]].concat();
    let arguments = [&arguments[..], &["--rules", "a.rules"]].concat();
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("a.rules"), "unet.conv_out* f16\nunet.mid_block.* q4_0")
        .unwrap();
    let done = run("quantize", &folder, &arguments);
    let message = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{message}");
    assert!(message.contains("--target-psnr: expected at most "), "{message}");
    assert!(!folder.path().join("a.gguf").exists());
}

/// Starts the program, interrupts it when `ready` says so of its folder and of what it has said, and
/// checks that nothing is left that looks finished. Whether it was in time.
#[cfg(unix)]
fn interrupted(arguments: &[&str], ready: impl Fn(&Path, &str) -> bool) -> bool {
    let (folder, log) = (TempDir::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let said = || std::fs::read_to_string(log.path()).unwrap();
    let mut child = programs::command("quantize", &folder)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    while !ready(folder.path(), &said()) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let id = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    let status = child.wait().unwrap();
    match status.code() {
        Some(0) => Gguf::open(&folder.path().join("a.gguf")).map(|_| false).unwrap(),
        Some(130) => {
            assert!(said().contains("stopped; a.gguf was not written"), "{}", said());
            let names = std::fs::read_dir(folder.path()).unwrap();
            let left: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.iter().all(|name| name == "cache"), "{left:?}");
            true
        }
        other => panic!("{other:?}: {}", said()),
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_file_that_looks_finished() {
    let demo = demo();
    // While it writes: the file is beside its place until it is whole. A quick machine may be done
    // before the signal arrives.
    let writes = |folder: &Path, _: &str| {
        let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_string_lossy().ends_with(".part"))
    };
    let arguments = [&demo, "a.gguf", "--type", "q4_k"];
    assert!((0..10).any(|_| interrupted(&arguments, writes)), "never in time");
    // While it draws, which takes some hundred times as long as what it has done when it says so.
    let draws = |_: &Path, said: &str| said.contains("times all pictures");
    let arguments = [&[demo.as_str(), "a.gguf", "--target-psnr", "35"], &SMALL[..]].concat();
    assert!(interrupted(&arguments, draws));
}
