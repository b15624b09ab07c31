//! Parts of a run.

use super::Device;
use crate::backend::record::CopiedWeights;

impl Device {
    /// Opens a stage: until the guard is dropped, memory is counted under `name` and launches are
    /// noted inside it.
    pub fn stage(&self, name: &'static str) -> Stage {
        self.inner.memory.push_label(name);
        if let Some(record) = &self.inner.record {
            record.open_stage(name, self.copied());
        }
        Stage { device: self.clone(), record: self.inner.profile.open(name) }
    }

    /// What was copied to it of weights that are elsewhere, so far.
    fn copied(&self) -> CopiedWeights {
        let stats = self.memory_stats();
        CopiedWeights { bytes: stats.copied_bytes, read_bytes: stats.read_bytes }
    }
}

/// A part of a run, from [`Device::stage`] until it is dropped. Stages nest.
#[derive(Debug)]
#[must_use = "a stage ends when its guard is dropped"]
pub struct Stage {
    device: Device,
    record: Option<usize>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.device.inner.memory.pop_label();
        if let Some(record) = &self.device.inner.record {
            record.close_stage(self.device.copied());
        }
        if let Some(record) = self.record {
            // A driver that fails here fails again at the next call, which can return the error.
            let _ = self.device.finish();
            self.device.inner.profile.close(record);
        }
    }
}
