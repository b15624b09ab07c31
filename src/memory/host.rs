//! What a device keeps on the host.

use std::sync::Arc;

use super::MemoryManager;

/// Bytes on the host that are counted with a device's memory, given back when dropped.
#[derive(Debug)]
pub struct HostBlock {
    data: Vec<u8>,
    bytes: u64,
    manager: Arc<MemoryManager>,
}

impl HostBlock {
    pub(super) fn new(data: Vec<u8>, bytes: u64, manager: Arc<MemoryManager>) -> Self {
        Self { data, bytes, manager }
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes; none on a dry run.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        self.manager.release_on_host(self.bytes);
    }
}
