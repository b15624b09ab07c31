//! The timeline as a Chrome trace.

use std::time::Duration;

use serde_json::{Value, json};

use super::Record;

const HOST: u32 = 0;
const DEVICE: u32 = 1;
const TRANSFERS: u32 = 2;

/// One row for the host, with stages around the calls that queue launches, one for the device's
/// kernels and one for transfers to it. Where a driver does not tell when a kernel began, the
/// kernel is drawn from when it was queued or the one before it ended, whichever is later: each
/// queue runs in order. A launch that was cut is drawn as one, as long as its parts together.
pub fn chrome(records: &[Record]) -> String {
    let rows = [(HOST, "host"), (DEVICE, "device"), (TRANSFERS, "transfers")];
    let mut events: Vec<_> = rows.iter().map(|(row, name)| thread_name(*row, name)).collect();
    let ahead = device_clock_ahead(records);
    let mut free = [Duration::ZERO; 3];
    for record in records {
        let work = record.launch.map(|work| match record.parts {
            1 => json!({ "flop": work.flop, "bytes": work.bytes }),
            parts => json!({ "flop": work.flop, "bytes": work.bytes, "parts": parts }),
        });
        let work = work.or(record.transfer_bytes.map(|bytes| json!({ "bytes": bytes })));
        events.push(event(record.name, HOST, seconds(record.start), record.host, work.clone()));
        if let Some(time) = record.device {
            let row = if record.transfer_bytes.is_some() { TRANSFERS } else { DEVICE };
            let free = &mut free[row as usize];
            let queued = (*free).max(record.start);
            *free = queued + time;
            let told = record.device_start.map(|start| seconds(start) - ahead);
            events.push(event(record.name, row, told.unwrap_or(seconds(queued)), time, work));
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
}

/// By how many seconds the device's clock is ahead of the host's: nothing begins before it was
/// queued, and something begins right then.
fn device_clock_ahead(records: &[Record]) -> f64 {
    let ahead = |record: &Record| Some(seconds(record.device_start?) - seconds(record.start));
    records.iter().filter_map(ahead).reduce(f64::min).unwrap_or(0.0)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn thread_name(thread: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": 0, "tid": thread, "name": "thread_name", "args": { "name": name } })
}

fn event(name: &str, thread: u32, start: f64, time: Duration, work: Option<Value>) -> Value {
    json!({
        "ph": "X", "pid": 0, "tid": thread, "name": name,
        "ts": start * 1e6, "dur": seconds(time) * 1e6, "args": work.unwrap_or(json!({})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Work;

    #[test]
    fn kernels_and_transfers_are_drawn_when_they_ran() {
        let ms = Duration::from_millis;
        let launch = |start, device_start| Record {
            name: "gemm",
            parent: None,
            launch: Some(Work::default()),
            transfer_bytes: None,
            configuration: None,
            start: ms(start),
            host: ms(1),
            device: Some(ms(5)),
            device_start: Some(ms(device_start)),
            parts: 1,
            longest: Some(ms(5)),
        };
        // The device's clock is 1000 ms ahead.
        let transfer = Record { launch: None, transfer_bytes: Some(7), ..launch(3, 1004) };
        let trace = chrome(&[launch(2, 1002), transfer, launch(4, 1009)]);
        let trace: Value = serde_json::from_str(&trace).unwrap();
        let starts = |row: u32| -> Vec<f64> {
            let events = trace["traceEvents"].as_array().unwrap().iter();
            let row = events.filter(|event| event["ph"] == "X" && event["tid"] == row);
            row.map(|event| (event["ts"].as_f64().unwrap() / 1e3).round()).collect()
        };
        assert_eq!(starts(HOST), [2.0, 3.0, 4.0]);
        assert_eq!(starts(DEVICE), [2.0, 9.0]);
        assert_eq!(starts(TRANSFERS), [4.0]);
    }
}
