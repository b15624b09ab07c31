//! What ran, in which stage, and for how long.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::backend::Timer;

/// Measured launches and stages of one device.
#[derive(Debug)]
pub struct Profile {
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    enabled: bool,
    open: Vec<usize>,
    records: Vec<Record>,
    pending: Vec<(usize, Box<dyn Timer>)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

/// One launch, or one stage that encloses others.
#[derive(Clone, Debug)]
pub struct Record {
    /// The stage's or kernel's name.
    pub name: &'static str,
    /// The record of the stage around it.
    pub parent: Option<usize>,
    /// Whether this is a launch.
    pub launch: bool,
    /// When it began, since the profile was made, by the host's clock.
    pub start: Duration,
    /// How long it took by the host's clock: for a launch, the time to queue it.
    pub host: Duration,
    /// How long the kernel ran by the device's clock, where the driver tells.
    pub device: Option<Duration>,
    /// Floating-point operations, two for a multiply-add.
    pub flop: u64,
    /// Bytes that must at least be read and written.
    pub bytes: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self { origin: Instant::now(), state: Mutex::default() }
    }
}
