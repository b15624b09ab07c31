//! What was written, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use ellesmere::io::tensors::StoredType;
use serde_json::{Value, json};

use crate::assign::Plan;
use crate::convert::count;

#[derive(Clone, Copy, Default)]
struct Row {
    tensors: usize,
    weights: usize,
    bytes: usize,
}

impl Row {
    fn add(&mut self, other: Row) {
        self.tensors += other.tensors;
        self.weights += other.weights;
        self.bytes += other.bytes;
    }

    fn line(&self, name: &str) -> String {
        let bits = 8.0 * self.bytes as f64 / self.weights.max(1) as f64;
        let megabytes = self.bytes as f64 / 1e6;
        format!("{name:8} {:7} {megabytes:10.1} {bits:11.2}\n", self.tensors)
    }
}

/// The same facts for programs.
pub fn json(plan: &Plan, path: &Path) -> Value {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bytes = 0;
    for planned in &plan.tensors {
        bytes += planned.target.size_bytes().unwrap_or(0);
        *types.entry(planned.target.stored.name()).or_default() += 1;
    }
    json!({ "path": path.display().to_string(), "bytes": bytes, "tensors": types })
}

/// A row for each type and the total, and what could not be stored as was asked.
pub fn of(plan: &Plan, path: &Path, seconds: f64) -> String {
    let mut rows: BTreeMap<StoredType, Row> = BTreeMap::new();
    let mut total = Row::default();
    let mut instead: BTreeMap<(StoredType, StoredType), usize> = BTreeMap::new();
    for planned in &plan.tensors {
        let stored = planned.target.stored;
        let bytes = planned.target.size_bytes().unwrap_or(0);
        let row = Row { tensors: 1, weights: count(planned), bytes };
        rows.entry(stored).or_default().add(row);
        total.add(row);
        if let Some(wanted) = planned.wanted {
            *instead.entry((wanted, stored)).or_default() += 1;
        }
    }
    let mut text = "type     tensors         MB bits/weight\n".to_string();
    for (stored, row) in &rows {
        text += &row.line(stored.name());
    }
    text += &total.line("total");
    for ((wanted, stored), tensors) in instead {
        let values = wanted.block_values();
        let _ = writeln!(
            text,
            "{tensors} tensors are {stored} instead of {wanted}: their rows are no multiple of {values}"
        );
    }
    let _ = writeln!(text, "{}: {} weights in {seconds:.1} s", path.display(), total.weights);
    text
}
