//! What memory is and was in use.

use std::collections::BTreeMap;

use serde::Serialize;

/// Bytes held from the device, and bytes of those in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// What may be held.
    pub budget_bytes: u64,
    /// What is held from the device: live blocks and the pool's unused ones.
    pub held_bytes: u64,
    /// The most that was held.
    pub peak_held_bytes: u64,
    /// What is in use.
    pub live_bytes: u64,
    /// The most that was in use.
    pub peak_live_bytes: u64,
    /// The same by label.
    pub labels: BTreeMap<&'static str, LabelStats>,
    /// What is held on the host for the device: weights that are offloaded.
    pub host_bytes: u64,
    /// The most that was held there.
    pub peak_host_bytes: u64,
    /// What was copied from there to the device so far.
    pub copied_bytes: u64,
    /// What is parked on the host: bands of pictures.
    pub parked_bytes: u64,
    /// The most that was parked there.
    pub peak_parked_bytes: u64,
}

/// Bytes in use under one label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelStats {
    /// What is in use.
    pub live_bytes: u64,
    /// The most that was in use.
    pub peak_live_bytes: u64,
}

impl MemoryStats {
    pub(super) fn held(&mut self, bytes: u64) {
        self.held_bytes += bytes;
        self.peak_held_bytes = self.peak_held_bytes.max(self.held_bytes);
    }

    pub(super) fn held_on_host(&mut self, bytes: u64) {
        self.host_bytes += bytes;
        self.peak_host_bytes = self.peak_host_bytes.max(self.host_bytes);
    }

    pub(super) fn released(&mut self, bytes: u64) {
        self.held_bytes -= bytes;
    }

    pub(super) fn lived(&mut self, label: &'static str, bytes: u64) {
        self.live_bytes += bytes;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live_bytes);
        let entry = self.labels.entry(label).or_default();
        entry.live_bytes += bytes;
        entry.peak_live_bytes = entry.peak_live_bytes.max(entry.live_bytes);
    }

    pub(super) fn died(&mut self, label: &'static str, bytes: u64) {
        self.live_bytes -= bytes;
        if let Some(entry) = self.labels.get_mut(label) {
            entry.live_bytes -= bytes;
        }
    }

    pub(super) fn parked(&mut self, bytes: u64) {
        self.parked_bytes += bytes;
        self.peak_parked_bytes = self.peak_parked_bytes.max(self.parked_bytes);
    }

    pub(super) fn unparked(&mut self, bytes: u64) {
        self.parked_bytes -= bytes;
    }

    pub(super) fn reset_peaks(&mut self) {
        self.peak_parked_bytes = self.parked_bytes;
        self.peak_held_bytes = self.held_bytes;
        self.peak_live_bytes = self.live_bytes;
        self.peak_host_bytes = self.host_bytes;
        for entry in self.labels.values_mut() {
            entry.peak_live_bytes = entry.live_bytes;
        }
    }
}
