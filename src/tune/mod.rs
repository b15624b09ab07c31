//! Configurations: which values a kernel's parameters take for a problem on a device.
//!
//! | module | does |
//! |---|---|
//! | [`space`] | the candidates of a kernel under its constraints |
//! | [`search`] | which candidate to try next |
//! | [`record`] | what came of candidates, in a file; strategies replayed on it |
//! | [`database`] | which configuration was the best for a problem on a device |
//! | [`first_use`] | tunes a launch with its own arguments, once |

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::DType;
use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel};

pub mod database;
pub mod first_use;
pub mod record;
pub mod search;
pub mod space;

pub use database::{Answer, Database, Entry, Step};
pub use record::{Outcome, Recording, Replay, Trial, replay};
pub use search::{Search, StrategyKind};
pub use space::Space;

/// The sizes of a problem that decide which configuration of a kernel is best.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub Vec<(&'static str, usize)>);

impl Class {
    /// The sizes by name.
    pub fn sizes(&self) -> BTreeMap<String, usize> {
        self.0.iter().map(|&(name, size)| (name.to_owned(), size)).collect()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, size)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={size}")?;
        }
        Ok(())
    }
}

/// Where configurations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Autotune {
    /// Defaults alone.
    Off,
    /// The database, then defaults.
    #[default]
    Cached,
    /// The database; a problem that it does not know on this device and driver is tuned when it
    /// is first launched, once, and remembered.
    ///
    /// A candidate that hangs cannot be stopped from within the process: `clbench tune` can.
    OnFirstUse {
        /// For how long each. Looked at between candidates.
        limit: Duration,
    },
}

/// A configuration that somebody insists on: a kernel, and values of some of its parameters.
pub type Forced = (String, Vec<(String, u32)>);

/// A kernel, its element type and the problem.
type Key = (&'static str, DType, Class);

/// How a configuration came to be chosen.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody insisted on some of its values.
    Forced,
    /// An entry of the database.
    Answered(Box<Answer>),
    /// Nothing is known: the op's values, or the kernel's defaults.
    Default,
}

/// What is used for a problem, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The kernel.
    pub kernel: &'static str,
    /// How elements are stored.
    pub dtype: DType,
    /// The problem.
    pub class: Class,
    /// What holds where nothing was measured.
    pub default: Configuration,
    /// What is used.
    pub configuration: Arc<Configuration>,
    /// How it came to be chosen.
    pub origin: Origin,
    /// Every place of the database that was looked at, in order.
    pub chain: Vec<Step>,
    /// Whether the problem was tuned, or tried to be, by this device.
    tuned: bool,
}

impl Choice {
    /// Whether a device that tunes on first use has nothing to do: the very problem was measured
    /// on this device and driver, or somebody insists.
    fn is_settled(&self) -> bool {
        self.tuned
            || match &self.origin {
                Origin::Forced => true,
                Origin::Default => false,
                Origin::Answered(answer) => {
                    answer.distance == 0.0 && answer.nearness == database::Nearness::Driver
                }
            }
    }
}

/// The configurations of one device, shared with its dry runs.
#[derive(Debug, Default)]
pub struct Configurations {
    forced: Vec<Forced>,
    autotune: Autotune,
    database: Database,
    chosen: Mutex<HashMap<Key, Choice>>,
    /// Held while a launch is tuned: two at once would disturb each other's times.
    tuning: Mutex<()>,
}

impl Configurations {
    /// Configurations of which some are forced, and others from a database.
    pub fn new(forced: Vec<Forced>, autotune: Autotune, database: Database) -> Self {
        Self { forced, autotune, database, ..Self::default() }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// For how long to tune what is not known; `None` for not at all.
    pub fn first_use_limit(&self) -> Option<Duration> {
        match self.autotune {
            Autotune::OnFirstUse { limit } => Some(limit),
            Autotune::Off | Autotune::Cached => None,
        }
    }

    /// What was chosen so far, by kernel, element type and class.
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<Choice> = self.chosen().values().cloned().collect();
        choices.sort_by(|a, b| (a.kernel, a.dtype, &a.class).cmp(&(b.kernel, b.dtype, &b.class)));
        choices
    }

    /// The configuration of `kernel` for a problem: what is forced, else what the database
    /// answers, else what its op holds for good, else the kernel's defaults.
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
        let mut chosen = self.chosen();
        let entry = chosen.entry((kernel.name, dtype, class.clone())).or_insert_with(|| {
            let mut base = Configuration::defaults(kernel.parameters);
            for &(name, value) in suggested {
                let known = base.set(name, value);
                debug_assert!(known, "{} has no parameter {name}", kernel.name);
            }
            debug_assert!(
                kernel.violated(&base, info).is_none(),
                "{} {base}: {}",
                kernel.name,
                kernel.violated(&base, info).map_or("", |constraint| constraint.text),
            );
            self.choice(kernel, dtype, class, base, info)
        });
        Arc::clone(&entry.configuration)
    }

    fn choice(
        &self,
        kernel: &'static Kernel,
        dtype: DType,
        class: &Class,
        default: Configuration,
        info: &DeviceInfo,
    ) -> Choice {
        let (mut configuration, mut origin, mut chain) =
            (default.clone(), Origin::Default, Vec::new());
        let forced = self.forced.iter().filter(|(name, _)| name == kernel.name);
        let forced: Vec<_> = forced.flat_map(|(_, values)| values).collect();
        if !forced.is_empty() {
            forced.iter().for_each(|(name, value)| {
                configuration.set(name, *value);
            });
            origin = Origin::Forced;
        } else if self.autotune != Autotune::Off {
            let query = database::Query { kernel, dtype, class, base: &default, info };
            let (found, steps) = self.database.look_up(&query);
            chain = steps;
            if let Some((answer, answered)) = found {
                (configuration, origin) = (answered, Origin::Answered(Box::new(answer)));
            }
        }
        let (configuration, class) = (Arc::new(configuration), class.clone());
        let kernel = kernel.name;
        Choice { kernel, dtype, class, default, configuration, origin, chain, tuned: false }
    }

    /// The choice for a problem that is to be tuned now, if it is; see [`Autotune::OnFirstUse`].
    pub fn unsettled(&self, kernel: &'static str, dtype: DType, class: &Class) -> Option<Choice> {
        self.first_use_limit()?;
        let chosen = self.chosen();
        let choice = chosen.get(&(kernel, dtype, class.clone()))?;
        (!choice.is_settled()).then(|| choice.clone())
    }

    /// Held while a launch is tuned.
    pub fn tuning(&self) -> MutexGuard<'_, ()> {
        self.tuning.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Settles a problem on what tuning has found, which may be nothing.
    pub fn settle(&self, choice: &Choice, best: Option<Configuration>) {
        let key = (choice.kernel, choice.dtype, choice.class.clone());
        if let Some(choice) = self.chosen().get_mut(&key) {
            choice.tuned = true;
            if let Some(best) = best {
                choice.configuration = Arc::new(best);
            }
        }
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<Key, Choice>> {
        // Every change is complete before anything can panic.
        self.chosen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
