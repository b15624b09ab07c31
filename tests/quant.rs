//! Weights in blocks: what ggml reads in them, and how near they come to what was encoded.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "common/random_model.rs"]
mod random_model;

use std::path::Path;

use ellesmere::io::safetensors::SafeTensors;
use ellesmere::{Format, quant};
use proptest::prelude::*;
use random_model::{golden, random};
use serde_json::Value;

fn file(path: impl AsRef<Path>) -> SafeTensors {
    SafeTensors::open(path.as_ref()).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn decoded(format: Format, blocks: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; blocks.len() / format.block_bytes() * format.block_values()];
    quant::decode(format, blocks, &mut values).unwrap();
    values
}

fn encoded(format: Format, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0x5a; quant::bytes(format, values.len()).unwrap()];
    quant::encode(format, values, &mut blocks).unwrap();
    blocks
}

fn mean_square(values: &[f32], others: &[f32]) -> f64 {
    let squares = values.iter().zip(others).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>() / values.len() as f64
}

/// The values whose names `tests/golden/README.md` explains.
fn rows(name: &str) -> Vec<f32> {
    let r = |name: &str| {
        let values: Vec<f64> = random(&format!("rows.{name}"), 8192).collect();
        values.into_iter()
    };
    let values: Vec<f64> = match name {
        "uniform" => r(name).collect(),
        "small" => r(name).map(|r| 0.02 * r).collect(),
        "tiny" => r(name).map(|r| 1e-6 * r).collect(),
        "heavy" => r(name).map(|r| r * r * r).collect(),
        "norm" => r(name).map(|r| 1.0 + 0.1 * r).collect(),
        "negative" => r(name).map(|r| -0.5 - 0.5 * r).collect(),
        "spikes" => {
            let spike = |at: usize| if at % 64 == 5 { 20.0 } else { 1.0 };
            r(name).enumerate().map(|(at, r)| 0.1 * r * spike(at)).collect()
        }
        "bell" => {
            let four = [0, 1, 2, 3].map(|at| r(&format!("bell.{at}")).collect::<Vec<_>>());
            (0..8192).map(|at| four.iter().map(|r| r[at]).sum::<f64>() / 2.0).collect()
        }
        _ => {
            let tensor = match name {
                "attention" => "attn1.to_q.weight",
                _ => "ff.net.0.proj.weight",
            };
            let unet = "examples/assets/demo/unet/diffusion_pytorch_model.safetensors";
            let unet = file(Path::new(env!("CARGO_MANIFEST_DIR")).join(unet));
            let name = format!("mid_block.attentions.0.transformer_blocks.0.{tensor}");
            let halves = unet.data(&name).unwrap().as_chunks().0;
            let halves = halves.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f64());
            halves.collect()
        }
    };
    let whole = values.len() / 256 * 256;
    values[..whole].iter().map(|value| *value as f32).collect()
}

#[test]
fn blocks_are_the_numbers_that_ggml_reads() {
    let golden = file(golden().join("formats.safetensors"));
    for format in Format::ALL {
        let data = |what: &str| golden.data(&format!("{format}.{what}")).unwrap();
        let expected = floats(data("values"));
        for (at, (got, expected)) in
            decoded(format, data("blocks")).iter().zip(expected).enumerate()
        {
            assert_eq!(got.to_bits(), expected.to_bits(), "{format} at {at}: {got} {expected}");
        }
    }
}

#[test]
fn encoding_errs_no_more_than_ggml() {
    let errors = std::fs::read_to_string(golden().join("formats.json")).unwrap();
    let errors: Value = serde_json::from_str(&errors).unwrap();
    for format in Format::ALL {
        for (name, theirs) in errors[format.name()].as_object().unwrap() {
            let theirs = theirs.as_f64().unwrap();
            let values = rows(name);
            let ours = mean_square(&values, &decoded(format, &encoded(format, &values)));
            assert!(ours <= theirs * 1.01, "{format} {name}: {ours:e}, of ggml {theirs:e}");
        }
    }
}

#[test]
fn what_can_be_stored_comes_back() {
    for format in Format::ALL {
        for value in [0.0, -0.0, 1.0, -1.0, 0.25, 1e-30, f32::MIN_POSITIVE / 4.0] {
            let values = vec![value; 256];
            // Scales are f16, and so hold no less than 6e-8, times a number of 6 bits at most.
            let wanted = if value.abs() < 1e-20 { 0.0 } else { value };
            let all = decoded(format, &encoded(format, &values));
            let near = |got: &f32| (got - wanted).abs() <= wanted.abs() * 1e-2;
            assert!(all.iter().all(near), "{format} {value:e}: {:e}", all[0]);
        }
    }
}

#[test]
fn parts_of_blocks_and_what_is_no_number_are_refused() {
    let message = quant::decode(Format::Q4_0, &[0; 18], &mut [0.0; 33]).unwrap_err().to_string();
    assert_eq!(message, "quant: q4_0: expected a multiple of 32, got 33");
    let message = quant::decode(Format::Q6K, &[0; 209], &mut [0.0; 256]).unwrap_err().to_string();
    assert_eq!(message, "quant: q6_k: expected 210 B for 256 values, got 209 B");
    let mut values = [1.0; 64];
    values[40] = f32::NAN;
    let message = quant::encode(Format::Q8_0, &values, &mut [0; 68]).unwrap_err().to_string();
    assert_eq!(message, "values: q8_0: expected finite values, got NaN at 40");
    assert_eq!(quant::bytes(Format::Q5K, 512).unwrap(), 352);
    assert!(quant::bytes(Format::Q8_0, usize::MAX - 31).is_err());
}

proptest! {
    // Nothing is kept of failures: this file has no folder of its own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_block_decodes_and_what_it_gives_encodes(
        bytes in prop::collection::vec(any::<u8>(), 210),
        scale in -30..30i32,
    ) {
        for format in Format::ALL {
            let values = decoded(format, &bytes[..format.block_bytes()]);
            let values: Vec<f32> = values
                .iter()
                .map(|value| value * 2f32.powi(scale))
                .map(|value| if value.is_finite() { value } else { 3e38 })
                .collect();
            let again = decoded(format, &encoded(format, &values));
            prop_assert!(again.iter().all(|value| value.is_finite()));
        }
    }
}
