//! What ran, in which stage, and for how long.
//!
//! Off by default and then free: a launch is not timed. When on, every launch and every transfer of
//! a weight is noted with its time on the device, inside the stages that were open ([`Device::stage`](crate::Device::stage)).

use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::Timer;
use crate::kernel::Configuration;

mod overlap;
mod report;
mod trace;

pub use report::{KernelRow, Launches, Report, StageRow, Transfers};

/// Measured stages and launches of one device.
pub struct Profile {
    origin: Instant,
    launch_limit: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    enabled: bool,
    open: Vec<usize>,
    records: Vec<Record>,
    pending: Vec<(usize, Box<dyn Timer>)>,
}

/// A stage, or one launch or transfer inside it.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The stage's or kernel's name.
    pub name: &'static str,
    /// The index of the stage around it.
    pub parent: Option<usize>,
    /// A launch's work; `None` for a stage and for a transfer.
    pub launch: Option<Work>,
    /// How many bytes a transfer brings to the device; `None` for a stage and for a launch.
    pub transfer_bytes: Option<u64>,
    /// What a launch's kernel was specialised by; `None` otherwise.
    pub configuration: Option<Configuration>,
    /// When it began by the host's clock, since the profile was made.
    pub start: Duration,
    /// How long it took by the host's clock: for a launch or a transfer, the time to queue it. Zero
    /// for a stage that is still open.
    pub host: Duration,
    /// How long the kernel or the transfer ran by the device's clock, where the driver tells: of a
    /// launch that was cut, the sum of its parts.
    pub device: Option<Duration>,
    /// When it began by the device's clock, where the driver tells: since a moment that is the same
    /// for all launches and transfers of a device.
    pub device_start: Option<Duration>,
    /// Into how many launches of the driver a launch was cut
    /// ([`DeviceOptions::launch_limit`](crate::DeviceOptions::launch_limit)); 1 if it was not.
    pub parts: usize,
    /// How long the longest of them ran; known when `device` is.
    pub longest: Option<Duration>,
}

/// The name of records of transfers.
const TRANSFER: &str = "transfer";

/// What a launch had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Floating-point operations, two for a multiply-add.
    pub flop: u64,
    /// Bytes that must at least be read and written.
    pub bytes: u64,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Profile")
            .field("enabled", &state.enabled)
            .field("records", &state.records.len())
            .finish_non_exhaustive()
    }
}

impl Profile {
    /// Of a device that limits its launches so.
    pub(crate) fn new(launch_limit: Option<Duration>) -> Self {
        Self { origin: Instant::now(), launch_limit, state: Mutex::default() }
    }

    /// Starts or stops noting what runs. What was noted stays.
    pub fn set_enabled(&self, enabled: bool) {
        self.state().enabled = enabled;
    }

    /// Whether launches are noted.
    pub fn is_enabled(&self) -> bool {
        self.state().enabled
    }

    /// Everything noted so far, in the order in which it began. Device times are those that were
    /// known when the last stage closed.
    pub fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// Sums by stage and by kernel.
    pub fn report(&self) -> Report {
        Report::new(&self.records(), self.launch_limit)
    }

    /// The records as a Chrome trace: a JSON document for `chrome://tracing` or Perfetto.
    pub fn chrome_trace(&self) -> String {
        trace::chrome(&self.records())
    }

    /// Opens a stage; `None` while the profile is off.
    pub(crate) fn open(&self, name: &'static str) -> Option<usize> {
        let mut state = self.state();
        if !state.enabled {
            return None;
        }
        let parent = state.open.last().copied();
        let (start, zero) = (self.origin.elapsed(), Duration::ZERO);
        state.records.push(Record {
            name,
            parent,
            launch: None,
            transfer_bytes: None,
            configuration: None,
            start,
            host: zero,
            device: None,
            device_start: None,
            parts: 1,
            longest: None,
        });
        let index = state.records.len() - 1;
        state.open.push(index);
        Some(index)
    }

    /// Closes a stage. The device has finished, so the times of its launches are known.
    pub(crate) fn close(&self, index: usize) {
        let mut state = self.state();
        let end = self.origin.elapsed();
        for (launch, timer) in std::mem::take(&mut state.pending) {
            let record = &mut state.records[launch];
            record.device = timer.elapsed();
            record.device_start = timer.span().map(|span| span.start);
            record.longest = timer.longest();
        }
        let record = &mut state.records[index];
        record.host = end - record.start;
        state.open.retain(|&open| open != index);
    }

    /// Notes a launch that began at `start` and was queued by now.
    pub(crate) fn launched(
        &self,
        name: &'static str,
        configuration: &Configuration,
        start: Instant,
        work: Work,
        timer: Box<dyn Timer>,
    ) {
        self.queued(start, timer, |record| Record {
            name,
            launch: Some(work),
            configuration: Some(configuration.clone()),
            ..record
        });
    }

    /// Notes a transfer of so many bytes that began at `start` and was queued by now.
    pub(crate) fn transferred(&self, bytes: u64, start: Instant, timer: Box<dyn Timer>) {
        self.queued(start, timer, |record| Record { transfer_bytes: Some(bytes), ..record });
    }

    fn queued(
        &self,
        start: Instant,
        timer: Box<dyn Timer>,
        describe: impl FnOnce(Record) -> Record,
    ) {
        let mut state = self.state();
        if !state.enabled {
            return;
        }
        let record = describe(Record {
            name: TRANSFER,
            parent: state.open.last().copied(),
            launch: None,
            transfer_bytes: None,
            configuration: None,
            start: start.saturating_duration_since(self.origin),
            host: start.elapsed(),
            device: None,
            device_start: None,
            parts: 1,
            longest: None,
        });
        state.records.push(Record { parts: timer.parts(), ..record });
        let index = state.records.len() - 1;
        state.pending.push((index, timer));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything in it can panic.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
