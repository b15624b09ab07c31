//! Tensors that are held as another type than their file has.

use half::{bf16, f16};

use super::Checkpoint;
use crate::io::tensors::StoredType;
use crate::nn::{self, KeptWeights};
use crate::{Error, Format, Result};

impl Checkpoint {
    /// Has one tensor be what a file with that type for it would have: its values are rounded to
    /// the type, and devices hold matrices and convolutions of at least 32 outputs in its blocks, which
    /// lie along the channels. With `None` it is again as the files have it. What is loaded already stays
    /// as it is. It goes before [`Checkpoint::quantize`].
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if there is no such tensor, or its rows are no whole blocks of the type.
    pub fn hold_as(&mut self, name: &str, stored: Option<StoredType>) -> Result<()> {
        let refuse = |detail: String| {
            let (path, tensor) = (self.origin.clone(), name.to_string());
            Err(Error::Tensor { path, tensor, detail })
        };
        let Some(shape) = self.shape(name) else { return refuse("is missing".to_string()) };
        let row = if shape.len() > 1 { shape[1] } else { shape.iter().product() };
        if let Some(stored) = stored
            && !row.is_multiple_of(stored.block_values())
        {
            let values = stored.block_values();
            return refuse(format!(
                "expected rows of a multiple of {values} for {stored}, got {row}"
            ));
        }
        let before = match stored {
            Some(stored) => self.held.insert(name.to_string(), stored),
            None => self.held.remove(name),
        };
        if before != stored
            && let Some(kept) = &self.kept
        {
            kept.forget(name);
        }
        Ok(())
    }

    /// Has weights of matrices and convolutions stay on their device for the next model that is
    /// loaded of this checkpoint, but for those that [`Checkpoint::hold_as`] has changed since. They
    /// are where and as they were loaded first; a model that runs out of memory does not move them.
    pub fn keep_loaded(&mut self) {
        self.kept.get_or_insert_with(KeptWeights::default);
    }

    /// The values of a tensor, rounded to what it is held as.
    pub(super) fn held_values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = self.tensor(name, shape)?.to_f32();
        match self.held.get(name) {
            None | Some(StoredType::F32) => {}
            Some(StoredType::F16) => {
                values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
            }
            Some(StoredType::BF16) => {
                values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
            }
            Some(&StoredType::Blocks(format)) => {
                let blocks = self.held_blocks(name, shape, format)?;
                values = nn::decoded(&blocks, &as_weight(shape), format)?;
            }
            Some(other) => {
                let (path, tensor) = (self.origin.clone(), name.to_string());
                let detail =
                    format!("cannot be held as {other}: expected f32, f16, bf16 or blocks");
                return Err(Error::Tensor { path, tensor, detail });
            }
        }
        Ok(values)
    }

    /// A tensor in blocks, rounded once.
    pub(super) fn held_blocks(
        &self,
        name: &str,
        shape: &[usize],
        format: Format,
    ) -> Result<Vec<u8>> {
        nn::encoded(self.tensor(name, shape)?.to_f32(), &as_weight(shape), format)
    }
}

/// A vector as a matrix of one row.
fn as_weight(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [length] => vec![1, length],
        _ => shape.to_vec(),
    }
}
