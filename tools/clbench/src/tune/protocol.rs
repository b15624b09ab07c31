//! What the tuner and its worker say to each other: a JSON document a line, requests on the
//! worker's stdin and answers on its stdout.

use std::collections::BTreeMap;

use ellesmere::tune::Outcome;
use ellesmere::tune::database::DeviceKey;
use serde::{Deserialize, Serialize};

/// From the tuner.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The problem whose candidates follow. Answered by [`Answer::Ready`] or [`Answer::Failed`].
    Prepare(Task),
    /// Try a candidate. Answered by any number of [`Answer::Step`] and one [`Answer::Done`].
    Try(Candidate),
}

/// A problem on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The device's id.
    pub device: String,
    /// What must answer to it: ids go to other devices when one is gone.
    pub key: DeviceKey,
    pub kernel: String,
    pub dtype: String,
    /// The op that launches the kernel: several ops may.
    pub op: String,
    /// Of the op.
    pub sizes: BTreeMap<String, usize>,
    /// The whole OpenCL C that stands in for the catalogue's.
    pub source: Option<String>,
}

/// A configuration to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// A value for each of the kernel's parameters.
    pub values: BTreeMap<String, u32>,
    /// The median of the best candidate so far.
    pub best_seconds: Option<f64>,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The device is open, and what the candidates' results are compared with is known.
    Ready,
    /// The device cannot be opened, or the problem cannot be run there.
    Failed(String),
    /// A part of the candidate is done: the time limit starts anew.
    Step,
    Done(Report),
}

/// What came of a candidate that did not end the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub outcome: Outcome,
    /// What went wrong, or what is worth knowing; one line.
    pub detail: String,
    /// Seconds of each timed run.
    pub runs: Vec<f64>,
    pub compile_seconds: f64,
    pub validate_seconds: f64,
}

impl Report {
    /// Of a candidate that gave no time.
    pub fn failed(outcome: Outcome, detail: impl Into<String>) -> Self {
        let (compile_seconds, validate_seconds) = (0.0, 0.0);
        Self { outcome, detail: detail.into(), runs: Vec::new(), compile_seconds, validate_seconds }
    }
}
