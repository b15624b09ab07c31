//! Memory that others hold on the same device.

use std::sync::Arc;

use super::{MemoryManager, release_unused};

/// Memory that a program holds on the device without its manager, from
/// [`MemoryManager::register`] until this is dropped.
#[derive(Debug)]
#[must_use = "memory is registered until its guard is dropped"]
pub struct Registration {
    label: &'static str,
    bytes: u64,
    manager: Arc<MemoryManager>,
}

impl MemoryManager {
    /// Counts `bytes` bytes that the caller holds on the same device by other means, under `label`,
    /// until the guard is dropped: they are as much of the budget as what the manager holds.
    ///
    /// Where they leave no room for them, the pool's unused blocks are given back. What is in use
    /// stays, even if both together are over the budget; the next allocation is then refused.
    ///
    /// A budget that was derived from what was free when the device was opened already leaves out
    /// what others held at that moment: register what is allocated later.
    pub fn register(self: &Arc<Self>, label: &'static str, bytes: u64) -> Registration {
        let mut state = self.state();
        state.stats.registered(label, bytes);
        if state.stats.counted_bytes() > state.stats.budget_bytes {
            self.drop_ahead(&mut state);
            release_unused(&mut state);
        }
        Registration { label, bytes, manager: Arc::clone(self) }
    }

    /// Counts what is registered with another manager for as long as this one lives: a dry run has
    /// as much room as the device that it is of.
    pub(crate) fn register_as(&self, other: &MemoryManager) {
        let registered = other.state().stats.registered.clone();
        let mut state = self.state();
        for (label, stats) in registered {
            state.stats.registered(label, stats.live_bytes);
        }
    }
}

impl Registration {
    /// How many bytes are registered.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.manager.state().stats.unregistered(self.label, self.bytes);
    }
}
