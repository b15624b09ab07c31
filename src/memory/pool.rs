//! Unused blocks, by size.

use std::collections::BTreeMap;

use crate::backend::Buffer;

/// Blocks that nothing uses.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<u64, Vec<Buffer>>,
}

/// The size that a request is rounded up to: an eighth of the power of two below it, at least
/// 256 bytes. Rounding wastes at most an eighth and lets close sizes share blocks.
pub fn size_class(bytes: u64) -> u64 {
    let step = (bytes.max(2048).ilog2() - 3).max(8);
    bytes.max(1).next_multiple_of(1 << step)
}

impl Pool {
    /// The smallest unused block that holds `bytes` and wastes at most half of itself: where a layer
    /// halves the channels, its blocks serve the next.
    pub fn take(&mut self, bytes: u64) -> Option<Buffer> {
        let (&size, _) = self.free.range(bytes..=bytes.saturating_mul(2)).next()?;
        let buffers = self.free.get_mut(&size)?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&size);
        }
        buffer
    }

    /// Keeps a block for later.
    pub fn put(&mut self, buffer: Buffer) {
        self.free.entry(buffer.bytes()).or_default().push(buffer);
    }

    /// What the unused blocks hold.
    pub fn bytes(&self) -> u64 {
        self.free.iter().map(|(size, buffers)| size * buffers.len() as u64).sum()
    }

    /// The size of the largest unused block, 0 if there is none.
    pub fn largest_bytes(&self) -> u64 {
        self.free.last_key_value().map_or(0, |(&size, _)| size)
    }

    /// Drops every unused block and tells how many bytes they held.
    pub fn clear(&mut self) -> u64 {
        let free = std::mem::take(&mut self.free);
        free.into_values().flatten().map(|buffer| buffer.bytes()).sum()
    }
}
