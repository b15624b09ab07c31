//! A backend that runs nothing and counts everything: the dry run.
//!
//! A model run on [`Record`] takes the same decisions as on the device whose [`DeviceInfo`] it was
//! given, so its peak, launches and bytes are those of the real run. Reads give zeros.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{Backend, Buffer, CopyRegion, Launch, NoTime, Program, ProgramSource, Timer, Transfer};
use crate::info::DeviceInfo;
use crate::{DType, Result};

mod stages;

use stages::Log;
pub use stages::{CopiedWeights, Moved, RecordedLaunch, RecordedStage, RecordedValue};

/// What a dry run saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Kernel launches.
    pub launches: u64,
    /// Different programs.
    pub programs: u64,
    /// Bytes that would have been written to the device.
    pub written_bytes: u64,
    /// Transfers that would have been started.
    pub transfers: u64,
    /// Bytes that would have been read back.
    pub read_bytes: u64,
    /// Bytes copied on the device.
    pub copied_bytes: u64,
    /// The largest single allocation.
    pub largest_allocation_bytes: u64,
    /// The problems that kernels were launched for, in the order in which they were chosen last.
    pub problems: Vec<RecordedProblem>,
}

/// What a kernel was launched for: the same kernel, element type and class of sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedProblem {
    /// The kernel's name.
    pub kernel: &'static str,
    /// What `REAL` is.
    pub dtype: DType,
    /// The sizes by which the kernel's configuration was chosen, with their names.
    pub class: Vec<(&'static str, usize)>,
    /// What the kernel was specialised by.
    pub configuration: Vec<(&'static str, u32)>,
    /// Launches.
    pub launches: u64,
    /// Floating-point operations of all of them, two for a multiply-add.
    pub flop: u64,
    /// Bytes that all of them must at least read and write.
    pub bytes: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Record {
    info: DeviceInfo,
    overlaps_transfers: bool,
    recorded: Mutex<Recorded>,
    sources: Mutex<Vec<ProgramSource>>,
    log: Mutex<Log>,
}

impl Record {
    /// A dry run of the device that `info` describes.
    pub fn new(info: DeviceInfo) -> Self {
        let (recorded, sources) = (Mutex::default(), Mutex::default());
        let log = Mutex::default();
        Self { info, overlaps_transfers: false, recorded, sources, log }
    }

    /// As if transfers took place beside launches, or not.
    pub fn overlapping(self, overlaps_transfers: bool) -> Self {
        Self { overlaps_transfers, ..self }
    }

    /// What was seen so far.
    pub fn recorded(&self) -> Recorded {
        self.counters().clone()
    }

    /// What the programs that were seen so far are compiled from, in the order of their first use.
    pub fn sources(&self) -> Vec<ProgramSource> {
        self.sources.lock().expect("keeping a source does not panic").clone()
    }

    /// The launches that were seen so far, those that take the same time once, and what was done in
    /// each stage, in the order in which they were first opened.
    pub fn stages(&self) -> (Vec<RecordedLaunch>, Vec<RecordedStage>) {
        let log = self.log();
        (log.launches.clone(), log.stages.clone())
    }

    /// Opens a stage, after so much was copied of weights.
    pub(crate) fn open_stage(&self, name: &'static str, weights: CopiedWeights) {
        self.log().open(name, weights);
    }

    /// Closes the stage that was opened last.
    pub(crate) fn close_stage(&self, weights: CopiedWeights) {
        self.log().close(weights);
    }

    /// Notes that the kernel of `problem` is now to be launched for its class: the launches of
    /// that kernel and type that follow are counted there.
    pub(crate) fn chosen(&self, problem: RecordedProblem) {
        let problems = &mut self.counters().problems;
        let same = |known: &RecordedProblem| {
            (known.kernel, known.dtype, &known.class)
                == (problem.kernel, problem.dtype, &problem.class)
        };
        // The one that was chosen last is the last of its kernel: see `worked`.
        let known = problems.iter().position(same).map(|index| problems.remove(index));
        problems.push(known.unwrap_or(problem));
    }

    /// Notes the work of a launch, for the problem that was chosen last for its kernel.
    pub(crate) fn worked(&self, kernel: &str, dtype: DType, flop: u64, bytes: u64) {
        self.log().worked(flop, bytes);
        let problems = &mut self.counters().problems;
        let latest = |known: &&mut RecordedProblem| (known.kernel, known.dtype) == (kernel, dtype);
        if let Some(problem) = problems.iter_mut().rev().find(latest) {
            problem.launches += 1;
            problem.flop += flop;
            problem.bytes += bytes;
        }
    }

    /// Counts a read whose bytes nobody looks at.
    pub(crate) fn would_read(&self, bytes: u64) {
        self.counters().read_bytes += bytes;
        self.log().stage().reads.add(bytes);
    }

    /// Counts memory that the host would allocate for what is read.
    pub(crate) fn would_allocate_on_host(&self, bytes: u64) {
        self.log().stage().host_allocations.add(bytes);
    }

    /// Counts a write of bytes that are not there.
    pub(crate) fn would_write(&self, bytes: u64) {
        self.counters().written_bytes += bytes;
        self.log().stage().writes.add(bytes);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("noting a launch does not panic")
    }

    fn counters(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().expect("counting does not panic")
    }
}

/// A program: where its source stands among the others.
#[derive(Debug)]
struct Known {
    place: usize,
    source: ProgramSource,
}

impl Backend for Record {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn executes(&self) -> bool {
        false
    }

    fn overlaps_transfers(&self) -> bool {
        self.overlaps_transfers
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        let mut recorded = self.counters();
        recorded.largest_allocation_bytes = recorded.largest_allocation_bytes.max(bytes);
        self.log().stage().allocations.add(bytes);
        Ok(Buffer::new(bytes, ()))
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        Ok(Buffer::new_part(whole, offset, bytes, ()))
    }

    fn write(&self, _target: &Buffer, _offset: u64, data: &[u8]) -> Result<()> {
        self.would_write(data.len() as u64);
        Ok(())
    }

    fn transfer(
        &self,
        _target: &Buffer,
        _data: &Arc<Vec<u8>>,
    ) -> Result<(Transfer, Box<dyn Timer>)> {
        self.counters().transfers += 1;
        Ok((Transfer::new(()), Box::new(NoTime)))
    }

    fn read(&self, _source: &Buffer, _offset: u64, data: &mut [u8]) -> Result<()> {
        self.would_read(data.len() as u64);
        data.fill(0);
        Ok(())
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        self.counters().copied_bytes += region.rows * region.bytes;
        self.log().stage().copies.add(region.rows * region.bytes);
        Ok(())
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        self.counters().programs += 1;
        let mut sources = self.sources.lock().expect("keeping a source does not panic");
        sources.push(source.clone());
        Ok(Program::new(Known { place: sources.len() - 1, source: source.clone() }))
    }

    fn binary(&self, _program: &Program) -> Option<Vec<u8>> {
        None
    }

    fn load(&self, source: &ProgramSource, _binary: &[u8]) -> Result<Program> {
        self.build(source)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        let known: &Known = program.handle();
        self.counters().launches += 1;
        self.log().launched(known.place, &known.source, launch);
        Ok(Box::new(NoTime))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
