//! Weights that devices hold as files have them.

use std::sync::Arc;

use super::{Checkpoint, without_unit_axes};
use crate::io::tensors::StoredType;
use crate::nn::BlocksReader;
use crate::{Error, Format, Result};

impl Checkpoint {
    /// The format in which a device can hold a tensor as it is stored. Blocks have to lie along the
    /// inputs; numbers are put in that order.
    pub(super) fn kept_format(&self, name: &str) -> Option<Format> {
        let slot = self.tensors.get(name)?;
        let stored = self.files[slot.file].info(&slot.stored_name)?.stored_type()?;
        let axes = self.shape(name)?;
        let [_, inputs, ..] = *axes else { return None };
        let in_order = match axes.len() {
            2 => true,
            4 => stored.block_values() == 1 || self.channels_last(slot),
            _ => false,
        };
        // Blocks of f8 have no scales.
        let scaled = self.scales(slot, stored).is_ok_and(|scales| !scales.is_empty());
        let usable = in_order && (!scaled || stored == StoredType::I8);
        stored.format().filter(|format| usable && inputs.is_multiple_of(format.block_values()))
    }

    /// A tensor of a [kept format](Checkpoint::kept_format), each output over (row, column, channel).
    pub(super) fn kept_blocks(&self, name: &str, shape: &[usize]) -> Result<Vec<u8>> {
        self.sorted(name, shape)?(self.tensor(name, shape)?.bytes())
    }

    /// What reads that from the file, whenever it is wanted.
    pub(super) fn kept_again(&self, name: &str, shape: &[usize]) -> Result<BlocksReader> {
        let length = self.tensor(name, shape)?.bytes().len();
        let sorted = self.sorted(name, shape)?;
        let slot = &self.tensors[name];
        let (file, stored_name) = (Arc::clone(&self.files[slot.file]), slot.stored_name.clone());
        let first = slot.part.map_or(0, |part| part.index * length);
        Ok(Arc::new(move || {
            let range = first..first + length;
            sorted(&file.read_again(&stored_name, range).expect("a tensor is in its file")?)
        }))
    }

    /// What checks the bytes of a tensor and puts them in order.
    fn sorted(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<impl Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync + use<>> {
        let tensor = self.tensor(name, shape)?;
        let (stored, scales) = (tensor.stored_type(), tensor.scales().to_vec());
        let in_order = self.channels_last(&self.tensors[name]);
        let taps = match without_unit_axes(shape) {
            [_, _, window @ ..] if !in_order => window.iter().product(),
            _ => 1,
        };
        let (channels, size) = (shape[1], stored.block_bytes());
        let (path, tensor) = (self.origin.clone(), name.to_string());
        Ok(move |bytes: &[u8]| {
            // The only one of these numbers that devices take for another.
            let none = |byte: &u8| byte & 0x7f == 0x7f;
            if let (StoredType::F8E4M3, Some(at)) = (stored, bytes.iter().position(none)) {
                let detail = format!("expected finite values, got NaN at {at}");
                return Err(Error::Tensor { path: path.clone(), tensor: tensor.clone(), detail });
            }
            if taps == 1 || bytes.is_empty() {
                return Ok(with_scales(bytes.to_vec(), &scales));
            }
            let mut sorted = Vec::with_capacity(bytes.len());
            for output in bytes.chunks_exact(channels * taps * size) {
                for tap in 0..taps {
                    let of_tap = output.chunks_exact(size).skip(tap).step_by(taps);
                    of_tap.for_each(|number| sorted.extend_from_slice(number));
                }
            }
            Ok(with_scales(sorted, &scales))
        })
    }
}

/// Rows of levels as rows of [`Format::I8`], if they have scales: one for each row, or for all.
fn with_scales(levels: Vec<u8>, scales: &[f32]) -> Vec<u8> {
    if scales.is_empty() {
        return levels;
    }
    let row = levels.len() / scales.len();
    let blocks = levels.chunks_exact(Format::I8.block_values()).enumerate();
    let block = |(index, levels): (usize, &[u8])| {
        let scale = scales[index * Format::I8.block_values() / row];
        [&scale.to_le_bytes(), levels].concat()
    };
    blocks.flat_map(block).collect()
}
