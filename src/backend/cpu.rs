//! The CPU backend: a Rust function per kernel, of the same name and arguments.
//!
//! Each kernel has a **definition**, written for reading and accumulating in f64: the oracle that
//! every device is tested against. Where the time goes, a **fast path** stands beside it and is
//! tested like any other device. Each function is one file under `cpu/`, by the kernel's name.

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sysinfo::System;

use super::{Backend, Buffer, CopyRegion, Launch, Program, ProgramSource, Timer, Transfer, Value};
use crate::info::{DeviceInfo, DeviceKind};
use crate::{Error, Result};

mod activation;
mod arguments;
mod attention;
mod cast;
mod conv2d;
mod conv2d_few_inputs;
mod conv2d_few_outputs;
mod gaussian_sample;
mod geglu;
mod gemm;
mod gemm_merge;
mod gemm_split;
mod group_norm_apply;
mod group_norm_merge;
mod group_norm_statistics;
mod layer_norm;
mod parallel;
mod peak_fma;
mod peak_int8;
mod peak_launch;
mod peak_local;
mod peak_memory;
mod product;
mod qgemm_i8;
mod quantize_rows;
mod rows;
mod terms;
mod timestep_embedding;
mod token_embedding;
mod vector_math;
mod winograd;
mod winograd_input;
mod winograd_local;
mod winograd_output;
mod winograd_weights;

pub use arguments::{Arguments, Reals, RealsMut};
pub use terms::Terms;

/// A kernel in Rust.
struct Kernel {
    name: &'static str,
    definition: fn(&Arguments),
    fast: Option<fn(&Arguments)>,
}

/// Every kernel of `kernels/`, in alphabetical order.
const KERNELS: &[Kernel] = &[
    Kernel {
        name: "attention_amx",
        definition: attention::definition,
        fast: Some(attention::fast),
    },
    Kernel {
        name: "attention_local",
        definition: attention::definition,
        fast: Some(attention::fast),
    },
    Kernel {
        name: "attention_matrix",
        definition: attention::definition,
        fast: Some(attention::fast),
    },
    Kernel {
        name: "attention_register",
        definition: attention::definition,
        fast: Some(attention::fast),
    },
    Kernel { name: "cast", definition: cast::definition, fast: Some(cast::fast) },
    Kernel {
        name: "conv2d_few_inputs",
        definition: conv2d::definition,
        fast: Some(conv2d_few_inputs::fast),
    },
    Kernel {
        name: "conv2d_few_outputs",
        definition: conv2d::definition,
        fast: Some(conv2d_few_outputs::fast),
    },
    Kernel { name: "conv2d_local", definition: conv2d::definition, fast: Some(conv2d::fast) },
    Kernel { name: "conv2d_register", definition: conv2d::definition, fast: Some(conv2d::fast) },
    Kernel { name: "gaussian_sample", definition: gaussian_sample::definition, fast: None },
    Kernel { name: "geglu", definition: geglu::definition, fast: Some(geglu::fast) },
    Kernel { name: "gemm_local", definition: gemm::definition, fast: Some(gemm::fast) },
    Kernel { name: "gemm_matrix", definition: gemm::definition, fast: Some(gemm::fast) },
    Kernel { name: "gemm_merge", definition: gemm_merge::definition, fast: None },
    Kernel { name: "gemm_register", definition: gemm::definition, fast: Some(gemm::fast) },
    Kernel { name: "gemm_split", definition: gemm_split::definition, fast: None },
    Kernel { name: "gemv", definition: gemm::definition, fast: Some(gemm::fast) },
    Kernel {
        name: "group_norm_apply",
        definition: group_norm_apply::definition,
        fast: Some(group_norm_apply::fast),
    },
    Kernel {
        name: "group_norm_merge",
        definition: group_norm_merge::definition,
        fast: Some(group_norm_merge::fast),
    },
    Kernel {
        name: "group_norm_statistics",
        definition: group_norm_statistics::definition,
        fast: Some(group_norm_statistics::fast),
    },
    Kernel { name: "layer_norm", definition: layer_norm::definition, fast: Some(layer_norm::fast) },
    Kernel { name: "peak_fma", definition: peak_fma::definition, fast: Some(peak_fma::fast) },
    Kernel { name: "peak_int8", definition: peak_int8::definition, fast: Some(peak_int8::fast) },
    Kernel { name: "peak_launch", definition: peak_launch::definition, fast: None },
    Kernel { name: "peak_local", definition: peak_local::definition, fast: Some(peak_local::fast) },
    Kernel {
        name: "peak_memory",
        definition: peak_memory::definition,
        fast: Some(peak_memory::fast),
    },
    Kernel { name: "qgemm_i8", definition: qgemm_i8::definition, fast: Some(qgemm_i8::fast) },
    Kernel {
        name: "quantize_rows",
        definition: quantize_rows::definition,
        fast: Some(quantize_rows::fast),
    },
    Kernel { name: "timestep_embedding", definition: timestep_embedding::definition, fast: None },
    Kernel { name: "token_embedding", definition: token_embedding::definition, fast: None },
    Kernel {
        name: "winograd_input",
        definition: winograd_input::definition,
        fast: Some(winograd_input::fast),
    },
    Kernel { name: "winograd_local", definition: winograd_local::definition, fast: None },
    Kernel {
        name: "winograd_output",
        definition: winograd_output::definition,
        fast: Some(winograd_output::fast),
    },
    Kernel {
        name: "winograd_weights",
        definition: winograd_weights::definition,
        fast: Some(winograd_weights::fast),
    },
];

/// Outputs in a panel of weights, as `ops::PANEL`.
pub(crate) const PANEL: usize = 32;

/// Whether a kernel has a fast path beside its definition; `None` if it has no definition.
pub fn has_fast_path(kernel: &str) -> Option<bool> {
    KERNELS.iter().find(|entry| entry.name == kernel).map(|entry| entry.fast.is_some())
}

/// The host as a device.
pub struct Cpu {
    info: DeviceInfo,
    definitions_only: bool,
    /// Launches, reads and writes exclude each other, so a launch owns its buffers.
    turn: Mutex<()>,
    /// When times begin.
    origin: Instant,
}

impl Cpu {
    /// The host with its fast paths: what a user runs on.
    pub fn new() -> Self {
        let (info, origin) = (host_info(), Instant::now());
        Self { info, definitions_only: false, turn: Mutex::new(()), origin }
    }

    /// The host with definitions alone: what every device is compared with.
    pub fn definitions() -> Self {
        Self { definitions_only: true, ..Self::new() }
    }

    /// As [`Cpu::definitions`], claiming to be the device that `info` describes, so that every
    /// algorithm which that device would be given is defined here.
    pub fn definitions_for(info: DeviceInfo) -> Self {
        Self { info, ..Self::definitions() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // A kernel that panicked has left its outputs undefined and nothing else.
        self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("definitions_only", &self.definitions_only).finish()
    }
}

fn host_info() -> DeviceInfo {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let (name, vendor) = system
        .cpus()
        .first()
        .map(|cpu| (cpu.brand().trim().to_owned(), cpu.vendor_id().to_owned()))
        .unwrap_or_default();
    let memory_bytes = system.total_memory();
    DeviceInfo {
        backend: "cpu",
        name: if name.is_empty() { std::env::consts::ARCH.to_owned() } else { name },
        vendor,
        platform: "Ellesmere".to_owned(),
        driver: env!("CARGO_PKG_VERSION").to_owned(),
        kind: DeviceKind::Cpu,
        compute_units: rayon::current_num_threads() as u32,
        memory_bytes,
        max_allocation_bytes: memory_bytes,
        local_memory_bytes: 32 * 1024,
        local_memory_is_fast: false,
        max_work_group: 4096,
        vector_width: vector_math::level().lanes(),
        matrix_units: false,
        amx: false,
        sub_group: None,
        architecture: None,
        pci_address: None,
    }
}

/// The alignment of every buffer: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Bytes that a launch may write while others hold the buffer.
struct HostMemory {
    /// What the allocator gave: zeroed, and not touched before somebody uses it.
    start: NonNull<u8>,
    /// What to give back to the allocator; `None` for a part, whose whole does it.
    layout: Option<Layout>,
}

// SAFETY: the bytes are reached only under `Cpu::turn`, or by the one launch that holds it.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Zeroed memory, or `None` where the host has no more.
    fn new(bytes: u64) -> Option<Self> {
        // Of more than its usual alignment the allocator would write all the zeros itself; so
        // there is room to align in.
        let size = usize::try_from(bytes).ok()?.checked_add(2 * ALIGNMENT)?;
        let layout = Layout::from_size_align(size, 1).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
        Some(Self { start, layout: Some(layout) })
    }

    /// The same memory from `offset` on, a multiple of the alignment.
    fn part(&self, offset: usize) -> Self {
        // SAFETY: `Backend::part` puts the offset inside the allocation.
        let start = unsafe { self.as_ptr().add(offset) };
        let start = NonNull::new(start).expect("a part of an allocation has an address");
        Self { start, layout: None }
    }

    /// The first aligned byte; as many follow as were asked for, rounded up to the alignment.
    fn as_ptr(&self) -> *mut u8 {
        let start = self.start.as_ptr();
        start.wrapping_add(start.align_offset(ALIGNMENT))
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: `new` has allocated it with this layout.
            unsafe { alloc::dealloc(self.start.as_ptr(), layout) };
        }
    }
}

struct Compiled {
    run: fn(&Arguments),
    source: ProgramSource,
}

struct Measured(Range<Duration>);

impl Timer for Measured {
    fn elapsed(&self) -> Option<Duration> {
        Some(self.0.end - self.0.start)
    }

    fn span(&self) -> Option<Range<Duration>> {
        Some(self.0.clone())
    }
}

/// A core copies so many bytes at a time, and others those that follow.
const COPY_BYTES: usize = 512 << 10;

fn copy_bytes(source: &[u8], target: &mut [u8]) {
    parallel::for_each_piece(target, COPY_BYTES, |index, piece| {
        piece.copy_from_slice(&source[index * COPY_BYTES..][..piece.len()]);
    });
}

/// The bytes `offset..offset + length` of a buffer of this backend.
fn range(buffer: &Buffer, offset: u64, length: usize) -> *mut u8 {
    assert!(offset + length as u64 <= buffer.bytes(), "a transfer lies inside its buffer");
    let memory: &HostMemory = buffer.handle();
    // SAFETY: the offset lies inside the allocation, which is at least `buffer.bytes()` long.
    unsafe { memory.as_ptr().add(offset as usize) }
}

/// How many bytes of the host's memory programs can still have, also within what a container may
/// use; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let within =
        system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let available = system.available_memory().min(within.unwrap_or(u64::MAX));
    (available > 0).then_some(available)
}

impl Backend for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory_bytes(&self) -> Option<u64> {
        available_bytes()
    }

    fn specialises(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        match HostMemory::new(bytes) {
            Some(memory) => Ok(Buffer::new(bytes, memory)),
            None => {
                Err(Error::OutOfMemory { requested_bytes: bytes, held_bytes: 0, budget_bytes: 0 })
            }
        }
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        let memory: &HostMemory = whole.handle();
        assert!(offset + bytes <= whole.bytes(), "a part lies inside its buffer");
        let part = memory.part(offset as usize);
        Ok(Buffer::new_part(whole, offset, bytes, part))
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        let _turn = self.turn();
        // SAFETY: this turn is ours, and so are the bytes.
        let target = unsafe {
            std::slice::from_raw_parts_mut(range(target, offset, data.len()), data.len())
        };
        copy_bytes(data, target);
        Ok(())
    }

    /// Launches take all cores, so nothing is gained by a copy beside them: it is made at once.
    fn transfer(&self, target: &Buffer, data: &Arc<Vec<u8>>) -> Result<(Transfer, Box<dyn Timer>)> {
        let start = self.origin.elapsed();
        self.write(target, 0, data)?;
        Ok((Transfer::new(()), Box::new(Measured(start..self.origin.elapsed()))))
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        let _turn = self.turn();
        // SAFETY: this turn is ours, and so are the bytes.
        let source =
            unsafe { std::slice::from_raw_parts(range(source, offset, data.len()), data.len()) };
        copy_bytes(source, data);
        Ok(())
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        let _turn = self.turn();
        let [read_bytes, written_bytes] = region.spans().map(|bytes| bytes as usize);
        let source = range(region.source, region.source_offset, read_bytes);
        let target = range(region.target, region.target_offset, written_bytes);
        if read_bytes == 0 {
            return Ok(());
        }
        for row in 0..region.rows as usize {
            // SAFETY: `range` has checked the bounds of all rows; `copy` allows overlap; this turn
            // is ours.
            unsafe {
                let source = source.add(row * region.source_pitch as usize);
                let target = target.add(row * region.target_pitch as usize);
                std::ptr::copy(source, target, region.bytes as usize);
            }
        }
        Ok(())
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        let error = |log: &str| Error::Build {
            kernel: source.kernel.to_owned(),
            device: self.info.name.clone(),
            log: log.to_owned(),
        };
        let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == source.kernel) else {
            return Err(error("the CPU backend has no function of that name"));
        };
        let run = match kernel.fast {
            Some(_) if self.definitions_only => kernel.definition,
            Some(fast) => match peak_fma::refused(source).or_else(|| peak_int8::refused(source)) {
                Some(reason) => return Err(error(reason)),
                None => fast,
            },
            None => kernel.definition,
        };
        Ok(Program::new(Compiled { run, source: source.clone() }))
    }

    fn binary(&self, _program: &Program) -> Option<Vec<u8>> {
        None
    }

    fn load(&self, source: &ProgramSource, _binary: &[u8]) -> Result<Program> {
        self.build(source)
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        let compiled: &Compiled = program.handle();
        let _turn = self.turn();
        check_outputs(launch);
        let start = self.origin.elapsed();
        (compiled.run)(&Arguments::new(launch.arguments, &compiled.source));
        Ok(Box::new(Measured(start..self.origin.elapsed())))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// No output is also another argument: what makes the slices of [`Arguments`] sound.
fn check_outputs(launch: &Launch) {
    let buffers: Vec<_> = launch
        .arguments
        .iter()
        .filter_map(|argument| match argument.value {
            Value::Input(buffer) => {
                Some((argument.name, buffer.handle::<HostMemory>().as_ptr(), false))
            }
            Value::Output(buffer) => {
                Some((argument.name, buffer.handle::<HostMemory>().as_ptr(), true))
            }
            _ => None,
        })
        .collect();
    for (index, (name, address, output)) in buffers.iter().enumerate() {
        let shared =
            buffers.iter().enumerate().any(|(i, (_, other, _))| i != index && other == address);
        assert!(!(*output && shared), "output {name} is also another argument");
    }
}
