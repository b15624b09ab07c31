//! Weights that stay loaded between one model and the next.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::device::Device;
use crate::ops::SplitWeights;
use crate::{DType, Result};

/// Weights of matrices and convolutions that were loaded of a source, by the names of their tensors:
/// the next model of that source takes these, as they are and where they are.
///
/// It is for those who load a model again and again with few weights changed, such as one that is
/// measured in other types. Dry runs keep nothing.
#[derive(Debug, Default)]
pub struct KeptWeights {
    kept: Mutex<BTreeMap<Vec<String>, Kept>>,
}

/// A copy keeps nothing yet: it may be changed, and is loaded otherwise then.
impl Clone for KeptWeights {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[derive(Debug)]
struct Kept {
    device: Device,
    dtype: DType,
    weights: SplitWeights,
}

impl KeptWeights {
    /// Has the next model read this tensor again.
    pub fn forget(&self, name: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|names, _| !names.iter().any(|other| other == name));
    }

    /// What is kept of these tensors, or else what `load` gives, which is kept.
    pub(super) fn get(
        &self,
        device: &Device,
        dtype: DType,
        names: Vec<String>,
        load: impl FnOnce() -> Result<SplitWeights>,
    ) -> Result<SplitWeights> {
        if !device.executes() {
            return load();
        }
        let find = |kept: &Kept| kept.device.is(device) && kept.dtype == dtype;
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = kept.get(&names).filter(|kept| find(kept)) {
                return Ok(found.weights.clone());
            }
        }
        // Not under the lock: reading and encoding a weight takes its time.
        let weights = load()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(names, Kept { device: device.clone(), dtype, weights: weights.clone() });
        Ok(weights)
    }
}
