//! Models of random weights by the formula of `tests/golden/README.md`, as folders of files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// The components that have weights, and the names of their files.
const COMPONENTS: [(&str, &str); 3] = [
    ("text_encoder", "model.safetensors"),
    ("unet", "diffusion_pytorch_model.safetensors"),
    ("vae", "diffusion_pytorch_model.safetensors"),
];

/// The goldens that come with the crate.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `count` values in [-1, 1) that depend on `name` alone.
pub fn random(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1..=count as u64).map(move |index| {
        let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        2.0 * ((z >> 11) as f64 * 2f64.powi(-53)) - 1.0
    })
}

/// An input with a variance of 1.
pub fn normal_like(name: &str, count: usize) -> Vec<f32> {
    random(name, count).map(|r| (r * 3f64.sqrt()) as f32).collect()
}

/// An input in [0, 1).
pub fn image(name: &str, count: usize) -> Vec<f32> {
    random(name, count).map(|r| ((r + 1.0) / 2.0) as f32).collect()
}

/// The weight of that name in its component.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let value = |r: f64| match shape.len() {
        _ if name.ends_with("_embedding.weight") => 0.5 * r,
        2.. => r * (3.0 / fan_in as f64).sqrt(),
        _ if name.ends_with(".weight") => 1.0 + 0.1 * r,
        _ => 0.05 * r,
    };
    random(name, shape.iter().product()).map(|r| value(r) as f32).collect()
}

/// Names and shapes.
pub type Manifest = BTreeMap<String, Vec<usize>>;

/// The tensors of one component of a kind of model.
pub fn manifest(kind: &str, component: &str) -> Manifest {
    let path = golden().join("models").join(kind).join(component).join("manifest.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A diffusers folder of a kind of model: its configurations and random weights in f32.
pub fn write(kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = golden().join("models").join(kind);
    copy_all(&source, folder.path());
    for (component, file) in COMPONENTS {
        let path = folder.path().join(component).join(file);
        write_tensors(&path, &manifest(kind, component));
    }
    folder
}

/// The tensors of `manifest`, by the formula, as a file.
pub fn write_tensors(path: &Path, manifest: &Manifest) {
    let tensors: Vec<(&str, &[usize], Vec<u8>)> = manifest
        .iter()
        .map(|(name, shape)| {
            let bytes = weight(name, shape).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.as_str(), shape.as_slice(), bytes)
        })
        .collect();
    let views: HashMap<&str, TensorView> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            (*name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn copy_all(source: &Path, target: &Path) {
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let target = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else if entry.file_name() != "manifest.json" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
