//! Tensors in and out of safetensors files.

use std::fs;

use ellesmere::io::safetensors::{self, SafeTensors, StoredType};
use ellesmere::models::files::{ModelFiles, Variant};

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
