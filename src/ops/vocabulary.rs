//! Tokens' vectors in the form that kernels read.

use std::sync::Arc;

use super::weights::{PANEL, Storage, counted, counted_blocks, whole_blocks};
use crate::backend::Buffer;
use crate::device::Device;
use crate::memory::{Block, Lifetime};
use crate::ops::panels;
use crate::{DType, Format, Result};

/// A table of vectors, one for each token: `[V, C]`.
///
/// Panels of 32 tokens, as [`Weights`](super::Weights) has them of outputs: as values, or in blocks along
/// the channels, of which a kernel decodes what it wants. It is one block on the device. Cloning
/// shares it.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    device: Device,
    block: Arc<Block>,
    storage: Storage,
    shape: [usize; 2],
}

impl Vocabulary {
    /// Tokens as values, row-major, stored as `dtype`. `read` is not called on a dry run.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::Shape`](crate::Error::Shape) if it gives another number of values;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Allocation`](crate::Error::Allocation).
    pub fn values(
        device: &Device,
        lifetime: Lifetime,
        dtype: DType,
        [tokens, channels]: [usize; 2],
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        Self::new(device, lifetime, Storage::Values(dtype), [tokens, channels], || {
            let values = counted(read()?, tokens * channels)?;
            panels::of_values(&values, dtype, tokens, channels, 1)
        })
    }

    /// Tokens as rows of blocks, as files have them. `read` is not called on a dry run.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::Shape`](crate::Error::Shape) if it gives another number of bytes, or
    /// if `channels` are no whole number of blocks; [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::Allocation`](crate::Error::Allocation).
    pub fn blocks(
        device: &Device,
        lifetime: Lifetime,
        format: Format,
        [tokens, channels]: [usize; 2],
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        whole_blocks("vocabulary", format, channels)?;
        Self::new(device, lifetime, Storage::Blocks(format), [tokens, channels], || {
            let rows = counted_blocks(read()?, format, tokens * channels)?;
            panels::of_blocks(&rows, format, tokens, channels)
        })
    }

    fn new(
        device: &Device,
        lifetime: Lifetime,
        storage: Storage,
        shape: [usize; 2],
        pack: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let block = device.upload(Self::bytes_of(storage, shape), lifetime, pack)?;
        Ok(Self { device: device.clone(), block: Arc::new(block), storage, shape })
    }

    /// The bytes of a table on a device.
    pub fn bytes_of(storage: Storage, [tokens, channels]: [usize; 2]) -> usize {
        tokens.div_ceil(PANEL) * storage.panel_bytes(channels)
    }

    /// V and C.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// How it is stored on the device.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn buffer(&self) -> &Buffer {
        self.block.buffer()
    }
}
