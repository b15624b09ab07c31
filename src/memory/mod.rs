//! Every byte on a device comes from its [`MemoryManager`].
//!
//! A pool under a budget, which what others hold on the device counts against once it is
//! registered. Blocks return to the pool when dropped, are reused by the next request of about their
//! size, and are given back to the device as far as the budget asks for it: a budget of a twentieth
//! more than is ever in use will do. The device's queue runs in order, so a block may be reused by
//! the launch after the one that read it last. What is held is a function of the requests alone: a
//! dry run that makes the same requests has the same peak, to the byte.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::backend::{Argument, Backend, Buffer};
use crate::{Error, Result};

mod guard;
mod host;
mod parked;
mod pool;
mod registration;
mod stats;
mod stream;

pub use host::{HostBlock, Producer};
pub use parked::ParkedBlock;
pub(crate) use parked::zeros;
use pool::Pool;
pub use registration::Registration;
pub use stats::{LabelStats, MemoryStats};
use stream::Stream;
pub use stream::{Brought, StartedCopy};

/// See the [module](self).
#[derive(Debug)]
pub struct MemoryManager {
    backend: Arc<dyn Backend>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    labels: Vec<&'static str>,
    stats: MemoryStats,
    /// The most that was in use since the pool was trimmed: what happened before must not change what
    /// a run holds, or a dry run could not know it.
    most_live_bytes: u64,
    /// The allocations around guarded blocks.
    guarded: Vec<Weak<Buffer>>,
    stream: Stream,
    /// What parked blocks left on the host while others are parked, for the next ones.
    spare_chunks: Vec<Vec<u8>>,
}

/// What a manager may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What may be held at once.
    pub budget_bytes: u64,
    /// The largest single allocation.
    pub max_allocation_bytes: u64,
    /// Whether every transient block is filled with NaNs before it is used.
    pub poison: bool,
    /// Whether every block stands between zones that [`MemoryManager::check_guards`] looks at.
    pub guards: bool,
    /// Whether what is expected next is copied ahead of its use: see [`MemoryManager::bring`].
    pub copies_ahead: bool,
}

/// How long a block is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For a few launches: taken from the pool and given back to it.
    Transient,
    /// For as long as a model is loaded: of exactly the size asked for, released when dropped.
    Resident,
}

impl State {
    /// How much larger than asked for an unused block may be. Up to twice, so that where a layer
    /// halves the channels its blocks serve the next; but all that is wasted so must stay small
    /// beside what is in use: what lives long in a block of twice its size costs the peak.
    fn waste_allowed(&self, bytes: u64) -> u64 {
        let in_blocks = self.stats.held_bytes - self.pool.bytes();
        let wasted = in_blocks.saturating_sub(self.stats.live_bytes);
        (self.most_live_bytes / 80).saturating_sub(wasted).min(bytes).max(bytes / 64)
    }
}

impl MemoryManager {
    /// A manager of the memory of `backend`.
    pub fn new(backend: Arc<dyn Backend>, limits: Limits) -> Self {
        let stats = MemoryStats { budget_bytes: limits.budget_bytes, ..MemoryStats::default() };
        let state = Mutex::new(State {
            pool: Pool::default(),
            labels: Vec::new(),
            stats,
            most_live_bytes: 0,
            guarded: Vec::new(),
            stream: Stream::default(),
            spare_chunks: Vec::new(),
        });
        Self { backend, limits, state }
    }

    /// The largest single allocation that may be asked for, in bytes.
    pub fn max_allocation_bytes(&self) -> u64 {
        self.limits.max_allocation_bytes
    }

    /// A block of at least `bytes` bytes with undefined contents.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the budget or the device has no room after the pool's unused
    /// blocks were released; [`Error::Allocation`] if `bytes` is over the largest allocation.
    pub fn allocate(self: &Arc<Self>, bytes: u64, lifetime: Lifetime) -> Result<Block> {
        let wanted = match lifetime {
            // Not a byte more than was asked for lies between the zones.
            Lifetime::Transient if !self.limits.guards => {
                pool::size_class(bytes).min(self.limits.max_allocation_bytes.max(bytes))
            }
            _ => bytes.max(1),
        };
        let mut state = self.state();
        let reused = match lifetime {
            Lifetime::Transient => {
                let waste = state.waste_allowed(wanted);
                state.pool.take(wanted, waste)
            }
            Lifetime::Resident => None,
        };
        let buffer = match reused {
            Some(buffer) => buffer,
            None => self.allocate_new(&mut state, wanted)?,
        };
        let label = state.labels.last().copied().unwrap_or("other");
        state.stats.lived(label, bytes);
        state.most_live_bytes = state.most_live_bytes.max(state.stats.live_bytes);
        drop(state);
        let manager = Arc::clone(self);
        let block = Block { buffer: Some(buffer), bytes, lifetime, label, manager };
        if self.limits.poison {
            // All bits set is a NaN of every floating-point type.
            let bytes = block.buffer().bytes() as usize;
            self.backend.write(block.buffer(), 0, &vec![0xff; bytes])?;
        }
        Ok(block)
    }

    fn allocate_new(&self, state: &mut State, bytes: u64) -> Result<Buffer> {
        let out_of_memory = |stats: &MemoryStats| Error::OutOfMemory {
            requested_bytes: bytes,
            held_bytes: stats.counted_bytes(),
            budget_bytes: stats.budget_bytes,
        };
        if bytes > self.limits.max_allocation_bytes {
            return Err(Error::Allocation {
                what: state.labels.last().copied().unwrap_or("tensor").to_owned(),
                requested_bytes: bytes,
                max_allocation_bytes: self.limits.max_allocation_bytes,
            });
        }
        let over = |stats: &MemoryStats| {
            stats.counted_bytes().saturating_add(bytes).saturating_sub(stats.budget_bytes)
        };
        // No more than is needed: fresh memory is slow.
        let released = state.pool.release(over(&state.stats));
        state.stats.released(released);
        if over(&state.stats) > 0 {
            // What is copied ahead is not needed yet.
            self.drop_ahead(state);
        }
        if over(&state.stats) > 0 {
            return Err(out_of_memory(&state.stats));
        }
        let allocate = |state: &mut State| match self.limits.guards {
            true => guard::allocate(self.backend.as_ref(), bytes, &mut state.guarded),
            false => self.backend.allocate(bytes),
        };
        let first = allocate(state);
        let buffer = match first {
            Err(Error::OutOfMemory { .. }) => {
                self.drop_ahead(state);
                release_unused(state);
                allocate(state)
            }
            other => other,
        };
        let buffer = buffer.map_err(|error| match error {
            Error::OutOfMemory { .. } => out_of_memory(&state.stats),
            other => other,
        })?;
        state.stats.held(bytes);
        Ok(buffer)
    }

    /// Waits for the launch of `kernel` and looks whether it has written outside a block. Does
    /// nothing where memory is not guarded.
    ///
    /// # Errors
    ///
    /// [`Error::Guard`] with the argument's name and how far outside it; [`Error::Device`].
    pub fn check_guards(&self, kernel: &str, arguments: &[Argument]) -> Result<()> {
        if !self.limits.guards {
            return Ok(());
        }
        let guarded: Vec<Arc<Buffer>> = {
            let mut state = self.state();
            state.guarded.retain(|whole| whole.strong_count() > 0);
            state.guarded.iter().filter_map(Weak::upgrade).collect()
        };
        guarded
            .iter()
            .try_for_each(|whole| guard::check(self.backend.as_ref(), whole, kernel, arguments))
    }

    /// Gives the pool's unused blocks back to the device. What was copied ahead of its use stays. From
    /// here on the manager does as a new one would that holds the same.
    pub fn trim(&self) {
        let mut state = self.state();
        state.stream.try_again();
        release_unused(&mut state);
        state.most_live_bytes = state.stats.live_bytes;
    }

    /// What is held and live now, and what was at most.
    pub fn stats(&self) -> MemoryStats {
        let state = self.state();
        MemoryStats {
            pool_bytes: state.pool.bytes(),
            largest_free_bytes: state.pool.largest_bytes(),
            ..state.stats.clone()
        }
    }

    /// Starts the high-water marks anew from what is held and live now.
    pub fn reset_peaks(&self) {
        self.state().stats.reset_peaks();
    }

    /// Counts what is allocated from now on under `label`, until [`MemoryManager::pop_label`].
    pub(crate) fn push_label(&self, label: &'static str) {
        self.state().labels.push(label);
    }

    pub(crate) fn pop_label(&self) {
        self.state().labels.pop();
    }

    fn give_back(&self, buffer: Buffer, block: &Block) {
        let mut state = self.state();
        state.stats.died(block.label, block.bytes);
        match block.lifetime {
            Lifetime::Transient if !self.limits.guards => state.pool.put(buffer),
            _ => state.stats.released(buffer.bytes()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything in it can panic.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn release_unused(state: &mut State) {
    let released = state.pool.release(u64::MAX);
    state.stats.released(released);
}

/// A block of device memory, given back when dropped.
#[derive(Debug)]
pub struct Block {
    buffer: Option<Buffer>,
    /// What was asked for; the buffer may hold more.
    bytes: u64,
    lifetime: Lifetime,
    label: &'static str,
    manager: Arc<MemoryManager>,
}

impl Block {
    /// The memory itself.
    pub fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().expect("a block has its buffer until it is dropped")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.manager.give_back(buffer, self);
        }
    }
}

#[cfg(test)]
mod tests;
