//! Configurations: which values a kernel's parameters take for a problem on a device.
//!
//! | module | does |
//! |---|---|
//! | [`space`] | the candidates of a kernel under its constraints |
//! | [`search`] | which candidate to try next |
//! | [`record`] | what came of candidates, in a file; strategies replayed on it |
//! | [`database`] | which configuration was the best for a problem on a device |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::DType;
use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel};

pub mod database;
pub mod record;
pub mod search;
pub mod space;

pub use record::{Outcome, Recording, Replay, Trial, replay};
pub use search::{Search, StrategyKind};
pub use space::Space;

/// The sizes of a problem that decide which configuration of a kernel is best.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub Vec<(&'static str, usize)>);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, size)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={size}")?;
        }
        Ok(())
    }
}

/// A configuration that somebody insists on: a kernel, and values of some of its parameters.
pub type Forced = (String, Vec<(String, u32)>);

/// A kernel, its element type and the problem.
type Key = (&'static str, DType, Class);

/// The configurations of one device.
#[derive(Debug, Default)]
pub struct Configurations {
    forced: Vec<Forced>,
    chosen: Mutex<HashMap<Key, Arc<Configuration>>>,
}

impl Configurations {
    /// Configurations of which some are forced.
    pub fn new(forced: Vec<Forced>) -> Self {
        Self { forced, chosen: Mutex::default() }
    }

    /// What is forced.
    pub fn forced(&self) -> &[Forced] {
        &self.forced
    }

    /// The configuration of `kernel` for a problem: what is forced, else what its op holds for
    /// good, else the kernel's defaults.
    ///
    /// `suggested` are the op's values: those that the problem decides, and those that suit the
    /// problem and the device where nothing was measured.
    pub fn choose(
        &self,
        kernel: &'static Kernel,
        dtype: DType,
        class: &Class,
        suggested: &[(&'static str, u32)],
        info: &DeviceInfo,
    ) -> Arc<Configuration> {
        let mut chosen = self.chosen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (kernel.name, dtype, class.clone());
        let entry = chosen.entry(key).or_insert_with(|| {
            let mut configuration = Configuration::defaults(kernel.parameters);
            for &(name, value) in suggested {
                let known = configuration.set(name, value);
                debug_assert!(known, "{} has no parameter {name}", kernel.name);
            }
            let forced = self.forced.iter().filter(|(name, _)| name == kernel.name);
            for (name, value) in forced.flat_map(|(_, values)| values) {
                configuration.set(name, *value);
            }
            debug_assert!(
                !self.forced.is_empty() || kernel.violated(&configuration, info).is_none(),
                "{} {configuration}: {}",
                kernel.name,
                kernel.violated(&configuration, info).map_or("", |constraint| constraint.text),
            );
            Arc::new(configuration)
        });
        Arc::clone(entry)
    }
}
