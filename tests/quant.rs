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

/// Those of ggml's that it has encoders for; bf16 is its own, too.
const OF_GGML: [Format; 8] = *Format::ALL.first_chunk().unwrap();

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
    for format in OF_GGML {
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
    for format in OF_GGML {
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
            // Scales are f16, and so hold no less than 6e-8, times a number of 6 bits at most; and so
            // do numbers of 8 bits. bf16 and scales of f32 have a float's range.
            let wide = matches!(format, Format::BF16 | Format::I8);
            let wanted = if value.abs() < 1e-20 && !wide { 0.0 } else { value };
            let all = decoded(format, &encoded(format, &values));
            let near = |got: &f32| (got - wanted).abs() <= wanted.abs() * 1e-2;
            assert!(all.iter().all(near), "{format} {value:e}: {:e}", all[0]);
        }
    }
}

/// Every number of a format without scales, by its bits.
fn numbers(format: Format) -> Vec<f32> {
    let bytes: Vec<u8> = match format.block_bytes() {
        64 => (0..=u16::MAX).flat_map(|bits| bits.to_le_bytes()).collect(),
        _ => (0..=255).collect(),
    };
    decoded(format, &bytes)
}

#[test]
fn numbers_of_8_and_16_bits_are_those_of_pytorch() {
    let golden = file(golden().join("formats.safetensors"));
    for format in [Format::BF16, Format::F8E4M3, Format::F8E5M2] {
        let expected: Vec<f32> = match format {
            Format::BF16 => {
                (0..=u16::MAX).map(|bits| half::bf16::from_bits(bits).to_f32()).collect()
            }
            _ => floats(golden.data(format.name()).unwrap()),
        };
        let got = numbers(format);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan());
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_half_to_even_and_cut_to_the_largest() {
    for format in [Format::BF16, Format::F8E4M3, Format::F8E5M2] {
        let of_sign = numbers(format);
        let of_sign = &of_sign[..of_sign.len() / 2];
        let finite = of_sign.iter().take_while(|value| value.is_finite()).count();
        let of_sign = &of_sign[..finite];
        for sign in [1.0, -1.0] {
            let nearest = |values: Vec<f32>| {
                let count = values.len();
                let mut whole: Vec<f32> = values.into_iter().map(|value| sign * value).collect();
                whole.resize(count.next_multiple_of(32), 0.0);
                let mut got = decoded(format, &encoded(format, &whole));
                got.truncate(count);
                got.iter().map(|value| (sign * value).to_bits()).collect::<Vec<_>>()
            };
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            // Themselves; what lies between two, and the floats to either side of that.
            assert_eq!(nearest(of_sign.to_vec()), bits(of_sign), "{format}");
            let pairs = || of_sign.windows(2).map(|pair| (pair[0], pair[1]));
            // Halves first: the sum of bf16's largest two is no float.
            let middle = |(a, b): (f32, f32)| a / 2.0 + b / 2.0;
            let exact = |pair: &(f32, f32)| pair.1 >= 4.0 * f32::MIN_POSITIVE;
            let middles = || pairs().filter(exact).map(middle);
            let lower: Vec<f32> = pairs().filter(exact).map(|pair| pair.0).collect();
            let upper: Vec<f32> = pairs().filter(exact).map(|pair| pair.1).collect();
            assert_eq!(nearest(middles().map(f32::next_down).collect()), bits(&lower), "{format}");
            assert_eq!(nearest(middles().map(f32::next_up).collect()), bits(&upper), "{format}");
            let first = of_sign.len() - 1 - lower.len();
            let even = |index: usize| {
                if (first + index).is_multiple_of(2) { lower[index] } else { upper[index] }
            };
            let even: Vec<f32> = (0..lower.len()).map(even).collect();
            assert_eq!(nearest(middles().collect()), bits(&even), "{format}");
            let largest = of_sign[finite - 1];
            assert_eq!(nearest(vec![f32::MAX, largest.next_up()]), bits(&[largest; 2]), "{format}");
        }
    }
}

#[test]
fn rows_of_bytes_share_a_scale_that_their_largest_value_fills() {
    let row = |scale: f32| (0..96).map(move |at| scale * (at as f32 - 47.5));
    let values: Vec<f32> = row(1.0).chain(row(1e-3)).chain(row(0.0)).collect();
    let mut blocks = vec![0; quant::bytes(Format::I8, values.len()).unwrap()];
    quant::encode_rows(Format::I8, 96, &values, &mut blocks).unwrap();
    let scales = blocks.chunks(36).map(|block| floats(&block[..4])[0]).collect::<Vec<_>>();
    let (first, second) = (47.5f32 / 127.0, 47.5f32 * 1e-3 / 127.0);
    assert_eq!(scales[..3], [first; 3]);
    assert!((scales[3] - second).abs() < 1e-9 && scales[3..6] == [scales[3]; 3]);
    assert_eq!(scales[6..], [0.0; 3]);
    for (got, wanted) in decoded(Format::I8, &blocks).iter().zip(&values) {
        let half = if wanted.abs() < 0.05 { second } else { first } * 0.5001;
        assert!((got - wanted).abs() <= half, "{got} {wanted}");
    }
    let message = quant::encode_rows(Format::I8, 80, &values[..160], &mut blocks[..180]);
    let message = message.unwrap_err().to_string();
    assert_eq!(message, "quant: i8: expected whole blocks in rows of 80, got 160");
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
