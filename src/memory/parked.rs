//! Parts of pictures that wait on the host, counted beside the device's memory.

use std::sync::{Arc, OnceLock};

use super::MemoryManager;
use crate::{Error, Result};

/// A place on the host for what a device has no room for: counted by the device's manager from
/// when it is filled until it is dropped, under no budget.
#[derive(Debug)]
pub struct ParkedBlock {
    bytes: u64,
    data: OnceLock<Vec<u8>>,
    manager: Arc<MemoryManager>,
}

impl ParkedBlock {
    /// How many bytes it holds once it is filled.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills it. On a dry run `data` is empty and counted all the same.
    ///
    /// # Panics
    ///
    /// If it was filled before: a bug of this crate.
    pub fn fill(&self, data: Vec<u8>) {
        self.manager.state().stats.parked(self.bytes);
        self.data.set(data).expect("a band is written once");
    }

    /// What it was filled with.
    ///
    /// # Panics
    ///
    /// If it was not: a bug of this crate.
    pub fn data(&self) -> &[u8] {
        self.data.get().expect("a band is written before it is read")
    }
}

impl Drop for ParkedBlock {
    fn drop(&mut self) {
        let Some(data) = self.data.take() else { return };
        let mut state = self.manager.state();
        state.stats.unparked(self.bytes);
        // The next band takes it over: a system's fresh pages cost more than the copy to them.
        state.unparked.push(data);
        if state.stats.parked_bytes == 0 {
            state.unparked.clear();
        }
    }
}

impl MemoryManager {
    /// A place for `bytes` bytes on the host, not yet filled.
    pub fn parked_block(self: &Arc<Self>, bytes: u64) -> ParkedBlock {
        ParkedBlock { bytes, data: OnceLock::new(), manager: Arc::clone(self) }
    }

    /// `bytes` bytes on the host to fill a parked block with: what another left, or zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the host has no room for them.
    pub(crate) fn host_bytes(&self, bytes: usize) -> Result<Vec<u8>> {
        let unparked = &mut self.state().unparked;
        unparked.sort_unstable_by_key(Vec::capacity);
        let mut data = match unparked.iter().position(|data| data.capacity() >= bytes) {
            Some(place) => unparked.remove(place),
            None => {
                // None is large enough: a new one takes the place of the largest.
                unparked.pop();
                return zeros(bytes).or_else(|_| {
                    unparked.clear();
                    zeros(bytes)
                });
            }
        };
        data.resize(bytes, 0);
        Ok(data)
    }
}

/// `bytes` zeros.
///
/// # Errors
///
/// [`Error::Argument`] if the host has no room for them.
pub fn zeros(bytes: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    data.try_reserve_exact(bytes)
        .map_err(|_| Error::argument("host memory", format!("no room for {bytes} B")))?;
    data.resize(bytes, 0);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_over_what_another_left() {
        let manager = crate::memory::tests::manager(1 << 20, 1 << 20);
        let place = |bytes: usize| {
            let data = manager.host_bytes(bytes).unwrap();
            let start = data.as_ptr();
            let block = manager.parked_block(bytes as u64);
            block.fill(data);
            (block, start)
        };
        let (stays, _) = place(64);
        let (first, start) = place(4096);
        drop(first);
        let (second, again) = place(1024);
        assert_eq!(again, start, "the smallest that is large enough");
        assert_eq!(second.data().len(), 1024);
        drop((second, stays));
        assert_eq!(manager.state().unparked.len(), 0, "nothing waits, so nothing is kept");
    }

    #[test]
    fn a_host_without_room_is_an_error() {
        let error = zeros(isize::MAX as usize).unwrap_err().to_string();
        assert_eq!(error, format!("host memory: no room for {} B", isize::MAX));
    }
}
