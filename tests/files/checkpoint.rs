//! Tensors in and out of safetensors files.

use std::fs;

use ellesmere::io::safetensors::{self, SafeTensors, StoredType};
use ellesmere::io::tensors::TensorFile;
use ellesmere::models::Checkpoint;
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::nn::TensorSource as _;
use ellesmere::{Format, quant};

use crate::{Tensor, assert_fails, model, write_tensors};

#[test]
fn every_element_type_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than one piece of the conversion, and not a multiple of it.
    let mut tensor = Tensor::new("conv_in.weight", &[32, 4, 3, 3]);
    tensor.values[5] = -0.0;
    for stored in [StoredType::F32, StoredType::F16, StoredType::BF16] {
        let path = folder.path().join(stored.name());
        write_tensors(&path, stored, std::slice::from_ref(&tensor));
        let files = model("bk-tiny", |component, tensors| {
            if component == "unet" {
                tensors.retain(|other| other.name != tensor.name);
                tensors.push(tensor.clone());
            }
        });
        let target = files.path().join("unet/diffusion_pytorch_model.safetensors");
        fs::rename(&path, &target).unwrap();
        let files = ModelFiles::open(files.path(), Variant::Any).unwrap();
        let read = files.unet.weights.tensor("conv_in.weight", &[32, 4, 3, 3]).unwrap();
        assert_eq!((read.stored_type(), read.element_count()), (stored, 1152));
        assert_eq!(read.bytes(), tensor.bytes(stored));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read.to_f32()), bits(&tensor.values));
        let halves: Vec<f32> = read.to_f16().iter().map(|value| value.to_f32()).collect();
        assert_eq!(bits(&halves), bits(&tensor.values));
        let mut some = [0.0; 5];
        read.read_f32(1024..1029, &mut some);
        assert_eq!(some, tensor.values[1024..1029]);
        let mut some = [half::f16::ZERO; 1100];
        read.read_f16(3..1103, &mut some);
        assert!(some.iter().zip(&tensor.values[3..]).all(|(half, value)| half.to_f32() == *value));
    }
}

#[test]
fn floats_of_8_bits_are_those_of_pytorch() {
    let golden = SafeTensors::open(&crate::golden("formats.safetensors")).unwrap();
    let every: Vec<u8> = (0..=255).collect();
    for stored in [StoredType::F8E4M3, StoredType::F8E5M2] {
        let files = model("bk-tiny", |_, _| {});
        let target = files.path().join("unet/diffusion_pytorch_model.safetensors");
        let tensor = ("conv_in.bias", stored, &[256][..], &every[..]);
        safetensors::write(&target, [tensor]).unwrap();
        let files = ModelFiles::open(files.path(), Variant::Any).unwrap();
        let read = files.unet.weights.tensor("conv_in.bias", &[256]).unwrap();
        let expected = golden.data(stored.name()).unwrap().as_chunks().0.iter();
        for (got, expected) in read.to_f32().iter().zip(expected.map(|b| f32::from_le_bytes(*b))) {
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()));
        }
    }
}

/// Numbers of 8 bits of many exponents, none of them NaN or infinite.
fn numbers(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 37 % 120) as u8 | (at as u8 & 8) << 4).collect()
}

fn checkpoint(tensors: &[safetensors::NewTensor]) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    safetensors::write(&path, tensors.iter().copied()).unwrap();
    let weights = Checkpoint::of_file(TensorFile::open(&path).unwrap().into()).unwrap();
    (folder, weights)
}

#[test]
fn numbers_of_8_bits_are_multiplied_by_the_scales_beside_them() {
    let numbers = numbers(32 * 64);
    let scales: Vec<f32> = (0..32).map(|row| 0.1 + row as f32).collect();
    let of_rows: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let halves = |scale: &f32| half::bf16::from_f32(*scale).to_le_bytes();
    let of_rows_16: Vec<u8> = scales.iter().flat_map(halves).collect();
    let (one, shape) = (0.3f32.to_le_bytes(), [32, 64]);
    let (e4m3, e5m2, i8) = (StoredType::F8E4M3, StoredType::F8E5M2, StoredType::I8);
    let (_folder, weights) = checkpoint(&[
        ("plain.weight", e4m3, &shape, &numbers),
        ("comfy.weight", e4m3, &shape, &numbers),
        ("comfy.scale_weight", StoredType::F32, &[], &one),
        ("comfy.scale_input", StoredType::F32, &[], &one),
        ("rows.weight", e5m2, &shape, &numbers),
        ("rows.weight_scale", StoredType::F32, &[32, 1], &of_rows),
        ("quanto.weight._data", i8, &shape, &numbers),
        ("quanto.weight._scale", StoredType::BF16, &[32, 1], &of_rows_16),
        ("all.weight", i8, &shape, &numbers),
        ("all.weight_scale", StoredType::F32, &[1], &one),
    ]);
    let names = ["all.weight", "comfy.weight", "plain.weight", "quanto.weight", "rows.weight"];
    assert!(weights.names().eq(names));
    let number = |stored: StoredType, byte: u8| match stored {
        StoredType::I8 => f32::from(byte as i8),
        _ => {
            let mut values = [0.0; 32];
            quant::decode(stored.format().unwrap(), &[byte; 32], &mut values).unwrap();
            values[0]
        }
    };
    let rounded = |row: usize| half::bf16::from_f32(scales[row]).to_f32();
    type Scale<'a> = &'a dyn Fn(usize) -> f32;
    let cases: [(&str, StoredType, Scale, Option<Format>); 5] = [
        ("plain.weight", e4m3, &|_| 1.0, Some(Format::F8E4M3)),
        ("comfy.weight", e4m3, &|_| 0.3, None),
        ("rows.weight", e5m2, &|row| scales[row], None),
        ("quanto.weight", i8, &rounded, Some(Format::I8)),
        ("all.weight", i8, &|_| 0.3, Some(Format::I8)),
    ];
    for (name, stored, scale, format) in cases {
        let read = weights.tensor(name, &shape).unwrap();
        let expected = |at: usize| number(stored, numbers[at]) * scale(at / 64);
        let expected: Vec<f32> = (0..32 * 64).map(expected).collect();
        assert_eq!(read.to_f32(), expected, "{name}");
        let mut some = [0.0; 100];
        read.read_f32(50..150, &mut some);
        assert_eq!(some, expected[50..150], "{name}");
        assert_eq!(weights.format(name, &shape), format, "{name}");
        if let Some(format) = format {
            let blocks = weights.blocks(name, &shape, format).unwrap();
            let mut values = vec![0.0; 32 * 64];
            quant::decode(format, &blocks, &mut values).unwrap();
            assert_eq!(values, expected, "{name}");
        }
    }
}

#[test]
fn convolutions_of_8_or_16_bits_are_held_with_their_channels_together() {
    let numbers = numbers(32 * 64 * 9 * 2);
    let (scale, shape) = (0.3f32.to_le_bytes(), [32, 64, 3, 3]);
    for stored in [StoredType::BF16, StoredType::F8E4M3, StoredType::F8E5M2, StoredType::I8] {
        let data = &numbers[..32 * 64 * 9 * stored.block_bytes()];
        let mut tensors = vec![("a.weight", stored, &shape[..], data)];
        if stored == StoredType::I8 {
            tensors.push(("a.weight_scale", StoredType::F32, &[1], &scale));
        }
        let (_folder, weights) = checkpoint(&tensors);
        let format = stored.format().unwrap();
        assert_eq!(weights.format("a.weight", &shape), Some(format));
        let blocks = weights.blocks("a.weight", &shape, format).unwrap();
        let mut rows = vec![0.0; 32 * 64 * 9];
        quant::decode(format, &blocks, &mut rows).unwrap();
        let values = weights.tensor("a.weight", &shape).unwrap().to_f32();
        let of_row = |at: usize| {
            let (output, tap, channel) = (at / (64 * 9), at / 64 % 9, at % 64);
            values[(output * 64 + channel) * 9 + tap]
        };
        let expected: Vec<f32> = (0..rows.len()).map(of_row).collect();
        assert_eq!(rows, expected, "{stored}");
        let again = weights.blocks_again("a.weight", &shape, format).unwrap().unwrap();
        assert_eq!(again().unwrap(), blocks, "{stored}");
    }
}

#[test]
fn bytes_without_a_scale_and_scales_of_another_kind_are_named() {
    let (numbers, shape) = ([0x7f; 32 * 32], [32, 32]);
    let message = |stored: StoredType, scale: Option<safetensors::NewTensor>| {
        let mut tensors = vec![("a.weight", stored, &shape[..], &numbers[..])];
        tensors.extend(scale);
        checkpoint(&tensors).1.tensor("a.weight", &shape).unwrap_err().to_string()
    };
    let got = message(StoredType::I8, None);
    assert!(
        got.ends_with("a.weight: expected a scale beside bytes, such as weight_scale"),
        "{got}"
    );
    let got = message(StoredType::I8, Some(("a.weight_scale", StoredType::F32, &[3], &[0; 12])));
    let expected = "a.weight: expected one or 32 floats as a.weight_scale, got F32 [3]";
    assert!(got.ends_with(expected), "{got}");
    let got = message(StoredType::F8E5M2, Some(("a.scale_weight", StoredType::I8, &[1], &[1])));
    let expected = "a.weight: expected one or 32 floats as a.scale_weight, got I8 [1]";
    assert!(got.ends_with(expected), "{got}");
    // What is no number would be another on a device.
    let (_folder, weights) = checkpoint(&[("a.weight", StoredType::F8E4M3, &shape, &numbers)]);
    let got = weights.blocks("a.weight", &shape, Format::F8E4M3).unwrap_err().to_string();
    assert!(got.ends_with("a.weight: expected finite values, got NaN at 0"), "{got}");
    let (name, i8) = ("a.weight", StoredType::I8);
    let file = tempfile::NamedTempFile::new().unwrap();
    let twice = [(name, i8, &shape[..], &numbers[..]), ("a.weight._data", i8, &shape, &numbers)];
    safetensors::write(file.path(), twice).unwrap();
    let got = Checkpoint::of_file(TensorFile::open(file.path()).unwrap().into());
    assert!(got.unwrap_err().to_string().contains("is also in "));
}

#[test]
fn what_is_written_is_what_other_readers_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let tensors = [Tensor::new("b", &[2, 3]), Tensor::new("a", &[]), Tensor::new("empty", &[0, 7])];
    write_tensors(&path, StoredType::F32, &tensors);
    let bytes = fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = SafeTensors::open(&path).unwrap();
    assert_eq!(ours.iter().count(), 3);
    for (name, info) in ours.iter() {
        let theirs = theirs.tensor(name).unwrap();
        assert_eq!((info.shape(), ours.data(name).unwrap()), (theirs.shape(), theirs.data()));
    }
    assert_eq!(ours.data("c"), None);
    let short = ("a", StoredType::F32, &[2][..], &[0; 7][..]);
    assert_fails("short data", safetensors::write(&path, [short]), &["tensor a", "[2]", "7 B"]);
    let twice = [("a", StoredType::F16, &[1][..], &[0; 2][..]); 2];
    assert_fails("twice", safetensors::write(&path, twice), &["tensor a: is there twice"]);
    assert_eq!(fs::read(&path).unwrap(), bytes, "a failed write changes nothing");
}

#[test]
fn a_convolution_of_one_pixel_is_a_linear_layer() {
    let files = model("sd15", |_, _| {});
    let files = ModelFiles::open(files.path(), Variant::Any).unwrap();
    let name = "down_blocks.0.attentions.0.proj_in.weight";
    for shape in [&[32, 32][..], &[32, 32, 1, 1]] {
        assert_eq!(files.unet.weights.tensor(name, shape).unwrap().shape(), shape);
    }
    let failure = files.unet.weights.tensor(name, &[32, 32, 1, 2]);
    assert_fails("another", failure, &[name, "expected [32, 32, 1, 2], got [32, 32, 1, 1]"]);
    let failure = files.unet.weights.tensor("conv_norm_out.weight", &[32, 1]);
    assert_fails("of one axis", failure, &["expected [32, 1], got [32]"]);
}

#[test]
fn a_tensor_that_is_missing_or_wrong_is_named_with_its_file() {
    let files = model("bk-tiny", |component, tensors| {
        if component == "unet" {
            tensors.retain(|tensor| tensor.name != "conv_in.bias");
            tensors.iter_mut().find(|tensor| tensor.name == "conv_in.weight").unwrap().shape =
                vec![4, 32, 3, 3];
        }
    });
    let path = files.path().join("unet/diffusion_pytorch_model.safetensors");
    let open = || ModelFiles::open(files.path(), Variant::Any).unwrap();
    let weights = open().unet.weights;
    let file = "unet/diffusion_pytorch_model.safetensors: tensor ";
    assert_fails(
        "missing",
        weights.tensor("conv_in.bias", &[32]),
        &[file, "conv_in.bias: expected [32], but it is missing"],
    );
    assert!(!weights.contains("conv_in.bias") && weights.contains("conv_in.weight"));
    assert_eq!(weights.shape("conv_in.weight"), Some(vec![4, 32, 3, 3]));
    assert_fails(
        "transposed",
        weights.tensor("conv_in.weight", &[32, 4, 3, 3]),
        &[file, "conv_in.weight: expected [32, 4, 3, 3], got [4, 32, 3, 3]"],
    );
    let header = r#"{"conv_in.bias":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length[..], header.as_bytes(), &[0; 8]].concat()).unwrap();
    assert_fails(
        "of another type",
        open().unet.weights.tensor("conv_in.bias", &[1]),
        &[file, "conv_in.bias: expected floats or blocks of them, got I64"],
    );
}

#[test]
fn sizes_are_those_of_the_files() {
    let files = model("bk-tiny", |_, _| {});
    let opened = ModelFiles::open(files.path(), Variant::Any).unwrap();
    let mut elements = 0;
    for weights in [&opened.text_encoder.weights, &opened.unet.weights, &opened.vae.weights] {
        let size = |name| weights.shape(name).unwrap().iter().product::<usize>();
        elements += weights.names().map(size).sum::<usize>();
    }
    assert_eq!(opened.bytes(), 2 * elements as u64);
}
