//! What becomes of each tensor.

use std::sync::Arc;

use ellesmere::Result;
use ellesmere::io::gguf::{NewTensor, Value};
use ellesmere::io::tensors::{StoredType, TensorFile};
use ellesmere::models::Checkpoint;
use ellesmere::models::checkpoint::{CHANNELS_LAST, CONVOLUTIONS_KEY};
use ellesmere::models::files::ModelFiles;

use crate::rules::Rules;

/// Tensors of fewer values than this stay f32: together they are nothing.
const SMALL: usize = 1024;

/// What a single-file checkpoint's tensors start with, among others that no one needs.
const COMPONENTS: [&str; 3] = ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."];

/// A file to be written.
pub struct Plan {
    pub values: Vec<(String, Value)>,
    pub tensors: Vec<Planned>,
}

/// One tensor of it.
pub struct Planned {
    pub weights: Arc<Checkpoint>,
    /// The name and shape in `weights`.
    pub name: String,
    pub shape: Vec<usize>,
    /// How it is in the model.
    pub source: StoredType,
    pub target: NewTensor,
    /// Whether a rule said so.
    pub decided: bool,
    /// What was asked for, where the rows do not allow it.
    pub wanted: Option<StoredType>,
    /// Whether a convolution's channels come last in the file.
    pub channels_last: bool,
}

impl Planned {
    /// What it takes in a type; in one whose blocks are no whole rows, what that many values take.
    pub fn bytes_as(&self, stored: StoredType) -> usize {
        let values: usize = self.shape.iter().product();
        values.div_ceil(stored.block_values()) * stored.block_bytes()
    }
}

pub fn plan(files: ModelFiles, stored: StoredType, rules: &Rules) -> Result<Plan> {
    let mut values = vec![
        ("general.architecture".to_string(), Value::Text("diffusion".to_string())),
        ("general.name".to_string(), Value::Text(files.name.clone())),
        ("general.quantization_version".to_string(), Value::U32(2)),
    ];
    let texts = files.values();
    let folder = !texts.is_empty();
    values.extend(texts);
    let mut sources = Vec::new();
    if folder {
        let order = Value::Text(CHANNELS_LAST.to_string());
        values.push((CONVOLUTIONS_KEY.to_string(), order));
        let ModelFiles { text_encoder, unet, vae, .. } = files;
        let components = [
            ("text_encoder.", text_encoder.weights),
            ("unet.", unet.weights),
            ("vae.", vae.weights),
        ];
        for (prefix, weights) in components {
            sources.push((prefix, Arc::new(weights)));
        }
    } else {
        let file = Arc::new(TensorFile::open(&files.path)?);
        sources.push(("", Arc::new(Checkpoint::of_file(file)?)));
    }
    let mut tensors = Vec::new();
    for (prefix, weights) in sources {
        for name in weights.names() {
            let known = folder || COMPONENTS.iter().any(|prefix| name.starts_with(prefix));
            // Integers are no weights: positions, which no one needs.
            let Some(source) = weights.stored_type(name).filter(|_| known) else { continue };
            let Some(shape) = weights.shape(name) else { continue };
            let full = format!("{prefix}{name}");
            let rule = rules.decide(&full).filter(|_| shape.len() > 1);
            let (decided, wanted) =
                (rule.is_some(), rule.unwrap_or_else(|| usual(&full, &shape, stored)));
            let channels_last = folder && shape.len() == 4;
            let mut stored_shape = shape.clone();
            if channels_last {
                stored_shape[1..].rotate_left(1);
            }
            let stored = possible(wanted, &stored_shape);
            let target = NewTensor { name: full, stored, shape: stored_shape };
            let wanted = (stored != wanted).then_some(wanted);
            let (weights, name) = (weights.clone(), name.to_string());
            tensors.push(Planned {
                weights,
                name,
                shape,
                source,
                target,
                decided,
                wanted,
                channels_last,
            });
        }
    }
    rules.check_all_matched()?;
    // Whatever cannot be read is said before anything is written.
    for planned in &tensors {
        planned.weights.tensor(&planned.name, &planned.shape)?;
    }
    Ok(Plan { values, tensors })
}

/// What a tensor is stored as if no rule says otherwise.
fn usual(name: &str, shape: &[usize], stored: StoredType) -> StoredType {
    let small = shape.iter().product::<usize>() < SMALL;
    if stored == StoredType::F32 || shape.len() < 2 || small {
        StoredType::F32
    } else if name.contains("embed") {
        StoredType::F16
    } else {
        stored
    }
}

/// `wanted`, or what [takes its place](Format::for_inputs) where rows are not whole blocks of it.
pub fn possible(wanted: StoredType, shape: &[usize]) -> StoredType {
    let row = shape.last().copied().unwrap_or(1);
    match wanted {
        StoredType::Blocks(format) => {
            format.for_inputs(row).map_or(StoredType::F16, StoredType::Blocks)
        }
        values => values,
    }
}

#[cfg(test)]
mod tests {
    use ellesmere::Format;

    use super::*;

    #[test]
    fn each_kind_of_tensor_has_its_type() {
        let q4_k = StoredType::Blocks(Format::Q4K);
        let q5_0 = StoredType::Blocks(Format::Q5_0);
        for (why, name, shape, expected) in [
            ("a linear layer", "unet.to_q.weight", &[1280, 1280][..], q4_k),
            ("rows of no multiple of 256", "unet.to_q.weight", &[320, 320], q5_0),
            ("a convolution, channels last", "unet.conv1.weight", &[1280, 3, 3, 1280], q4_k),
            ("of no multiple of 32", "unet.conv_in.weight", &[320, 3, 3, 4], StoredType::F16),
            ("a norm", "unet.norm1.weight", &[1280], StoredType::F32),
            ("an embedding", "text_encoder.token_embedding.weight", &[49408, 768], StoredType::F16),
            ("a small one", "vae.quant_conv.weight", &[8, 1, 1, 8], StoredType::F32),
        ] {
            assert_eq!(possible(usual(name, shape, q4_k), shape), expected, "{why}");
        }
    }
}
