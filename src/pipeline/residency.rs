//! Where the weights of a pipeline are by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Component, LoadOptions};
use crate::Result;
use crate::device::{Device, Home};

/// The weights of each component, as they were placed when they were loaded or have moved since.
#[derive(Debug)]
pub(super) struct Residency {
    loaded: LoadOptions,
    weights: BTreeMap<Component, Vec<Arc<Home>>>,
    /// Components whose weights have moved to the host.
    moved: Mutex<BTreeSet<Component>>,
    /// What others held on the device, as far as they said, when it was loaded.
    registered_bytes: u64,
}

impl Residency {
    pub fn new(
        device: &Device,
        loaded: &LoadOptions,
        weights: BTreeMap<Component, Vec<Arc<Home>>>,
    ) -> Self {
        let registered_bytes = device.memory_stats().registered_bytes();
        Self { loaded: loaded.clone(), weights, moved: Mutex::default(), registered_bytes }
    }

    /// What would load the weights to where they are now.
    pub fn options(&self) -> LoadOptions {
        let mut options = self.loaded.clone();
        for &component in &*self.moved() {
            options.offload.insert(component);
            options.resident_permille.remove(&component);
        }
        options
    }

    /// What others said to hold on the device when the weights were loaded.
    pub fn registered_bytes(&self) -> u64 {
        self.registered_bytes
    }

    /// What the weights that can move hold on the device.
    pub fn resident_bytes(&self, components: &[Component]) -> u64 {
        self.movable(components).map(Home::bytes).sum()
    }

    /// Moves weights from the device to the host. Nothing may be queued that uses them.
    ///
    /// # Errors
    ///
    /// As [`Home::move_to_host`].
    pub fn move_to_host(&self, components: &[Component]) -> Result<()> {
        self.movable(components).try_for_each(Home::move_to_host)?;
        self.moved().extend(components);
        Ok(())
    }

    fn movable(&self, components: &[Component]) -> impl Iterator<Item = &Home> {
        let homes = components.iter().filter_map(|component| self.weights.get(component)).flatten();
        let over = self.loaded.offload_threshold_bytes;
        homes.map(Arc::as_ref).filter(move |home| home.bytes() > over && home.is_resident())
    }

    fn moved(&self) -> MutexGuard<'_, BTreeSet<Component>> {
        // Every change of the set is complete before anything can panic.
        self.moved.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
