//! Sums by stage and by kernel, as a table.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Record, Work, overlap};

/// See [`Profile::report`](super::Profile::report).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Stages in the order in which they first began, nested ones after the stage around them.
    pub stages: Vec<StageRow>,
    /// Kernels, the longest first.
    pub kernels: Vec<KernelRow>,
    /// All launches together; `None` if there were none.
    pub launches: Option<Launches>,
    /// Weights that were copied to the device; `None` if there were none.
    pub transfers: Option<Transfers>,
}

/// All launches, and how long they kept the device.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Launches {
    /// How many.
    pub count: u64,
    /// Into how many of the driver they were cut.
    pub parts: u64,
    /// The longest of these by the device's clock, where the driver tells.
    pub longest: Option<Duration>,
    /// For how long one may run: [`DeviceOptions::launch_limit`](crate::DeviceOptions::launch_limit).
    pub limit: Option<Duration>,
}

/// All transfers to the device.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Transfers {
    /// How many.
    pub count: u64,
    /// What they brought.
    pub bytes: u64,
    /// By the device's clock.
    pub device: Duration,
    /// How much of that time passed while a kernel ran, where the driver tells.
    pub under_compute: Option<Duration>,
}

/// All runs of one stage at one place.
#[derive(Clone, Debug, Serialize)]
pub struct StageRow {
    /// The stage's name.
    pub name: &'static str,
    /// How many stages are around it.
    pub depth: usize,
    /// How often it ran.
    pub count: u64,
    /// By the host's clock.
    pub host: Duration,
    /// The sum of its launches by the device's clock.
    pub device: Duration,
    /// The sum of its launches' work.
    pub work: Work,
}

/// All launches of one kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// The kernel's name.
    pub name: &'static str,
    /// How often it was launched.
    pub count: u64,
    /// By the device's clock.
    pub device: Duration,
    /// The sum of the launches' work.
    pub work: Work,
}

impl Report {
    pub(super) fn new(records: &[Record], limit: Option<Duration>) -> Self {
        let mut report = Report::default();
        // The row of each stage record, and the row of each path of names.
        let mut row_of: HashMap<usize, usize> = HashMap::new();
        let mut row_at: HashMap<(Option<usize>, &str), usize> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let parent = record.parent.and_then(|parent| row_of.get(&parent).copied());
            if let Some(bytes) = record.transfer_bytes {
                let transfers = report.transfers.get_or_insert_default();
                transfers.count += 1;
                transfers.bytes += bytes;
                transfers.device += record.device.unwrap_or(record.host);
                continue;
            }
            let Some(work) = record.launch else {
                let depth = parent.map_or(0, |row| report.stages[row].depth + 1);
                let row = *row_at.entry((parent, record.name)).or_insert_with(|| {
                    report.stages.push(StageRow::new(record.name, depth));
                    report.stages.len() - 1
                });
                row_of.insert(index, row);
                report.stages[row].count += 1;
                report.stages[row].host += record.host;
                continue;
            };
            let device = record.device.unwrap_or(record.host);
            let mut around = record.parent;
            while let Some(stage) = around {
                report.stages[row_of[&stage]].add(device, work);
                around = records[stage].parent;
            }
            report.add_kernel(record.name, device, work);
            let launches = report.launches.get_or_insert(Launches { limit, ..Launches::default() });
            launches.count += 1;
            launches.parts += record.parts as u64;
            launches.longest = launches.longest.max(record.longest);
        }
        if let Some(transfers) = &mut report.transfers {
            transfers.under_compute = overlap::under_compute(records);
        }
        report.kernels.sort_by_key(|row| std::cmp::Reverse(row.device));
        report
    }

    fn add_kernel(&mut self, name: &'static str, device: Duration, work: Work) {
        let row = match self.kernels.iter_mut().find(|row| row.name == name) {
            Some(row) => row,
            None => {
                let zero = (Duration::ZERO, Work::default());
                self.kernels.push(KernelRow { name, count: 0, device: zero.0, work: zero.1 });
                self.kernels.last_mut().expect("a row was just added")
            }
        };
        row.count += 1;
        row.device += device;
        row.work.flop += work.flop;
        row.work.bytes += work.bytes;
    }
}

impl StageRow {
    fn new(name: &'static str, depth: usize) -> Self {
        let (host, device) = (Duration::ZERO, Duration::ZERO);
        Self { name, depth, count: 0, host, device, work: Work::default() }
    }

    fn add(&mut self, device: Duration, work: Work) {
        self.device += device;
        self.work.flop += work.flop;
        self.work.bytes += work.bytes;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["runs", "host ms", "device ms", "GFLOP/s", "GB/s"];
        let [runs, host, device, flop, bytes] = header;
        writeln!(f, "{:28} {runs:>6} {host:>10} {device:>10} {flop:>8} {bytes:>7}", "stage")?;
        for row in &self.stages {
            let name = format!("{}{}", "  ".repeat(row.depth), row.name);
            let (host, rates) = (ms(row.host), rates(row.device, row.work));
            writeln!(f, "{name:28} {:>6} {host:>10} {rates}", row.count)?;
        }
        writeln!(f, "\n{:28} {runs:>6} {:>10} {device:>10} {flop:>8} {bytes:>7}", "kernel", "")?;
        for row in &self.kernels {
            let rates = rates(row.device, row.work);
            writeln!(f, "{:28} {:>6} {:>10} {rates}", row.name, row.count, "")?;
        }
        if let Some(launches) = &self.launches {
            write!(f, "\n{launches}")?;
        }
        match &self.transfers {
            Some(transfers) => write!(f, "\n{transfers}"),
            None => Ok(()),
        }
    }
}

/// One line, such as `longest launch 12.3 ms, limit 20 ms: 812 launches in 2304 parts`.
impl fmt::Display for Launches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.longest {
            Some(longest) => write!(f, "longest launch {:.1} ms", longest.as_secs_f64() * 1e3)?,
            None => write!(f, "longest launch unknown")?,
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit {} ms", limit.as_secs_f64() * 1e3)?;
        }
        match self.parts {
            parts if parts > self.count => write!(f, ": {} launches in {parts} parts", self.count),
            _ => write!(f, ": {} launches, none in parts", self.count),
        }
    }
}

/// One line, such as `412 transfers, 1.720 GB in 1.23 s, 81 % under compute`.
impl fmt::Display for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gb, seconds) = (self.bytes as f64 / 1e9, self.device.as_secs_f64());
        write!(f, "{} transfers, {gb:.3} GB in {seconds:.2} s", self.count)?;
        match self.under_compute {
            Some(under) if seconds > 0.0 => {
                write!(f, ", {:.0} % under compute", 100.0 * under.as_secs_f64() / seconds)
            }
            _ => Ok(()),
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

fn rates(device: Duration, work: Work) -> String {
    let per_ns = |amount: u64| amount as f64 / (device.as_nanos() as f64).max(1.0);
    format!("{:>10} {:>8.1} {:>7.1}", ms(device), per_ns(work.flop), per_ns(work.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, parent: Option<usize>, host_ms: u64) -> Record {
        let (start, host) = (Duration::ZERO, Duration::from_millis(host_ms));
        Record {
            name,
            parent,
            launch: None,
            transfer_bytes: None,
            configuration: None,
            start,
            host,
            device: None,
            device_start: None,
            parts: 1,
            longest: None,
        }
    }

    fn launch(name: &'static str, parent: usize, device_ms: u64) -> Record {
        Record {
            launch: Some(Work { flop: 1_000_000, bytes: 10 }),
            device: Some(Duration::from_millis(device_ms)),
            longest: Some(Duration::from_millis(device_ms)),
            ..stage(name, Some(parent), 0)
        }
    }

    #[test]
    fn launches_count_in_every_stage_around_them() {
        let records = [
            stage("picture", None, 100),
            stage("unet", Some(0), 40),
            launch("gemm", 1, 4),
            stage("unet", Some(0), 50),
            launch("gemm", 3, 5),
            launch("cast", 0, 1),
        ];
        let report = Report::new(&records, None);
        let row = |index: usize| {
            let row: &StageRow = &report.stages[index];
            (row.name, row.depth, row.count, row.host.as_millis(), row.device.as_millis())
        };
        assert_eq!(row(0), ("picture", 0, 1, 100, 10));
        assert_eq!(row(1), ("unet", 1, 2, 90, 9));
        assert_eq!((report.kernels[0].name, report.kernels[0].count), ("gemm", 2));
        assert_eq!(report.kernels[0].work.flop, 2_000_000);
        assert!(report.to_string().contains("  unet"), "{report}");
    }

    #[test]
    fn transfers_tell_how_much_of_them_lies_under_compute() {
        let at = |record: Record, start_ms: u64, device_ms: u64| Record {
            device_start: Some(Duration::from_millis(start_ms)),
            device: Some(Duration::from_millis(device_ms)),
            ..record
        };
        let transfer = || Record { transfer_bytes: Some(500), ..stage("transfer", Some(0), 0) };
        let records = [
            stage("unet", None, 100),
            at(transfer(), 0, 10),
            // Another queue's launches may overlap; what lies under both counts once.
            at(launch("gemm", 0, 0), 5, 10),
            at(launch("gemm", 0, 0), 8, 22),
            at(transfer(), 20, 30),
            at(launch("gemm", 0, 0), 40, 5),
        ];
        let report = Report::new(&records, None);
        let transfers = report.transfers.unwrap();
        assert_eq!((transfers.count, transfers.bytes), (2, 1000));
        assert_eq!(transfers.device, Duration::from_millis(40));
        assert_eq!(transfers.under_compute, Some(Duration::from_millis(5 + 10 + 5)));
        assert_eq!(transfers.to_string(), "2 transfers, 0.000 GB in 0.04 s, 50 % under compute");
        assert!(report.to_string().ends_with(&transfers.to_string()), "{report}");
        assert_eq!(report.kernels.len(), 1, "a transfer is no kernel");
        let report = Report::new(&[stage("unet", None, 100), transfer()], None);
        assert_eq!(report.transfers.unwrap().under_compute, None, "no clock");
        let report = Report::new(&[stage("unet", None, 100)], None);
        assert!(report.transfers.is_none() && report.launches.is_none());
    }

    #[test]
    fn a_launch_in_parts_is_one_and_its_longest_part_is_told() {
        let ms = Duration::from_millis;
        let cut = Record { parts: 3, longest: Some(ms(7)), ..launch("gemm", 0, 18) };
        let records = [stage("unet", None, 100), cut, launch("cast", 0, 2)];
        let report = Report::new(&records, Some(ms(10)));
        assert_eq!((report.kernels[0].count, report.kernels[0].device), (1, ms(18)));
        let told = "longest launch 7.0 ms, limit 10 ms: 2 launches in 4 parts";
        assert_eq!(report.launches.unwrap().to_string(), told);
        assert!(report.to_string().ends_with(told), "{report}");
        let whole = Report::new(&[stage("unet", None, 100), launch("cast", 0, 2)], None);
        let told = "longest launch 2.0 ms: 1 launches, none in parts";
        assert_eq!(whole.launches.unwrap().to_string(), told);
    }
}
