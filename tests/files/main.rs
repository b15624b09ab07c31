//! Files: what is read comes back, what is damaged is named in one line.

mod checkpoint;
mod configs;
mod folder;
mod gguf;
mod mutated;
mod pictures;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use ellesmere::io::safetensors::{self, StoredType};
use serde_json::Value;

/// The folder of small models that the goldens are computed with.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The JSON of a golden file.
fn golden_json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// A tensor to be written.
#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    /// Values that differ from place to place, exact in every element type.
    fn new(name: &str, shape: &[usize]) -> Self {
        let values = (0..shape.iter().product::<usize>()).map(|index| (index % 251) as f32);
        Tensor { name: name.to_string(), shape: shape.to_vec(), values: values.collect() }
    }

    fn bytes(&self, stored: StoredType) -> Vec<u8> {
        let values = self.values.iter();
        match stored {
            StoredType::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            StoredType::F16 => {
                values.flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
            }
            StoredType::BF16 => {
                values.flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect()
            }
            other => panic!("values of {other} are not exact"),
        }
    }
}

fn write_tensors(path: &Path, stored: StoredType, tensors: &[Tensor]) {
    let bytes: Vec<_> = tensors.iter().map(|tensor| tensor.bytes(stored)).collect();
    let entries = tensors.iter().zip(&bytes);
    let entries = entries.map(|(t, bytes)| (t.name.as_str(), stored, &t.shape[..], &bytes[..]));
    safetensors::write(path, entries).unwrap();
}

/// The tensors of a golden model's component, by its manifest.
fn tensors(kind: &str, component: &str) -> Vec<Tensor> {
    let manifest = golden_json(&format!("models/{kind}/{component}/manifest.json"));
    let shape = |value: &Value| -> Vec<usize> { serde_json::from_value(value.clone()).unwrap() };
    let entries = manifest.as_object().unwrap().iter();
    entries.map(|(name, value)| Tensor::new(name, &shape(value))).collect()
}

/// Where each component's weights stand in a folder.
const WEIGHTS: [(&str, &str); 3] = [
    ("text_encoder", "model"),
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
];

/// A golden model with weights, in a folder of its own; `edit` may rename or leave out tensors.
fn model(kind: &str, edit: impl Fn(&str, &mut Vec<Tensor>)) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    copy(&golden(&format!("models/{kind}")), target.path());
    for (component, stem) in WEIGHTS {
        let mut tensors = tensors(kind, component);
        edit(component, &mut tensors);
        let path = target.path().join(component).join(format!("{stem}.safetensors"));
        write_tensors(&path, StoredType::F16, &tensors);
    }
    target
}

fn copy(source: &Path, target: &Path) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let target = target.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Asserts that `result` failed with one line that contains every one of `parts`.
#[track_caller]
fn assert_fails<T>(why: &str, result: ellesmere::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("{why}: expected an error with {parts:?}") };
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 1000, "{why}: {message}");
    for part in parts {
        assert!(message.contains(part), "{why}: {part:?} is not in {message:?}");
    }
}
