//! How much of the transfers' time lies under compute.

use std::time::Duration;

use super::Record;

/// The parts of a device's time in which a kernel runs, in order and apart from each other.
fn busy(records: &[Record]) -> Vec<(Duration, Duration)> {
    let launches = records.iter().filter(|record| record.launch.is_some());
    let mut spans: Vec<_> = launches.filter_map(span).collect();
    spans.sort_unstable();
    let mut apart: Vec<(Duration, Duration)> = Vec::new();
    for (start, end) in spans {
        match apart.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => apart.push((start, end)),
        }
    }
    apart
}

/// From when to when it ran.
fn span(record: &Record) -> Option<(Duration, Duration)> {
    let start = record.device_start?;
    Some((start, start + record.device?))
}

/// How much of the transfers' time passes while a kernel runs; `None` where the driver does not
/// tell when they ran.
pub fn under_compute(records: &[Record]) -> Option<Duration> {
    let busy = busy(records);
    let transfers = records.iter().filter(|record| record.transfer_bytes.is_some());
    let under = |(start, end): (Duration, Duration)| -> Duration {
        let first = busy.partition_point(|kernel| kernel.1 <= start);
        let overlapping = busy[first..].iter().take_while(|kernel| kernel.0 < end);
        overlapping.map(|kernel| kernel.1.min(end) - kernel.0.max(start)).sum()
    };
    transfers.map(|transfer| span(transfer).map(under)).sum()
}
