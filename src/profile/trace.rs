//! The timeline as a Chrome trace.

use std::time::Duration;

use serde_json::{Value, json};

use super::Record;

/// One row for the host, with stages around the calls that queue launches, and one for the
/// device. The queue runs in order, so a kernel is drawn from when it was queued or the one before
/// it ended, whichever is later.
pub fn chrome(records: &[Record]) -> String {
    let mut events = vec![thread_name(0, "host"), thread_name(1, "device")];
    let mut device_free = Duration::ZERO;
    for record in records {
        let work = record.launch.map(|work| json!({ "flop": work.flop, "bytes": work.bytes }));
        events.push(event(record.name, 0, record.start, record.host, work.clone()));
        if let Some(time) = record.device {
            let start = device_free.max(record.start);
            device_free = start + time;
            events.push(event(record.name, 1, start, time, work));
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
}

fn thread_name(thread: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": 0, "tid": thread, "name": "thread_name", "args": { "name": name } })
}

fn event(name: &str, thread: u32, start: Duration, time: Duration, work: Option<Value>) -> Value {
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    json!({
        "ph": "X", "pid": 0, "tid": thread, "name": name,
        "ts": microseconds(start), "dur": microseconds(time), "args": work.unwrap_or(json!({})),
    })
}
