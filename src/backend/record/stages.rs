//! What each stage of a dry run did, so that its time can be predicted.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{Argument, Launch, ProgramSource, Value};

/// Launches that take the same time: of one program, on one grid, with the same integers. Numbers
/// of type `float` change no loop, so launches that differ in those alone are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedLaunch {
    /// What the program is compiled from.
    pub program: ProgramSource,
    /// Work-groups.
    pub groups: [usize; 3],
    /// Work-items in each.
    pub local: [usize; 3],
    /// In the kernel's order.
    pub arguments: Vec<(&'static str, RecordedValue)>,
    /// Floating-point operations of one launch, two for a multiply-add.
    pub flop: u64,
    /// Bytes that one launch must at least read and write.
    pub bytes: u64,
}

/// What an argument was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RecordedValue {
    /// A buffer that the kernel reads: the most bytes that one had.
    Input(u64),
    /// A buffer that the kernel writes: the most bytes that one had.
    Output(u64),
    /// An optional buffer that is not there.
    Absent,
    /// A `uint`.
    U32(u32),
    /// An `int`.
    I32(i32),
    /// A `float`: that of the first of these launches.
    F32(f32),
}

/// Moves of one kind, and the bytes of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many.
    pub count: u64,
    /// Of all of them.
    pub bytes: u64,
}

impl Moved {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was done in a stage, all the times that it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedStage {
    /// The stage, an outermost one; empty for what was done outside of all.
    pub name: &'static str,
    /// How often each launch was made, by its place among the recorded ones.
    pub launches: BTreeMap<usize, u64>,
    /// Writes to the device, those of weights that are offloaded apart.
    pub writes: Moved,
    /// Reads from the device.
    pub reads: Moved,
    /// Copies on the device.
    pub copies: Moved,
    /// Allocations that the pool did not answer.
    pub allocations: Moved,
    /// Allocations on the host, for what is parked there.
    pub host_allocations: Moved,
    /// Weights that were copied to the device for a use.
    pub weights: CopiedWeights,
}

/// What was copied of weights that are not on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopiedWeights {
    /// All of it.
    pub bytes: u64,
    /// What of that was made anew of what files have.
    pub read_bytes: u64,
}

/// Stages and launches as they come.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub launches: Vec<RecordedLaunch>,
    pub stages: Vec<RecordedStage>,
    known: HashMap<Key, usize>,
    /// How many stages are open, and what of weights had been copied when the outermost was opened.
    open: usize,
    weights: CopiedWeights,
    current: usize,
    latest: Option<usize>,
}

/// What launches that take the same time have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    program: usize,
    groups: [usize; 3],
    local: [usize; 3],
    arguments: Vec<(u8, i64)>,
}

impl Key {
    fn new(program: usize, launch: &Launch) -> Self {
        let part = |argument: &Argument| match argument.value {
            Value::Input(_) => (0, 0),
            Value::Output(_) => (1, 0),
            Value::Absent => (2, 0),
            Value::U32(value) => (3, i64::from(value)),
            Value::I32(value) => (4, i64::from(value)),
            Value::F32(_) => (5, 0),
        };
        let arguments = launch.arguments.iter().map(part).collect();
        Self { program, groups: launch.groups, local: launch.local, arguments }
    }
}

impl Log {
    pub fn open(&mut self, name: &'static str, weights: CopiedWeights) {
        self.open += 1;
        if self.open == 1 {
            self.weights = weights;
            self.current = self.place(name);
        }
    }

    pub fn close(&mut self, weights: CopiedWeights) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            let before = self.weights;
            let sum = &mut self.stage().weights;
            sum.bytes += weights.bytes - before.bytes;
            sum.read_bytes += weights.read_bytes - before.read_bytes;
            self.current = self.place("");
        }
    }

    /// The stage that is open.
    pub fn stage(&mut self) -> &mut RecordedStage {
        if self.stages.is_empty() {
            self.current = self.place("");
        }
        &mut self.stages[self.current]
    }

    fn place(&mut self, name: &'static str) -> usize {
        let known = self.stages.iter().position(|stage| stage.name == name);
        known.unwrap_or_else(|| {
            self.stages.push(RecordedStage { name, ..RecordedStage::default() });
            self.stages.len() - 1
        })
    }

    /// Notes a launch of the program that stands at `program` among the sources.
    pub fn launched(&mut self, program: usize, source: &ProgramSource, launch: &Launch) {
        let key = Key::new(program, launch);
        let index = match self.known.get(&key) {
            Some(&index) => index,
            None => {
                self.launches.push(RecordedLaunch {
                    program: source.clone(),
                    groups: launch.groups,
                    local: launch.local,
                    arguments: launch.arguments.iter().map(recorded).collect(),
                    flop: 0,
                    bytes: 0,
                });
                self.known.insert(key, self.launches.len() - 1);
                self.launches.len() - 1
            }
        };
        // The pool gives blocks that are larger than what was asked for.
        for (known, argument) in self.launches[index].arguments.iter_mut().zip(launch.arguments) {
            match (&mut known.1, argument.value) {
                (RecordedValue::Input(most), Value::Input(buffer))
                | (RecordedValue::Output(most), Value::Output(buffer)) => {
                    *most = (*most).max(buffer.bytes());
                }
                _ => {}
            }
        }
        *self.stage().launches.entry(index).or_default() += 1;
        self.latest = Some(index);
    }

    /// Notes the work of the latest launch.
    pub fn worked(&mut self, flop: u64, bytes: u64) {
        if let Some(index) = self.latest {
            let launch = &mut self.launches[index];
            (launch.flop, launch.bytes) = (flop, bytes);
        }
    }
}

fn recorded(argument: &Argument) -> (&'static str, RecordedValue) {
    let value = match argument.value {
        Value::Input(buffer) => RecordedValue::Input(buffer.bytes()),
        Value::Output(buffer) => RecordedValue::Output(buffer.bytes()),
        Value::Absent => RecordedValue::Absent,
        Value::U32(value) => RecordedValue::U32(value),
        Value::I32(value) => RecordedValue::I32(value),
        Value::F32(value) => RecordedValue::F32(value),
    };
    (argument.name, value)
}
