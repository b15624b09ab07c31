//! The machine: memory, build, launch, time.
//!
//! A backend moves bytes and runs kernels. It knows nothing of tensors, shapes or models, and it
//! decides nothing about speed.
//!
//! # The contract
//!
//! - The **caller** guarantees that offsets and sizes lie inside their buffers, that a buffer or
//!   program is used on the backend that made it, that no output buffer of a launch is also
//!   another argument of it, and that arguments are in the kernel's order.
//!   Debug builds check all of these; a violation is a bug of this crate and panics.
//! - Calls are **in order**: a launch sees every write, copy and launch before it. `read` waits
//!   for all that came before. A buffer may be dropped while launches that use it are queued.
//! - A **transfer** alone is beside that order: it begins after all that was queued before it, and
//!   what is queued later sees it only from [`Backend::join`] on. Between the two its target is
//!   not used, and it is joined before its target is used for anything else or dropped.
//! - An **error** leaves every buffer and program valid and the queue usable. After a failed
//!   launch the contents of that launch's outputs are undefined; nothing else is.
//!   [`Error::OutOfMemory`](crate::Error::OutOfMemory) carries zeros for what the backend cannot
//!   know; the [`MemoryManager`](crate::memory::MemoryManager) fills them in.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::info::DeviceInfo;
use crate::{DType, Result};

mod amx;
pub mod comgr;
pub mod cpu;
pub mod hip;
mod library;
pub mod opencl;
pub(crate) mod pages;
mod parts;
pub mod record;
pub mod words;

/// One device behind one driver.
pub trait Backend: Send + Sync + Debug {
    /// What the device says of itself.
    fn info(&self) -> &DeviceInfo;

    /// How many bytes of the device's memory nobody uses now, by the driver itself; `None` where it
    /// does not tell.
    fn free_memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether launches and writes take place. [`record::Record`] answers no, and what would be
    /// written need not be produced.
    fn executes(&self) -> bool {
        true
    }

    /// Whether a program is compiled for its parameters' values, so that others may be quicker.
    fn specialises(&self) -> bool {
        true
    }

    /// Allocates `bytes` bytes, at least 1 and at most `info().max_allocation_bytes`. The contents
    /// are undefined.
    fn allocate(&self, bytes: u64) -> Result<Buffer>;

    /// A buffer that is `bytes` bytes of another one from `offset` on, a multiple of
    /// [`PART_ALIGNMENT`]. It keeps the other alive; both see what is written to either.
    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer>;

    /// Copies from the host into `target`, from `offset` on. `data` may change once this returns.
    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()>;

    /// Whether a transfer takes place beside launches, so that it is worth starting early.
    fn overlaps_transfers(&self) -> bool {
        false
    }

    /// Starts to copy `data` to the beginning of `target` and returns at once; the timer tells when
    /// it took place. The copy begins after all that was queued before. A backend without
    /// transfers of their own copies before it returns.
    fn transfer(&self, target: &Buffer, data: &Arc<Vec<u8>>) -> Result<(Transfer, Box<dyn Timer>)> {
        self.write(target, 0, data)?;
        Ok((Transfer::new(()), Box::new(NoTime)))
    }

    /// Has what is queued from now on wait for a transfer. Does not wait itself.
    fn join(&self, _transfer: &Transfer) -> Result<()> {
        Ok(())
    }

    /// Waits for all that came before and copies from `source`, from `offset` on, to the host.
    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Copies between two different buffers on the device.
    fn copy(&self, region: &CopyRegion) -> Result<()>;

    /// What a compiled program depends on besides its source, the device and the driver: the
    /// compiler's options.
    fn options(&self, _source: &ProgramSource) -> String {
        String::new()
    }

    /// Compiles a kernel; the compiler's log is in [`Error::Build`](crate::Error::Build).
    fn build(&self, source: &ProgramSource) -> Result<Program>;

    /// What [`Backend::load`] could start from instead of the source, if the driver gives it.
    fn binary(&self, program: &Program) -> Option<Vec<u8>>;

    /// A program from what [`Backend::binary`] gave for the same source, device and driver.
    fn load(&self, source: &ProgramSource, binary: &[u8]) -> Result<Program>;

    /// Queues one kernel.
    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>>;

    /// For how long a launch may keep the device: see [`Backend::limited`].
    fn launch_limit(&self) -> Option<Duration> {
        None
    }

    /// The same device, whose launches each take at most about as long as the limit: what would take
    /// longer is cut into several launches of part of the work-groups. Buffers are those of this
    /// one, programs are not. `None` where nobody waits for a device while it computes.
    fn limited(&self, _limit: LaunchLimit) -> Option<Arc<dyn Backend>> {
        None
    }

    /// Waits for everything that was queued, transfers too.
    fn finish(&self) -> Result<()>;
}

/// For how long a launch may keep a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchLimit {
    /// So long.
    pub longest: Duration,
    /// A launch is not cut into parts of fewer work-groups than this: as many run at once, and fewer
    /// would take as long.
    pub least_groups: usize,
}

/// Where a part of a buffer may start: a multiple of every driver's alignment.
pub const PART_ALIGNMENT: u64 = 4096;

/// Memory on a device, released when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: u64,
    // Dropped in this order.
    handle: Box<dyn Any + Send + Sync>,
    /// What it is a part of, and where it starts there.
    part_of: Option<(Arc<Buffer>, u64)>,
}

impl Buffer {
    /// Wraps a backend's own handle, which releases the memory when dropped.
    pub fn new(bytes: u64, handle: impl Any + Send + Sync) -> Self {
        Self { bytes, part_of: None, handle: Box::new(handle) }
    }

    /// Wraps a backend's own handle of a part of `whole`, from `offset` on.
    pub fn new_part(
        whole: &Arc<Buffer>,
        offset: u64,
        bytes: u64,
        handle: impl Any + Send + Sync,
    ) -> Self {
        let part_of = Some((Arc::clone(whole), offset));
        Self { bytes, part_of, handle: Box::new(handle) }
    }

    /// What this is a part of, and from which byte on.
    pub fn part_of(&self) -> Option<(&Arc<Buffer>, u64)> {
        self.part_of.as_ref().map(|(whole, offset)| (whole, *offset))
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The backend's own handle.
    ///
    /// # Panics
    ///
    /// If the buffer belongs to another backend: a bug of this crate.
    pub fn handle<T: 'static>(&self) -> &T {
        self.handle.downcast_ref().expect("a buffer is used on the backend that made it")
    }
}

/// A compiled kernel, released when dropped.
#[derive(Debug)]
pub struct Program {
    handle: Box<dyn Any + Send + Sync>,
}

impl Program {
    /// Wraps a backend's own handle.
    pub fn new(handle: impl Any + Send + Sync) -> Self {
        Self { handle: Box::new(handle) }
    }

    /// The backend's own handle.
    ///
    /// # Panics
    ///
    /// If the program belongs to another backend: a bug of this crate.
    pub fn handle<T: 'static>(&self) -> &T {
        self.handle.downcast_ref().expect("a program is used on the backend that made it")
    }
}

/// A copy to the device that was started: see [`Backend::transfer`].
#[derive(Debug)]
pub struct Transfer {
    handle: Box<dyn Any + Send + Sync>,
}

impl Transfer {
    /// Wraps a backend's own handle.
    pub fn new(handle: impl Any + Send + Sync) -> Self {
        Self { handle: Box::new(handle) }
    }

    /// The backend's own handle.
    ///
    /// # Panics
    ///
    /// If the transfer belongs to another backend: a bug of this crate.
    pub fn handle<T: 'static>(&self) -> &T {
        self.handle.downcast_ref().expect("a transfer is joined on the backend that started it")
    }
}

/// One kernel of `kernels/`, specialised: everything that a compiled program depends on, the
/// device and its driver apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProgramSource {
    /// The entry point, also the name of its file and of its definition.
    pub kernel: &'static str,
    /// What `REAL` is.
    pub dtype: DType,
    /// Values of the kernel's parameters, each a `-D NAME=VALUE`.
    pub parameters: Vec<(&'static str, u32)>,
    /// The whole OpenCL C, prelude first.
    pub source: &'static str,
}

impl ProgramSource {
    /// What is defined for it, `DTYPE_F16` or `NAME=VALUE`, in every compiler's options.
    pub fn definitions(&self) -> impl Iterator<Item = String> {
        let dtype = match self.dtype {
            DType::F32 => "DTYPE_F32",
            DType::F16 => "DTYPE_F16",
        };
        let parameters = self.parameters.iter().map(|(name, value)| format!("{name}={value}"));
        std::iter::once(dtype.to_owned()).chain(parameters)
    }
}

/// How much of a compiler's log an error carries.
const LOG_BYTES: usize = 8 * 1024;

/// A compiler's log as an error carries it.
fn shortened(log: &str) -> String {
    let log = log.trim();
    match log.as_bytes().get(..LOG_BYTES) {
        Some(start) => format!("{}\n[..]", String::from_utf8_lossy(start)),
        None => log.to_owned(),
    }
}

/// Of the caller's contract.
fn check_range(buffer: &Buffer, offset: u64, length: u64) {
    debug_assert!(offset + length <= buffer.bytes(), "a transfer lies inside its buffer");
}

/// One launch: `groups` work-groups of `local` work-items, in up to three dimensions.
#[derive(Debug)]
pub struct Launch<'a> {
    /// In the kernel's order.
    pub arguments: &'a [Argument<'a>],
    /// Work-groups.
    pub groups: [usize; 3],
    /// Work-items in each.
    pub local: [usize; 3],
}

/// A kernel's argument. Names exist on both sides, so that an argument in the wrong place is
/// found by its name and not by its result.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    /// As the kernel's source spells it.
    pub name: &'static str,
    /// What is passed.
    pub value: Value<'a>,
}

/// What an argument can be.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A buffer that the kernel reads.
    Input(&'a Buffer),
    /// A buffer that the kernel writes, all of it or not; no other argument may be the same.
    Output(&'a Buffer),
    /// A null pointer: an optional buffer that is not there.
    Absent,
    /// A `uint`.
    U32(u32),
    /// An `int`.
    I32(i32),
    /// A `float`.
    F32(f32),
}

/// A copy of rows of bytes from one buffer to another.
#[derive(Debug)]
pub struct CopyRegion<'a> {
    /// Read from here,
    pub source: &'a Buffer,
    /// from this byte on,
    pub source_offset: u64,
    /// written to there,
    pub target: &'a Buffer,
    /// from this byte on,
    pub target_offset: u64,
    /// so many bytes of each
    pub bytes: u64,
    /// of so many rows,
    pub rows: u64,
    /// which begin so many bytes apart where they are read,
    pub source_pitch: u64,
    /// and so many where they are written. Where there are several rows, both are at least their
    /// bytes.
    pub target_pitch: u64,
}

impl CopyRegion<'_> {
    /// From the first byte that is read to the last, and from the first that is written to the
    /// last; 0 where there is nothing to copy.
    pub fn spans(&self) -> [u64; 2] {
        [self.source_pitch, self.target_pitch].map(|pitch| match self.rows {
            0 => 0,
            _ if self.bytes == 0 => 0,
            rows => (rows - 1) * pitch + self.bytes,
        })
    }
}

/// When a launch or a transfer ran, by the device's own clock.
pub trait Timer: Send {
    /// How long it ran, known once [`Backend::finish`] has returned; `None` where the driver does
    /// not tell.
    fn elapsed(&self) -> Option<Duration>;

    /// From when to when it ran, since a moment that is the same for all launches and transfers of
    /// a device; known when [`Timer::elapsed`] is. `None` where the driver does not tell.
    fn span(&self) -> Option<Range<Duration>> {
        None
    }

    /// Into how many launches of the driver a launch was cut: see [`Backend::limited`]. What they
    /// took in all is [`Timer::elapsed`]; the time between them is in [`Timer::span`] alone.
    fn parts(&self) -> usize {
        1
    }

    /// How long the longest of them ran.
    fn longest(&self) -> Option<Duration> {
        self.elapsed()
    }
}

/// Of what is not timed.
struct NoTime;

impl Timer for NoTime {
    fn elapsed(&self) -> Option<Duration> {
        None
    }
}

impl<'a> From<&'a Buffer> for Value<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Value::Input(buffer)
    }
}

impl<'a> From<Option<&'a Buffer>> for Value<'a> {
    fn from(buffer: Option<&'a Buffer>) -> Self {
        buffer.map_or(Value::Absent, Value::Input)
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Value::U32(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Value::I32(value)
    }
}

impl From<f32> for Value<'_> {
    fn from(value: f32) -> Self {
        Value::F32(value)
    }
}
