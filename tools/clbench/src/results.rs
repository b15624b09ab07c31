//! Files of results: what `run --save` writes, and `compare` and `report` read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::SystemTime;

use ellesmere::bench::roofline::Limit;
use ellesmere::bench::{Measurement, Peaks};
use ellesmere::info::DeviceInfo;
use ellesmere::io::atomic;
use ellesmere::{Error, Result};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "clbench results 1";

/// A file longer than this is not ours.
const MOST_BYTES: u64 = 64 << 20;

/// More runs of one case than anybody makes.
const MOST_RUNS: usize = 10_000_000;

/// What one device did in one session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub format: String,
    /// Of clbench.
    pub version: String,
    /// When it ended, such as 2026-01-31 23:59:59 UTC.
    pub date: String,
    pub device: DeviceFacts,
    pub peaks: Option<Peaks>,
    pub cases: Vec<CaseResult>,
}

/// What tells two devices apart, and what a reader wants to know of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    pub backend: String,
    pub name: String,
    pub platform: String,
    pub driver: String,
    pub compute_units: u32,
    pub vector_width: u32,
    pub memory_bytes: u64,
    pub local_memory_bytes: u64,
}

/// One case at one set of sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseResult {
    pub op: String,
    pub dtype: String,
    pub sizes: BTreeMap<String, usize>,
    /// Whose the times are: device or host.
    pub clock: String,
    /// Of every run, the shortest first, in nanoseconds.
    pub times_ns: Vec<u64>,
    pub flop: u64,
    pub bytes: u64,
    pub percent_of_peak: Option<f64>,
    pub binds: Option<Limit>,
    pub launches: Vec<LaunchResult>,
}

/// One launch of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchResult {
    pub kernel: String,
    pub configuration: BTreeMap<String, u32>,
    pub flop: u64,
    pub bytes: u64,
    pub device_ns: Option<u64>,
}

impl Results {
    pub fn new(info: &DeviceInfo, peaks: Option<Peaks>, cases: Vec<CaseResult>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: now(),
            device: DeviceFacts {
                backend: info.backend.to_owned(),
                name: info.name.clone(),
                platform: info.platform.clone(),
                driver: info.driver.clone(),
                compute_units: info.compute_units,
                vector_width: info.vector_width,
                memory_bytes: info.memory_bytes,
                local_memory_bytes: info.local_memory_bytes,
            },
            peaks,
            cases,
        }
    }

    /// Reads a file of results.
    ///
    /// Errors name the file and are one line, whatever is in it.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::file(path, format!("cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > MOST_BYTES {
            let most = MOST_BYTES >> 20;
            let detail = format!("expected a file of results of at most {most} MiB");
            return Err(Error::file(path, detail));
        }
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text).map_err(failed)?;
        let refuse = |detail: String| Error::file(path, format!("expected results: {detail}"));
        let results: Self = serde_json::from_slice(&text).map_err(|error| {
            // A key or value of the file may stand in the message.
            let message = error.to_string();
            let clean = message.chars().map(|c| if c.is_control() { ' ' } else { c });
            refuse(clean.take(200).collect())
        })?;
        results.check().map_err(refuse)?;
        Ok(results)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT {
            let found: String = self.format.chars().take(40).collect();
            return Err(format!("format must be {FORMAT:?}, got {found:?}"));
        }
        if let Some(peaks) = &self.peaks {
            let sane = |value: f64| value.is_finite() && value > 0.0;
            if let Some((name, peak)) = peaks.rows().into_iter().find(|(_, p)| !sane(p.value)) {
                return Err(format!("the peak {name} must be positive, got {}", peak.value));
            }
        }
        for (index, case) in self.cases.iter().enumerate() {
            let runs = case.times_ns.len();
            if runs == 0 || runs > MOST_RUNS {
                return Err(format!("case {index} must have 1 to {MOST_RUNS} times, got {runs}"));
            }
            if case.times_ns.contains(&0) {
                return Err(format!("case {index} has a run of 0 ns"));
            }
        }
        Ok(())
    }

    /// Writes them whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("results are numbers and texts");
        atomic::write(path, |file| file.write_all(text.as_bytes()))
    }
}

impl CaseResult {
    pub fn new(op: &str, dtype: &str, measured: &Measurement, peaks: Option<&Peaks>) -> Self {
        let nanoseconds = |time: &std::time::Duration| time.as_nanos().max(1) as u64;
        let bound = peaks.map(|peaks| measured.bound(peaks));
        let launches = measured.details.iter().map(|one| LaunchResult {
            kernel: one.kernel.to_owned(),
            configuration: one
                .configuration
                .values()
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            flop: one.work.flop,
            bytes: one.work.bytes,
            device_ns: one.device.as_ref().map(nanoseconds),
        });
        Self {
            op: op.to_owned(),
            dtype: dtype.to_owned(),
            sizes: measured.sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
            clock: if measured.device.is_empty() { "host" } else { "device" }.to_owned(),
            times_ns: measured.times().iter().map(nanoseconds).collect(),
            flop: measured.work.flop,
            bytes: measured.work.bytes,
            percent_of_peak: bound.map(|bound| bound.percent_of_peak),
            binds: bound.map(|bound| bound.binds),
            launches: launches.collect(),
        }
    }

    /// What the case is, for people and to find it in another file.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op, self.dtype, self.sizes_text())
    }

    pub fn sizes_text(&self) -> String {
        let sizes = self.sizes.iter().map(|(name, size)| format!("{name}={size}"));
        sizes.collect::<Vec<_>>().join(",")
    }

    /// The median run in nanoseconds.
    pub fn median_ns(&self) -> f64 {
        let mut times = self.times_ns.clone();
        times.sort_unstable();
        median(&times)
    }

    pub fn gflop_s(&self) -> f64 {
        self.flop as f64 / self.median_ns()
    }

    pub fn gb_s(&self) -> f64 {
        self.bytes as f64 / self.median_ns()
    }
}

/// Of sorted values.
pub fn median(sorted: &[u64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] as f64 + sorted[middle] as f64) / 2.0,
        _ => sorted[middle] as f64,
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    date(since.map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date and a time.
pub fn date(seconds: u64) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    // A clock that is centuries off is not worth a loop.
    while year < 9999 && days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_calendars() {
        // From `date --utc --date=@SECONDS`.
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn the_median_of_two_lies_between() {
        assert_eq!(median(&[1, 4]), 2.5);
        assert_eq!(median(&[1, 4, 9]), 4.0);
    }
}
