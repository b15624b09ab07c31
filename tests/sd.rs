//! The program `sd` as a person runs it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/programs.rs"]
mod programs;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::process::Output;

use ellesmere::hardware::detect;
use ellesmere::io::image::Image;
use programs::{run, text};
use serde_json::Value;
use tempfile::TempDir;

fn sd(folder: &TempDir, arguments: &[&str]) -> Output {
    run("sd", folder, arguments)
}

/// Runs a command that must fail with `status` and one line that contains every one of `words`,
/// and that must leave no picture.
#[track_caller]
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let folder = TempDir::new().unwrap();
    let output = sd(&folder, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?} says {message:?}, not {word:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
    // clap's own messages end with a usage and a hint; ours are one line.
    if !message.contains("--help") {
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(!folder.path().join("picture.png").exists());
}

#[test]
fn draws_a_picture_with_its_parameters_inside() {
    let folder = TempDir::new().unwrap();
    let output = sd(
        &folder,
        &[
            "sunset over the sea with a white boat",
            "--device",
            "cpu",
            "--steps",
            "2",
            "--seed",
            "7",
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("picture.png  seed 7"), "{}", text(&output.stdout));
    let picture = folder.path().join("picture.png");
    let image = Image::open(&picture).unwrap();
    assert_eq!((image.width(), image.height()), (128, 128));
    let bytes = text(&std::fs::read(&picture).unwrap());
    assert!(bytes.contains("parameters"));
    assert!(bytes.contains("sunset over the sea with a white boat\nSteps: 2, Sampler: "));
    assert!(bytes.contains("Seed: 7, Size: 128x128, Model: demo"));
}

#[test]
fn products_in_bytes_are_said_in_the_picture_and_in_the_plan() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a boat", "--steps", "1", "--quantize", "q8_0", "--int8-products"];
    let arguments = [&arguments[..], &["--device", "cpu"]].concat();
    let output = sd(&folder, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bytes = text(&std::fs::read(folder.path().join("picture.png")).unwrap());
    assert!(bytes.contains("Model: demo, Weights: q8_0, Products: int8"));
    let plan = sd(&folder, &[&arguments[..], &["--plan", "--json"]].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["int8_products"], true);
}

#[test]
fn the_same_seed_is_the_same_picture_and_the_next_seed_another() {
    let folder = TempDir::new().unwrap();
    let draw = |seed: &str, name: &str| {
        let arguments =
            ["a red house", "--device", "cpu", "--steps", "1", "--seed", seed, "--output", name];
        assert!(sd(&folder, &arguments).status.success());
        Image::open(&folder.path().join(name)).unwrap().pixels().to_vec()
    };
    let first = draw("5", "a.png");
    assert_eq!(first, draw("5", "b.png"));
    assert_ne!(first, draw("6", "c.png"));
}

#[test]
fn several_pictures_have_consecutive_seeds_and_numbered_files() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a tower", "--count", "2", "--seed", "3", "--steps", "1", "--json"];
    let output = sd(&folder, &[&arguments[..], &["--device", "cpu", "--profile"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (index, seed) in [3, 4].into_iter().enumerate() {
        let picture = &document["pictures"][index];
        assert_eq!(picture["seed"], seed);
        assert_eq!(picture["path"], format!("picture-{}.png", index + 1));
        assert!(folder.path().join(picture["path"].as_str().unwrap()).exists());
    }
    assert_eq!(document["peak_bytes"], document["predicted_peak_bytes"]);
    assert!(!document["profile"]["kernels"].as_array().unwrap().is_empty());
}

#[test]
fn starts_from_a_picture() {
    let folder = TempDir::new().unwrap();
    let common = ["--device", "cpu", "--seed", "1"];
    let first = sd(&folder, &[&["desert at day", "--steps", "2"][..], &common].concat());
    assert!(first.status.success(), "{}", text(&first.stderr));
    let again = [
        "desert at night",
        "--init-image",
        "picture.png",
        "--strength",
        "0.5",
        "--output",
        "b.png",
    ];
    let again = sd(&folder, &[&again[..], &["--steps", "4"], &common].concat());
    assert!(again.status.success(), "{}", text(&again.stderr));
    let bytes = text(&std::fs::read(folder.path().join("b.png")).unwrap());
    assert!(bytes.contains("Denoising strength: 0.5"));
}

#[test]
fn a_plan_prints_what_it_would_take_and_draws_nothing() {
    let folder = TempDir::new().unwrap();
    let output = sd(&folder, &["a boat", "--plan", "--device", "cpu"]);
    assert!(output.status.success());
    let plan = text(&output.stdout);
    for word in
        ["peak memory", "kernel launches", "TFLOP", "at most", "predicted time", "unet call"]
    {
        assert!(plan.contains(word), "{plan}");
    }
    let json = sd(&folder, &["a boat", "--plan", "--json", "--device", "cpu"]);
    let plan: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(plan["peak_bytes"].as_u64().unwrap() > 1_000_000);
    assert!(plan["times"]["total_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(plan["times"]["basis"]["estimated_launches"], 0);
    assert!(plan["ladder"].as_array().unwrap().is_empty(), "{plan}");
    assert!(!folder.path().join("picture.png").exists());
}

#[test]
fn what_a_budget_costs_is_told_and_what_to_choose_within_it() {
    let folder = TempDir::new().unwrap();
    let common = ["a boat", "--size", "64x64", "--steps", "1", "--device", "cpu"];
    let within = |more: &[&str]| {
        let output = sd(&folder, &[&common, &["--memory-budget", "20MB"][..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(within(&["--plan"]).contains("for want of room"), "{}", within(&["--plan"]));
    let plan: Value = serde_json::from_str(&within(&["--plan", "--json"])).unwrap();
    assert!(plan["ladder"][0]["saves_bytes"].as_u64().unwrap() > 0, "{plan}");
    assert!(plan["ladder"][0]["costs_seconds"].is_f64(), "{plan}");
    assert!(within(&["--recommend"]).contains("recommended: --dtype"));
    let told: Value = serde_json::from_str(&within(&["--recommend", "--json"])).unwrap();
    let best = &told["choices"][told["recommended"].as_u64().unwrap() as usize];
    assert!(best["peak_bytes"].as_u64().unwrap() <= 20_000_000, "{told}");
    assert!(!folder.path().join("picture.png").exists());
    refused(&["a", "--recommend", "--plan"], 2, &["--recommend", "--plan"]);
    let little = ["a", "--device", "cpu", "--memory-budget", "1MB", "--recommend"];
    refused(&little, 1, &["a budget of 1000000 B is too small", "would do"]);
}

#[test]
fn a_small_budget_leaves_weights_on_the_host_says_so_and_draws_the_same_picture() {
    let folder = TempDir::new().unwrap();
    let draw = |budget: &[&str], name: &str| {
        // Tiles would make room for the first of these budgets.
        let arguments = ["hills at dawn", "--seed", "5", "--steps", "1", "--device", "cpu"];
        let output = ["--vae-tiling", "off", "--output", name];
        let output = sd(&folder, &[&arguments[..], &output, budget].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        (bytes, text(&output.stderr))
    };
    let (expected, _) = draw(&[], "whole.png");
    // All weights take 27 MB, those of the UNet 19 MB, what is computed with them 11 MB.
    for (budget, component) in [("37MB", "text-encoder"), ("28MB", "unet"), ("13MB", "vae")] {
        let (picture, said) = draw(&["--memory-budget", budget], "part.png");
        let named =
            |said: &str| Some(said.split_once(" GB of weights (")?.1.split_once(')')?.0.to_owned());
        let named = named(&said).expect(&said);
        assert!(named.split(", ").any(|name| name == component), "{said}");
        assert!(said.contains(") stay on the host, for a budget of 0.0"), "{said}");
        assert!(picture == expected, "{budget}");
    }
}

#[test]
fn fewer_bits_are_allowed_for_a_small_budget_and_said() {
    let folder = TempDir::new().unwrap();
    // In one step hardly anything would be copied.
    let common = ["hills at dawn", "--seed", "5", "--steps", "4", "--device", "cpu"];
    let more = ["--memory-budget", "18MB", "--allow-quantize"];
    let output = sd(&folder, &[&common[..], &more].concat());
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note: weights are held in q8_0, for a budget of 0.018 GB"), "{said}");
    let picture = std::fs::read(folder.path().join("picture.png")).unwrap();
    assert!(text(&picture).contains("Weights: q8_0"), "it is in the picture's parameters");
    let output = sd(&folder, &[&common[..], &["--allow-quantize", "--plan"]].concat());
    assert!(!text(&output.stdout).contains("q8_0"), "{}", text(&output.stdout));
    refused(&["a", "--allow-quantize", "--quantize", "q8_0"], 2, &["cannot be used with"]);
    let placed = ["a", "--device", "cpu", "--allow-quantize", "--offload", "unet"];
    refused(&placed, 2, &["--allow-quantize: ", "expected --offload auto"]);
}

#[test]
fn a_profile_and_a_trace_tell_where_the_time_went() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a tree", "--steps", "1", "--device", "cpu", "--profile", "--trace", "t.json"];
    let output = sd(&folder, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for word in ["unet", "vae decode", "text encoder", "GFLOP/s", "in the pool", "largest block"] {
        assert!(text(&output.stdout).contains(word), "{}", text(&output.stdout));
    }
    let trace = std::fs::read(folder.path().join("t.json")).unwrap();
    let trace: Value = serde_json::from_slice(&trace).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 100);
}

#[test]
fn lists_devices() {
    let output = sd(&TempDir::new().unwrap(), &["--list-devices"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("cpu"));
}

#[test]
fn a_long_prompt_is_cut_and_says_so() {
    let folder = TempDir::new().unwrap();
    let prompt = format!("{} lighthouse", "a boat on the sea ".repeat(30));
    let output = sd(&folder, &[&prompt, "--steps", "1", "--device", "cpu"]);
    assert!(output.status.success());
    let message = text(&output.stderr);
    assert!(message.contains("too long") && message.contains("lighthouse"), "{message}");
}

#[test]
fn misuse_is_one_line_that_names_the_flag() {
    refused(&["a", "--size", "100x100"], 2, &["--size", "multiples of 8"]);
    refused(&["a", "--size", "big"], 2, &["--size", "WIDTHxHEIGHT"]);
    refused(&["a", "--quantize", "q3_k"], 2, &["--quantize", "q8_0", "q3_k"]);
    refused(&["a", "--int8-products"], 2, &["--int8-products", "--quantize q8_0"]);
    refused(&["a", "--steps", "0"], 2, &["steps", "got 0"]);
    refused(&["a", "--scheduler", "nope"], 2, &["nope", "euler"]);
    refused(&["a", "--dtype", "f8"], 2, &["--dtype", "f32 or f16"]);
    refused(&["a", "--guidance", "-1"], 2, &["guidance", "got -1"]);
    refused(&["a", "--memory-budget", "4"], 2, &["--memory-budget", "unit"]);
    for megabytes in ["-1", "many", "nan"] {
        let megabytes = ["a", "--offload-threshold", megabytes];
        refused(&megabytes, 2, &["number of megabytes"]);
    }
    refused(&["a", "--offload", "vae,clip"], 2, &["text-encoder, unet, vae", "got \"clip\""]);
    refused(&["a", "--vae-tiling", "blur"], 2, &["--vae-tiling", "auto, exact, blend or off"]);
    for tile in ["0", "56", "100", "-64", "big"] {
        let tile = format!("--vae-tile={tile}");
        refused(&["a", &tile], 2, &["--vae-tile", "multiple of 8 of at least 64"]);
    }
    refused(&["a", "--memory-budget", "-4GB"], 2, &["--memory-budget", "-4GB", "above zero"]);
    refused(&["a", "--memory-budget", "0GB"], 2, &["--memory-budget", "above zero"]);
    refused(&["a", "--max-allocation", "64"], 2, &["--max-allocation", "unit"]);
    for limit in ["0", "-5", "1.5", "20ms", "99999999999999999999"] {
        let limit = ["a", "--launch-limit-ms", limit];
        refused(&limit, 2, &["--launch-limit-ms", "whole milliseconds, at least 1"]);
    }
    refused(&["a", "--strength", "0.5"], 2, &["--init-image"]);
    refused(&[], 2, &["PROMPT"]);
}

#[test]
fn a_device_that_is_not_there_is_named_with_those_that_are() {
    refused(&["a", "--device", "opencl:99"], 1, &["opencl:99", "cpu"]);
    refused(&["a", "--device", "toaster"], 2, &["toaster", "auto, cpu, opencl:N or hip:N"]);
}

#[test]
fn a_budget_that_is_too_small_says_so_before_anything_is_drawn() {
    let arguments = ["a", "--device", "cpu", "--memory-budget", "2MB"];
    refused(&arguments, 1, &["a budget of 2000000 B is too small", "would do"]);
    let arguments = [&arguments[..], &["--offload", "none"]].concat();
    refused(&arguments, 1, &["out of memory", "2000000 B", "--memory-budget"]);
}

#[test]
fn a_small_largest_allocation_draws_the_same_picture_or_names_what_is_over_it() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a boat", "--seed", "5", "--steps", "1", "--device", "cpu", "--json"];
    let draw = |more: &[&str]| {
        let output = sd(&folder, &[&arguments[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let largest = report["memory"]["largest_allocation_bytes"].as_u64().unwrap();
        assert_eq!(report["plan"]["largest_allocation_bytes"].as_u64(), Some(largest));
        (std::fs::read(folder.path().join("picture.png")).unwrap(), largest)
    };
    let (expected, largest) = draw(&[]);
    assert!(largest > 1_000_000, "{largest}");
    let (picture, largest) = draw(&["--max-allocation", "1MB"]);
    assert!(largest <= 1_000_000, "{largest}");
    assert!(picture == expected);
    let arguments = ["a", "--device", "cpu", "--max-allocation", "2KB"];
    refused(
        &arguments,
        1,
        &["weight: ", " in one block", "the largest allocation is 2000 B", "--max-allocation"],
    );
}

#[test]
fn a_launch_limit_draws_the_same_picture_by_more_launches() {
    // llvmpipe's compiler takes minutes over a whole model.
    let entries = detect().entries;
    let is_quick = |entry: &&ellesmere::hardware::DeviceEntry| {
        let is_rusticl = entry.info.platform.starts_with("rusticl");
        entry.id != "cpu" && entry.unusable().is_none() && !is_rusticl
    };
    let folder = TempDir::new().unwrap();
    for entry in entries.iter().filter(is_quick) {
        let draw = |more: &[&str]| {
            let arguments = ["a boat", "--seed", "5", "--steps", "1", "--device", &entry.id];
            let told = ["--memory-budget", "1GB", "--profile", "--json"];
            let output = sd(&folder, &[&arguments[..], &told, more].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            (std::fs::read(folder.path().join("picture.png")).unwrap(), report)
        };
        let number = |report: &Value, name: &str| report["profile"]["launches"][name].as_u64();
        let (expected, whole) = draw(&[]);
        let (picture, limited) = draw(&["--launch-limit-ms", "1"]);
        assert!(picture == expected, "{}", entry.info.platform);
        assert_eq!(whole["plan"], limited["plan"]);
        assert_eq!(number(&whole, "count"), number(&whole, "parts"));
        assert_eq!(number(&whole, "count"), number(&limited, "count"));
        assert!(number(&limited, "parts") > number(&limited, "count"), "{limited}");
        assert_eq!(limited["profile"]["launches"]["limit"]["nanos"], 1_000_000);
    }
}

#[test]
fn a_launch_limit_on_the_host_is_a_note() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a boat", "--device", "cpu", "--steps", "1", "--launch-limit-ms", "5"];
    let output = sd(&folder, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let message = text(&output.stderr);
    assert!(message.contains("note: the launch limit has no effect"), "{message}");
}

#[test]
fn a_budget_over_the_memory_of_the_device_is_used_with_a_note() {
    let folder = TempDir::new().unwrap();
    let arguments = ["a boat", "--device", "cpu", "--memory-budget", "100000GB", "--plan"];
    let output = sd(&folder, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let message = text(&output.stderr);
    assert!(message.contains("note: the budget of 100000000000000 B is more than"), "{message}");
    assert!(text(&output.stdout).contains("of 100000.000 GB"), "{}", text(&output.stdout));
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_work() {
    // So many steps would take minutes: this returns at once or not in time.
    let output = ["a", "--device", "cpu", "--steps", "1000", "--output"];
    refused(&[&output[..], &["no/such/folder/a.png"]].concat(), 1, &["no/such/folder/a.png"]);
    refused(&[&output[..], &["."]].concat(), 1, &["."]);
}

#[test]
fn an_init_image_that_is_none_is_named() {
    let arguments = |path| ["a", "--device", "cpu", "--init-image", path];
    refused(&arguments("missing.png"), 1, &["missing.png"]);
    refused(&arguments(env!("CARGO_MANIFEST_PATH")), 1, &["Cargo.toml"]);
}

#[test]
fn a_model_that_is_broken_is_one_line_that_names_the_file() {
    refused(&["a", "--model", "missing"], 1, &["missing"]);
    let model = random_model::write("bk-tiny");
    let weights = model.path().join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let folder = model.path().to_str().unwrap();
    let message = ["unet", "diffusion_pytorch_model.safetensors"];
    refused(&["a", "--device", "cpu", "--model", folder], 1, &message);
}

#[test]
fn a_folder_of_other_weights_draws_on_every_device() {
    let model = random_model::write("bk-tiny");
    let path = model.path().to_str().unwrap();
    for entry in detect().entries {
        // A software rasteriser takes half a minute for a picture.
        if entry.unusable().is_some() || !entry.info.prefers_register_tiles() {
            continue;
        }
        let folder = TempDir::new().unwrap();
        let arguments = ["a", "--model", path, "--size", "64x64", "--dtype", "f16", "--steps", "2"];
        let output = sd(&folder, &[&arguments[..], &["--device", &entry.id]].concat());
        assert!(output.status.success(), "{}: {}", entry.id, text(&output.stderr));
    }
}
