//! What a device keeps on the host.

use std::sync::Arc;

use super::MemoryManager;

/// Bytes on the host that are counted with a device's memory, given back when dropped.
#[derive(Debug)]
pub struct HostBlock {
    index: u64,
    bytes: u64,
    data: Arc<Vec<u8>>,
    manager: Arc<MemoryManager>,
}

impl HostBlock {
    /// How many blocks its device has held on the host before.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes; none on a dry run.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, for as long as a copy of them runs.
    pub(super) fn shared(&self) -> &Arc<Vec<u8>> {
        &self.data
    }
}

impl MemoryManager {
    /// Counts `data` as held on the host for this device until it is dropped: `bytes` of it, which
    /// a dry run counts without having them.
    pub fn hold_on_host(self: &Arc<Self>, data: Vec<u8>, bytes: u64) -> HostBlock {
        let data = Arc::new(data);
        let mut state = self.state();
        state.stats.held_on_host(bytes);
        let index = state.stream.hold(&data, bytes);
        HostBlock { index, bytes, data, manager: Arc::clone(self) }
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        let ahead = {
            let mut state = self.manager.state();
            state.stats.host_bytes -= self.bytes;
            state.stream.let_go(self.index)
        };
        if let Some(ahead) = ahead {
            // A driver that fails here fails again at the next call, which can return the error.
            let _ = self.manager.discard(ahead);
        }
    }
}
