//! A device: a backend with its memory, programs and profile.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::cpu::Cpu;
use crate::backend::record::{Record, Recorded, RecordedLaunch, RecordedStage};
use crate::backend::{Argument, Backend, Buffer, Launch, LaunchLimit, Program, ProgramSource};
use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel, ProgramCache, ProgramStats};
use crate::memory::{Block, Lifetime, Limits, MemoryManager, MemoryStats, ParkedBlock};
use crate::profile::{Profile, Work};
use crate::tune::{Autotune, Configurations, Forced};
use crate::{DType, Result};

pub use crate::tune::first_use::Grid;

mod home;
mod offloading;
mod open;
mod source;
mod stage;
mod tiling;
mod timings;
mod tuned;

pub(crate) use home::{Home, OnDevice};
use offloading::Making;
pub use offloading::{OffloadTo, Offloading, WeightPlacement};
pub(crate) use source::{Again, Source};
pub use stage::Stage;
pub use tiling::{Tiled, Tiling};
use timings::Timings;
pub use timings::{TransferRate, TransferRates};
pub(crate) use tuned::Tunable;
use tuned::configurations_of;

/// An opened device. Cloning gives another handle to the same one; the last handle closes it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
    notes: Arc<Vec<String>>,
}

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    /// The backend again, if it is a dry run.
    record: Option<Arc<Record>>,
    memory: Arc<MemoryManager>,
    programs: Arc<ProgramCache>,
    sources: Vec<StandIn>,
    configurations: Arc<Configurations>,
    profile: Profile,
    timings: Timings,
    tilings: Mutex<Vec<Tiling>>,
    flop: AtomicU64,
    bytes: AtomicU64,
    making: Making,
}

/// How to open a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// What the device may hold at once. If not given, [`Device::open`] takes what nobody uses of
    /// its memory ([`free_memory`](crate::hardware::free_memory())), times
    /// [`memory_fraction`](crate::hardware::memory_fraction), and all of it where nothing tells;
    /// [`Device::new`] takes all of it. More than all is allowed, with a line in
    /// [`Device::notes`].
    pub budget_bytes: Option<u64>,
    /// The largest single allocation; the driver's own limit if not given, or if that is less.
    pub max_allocation_bytes: Option<u64>,
    /// Fill every block with NaNs before it is used, so that a kernel which leaves a part of its
    /// output unwritten is found. For tests: it costs a write of every block.
    pub poison: bool,
    /// Where compiled programs are kept between runs. If not given, [`Device::open`] asks
    /// [`knob::cache_dir`](crate::knob::cache_dir), and [`Device::new`] keeps none.
    pub cache_dir: Option<PathBuf>,
    /// Where configurations come from that are not forced.
    pub autotune: Autotune,
    /// The user's file of tuned configurations. If not given, [`Device::open`] asks
    /// [`knob::tuning`](crate::knob::tuning), and [`Device::new`] has none.
    pub tuning: Option<PathBuf>,
    /// Surround every block with zones of a pattern, and look after every launch whether a kernel
    /// has written there: that launch is then an [`Error::Guard`](crate::Error::Guard). For tests
    /// and tuners: every launch is waited for, and blocks are not reused.
    pub guards: bool,
    /// Sources to build instead of those of the catalogue's kernels: how an author tries a kernel
    /// under an op. The host's kernels in Rust are not replaced.
    pub sources: Vec<StandIn>,
    /// Configurations to use whatever else is known: how a tuner tries its candidates.
    pub forced: Vec<Forced>,
    /// For how long a launch may keep the device, for cards that also draw the screen: one that would
    /// take longer is cut into several of part of the work-groups, with the same result to the bit.
    /// Parts are made for half of it, by how long such work-groups took before, and have at least one
    /// work-group for each compute unit, for fewer would take as long. The host's own backend and
    /// HIP's know no limit, with a line in [`Device::notes`]; a CPU behind a driver does, but for kernels that
    /// share their work out by the number of work-groups (`gemm_register` and its like).
    pub launch_limit: Option<Duration>,
}

/// A kernel's name, and the whole OpenCL C that stands in for the catalogue's: see
/// [`Kernel::stand_in`]. Programs are known by the text's address.
pub type StandIn = (String, &'static str);

/// What an op asks a device to run.
#[derive(Debug)]
pub struct Call<'a> {
    /// The kernel's name.
    pub kernel: &'static str,
    /// What `REAL` is.
    pub dtype: DType,
    /// What the kernel is specialised by: see `Device::configuration`.
    pub configuration: &'a Configuration,
    /// In the kernel's order.
    pub arguments: &'a [Argument<'a>],
    /// Work-groups.
    pub groups: [usize; 3],
    /// Work-items in each.
    pub local: [usize; 3],
    /// Floating-point operations, two for a multiply-add.
    pub flop: u64,
    /// Bytes that must at least be read and written.
    pub bytes: u64,
}

impl Device {
    /// The host itself: no driver is needed.
    pub fn cpu() -> Self {
        Self::cpu_with(&DeviceOptions::default())
    }

    /// The host itself under `options`.
    pub fn cpu_with(options: &DeviceOptions) -> Self {
        Self::new(Arc::new(Cpu::new()), options)
    }

    /// The host running every kernel's definition: what other devices are compared with. With
    /// `info`, ops choose the algorithms that they would choose on that device.
    pub fn definitions(info: Option<DeviceInfo>) -> Self {
        let backend = match info {
            Some(info) => Cpu::definitions_for(info),
            None => Cpu::definitions(),
        };
        // Programs are not specialised here: nothing is worth looking up.
        let options = DeviceOptions { autotune: Autotune::Off, ..DeviceOptions::default() };
        Self::new(Arc::new(backend), &options)
    }

    /// A dry run of this device: the same decisions under the same budget, nothing allocated,
    /// nothing run.
    pub fn dry_run(&self) -> Self {
        self.dry_run_within(self.inner.memory.stats().budget_bytes)
    }

    /// As [`Device::dry_run`], under another budget.
    pub fn dry_run_within(&self, budget_bytes: u64) -> Self {
        let record = Record::new(self.info().clone());
        let record = Arc::new(record.overlapping(self.inner.memory.copies_ahead()));
        let options = DeviceOptions {
            budget_bytes: Some(budget_bytes),
            max_allocation_bytes: Some(self.inner.memory.max_allocation_bytes()),
            ..DeviceOptions::default()
        };
        let configurations = Arc::clone(&self.inner.configurations);
        let dry =
            Self::with_record(Arc::clone(&record) as _, Some(record), &options, configurations);
        dry.inner.memory.register_as(&self.inner.memory);
        dry
    }

    /// A device behind any backend.
    pub fn new(backend: Arc<dyn Backend>, options: &DeviceOptions) -> Self {
        let configurations = configurations_of(backend.info(), options);
        Self::with_record(backend, None, options, configurations)
    }

    /// Another device on the same hardware, under other options: with memory, configurations and
    /// a profile of its own, and with the programs of this one. Its launches are limited as those of
    /// this one are, whatever the options say.
    pub fn sharing_programs(&self, options: &DeviceOptions) -> Self {
        let inner = &self.inner;
        let (backend, record) = (Arc::clone(&inner.backend), inner.record.clone());
        let configurations = configurations_of(self.info(), options);
        let options = &DeviceOptions { launch_limit: None, ..options.clone() };
        Self::assemble(backend, record, options, Arc::clone(&inner.programs), configurations)
    }

    fn with_record(
        backend: Arc<dyn Backend>,
        record: Option<Arc<Record>>,
        options: &DeviceOptions,
        configurations: Arc<Configurations>,
    ) -> Self {
        let programs = Arc::new(match &options.cache_dir {
            Some(folder) => ProgramCache::on_disk(folder.join("programs")),
            None => ProgramCache::default(),
        });
        Self::assemble(backend, record, options, programs, configurations)
    }

    fn assemble(
        backend: Arc<dyn Backend>,
        record: Option<Arc<Record>>,
        options: &DeviceOptions,
        programs: Arc<ProgramCache>,
        configurations: Arc<Configurations>,
    ) -> Self {
        let limited = options.launch_limit.map(|longest| {
            let least_groups = backend.info().compute_units as usize;
            backend.limited(LaunchLimit { longest, least_groups })
        });
        let mut notes = Vec::new();
        if let Some(None) = limited {
            let name = &backend.info().name;
            notes.push(format!("the launch limit has no effect on {name}"));
        }
        let backend = limited.flatten().unwrap_or(backend);
        let info = backend.info();
        let most_bytes = info.max_allocation_bytes;
        let limits = Limits {
            budget_bytes: options.budget_bytes.unwrap_or(info.memory_bytes),
            max_allocation_bytes: options.max_allocation_bytes.unwrap_or(u64::MAX).min(most_bytes),
            poison: options.poison,
            guards: options.guards,
            copies_ahead: backend.overlaps_transfers(),
        };
        let memory = Arc::new(MemoryManager::new(Arc::clone(&backend), limits));
        let (profile, tilings) = (Profile::new(backend.launch_limit()), Mutex::default());
        let (flop, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let sources = options.sources.clone();
        let timings = Timings::new(options.cache_dir.as_deref(), info);
        let inner = Inner {
            backend,
            record,
            memory,
            programs,
            sources,
            configurations,
            profile,
            timings,
            tilings,
            flop,
            bytes,
            making: Making::default(),
        };
        Self { inner: Arc::new(inner), notes: Arc::new(notes) }
    }

    /// What the device says of itself.
    pub fn info(&self) -> &DeviceInfo {
        self.inner.backend.info()
    }

    /// What memory is and was in use.
    pub fn memory_stats(&self) -> MemoryStats {
        self.inner.memory.stats()
    }

    /// The device's memory.
    pub fn memory(&self) -> &Arc<MemoryManager> {
        &self.inner.memory
    }

    /// What was measured.
    pub fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// What a dry run saw; `None` on a device that runs.
    pub fn recorded(&self) -> Option<Recorded> {
        self.inner.record.as_ref().map(|record| record.recorded())
    }

    /// What the programs are compiled from that a dry run would have used; `None` on a device that
    /// runs. [`Device::prepare`] compiles them.
    pub fn recorded_programs(&self) -> Option<Vec<ProgramSource>> {
        self.inner.record.as_ref().map(|record| record.sources())
    }

    /// The launches that a dry run would have made, those that take the same time once, and what each
    /// stage would have done; `None` on a device that runs.
    pub fn recorded_stages(&self) -> Option<(Vec<RecordedLaunch>, Vec<RecordedStage>)> {
        self.inner.record.as_ref().map(|record| record.stages())
    }

    /// Has programs ready before they are launched, compiling several at once where they are not
    /// on disk. `progress` is told how many are ready, of how many.
    ///
    /// # Errors
    ///
    /// [`Error::Build`](crate::Error::Build) for the first that does not compile.
    pub fn prepare(
        &self,
        programs: &[ProgramSource],
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<()> {
        let count = programs.len();
        let progress = &mut |ready| progress(ready, count);
        self.inner.programs.prepare(self.backend(), programs, progress)
    }

    /// The work of every launch so far.
    pub fn work(&self) -> Work {
        let sum = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Work { flop: sum(&self.inner.flop), bytes: sum(&self.inner.bytes) }
    }

    /// Where the programs came from that were used so far.
    pub fn program_stats(&self) -> ProgramStats {
        self.inner.programs.stats()
    }

    /// Whether both are handles to the same one.
    pub(crate) fn is(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether launches take place: false on a dry run.
    pub fn executes(&self) -> bool {
        self.inner.backend.executes()
    }

    /// Waits for everything that was queued.
    ///
    /// # Errors
    ///
    /// [`Error::Device`](crate::Error::Device) if the driver fails.
    pub fn finish(&self) -> Result<()> {
        self.inner.backend.finish()
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.inner.backend.as_ref()
    }

    /// A block holding `bytes`. On a dry run `produce` is not called.
    pub(crate) fn upload(
        &self,
        bytes: usize,
        lifetime: Lifetime,
        produce: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Block> {
        let block = self.inner.memory.allocate(bytes as u64, lifetime)?;
        if self.executes() {
            let data = produce()?;
            debug_assert_eq!(data.len(), bytes);
            self.backend().write(block.buffer(), 0, &data)?;
        } else if let Some(record) = &self.inner.record {
            record.would_write(bytes as u64);
        }
        Ok(block)
    }

    /// Copies what a buffer begins with to `home`, after all that came before.
    pub(crate) fn park(&self, source: &Buffer, home: &ParkedBlock) -> Result<()> {
        let Some(record) = &self.inner.record else {
            return home.fill(|offset, chunk| self.backend().read(source, offset, chunk));
        };
        record.would_read(home.bytes());
        home.count(|bytes| record.would_allocate_on_host(bytes));
        Ok(())
    }

    /// Copies bytes of `home` to a buffer, from `offset` on.
    pub(crate) fn unpark(
        &self,
        home: &ParkedBlock,
        bytes: Range<usize>,
        target: &Buffer,
        offset: u64,
    ) -> Result<()> {
        match &self.inner.record {
            Some(record) => {
                record.would_write(bytes.len() as u64);
                Ok(())
            }
            None => home
                .read(bytes, |at, piece| self.backend().write(target, offset + at as u64, piece)),
        }
    }

    /// Builds a kernel's program before it is asked for, and tells how long that took.
    ///
    /// # Errors
    ///
    /// [`Error::Build`](crate::Error::Build), [`Error::Device`](crate::Error::Device).
    pub fn build(
        &self,
        kernel: &'static Kernel,
        dtype: DType,
        configuration: &Configuration,
    ) -> Result<Duration> {
        let start = Instant::now();
        self.program(kernel, dtype, configuration)?;
        Ok(start.elapsed())
    }

    fn program(
        &self,
        kernel: &'static Kernel,
        dtype: DType,
        configuration: &Configuration,
    ) -> Result<Arc<Program>> {
        let stand_in = self.inner.sources.iter().find(|(name, _)| name == kernel.name);
        let source = ProgramSource {
            kernel: kernel.name,
            dtype,
            parameters: configuration.values().to_vec(),
            source: stand_in.map_or(kernel.source, |(_, source)| *source),
        };
        self.inner.programs.get(self.backend(), source)
    }

    /// Runs one kernel: finds its program, queues it, notes it in the profile.
    pub(crate) fn run(&self, call: &Call) -> Result<()> {
        let kernel = Kernel::find(call.kernel).expect("ops call kernels of the catalogue");
        let program = self.program(kernel, call.dtype, call.configuration)?;
        let launch = Launch { arguments: call.arguments, groups: call.groups, local: call.local };
        let work = Work { flop: call.flop, bytes: call.bytes };
        let start = Instant::now();
        let timer = self.backend().launch(&program, &launch)?;
        self.inner.flop.fetch_add(work.flop, Ordering::Relaxed);
        self.inner.bytes.fetch_add(work.bytes, Ordering::Relaxed);
        self.inner.profile.launched(kernel.name, call.configuration, start, work, timer);
        if let Some(record) = &self.inner.record {
            record.worked(kernel.name, call.dtype, work.flop, work.bytes);
        }
        self.inner.memory.check_guards(kernel.name, call.arguments)
    }
}

/// A kernel's arguments, each `name: value`, in the kernel's order. A value is a buffer (an
/// input), an optional buffer, `Output(buffer)`, or a number.
macro_rules! arguments {
    ($($name:ident : $value:expr),* $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::backend::Value::Output;
        [$($crate::backend::Argument { name: stringify!($name), value: ($value).into() }),*]
    }};
}
pub(crate) use arguments;
