//! What becomes of weights that are made: where they go, and who is told of them.

use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use serde::Serialize;

use super::{Device, Home};
use crate::{Error, Result};

/// Where weights are that are not on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffloadTo {
    /// On the host, in the form in which kernels read them.
    #[default]
    Host,
    /// In the file that they come from, where that can be read again: each is read and brought into
    /// the kernels' form for each use, which takes that time and no memory of the host's. What comes
    /// from elsewhere is on the host.
    ///
    /// The file must stay as it is: one that has another length or modification time than when it was
    /// opened, or is gone, is an [`Error::File`] at the next use. Changes that keep both are not found.
    File,
}

impl FromStr for OffloadTo {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "host" => Ok(Self::Host),
            "file" => Ok(Self::File),
            _ => Err(Error::argument("offload to", format!("expected host or file, got {text:?}"))),
        }
    }
}

/// Which weights that are made are not on the device, and where they are instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightPlacement {
    /// Weights of at most so many bytes each are on the device.
    pub threshold_bytes: u64,
    /// So many thousandths of the others' bytes are there as well, spread evenly.
    pub resident_permille: u16,
    /// Where the rest is.
    pub to: OffloadTo,
}

/// What is in force for the weights that are made.
#[derive(Debug, Default)]
pub(super) struct Making(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many guards there were so far.
    guards: u64,
    placements: Vec<Placement>,
    gathered: Vec<Gathered>,
}

/// Of one [`Offloading`].
#[derive(Debug)]
struct Placement {
    guard: u64,
    asked: WeightPlacement,
    /// The others' bytes so far, and those of them that are on the device.
    others_bytes: u64,
    resident_bytes: u64,
}

/// Of one [`Gathering`].
#[derive(Debug)]
struct Gathered {
    guard: u64,
    thread: ThreadId,
    homes: Vec<Arc<Home>>,
}

impl Placement {
    /// Where a weight of `bytes` bytes is if it is not on the device. Those that are not are spread
    /// evenly over the model: each is copied while those between them are used.
    fn offloads(&mut self, bytes: u64) -> Option<OffloadTo> {
        if bytes <= self.asked.threshold_bytes {
            return None;
        }
        self.others_bytes += bytes;
        let share = u128::from(self.others_bytes) * u128::from(self.asked.resident_permille);
        let stays = u128::from(self.resident_bytes + bytes) * 1000 <= share;
        if stays {
            self.resident_bytes += bytes;
        }
        (!stays).then_some(self.asked.to)
    }
}

impl Making {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn guard(&mut self) -> u64 {
        self.guards += 1;
        self.guards
    }
}

impl Device {
    /// Until the guard is dropped, weights that are made stay on the host, and each is copied to the
    /// device for its use: the device then holds one at a time, or two, where it copies beside its
    /// launches and knows what comes next ([`MemoryManager::expect`]): one is used while the next
    /// is on its way. What is small (biases, norms) is on the device all the same.
    ///
    /// [`MemoryManager::expect`]: crate::memory::MemoryManager::expect
    pub fn offload_weights(&self) -> Offloading {
        self.offload_weights_over(0)
    }

    /// As [`Device::offload_weights`], but for weights of at most `bytes` bytes each, which are on
    /// the device: a copy of little takes time for being a copy, and gives little room.
    pub fn offload_weights_over(&self, bytes: u64) -> Offloading {
        self.place_weights(WeightPlacement { threshold_bytes: bytes, ..Default::default() })
    }

    /// As [`Device::offload_weights`], but for the weights that `placement` has on the device, and to
    /// where it says.
    pub fn place_weights(&self, placement: WeightPlacement) -> Offloading {
        let mut state = self.inner.making.state();
        let guard = state.guard();
        state.placements.push(Placement {
            guard,
            asked: placement,
            others_bytes: 0,
            resident_bytes: 0,
        });
        Offloading { device: self.clone(), guard }
    }

    /// Where a weight of `bytes` bytes is that is made now, if it is not on the device. To be asked
    /// once for each weight.
    pub(crate) fn offloads(&self, bytes: u64) -> Option<OffloadTo> {
        let mut state = self.inner.making.state();
        // Every one of them counts it.
        let says = |placement: &mut Placement| placement.offloads(bytes);
        state.placements.iter_mut().map(says).fold(None, Option::or)
    }

    /// Until it is [finished](Gathering::finish), notes the weights that this thread makes.
    pub(crate) fn gather_weights(&self) -> Gathering {
        let mut state = self.inner.making.state();
        let guard = state.guard();
        state.gathered.push(Gathered { guard, thread: thread::current().id(), homes: Vec::new() });
        Gathering { device: self.clone(), guard }
    }

    /// Tells whoever gathers of a weight.
    pub(super) fn made(&self, home: &Arc<Home>) {
        let thread = thread::current().id();
        for gathered in &mut self.inner.making.state().gathered {
            if gathered.thread == thread {
                gathered.homes.push(Arc::clone(home));
            }
        }
    }
}

/// Where weights stay on the host, from [`Device::offload_weights`] or one of its like until it is
/// dropped.
#[derive(Debug)]
#[must_use = "weights stay on the host until the guard is dropped"]
pub struct Offloading {
    device: Device,
    guard: u64,
}

impl Drop for Offloading {
    fn drop(&mut self) {
        let mut state = self.device.inner.making.state();
        state.placements.retain(|placement| placement.guard != self.guard);
    }
}

/// Notes weights, from [`Device::gather_weights`] on.
#[derive(Debug)]
pub(crate) struct Gathering {
    device: Device,
    guard: u64,
}

impl Gathering {
    /// The weights that were made.
    pub fn finish(self) -> Vec<Arc<Home>> {
        let mut state = self.device.inner.making.state();
        let gathered = state.gathered.iter_mut().find(|gathered| gathered.guard == self.guard);
        gathered.map(|gathered| std::mem::take(&mut gathered.homes)).unwrap_or_default()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let gathered = {
            let mut state = self.device.inner.making.state();
            let gathered = &mut state.gathered;
            let at = gathered.iter().position(|gathered| gathered.guard == self.guard);
            at.map(|at| gathered.swap_remove(at))
        };
        // Outside the lock: the last handle of a weight gives its memory back.
        drop(gathered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_on_the_device_are_a_share_spread_evenly() {
        let offloaded = |threshold_bytes, resident_permille, sizes: &[u64]| {
            let device = Device::cpu();
            let to = OffloadTo::File;
            let placement = WeightPlacement { threshold_bytes, resident_permille, to };
            let _offloading = device.place_weights(placement);
            let offloads = |&bytes: &u64| u8::from(device.offloads(bytes) == Some(to));
            sizes.iter().map(offloads).collect::<Vec<_>>()
        };
        let same = [100; 8];
        assert_eq!(offloaded(0, 0, &same), [1; 8]);
        assert_eq!(offloaded(0, 1000, &same), [0; 8]);
        assert_eq!(offloaded(0, 500, &same), [1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(offloaded(0, 250, &same), [1, 1, 1, 0, 1, 1, 1, 0]);
        assert_eq!(offloaded(100, 0, &[100, 101, 1, 500]), [0, 1, 0, 1]);
        // A large one leaves room for small ones after it.
        assert_eq!(offloaded(0, 500, &[1000, 300, 300, 300]), [1, 0, 0, 0]);
    }

    #[test]
    fn no_guard_leaves_anything_behind() {
        let device = Device::cpu();
        let (outer, inner) = (device.offload_weights_over(10), device.offload_weights_over(10));
        let host = Some(OffloadTo::Host);
        assert_eq!(device.offloads(11), host);
        drop(outer);
        assert_eq!([device.offloads(11), device.offloads(10)], [host, None]);
        drop(inner);
        assert_eq!(device.offloads(11), None);
        drop(device.gather_weights());
        assert!(device.inner.making.state().gathered.is_empty());
    }
}
