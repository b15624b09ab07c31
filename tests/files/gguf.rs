//! Tensors in and out of GGUF files.

use std::fs;
use std::path::Path;

use ellesmere::io::gguf::{self, Gguf, NewTensor, Value};
use ellesmere::io::safetensors::SafeTensors;
use ellesmere::io::tensors::StoredType;
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::nn::TensorSource as _;
use ellesmere::{Format, quant};

use crate::{assert_fails, golden, model};

/// What is blocks in such files.
const BLOCKS: [Format; 8] = *Format::ALL.first_chunk().unwrap();

fn open(name: &str) -> Gguf {
    Gguf::open(&golden(name)).unwrap()
}

/// `file` written again, with its values in the order of `keys`.
fn rewritten(file: &Gguf, keys: &[&str], tensors: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.gguf");
    let value = |key: &&str| (key.to_string(), file.value(key).unwrap().clone());
    let values: Vec<_> = keys.iter().map(value).collect();
    let tensor = |name: &&str| {
        let info = file.info(name).unwrap();
        let stored = info.stored_type().unwrap();
        NewTensor { name: name.to_string(), stored, shape: info.shape().to_vec() }
    };
    let new: Vec<_> = tensors.iter().map(tensor).collect();
    gguf::write(&path, &values, &new, |index, data| {
        let (first, second) = file.data(tensors[index]).unwrap().split_at(7);
        data.write(first)?;
        data.write(second)
    })
    .unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_tensor_of_each_type_is_read_and_written_as_the_reference_does() {
    let file = open("tensors.gguf");
    let formats = SafeTensors::open(&golden("formats.safetensors")).unwrap();
    for format in BLOCKS {
        let info = file.info(&format!("{format}.weight")).unwrap();
        assert_eq!(info.stored_type(), Some(StoredType::Blocks(format)));
        assert_eq!(info.shape(), [2, format.block_values()]);
        let data = file.data(&format!("{format}.weight")).unwrap();
        assert!(formats.data(&format!("{format}.blocks")).unwrap().ends_with(data));
    }
    assert_eq!(file.info("f16.weight").unwrap().shape(), [1, 2, 3, 1]);
    assert_eq!(file.info("bf16.weight").unwrap().stored_type(), Some(StoredType::BF16));
    assert_eq!(file.data("f32.bias").unwrap()[..4], 1.5f32.to_le_bytes());
    let ids = file.info("ids").unwrap();
    assert_eq!((ids.element(), ids.stored_type(), ids.shape()), ("I64", None, &[5][..]));

    // All but the last tensor, which weights are not written as.
    let keys = ["general.architecture", "general.name", "general.quantization_version"];
    let blocks = BLOCKS.map(|format| format!("{format}.weight"));
    let mut tensors: Vec<&str> = blocks.iter().map(String::as_str).collect();
    tensors.extend(["f16.weight", "f32.bias", "bf16.weight"]);
    let again = rewritten(&file, &keys, &tensors);
    let theirs = fs::read(golden("tensors.gguf")).unwrap();
    let data = 64 + file.data("bf16.weight").unwrap().len().next_multiple_of(32);
    let ends = |bytes: &[u8], after: usize| bytes[bytes.len() - data - after..][..data].to_vec();
    assert_eq!(ends(&again, 0), ends(&theirs, 64));
    let read = Gguf::read(Path::new("again.gguf"), again.into()).unwrap();
    for name in tensors {
        assert_eq!((read.data(name), read.info(name)), (file.data(name), file.info(name)));
    }
}

#[test]
fn a_value_of_each_type_is_read_and_written_to_the_byte() {
    let file = open("values.gguf");
    let expected = [
        ("a.u8", Value::U8(200)),
        ("a.i8", Value::I8(-100)),
        ("a.u16", Value::U16(60000)),
        ("a.i16", Value::I16(-30000)),
        ("a.u32", Value::U32(4_000_000_000)),
        ("a.i32", Value::I32(-2_000_000_000)),
        ("a.f32", Value::F32(0.1)),
        ("a.bool", Value::Bool(true)),
        ("a.text", Value::Text("größer\nals".to_string())),
        ("a.u64", Value::U64(1 << 63)),
        ("a.i64", Value::I64(-1 << 62)),
        ("a.f64", Value::F64(0.1)),
    ];
    for (key, value) in expected {
        assert_eq!(file.value(key), Some(&value), "{key}");
    }
    assert_eq!((file.text("a.text"), file.text("a.u8")), (Some("größer\nals"), None));
    for (key, kind) in [("a.numbers", 5), ("a.texts", 8)] {
        let Some(Value::Array { element, count, .. }) = file.value(key) else { panic!("{key}") };
        assert_eq!((*element, *count), (kind, 3));
    }
    let keys = [
        "general.architecture",
        "a.u8",
        "a.i8",
        "a.u16",
        "a.i16",
        "a.u32",
        "a.i32",
        "a.f32",
        "a.bool",
        "a.text",
        "a.numbers",
        "a.texts",
        "a.u64",
        "a.i64",
        "a.f64",
    ];
    let theirs = fs::read(golden("values.gguf")).unwrap();
    assert_eq!(rewritten(&file, &keys, &[]), theirs);
}

#[test]
fn what_cannot_be_written_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let tensor =
        |shape: &[usize], stored| NewTensor { name: "x".into(), stored, shape: shape.to_vec() };
    let q4_0 = StoredType::Blocks(Format::Q4_0);
    let write =
        |tensors: &[NewTensor]| gguf::write(&path, &[], tensors, |_, data| data.write(&[0; 4]));
    let cases = [
        ("rows", vec![tensor(&[32, 48], q4_0)], "tensor x: q4_0 [32, 48] cannot be written"),
        ("f8", vec![tensor(&[4], StoredType::F8E4M3)], "tensor x: f8_e4m3 [4] cannot be written"),
        ("axes", vec![tensor(&[1; 5], StoredType::F32)], "tensor x: expected at most 4 axes"),
        ("twice", vec![tensor(&[1], StoredType::F32); 2], "tensor x: is there twice"),
        ("short", vec![tensor(&[2], StoredType::F32)], "tensor x: expected 8 B of data, got 4 B"),
    ];
    for (why, tensors, expected) in cases {
        assert_fails(why, write(&tensors), &["a.gguf", expected]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{why}");
    }
    let twice = [("k".to_string(), Value::U8(0)), ("k".to_string(), Value::U8(1))];
    assert_fails("key", gguf::write(&path, &twice, &[], |_, _| Ok(())), &["key k: expected once"]);
}

/// A golden model in one file: linear weights in q8_0 where their rows allow it, convolutions in the
/// order that `channels_last` asks for, in q4_0 where they have channels enough.
fn whole(kind: &str, channels_last: bool, target: &Path) -> tempfile::TempDir {
    let folder = model(kind, |_, _| {});
    let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
    let mut values = files.values();
    if channels_last {
        let value = Value::Text("channels_last".to_string());
        values.push(("ellesmere.convolutions".to_string(), value));
    }
    let components = [
        ("text_encoder", &files.text_encoder.weights),
        ("unet", &files.unet.weights),
        ("vae", &files.vae.weights),
    ];
    let (mut tensors, mut datas) = (Vec::new(), Vec::new());
    for (component, weights) in components {
        for name in weights.names() {
            let mut shape = weights.shape(name).unwrap();
            let mut data = weights.tensor(name, &shape).unwrap().to_f32();
            if channels_last && let [outputs, inputs, rows, columns] = shape[..] {
                let kernel = rows * columns;
                let at = |index: usize| {
                    let (output, rest) = (index / (inputs * kernel), index % (inputs * kernel));
                    output * inputs * kernel + rest % inputs * kernel + rest / inputs
                };
                data = (0..data.len()).map(|index| data[at(index)]).collect();
                shape = vec![outputs, rows, columns, inputs];
            }
            let whole = shape.len() > 1 && shape.last().unwrap().is_multiple_of(32);
            let format = if shape.len() == 4 { Format::Q4_0 } else { Format::Q8_0 };
            let (stored, bytes) = if whole {
                let mut bytes = vec![0; quant::bytes(format, data.len()).unwrap()];
                quant::encode(format, &data, &mut bytes).unwrap();
                (StoredType::Blocks(format), bytes)
            } else {
                let bytes = data.iter().flat_map(|value| value.to_le_bytes()).collect();
                (StoredType::F32, bytes)
            };
            tensors.push(NewTensor { name: format!("{component}.{name}"), stored, shape });
            datas.push(bytes);
        }
    }
    gguf::write(target, &values, &tensors, |index, data| data.write(&datas[index])).unwrap();
    folder
}

#[test]
fn a_whole_model_is_one_file() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("model.gguf");
    for channels_last in [false, true] {
        let folder = whole("bk-tiny", channels_last, &path);
        let theirs = ModelFiles::open(folder.path(), Variant::Any).unwrap();
        let ours = ModelFiles::open(&path, Variant::Any).unwrap();
        assert_eq!((ours.name.as_str(), &ours.path), ("model", &path));
        assert_eq!(ours.values(), theirs.values());
        assert!(ours.values().len() >= 8);
        for (ours, theirs) in [
            (&ours.text_encoder.weights, &theirs.text_encoder.weights),
            (&ours.unet.weights, &theirs.unet.weights),
            (&ours.vae.weights, &theirs.vae.weights),
        ] {
            assert!(ours.names().eq(theirs.names()));
            for name in theirs.names() {
                let shape = theirs.shape(name).unwrap();
                assert_eq!(ours.shape(name).unwrap(), shape);
                let expected = theirs.tensor(name, &shape).unwrap().to_f32();
                let tensor = ours.tensor(name, &shape).unwrap();
                let StoredType::Blocks(format) = tensor.stored_type() else {
                    assert!(tensor.to_f32() == expected, "{name}");
                    assert!(ours.stored(name).is_none());
                    continue;
                };
                // Values are 0 to 250: half a step, where 127 or 7 steps reach the largest.
                let step = if format == Format::Q8_0 { 250.0 / 127.0 } else { 250.0 / 7.0 };
                let got = tensor.to_f32();
                let near = got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= step * 0.51);
                assert!(near, "{name} {shape:?} {format}");
                assert_eq!(ours.stored(name), Some((format, tensor.bytes())));
                // Any part of it, in f32 and f16.
                let range = 7..got.len() - 5;
                let mut some = vec![0.0; range.len()];
                tensor.read_f32(range.clone(), &mut some);
                assert!(some == got[range.clone()]);
                let mut halves = vec![half::f16::ZERO; range.len()];
                tensor.read_f16(range, &mut halves);
                let rounded = some.iter().map(|value| half::f16::from_f32(*value));
                assert!(rounded.eq(halves));
            }
        }
    }
}

#[test]
fn an_order_of_convolutions_that_is_not_known_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let value = Value::Text("sideways".to_string());
    let values = [("ellesmere.convolutions".to_string(), value)];
    gguf::write(&path, &values, &[], |_, _| Ok(())).unwrap();
    let parts = ["a.gguf: key ellesmere.convolutions: expected channels_last, got sideways"];
    assert_fails("order", ModelFiles::open(&path, Variant::Any), &parts);
    fs::write(&path, b"{}").unwrap();
    assert_fails("no GGUF", ModelFiles::open(&path, Variant::Any), &["expected a GGUF file"]);
}
