//! Scales that files have beside tensors of 8 bits.
//!
//! | weight | its scale, by which it is multiplied | written by |
//! |---|---|---|
//! | `a.weight` | `a.scale_weight` or `a.weight_scale` | ComfyUI |
//! | `a.weight._data` | `a.weight._scale` | optimum-quanto |

use super::{Checkpoint, Slot};
use crate::io::one_line;
use crate::io::tensors::StoredType;
use crate::models::checkpoint::StoredTensor;

/// What such files name the levels of a weight.
const DATA: &str = "._data";

/// Endings of scales of weights and activations.
const SCALES: [&str; 6] =
    [".scale_weight", ".weight_scale", "._scale", ".scale_input", ".input_scale", ".output_scale"];

/// What a stored tensor is the weight of: `None` for a scale.
pub(super) fn weight_name(stored_name: &str) -> Option<&str> {
    match SCALES.iter().any(|ending| stored_name.ends_with(ending)) {
        true => None,
        false => Some(stored_name.strip_suffix(DATA).unwrap_or(stored_name)),
    }
}

impl Checkpoint {
    /// What the numbers of a tensor are multiplied by: one for each of its rows, one for all, or none.
    pub(super) fn scales(&self, slot: &Slot, stored: StoredType) -> Result<Vec<f32>, String> {
        if !matches!(stored, StoredType::I8 | StoredType::F8E4M3 | StoredType::F8E5M2) {
            return Ok(Vec::new());
        }
        let file = &self.files[slot.file];
        let name = slot.stored_name.as_str();
        let mut names = Vec::new();
        if let Some(weight) = name.strip_suffix(DATA) {
            names.push(format!("{weight}._scale"));
        } else if let Some(layer) = name.strip_suffix(".weight") {
            names.extend([format!("{layer}.scale_weight"), format!("{layer}.weight_scale")]);
        }
        let found = names.iter().find_map(|name| Some((name, file.info(name)?, file.data(name)?)));
        let Some((name, info, data)) = found else {
            return match stored {
                StoredType::I8 => Err("expected a scale beside bytes, such as weight_scale".into()),
                _ => Ok(Vec::new()),
            };
        };
        let rows =
            file.info(&slot.stored_name).map_or(0, |info| info.shape().first().map_or(1, |n| *n));
        let count: usize = info.shape().iter().product();
        let floats = info.stored_type().filter(|stored| {
            matches!(stored, StoredType::F32 | StoredType::F16 | StoredType::BF16)
        });
        let (Some(floats), true) = (floats, count == 1 || count == rows) else {
            let got = one_line(format_args!("{} {:?}", info.element(), info.shape()));
            return Err(format!("expected one or {rows} floats as {name}, got {got}"));
        };
        let all = StoredTensor::new(name, floats, info.shape(), data, None).to_f32();
        Ok(match slot.part {
            Some(part) if count > 1 => {
                let size = count / part.count;
                all[part.index * size..(part.index + 1) * size].to_vec()
            }
            _ => all,
        })
    }
}
