//! Where a band is.

use std::ops::Deref;

use crate::Result;
use crate::backend::Buffer;
use crate::device::Device;
use crate::memory::{Block, Lifetime, ParkedBlock};

/// The memory of one band of a tensor.
#[derive(Debug)]
pub(super) enum Place {
    Device(Block),
    /// Parked: on the device while it is written or read, and no longer.
    Parked(ParkedBlock),
}

impl Place {
    /// What an op writes.
    pub(super) fn output<'a>(&'a self, device: &'a Device) -> Result<BandOutput<'a>> {
        match self {
            Place::Device(block) => Ok(BandOutput::Own(block.buffer())),
            Place::Parked(home) => {
                let block = device.memory().allocate(home.bytes(), Lifetime::Transient)?;
                Ok(BandOutput::Parked { block, home, device })
            }
        }
    }

    /// Copies what it begins with to `target`. Waits for the device.
    pub(super) fn read(&self, device: &Device, target: &mut [u8]) -> Result<()> {
        match self {
            Place::Device(block) => device.backend().read(block.buffer(), 0, target)?,
            Place::Parked(home) if device.executes() => {
                home.read(0..target.len(), |offset, piece| {
                    target[offset..][..piece.len()].copy_from_slice(piece);
                    Ok(())
                })?;
            }
            Place::Parked(_) => target.fill(0),
        }
        Ok(())
    }
}

/// The memory of a band that is read: the tensor's own block, or a copy of the rows that were
/// asked for.
pub(crate) enum BandBuffer<'a> {
    Own(&'a Buffer),
    Gathered(Block),
}

impl Deref for BandBuffer<'_> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            BandBuffer::Own(buffer) => buffer,
            BandBuffer::Gathered(block) => block.buffer(),
        }
    }
}

/// The memory of a band that is written: the tensor's own block, or one that is parked afterwards.
#[must_use = "a band that is not kept is lost"]
pub(crate) enum BandOutput<'a> {
    Own(&'a Buffer),
    Parked { block: Block, home: &'a ParkedBlock, device: &'a Device },
}

impl BandOutput<'_> {
    /// Keeps what was written: waits for it and parks it where that is the band's place.
    pub(crate) fn keep(self) -> Result<()> {
        match self {
            BandOutput::Own(_) => Ok(()),
            BandOutput::Parked { block, home, device } => device.park(block.buffer(), home),
        }
    }
}

impl Deref for BandOutput<'_> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            BandOutput::Own(buffer) => buffer,
            BandOutput::Parked { block, .. } => block.buffer(),
        }
    }
}
