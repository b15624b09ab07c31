//! Unused blocks, by size.

use std::collections::BTreeMap;

use crate::backend::Buffer;

/// Blocks that nothing uses.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<u64, Vec<Buffer>>,
}

/// The size that a request is rounded up to: a multiple of a 64th of the power of two below it, at
/// least of 256 bytes. Rounding wastes at most that much and lets close sizes share blocks.
pub fn size_class(bytes: u64) -> u64 {
    let step = (bytes.max(16384).ilog2() - 6).max(8);
    bytes.max(1).next_multiple_of(1 << step)
}

impl Pool {
    /// The smallest unused block of `bytes` bytes and at most `waste` more.
    pub fn take(&mut self, bytes: u64, waste: u64) -> Option<Buffer> {
        let (&size, _) = self.free.range(bytes..=bytes.saturating_add(waste)).next()?;
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

    /// Drops unused blocks of `bytes` bytes or more, or all, and tells how many bytes they held: the
    /// least single one that is enough, else the largest first.
    pub fn release(&mut self, bytes: u64) -> u64 {
        let mut released = 0;
        while released < bytes {
            let enough = self.free.range(bytes - released..).next();
            let Some((&size, _)) = enough.or_else(|| self.free.last_key_value()) else { break };
            drop(self.take(size, 0));
            released += size;
        }
        released
    }
}
