//! Where a weight is, and how it comes to the device.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Device, OffloadTo, Source};
use crate::Result;
use crate::backend::Buffer;
use crate::memory::{Block, HostBlock, Lifetime, zeros};

/// The bytes of a weight, in the form in which kernels read them: on the device; or on the host, or
/// made anew of what a file has, and copied for each use. They may move from the device to the host.
#[derive(Debug)]
pub(crate) struct Home {
    device: Device,
    bytes: u64,
    place: Mutex<Place>,
}

/// Cloned before it is used, so that nobody waits for who moves it.
#[derive(Clone, Debug)]
enum Place {
    Resident(Arc<Block>),
    Offloaded(Arc<HostBlock>),
}

/// A weight on the device, which stays there until this is dropped: its own block, or a copy.
#[derive(Debug)]
pub(crate) enum OnDevice {
    Resident(Arc<Block>),
    Copied(Block),
}

impl Deref for OnDevice {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            OnDevice::Resident(block) => block.buffer(),
            OnDevice::Copied(block) => block.buffer(),
        }
    }
}

impl Home {
    /// A home for `bytes` bytes where weights that are made now belong. `source` is not read on a dry
    /// run.
    ///
    /// # Errors
    ///
    /// Those of `source`; [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::Device`](crate::Error::Device).
    pub fn new(device: &Device, bytes: usize, source: Source<u8>) -> Result<Arc<Self>> {
        let memory = device.memory();
        let place = match (device.offloads(bytes as u64), source.again()) {
            (None, _) => {
                let block = device.upload(bytes, Lifetime::Resident, || source.read())?;
                Place::Resident(Arc::new(block))
            }
            (Some(OffloadTo::File), Some(produce)) => {
                Place::Offloaded(Arc::new(memory.leave_in_file(produce, bytes as u64)))
            }
            (Some(_), _) => {
                let data = if device.executes() { source.read()? } else { Vec::new() };
                Place::Offloaded(Arc::new(memory.hold_on_host(data, bytes as u64)))
            }
        };
        let place = Mutex::new(place);
        let home = Arc::new(Self { device: device.clone(), bytes: bytes as u64, place });
        device.made(&home);
        Ok(home)
    }

    /// What it takes wherever it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is on the device whether it is used or not.
    pub fn is_resident(&self) -> bool {
        matches!(*self.place(), Place::Resident(_))
    }

    /// The bytes on the device, copied there if they are not.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::bring`](crate::memory::MemoryManager::bring).
    pub fn on_device(&self) -> Result<OnDevice> {
        let place = self.place().clone();
        match place {
            Place::Resident(block) => Ok(OnDevice::Resident(block)),
            Place::Offloaded(held) => Ok(OnDevice::Copied(self.device.bring(&held)?)),
        }
    }

    /// Copies the bytes to the host and gives the device's memory back, once nobody uses it. Does
    /// nothing if they are there.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) if the host has no room;
    /// [`Error::Device`](crate::Error::Device). It is where it was then.
    pub fn move_to_host(&self) -> Result<()> {
        let block = match &*self.place() {
            Place::Resident(block) => Arc::clone(block),
            Place::Offloaded(_) => return Ok(()),
        };
        let data = match &self.device.inner.record {
            Some(record) => {
                record.would_read(self.bytes);
                Vec::new()
            }
            None => {
                let mut data = zeros(self.bytes as usize)?;
                self.device.backend().read(block.buffer(), 0, &mut data)?;
                data
            }
        };
        let held = self.device.memory().hold_on_host(data, self.bytes);
        // The other one may be another thread's copy, or the block: both go outside the lock.
        let other = std::mem::replace(&mut *self.place(), Place::Offloaded(Arc::new(held)));
        drop((other, block));
        Ok(())
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // Every change of the place is complete before anything can panic.
        self.place.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Device {
    /// A block with a copy of what is not on the device.
    fn bring(&self, held: &HostBlock) -> Result<Block> {
        let brought = self.inner.memory.bring(held)?;
        for copy in brought.copies {
            self.inner.profile.transferred(copy.bytes, copy.start, copy.timer);
        }
        Ok(brought.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::device::DeviceOptions;

    fn device() -> Device {
        Device::new(Arc::new(Cpu::new()), &DeviceOptions::default())
    }

    fn read(on_device: &OnDevice, device: &Device) -> Vec<u8> {
        let mut data = vec![0; 1000];
        device.backend().read(on_device, 0, &mut data).unwrap();
        data
    }

    #[test]
    fn a_weight_that_moves_is_the_same_and_its_memory_goes_back_after_its_last_use() {
        let device = device();
        let bytes: Vec<u8> = (0..1000).map(|index| index as u8).collect();
        let gathering = device.gather_weights();
        let home = Home::new(&device, 1000, Source::once(|| Ok(bytes.clone()))).unwrap();
        let gathered = gathering.finish();
        assert!(Arc::ptr_eq(&gathered[0], &home) && gathered.len() == 1);
        assert!(home.is_resident());
        let used = home.on_device().unwrap();
        home.move_to_host().unwrap();
        let held = || {
            let stats = device.memory_stats();
            [stats.held_bytes, stats.host_bytes]
        };
        assert_eq!(held(), [1000, 1000], "a launch may still read it");
        assert_eq!(read(&used, &device), bytes);
        drop(used);
        assert_eq!(held(), [0, 1000]);
        assert!(!home.is_resident());
        home.move_to_host().unwrap();
        assert_eq!(held(), [0, 1000], "it moves once");
        assert_eq!(read(&home.on_device().unwrap(), &device), bytes);
        assert_eq!(device.memory_stats().copied_bytes, 1000);
        drop((home, gathered));
        device.memory().trim();
        assert_eq!(held(), [0, 0]);
    }

    #[test]
    fn weights_move_while_others_use_them() {
        let device = device();
        let homes: Vec<_> = (0..50u8)
            .map(|value| {
                let source = Source::once(move || Ok(vec![value; 1000]));
                Home::new(&device, 1000, source).unwrap()
            })
            .collect();
        let uses = || {
            for (value, home) in homes.iter().enumerate().cycle().take(500) {
                assert_eq!(read(&home.on_device().unwrap(), &device), [value as u8; 1000]);
            }
        };
        let moves = || homes.iter().for_each(|home| home.move_to_host().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(uses);
            scope.spawn(uses);
            scope.spawn(moves);
            scope.spawn(moves);
        });
        assert_eq!(device.memory_stats().host_bytes, 50 * 1000);
        device.memory().trim();
        assert_eq!(device.memory_stats().held_bytes, 0);
    }
}
