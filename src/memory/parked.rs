//! Parts of pictures that wait on the host, counted beside the device's memory.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MemoryManager;
use crate::backend::pages;
use crate::{Error, Result};

/// What is parked lies in chunks of so many bytes, and a rest: bands of one layer and of the next
/// differ in size, and a chunk of one serves the other. A system's fresh pages cost several times
/// what the copy to them does.
const CHUNK: usize = 8 << 20;

/// A place on the host for what a device has no room for: counted by the device's manager from
/// when it is filled until it is released or dropped, under no budget.
#[derive(Debug)]
pub struct ParkedBlock {
    bytes: u64,
    /// `None` before it is filled, and once it is released.
    chunks: Mutex<Option<Vec<Vec<u8>>>>,
    manager: Arc<MemoryManager>,
}

impl ParkedBlock {
    /// How many bytes it holds once it is filled.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills it: `read` writes the bytes from an offset on to each chunk in turn.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the host has no room; what `read` fails with.
    ///
    /// # Panics
    ///
    /// If it was filled before: a bug of this crate.
    pub fn fill(&self, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
        let mut chunks = Vec::with_capacity(self.bytes.div_ceil(CHUNK as u64) as usize);
        for (start, bytes) in self.parts() {
            let mut chunk = self.manager.chunk(bytes)?;
            read(start as u64, &mut chunk)?;
            chunks.push(chunk);
        }
        self.keep(chunks);
        Ok(())
    }

    /// Counts it as filled, with nothing: on a dry run. `fresh` is told the bytes of each part that
    /// would lie in memory which no parked block had before.
    pub fn count(&self, mut fresh: impl FnMut(u64)) {
        let part = |(_, bytes)| {
            self.manager.spare_chunk(bytes).unwrap_or_else(|| {
                fresh(bytes as u64);
                Vec::new()
            })
        };
        self.keep(self.parts().map(part).collect());
    }

    /// The offset and the bytes of each chunk.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let bytes = self.bytes as usize;
        (0..bytes).step_by(CHUNK).map(move |start| (start, CHUNK.min(bytes - start)))
    }

    fn keep(&self, chunks: Vec<Vec<u8>>) {
        self.manager.state().stats.parked(self.bytes);
        let before = self.chunks().replace(chunks);
        assert!(before.is_none(), "a band is written once");
    }

    /// Gives the bytes of `range`, in order, piece by piece, each with its offset in the range.
    ///
    /// # Errors
    ///
    /// What `take` fails with.
    ///
    /// # Panics
    ///
    /// If it was not filled, or is released: a bug of this crate.
    pub fn read(
        &self,
        range: Range<usize>,
        mut take: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let chunks = self.chunks();
        let chunks = chunks.as_ref().expect("a band is read while it is there");
        for (index, chunk) in chunks.iter().enumerate() {
            let start = index * CHUNK;
            let (first, end) = (range.start.max(start), range.end.min(start + chunk.len()));
            if first < end {
                take(first - range.start, &chunk[first - start..end - start])?;
            }
        }
        Ok(())
    }

    fn chunks(&self) -> MutexGuard<'_, Option<Vec<Vec<u8>>>> {
        // They are put there and taken away as one.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves what it holds to others: nobody reads it any more.
    pub fn release(&self) {
        let Some(chunks) = self.chunks().take() else { return };
        let mut state = self.manager.state();
        state.stats.unparked(self.bytes);
        let parts = self.parts().zip(chunks);
        let whole = parts.filter(|((_, bytes), _)| *bytes == CHUNK).map(|(_, chunk)| chunk);
        state.spare_chunks.extend(whole);
        if state.stats.parked_bytes == 0 {
            state.spare_chunks = Vec::new();
        }
    }
}

impl Drop for ParkedBlock {
    fn drop(&mut self) {
        self.release();
    }
}

impl MemoryManager {
    /// A place for `bytes` bytes on the host, not yet filled.
    pub fn parked_block(self: &Arc<Self>, bytes: u64) -> ParkedBlock {
        ParkedBlock { bytes, chunks: Mutex::default(), manager: Arc::clone(self) }
    }

    /// What a parked block has left, if that was a whole chunk and is to be one.
    fn spare_chunk(&self, bytes: usize) -> Option<Vec<u8>> {
        (bytes == CHUNK).then(|| self.state().spare_chunks.pop()).flatten()
    }

    /// `bytes` bytes on the host to fill: what a parked block has left, or zeros.
    fn chunk(&self, bytes: usize) -> Result<Vec<u8>> {
        let fresh = || {
            zeros(bytes).or_else(|_| {
                self.state().spare_chunks = Vec::new();
                zeros(bytes)
            })
        };
        self.spare_chunk(bytes).map_or_else(fresh, Ok)
    }
}

/// `bytes` zeros.
///
/// # Errors
///
/// [`Error::Argument`] if the host has no room for them.
pub fn zeros(bytes: usize) -> Result<Vec<u8>> {
    let no_room = || Error::argument("host memory", format!("no room for {bytes} B"));
    pages::zeroed(bytes).ok_or_else(no_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_over_what_another_left() {
        let manager = crate::memory::tests::manager(1 << 20, 1 << 20);
        let place = |bytes: usize| {
            let block = manager.parked_block(bytes as u64);
            let mut starts = Vec::new();
            let fill = |offset, chunk: &mut [u8]| {
                chunk.fill(offset as u8 ^ 5);
                starts.push(chunk.as_ptr());
                Ok(())
            };
            block.fill(fill).unwrap();
            (block, starts)
        };
        let (stays, _) = place(64);
        let (first, before) = place(2 * CHUNK);
        drop(first);
        assert_eq!(manager.state().spare_chunks.len(), 2);
        let (second, after) = place(CHUNK + 3);
        assert!(before.contains(&after[0]), "a chunk of what was dropped");
        assert_eq!([second.bytes() as usize, manager.state().spare_chunks.len()], [CHUNK + 3, 1]);
        drop((second, stays));
        assert_eq!(manager.state().spare_chunks.capacity(), 0, "nothing waits, so nothing is kept");
    }

    #[test]
    fn what_is_released_is_counted_no_more() {
        let manager = crate::memory::tests::manager(1 << 20, 1 << 20);
        let blocks = [1, 2].map(|chunks| manager.parked_block(chunks * CHUNK as u64));
        blocks.iter().for_each(|block| block.fill(|_, _| Ok(())).unwrap());
        blocks[0].release();
        assert_eq!(manager.state().stats.parked_bytes, 2 * CHUNK as u64);
        assert_eq!(manager.state().spare_chunks.len(), 1);
        blocks[0].release();
        drop(blocks);
        assert_eq!(manager.state().stats.parked_bytes, 0);
        assert!(manager.state().spare_chunks.is_empty());
    }

    #[test]
    fn a_range_is_read_across_chunks() {
        let manager = crate::memory::tests::manager(1 << 20, 1 << 20);
        let block = manager.parked_block(2 * CHUNK as u64 + 10);
        let mut next = 0u32;
        let count = |_, chunk: &mut [u8]| {
            chunk.iter_mut().for_each(|byte| (*byte, next) = ((next % 251) as u8, next + 1));
            Ok(())
        };
        block.fill(count).unwrap();
        for range in [0..10, CHUNK - 3..CHUNK + 5, CHUNK..2 * CHUNK, 5..2 * CHUNK + 10, 7..7] {
            let mut got = vec![0; range.len()];
            let piece = |offset: usize, piece: &[u8]| {
                got[offset..][..piece.len()].copy_from_slice(piece);
                Ok(())
            };
            block.read(range.clone(), piece).unwrap();
            assert!(got.iter().zip(range).all(|(got, at)| usize::from(*got) == at % 251));
        }
    }

    #[test]
    fn a_block_that_could_not_be_filled_counts_nothing() {
        let manager = crate::memory::tests::manager(1 << 20, 1 << 20);
        let block = manager.parked_block(10);
        let failed = block.fill(|_, _| Err(Error::argument("device", "lost")));
        assert_eq!(failed.unwrap_err().to_string(), "device: lost");
        assert_eq!(manager.state().stats.parked_bytes, 0);
    }

    #[test]
    fn a_host_without_room_is_an_error() {
        let error = zeros(isize::MAX as usize).unwrap_err().to_string();
        assert_eq!(error, format!("host memory: no room for {} B", isize::MAX));
    }
}
