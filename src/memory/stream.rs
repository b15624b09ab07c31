//! What is held on the host, on its way to the device.
//!
//! Two slots: while launches use one block, the block that is expected next is copied into another,
//! where the backend copies beside its launches. What comes next is what [`MemoryManager::expect`]
//! was told. Where it was told nothing, or the wrong thing, and where there is no room for a second
//! slot, a block is copied when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::host::Content;
use super::{Block, HostBlock, Lifetime, MemoryManager, State};
use crate::backend::{Buffer, Timer, Transfer};
use crate::{Error, Result};

/// What a manager knows of the blocks on the host.
#[derive(Debug, Default)]
pub struct Stream {
    held: BTreeMap<u64, (Content, u64)>,
    /// How many were held so far.
    count: u64,
    /// What is expected after each.
    next: BTreeMap<u64, u64>,
    ahead: Option<Ahead>,
    /// After which there was no room for a second slot.
    alone: BTreeSet<u64>,
    /// The order in which a dry run has brought them.
    brought: Vec<u64>,
}

/// A block that was copied before it was asked for.
#[derive(Debug)]
pub struct Ahead {
    index: u64,
    /// What was asked for then.
    after: u64,
    block: Block,
    transfer: Transfer,
    /// What is on the host for this copy alone.
    passing_bytes: u64,
}

/// A block on the device, and the copies that were started when it was asked for.
pub struct Brought {
    /// A copy of what was asked for.
    pub block: Block,
    /// Its own, unless it was copied ahead; and that of the block that is expected next.
    pub copies: Vec<StartedCopy>,
}

/// A copy from the host to the device.
pub struct StartedCopy {
    /// How many bytes.
    pub bytes: u64,
    /// When it was asked for.
    pub start: Instant,
    /// When it takes place.
    pub timer: Box<dyn Timer>,
}

impl Stream {
    pub fn hold(&mut self, content: &Content, bytes: u64) -> u64 {
        let index = self.count;
        self.count += 1;
        self.held.insert(index, (content.clone(), bytes));
        index
    }

    /// Forgets a block. What was copied of it ahead is no more use.
    pub fn let_go(&mut self, index: u64) -> Option<Ahead> {
        self.held.remove(&index);
        self.next.remove(&index);
        self.alone.remove(&index);
        self.ahead.take_if(|ahead| ahead.index == index)
    }

    /// There may be room for a second slot where there was none.
    pub fn try_again(&mut self) {
        self.alone.clear();
    }
}

impl MemoryManager {
    /// How many blocks were held on the host so far: the index of the next one.
    pub fn host_blocks(&self) -> u64 {
        self.state().stream.count
    }

    /// On a dry run, the indices of what was asked for by [`MemoryManager::bring`] so far, in order;
    /// nothing otherwise.
    pub fn brought(&self) -> Vec<u64> {
        self.state().stream.brought.clone()
    }

    /// Whether this manager copies ahead what it [expects](MemoryManager::expect).
    pub fn copies_ahead(&self) -> bool {
        self.limits.copies_ahead
    }

    /// Tells in which order blocks on the host are going to be asked for, by their indices, time
    /// and again. What is asked for in another order is there all the same, but later.
    pub fn expect(&self, order: &[u64]) {
        let mut state = self.state();
        state.stream.next.extend(order.windows(2).map(|pair| (pair[0], pair[1])));
    }

    /// A block with a copy of what is held on the host. If something is expected after it and there
    /// is room, it is on its way to a second block when this returns.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate`]; [`Error::Device`].
    pub fn bring(self: &Arc<Self>, held: &HostBlock) -> Result<Brought> {
        let (index, bytes) = (held.index(), held.bytes());
        let ahead = {
            let mut state = self.state();
            if !self.backend.executes() {
                state.stream.brought.push(index);
            }
            state.stream.ahead.take()
        };
        let mut copies = Vec::new();
        let (block, passing_bytes) = match ahead {
            Some(Ahead { index: found, block, transfer, passing_bytes, .. }) if found == index => {
                self.join(&transfer).inspect_err(|_| self.passed(passing_bytes))?;
                (block, passing_bytes)
            }
            other => {
                other.map(|ahead| self.discard(ahead)).transpose()?;
                let block = self.allocate(bytes, Lifetime::Transient)?;
                let (transfer, copy) = self.start(block.buffer(), held.content(), bytes)?;
                let passing_bytes = held.content().passing(bytes);
                self.join(&transfer).inspect_err(|_| self.passed(passing_bytes))?;
                copies.push(copy);
                (block, passing_bytes)
            }
        };
        // The copy may still be on its way.
        let next = self.copy_next(index);
        self.passed(passing_bytes);
        copies.extend(next?);
        Ok(Brought { block, copies })
    }

    /// Starts to copy what is expected after a block.
    fn copy_next(self: &Arc<Self>, after: u64) -> Result<Option<StartedCopy>> {
        let found = {
            let state = self.state();
            let stream = &state.stream;
            let next = stream.next.get(&after).filter(|_| self.limits.copies_ahead);
            let next = next.filter(|next| !stream.alone.contains(&after) && **next != after);
            next.and_then(|next| Some((*next, stream.held.get(next)?.clone())))
        };
        let Some((index, (content, bytes))) = found else { return Ok(None) };
        let started = self.allocate(bytes, Lifetime::Transient).and_then(|block| {
            let (transfer, copy) = self.start(block.buffer(), &content, bytes)?;
            let passing_bytes = content.passing(bytes);
            Ok((Ahead { index, after, block, transfer, passing_bytes }, copy))
        });
        let mut state = self.state();
        match started {
            Ok((ahead, copy)) => {
                let other = state.stream.ahead.replace(ahead);
                drop(state);
                // Of another thread.
                other.map(|ahead| self.discard(ahead)).transpose()?;
                Ok(Some(copy))
            }
            Err(Error::OutOfMemory { .. }) => {
                state.stream.alone.insert(after);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn start(
        &self,
        target: &Buffer,
        content: &Content,
        bytes: u64,
    ) -> Result<(Transfer, StartedCopy)> {
        let data = content.data(self.backend.executes())?;
        let start = Instant::now();
        let (transfer, timer) = self.backend.transfer(target, &data)?;
        let mut state = self.state();
        let passing_bytes = content.passing(bytes);
        state.stats.held_on_host(passing_bytes);
        state.stats.copied_bytes += bytes;
        state.stats.read_bytes += passing_bytes;
        Ok((transfer, StartedCopy { bytes, start, timer }))
    }

    /// What was on the host for one copy alone is not counted any more.
    fn passed(&self, bytes: u64) {
        self.state().stats.host_bytes -= bytes;
    }

    fn join(&self, transfer: &Transfer) -> Result<()> {
        self.backend.join(transfer).inspect_err(|_| {
            // The block may be another's as soon as it is dropped.
            let _ = self.backend.finish();
        })
    }

    /// Gives back a block that was copied in vain.
    pub(super) fn discard(&self, ahead: Ahead) -> Result<()> {
        self.passed(ahead.passing_bytes);
        self.join(&ahead.transfer)
    }

    /// Gives the second slot back to the device, and does without it at this place from now on.
    pub(super) fn drop_ahead(&self, state: &mut State) {
        let Some(mut ahead) = state.stream.ahead.take() else { return };
        // A driver that fails here fails again at the next call, which can return the error.
        let _ = self.join(&ahead.transfer);
        let buffer = ahead.block.buffer.take().expect("a block has its buffer until it is dropped");
        state.stats.died(ahead.block.label, ahead.block.bytes);
        state.stats.released(buffer.bytes());
        state.stats.host_bytes -= ahead.passing_bytes;
        state.stream.alone.insert(ahead.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::memory::Limits;

    const BYTES: u64 = 2048;

    /// A manager with three blocks on the host that are used one after the other; the bytes of each
    /// are its index.
    fn three(budget_bytes: u64) -> (Arc<MemoryManager>, Vec<HostBlock>) {
        let limits = Limits {
            budget_bytes,
            max_allocation_bytes: budget_bytes,
            poison: false,
            guards: false,
            copies_ahead: true,
        };
        let manager = Arc::new(MemoryManager::new(Arc::new(Cpu::new()), limits));
        let hold = |value| manager.hold_on_host(vec![value; BYTES as usize], BYTES);
        let held = [0, 1, 2].map(hold).into();
        manager.expect(&[0, 1, 2]);
        (manager, held)
    }

    /// Brings a block, checks what it holds and tells how many copies were started.
    fn bring(manager: &Arc<MemoryManager>, held: &HostBlock) -> (Block, usize) {
        let Brought { block, copies } = manager.bring(held).unwrap();
        let mut data = vec![0xff; BYTES as usize];
        manager.backend.read(block.buffer(), 0, &mut data).unwrap();
        assert_eq!(data, held.data());
        (block, copies.len())
    }

    #[test]
    fn the_next_block_is_copied_while_one_is_used() {
        let (manager, held) = three(1 << 20);
        for _ in 0..3 {
            let copies = held.iter().map(|held| bring(&manager, held).1);
            assert_eq!(copies.collect::<Vec<_>>(), [2, 1, 0]);
        }
        let stats = manager.stats();
        assert_eq!(stats.peak_held_bytes, 2 * BYTES, "two slots");
        assert_eq!(stats.copied_bytes, 9 * BYTES);
        assert_eq!(stats.live_bytes, 0);
    }

    #[test]
    fn another_order_than_expected_costs_a_copy_and_nothing_else() {
        let (manager, held) = three(1 << 20);
        for index in [0, 2, 1, 0, 0, 1, 2] {
            bring(&manager, &held[index]);
        }
        // 0 (1 in vain), 2, 1 (2 in vain), 0 (1 in vain), 0, 1, 2.
        assert_eq!(manager.stats().copied_bytes, 10 * BYTES);
        assert_eq!(manager.stats().live_bytes, 0);
    }

    #[test]
    fn without_room_for_a_second_slot_one_does() {
        let (manager, held) = three(BYTES + BYTES / 2);
        for held in held.iter().chain(&held) {
            assert_eq!(bring(&manager, held).1, 1);
        }
        assert_eq!(manager.stats().peak_held_bytes, BYTES);
    }

    #[test]
    fn a_second_slot_makes_way_for_what_is_needed_now() {
        let (manager, held) = three(2 * BYTES);
        let (block, copies) = bring(&manager, &held[0]);
        assert_eq!(copies, 2);
        let scratch = manager.allocate(BYTES, Lifetime::Transient).unwrap();
        assert_eq!(manager.stats().peak_held_bytes, 2 * BYTES);
        drop((block, scratch));
        assert_eq!(bring(&manager, &held[1]).1, 2);
        let stats = manager.stats();
        assert_eq!(stats.copied_bytes, 4 * BYTES, "1 twice, and 2");
        assert_eq!(bring(&manager, &held[0]).1, 1, "not again at the same place");
        manager.trim();
        assert_eq!(bring(&manager, &held[0]).1, 2, "unless all unused memory was given back");
    }

    #[test]
    fn what_is_in_a_file_is_on_the_host_only_while_it_is_copied() {
        let (manager, held) = three(1 << 20);
        drop(held);
        let leave =
            |value| manager.leave_in_file(Arc::new(move || Ok(vec![value; BYTES as usize])), BYTES);
        let left = [0, 1, 2].map(leave);
        manager.expect(&[3, 4, 5]);
        manager.reset_peaks();
        for (value, left) in left.iter().enumerate() {
            let block = manager.bring(left).unwrap().block;
            let mut data = vec![0xff; BYTES as usize];
            manager.backend.read(block.buffer(), 0, &mut data).unwrap();
            assert_eq!(data, [value as u8; BYTES as usize]);
            // The next one is on its way.
            assert_eq!(manager.stats().host_bytes, if value < 2 { BYTES } else { 0 });
        }
        let stats = manager.stats();
        assert_eq!([stats.file_bytes, stats.peak_host_bytes], [3 * BYTES, 2 * BYTES]);
        manager.bring(&left[0]).unwrap();
        drop(left);
        let stats = manager.stats();
        assert_eq!([stats.file_bytes, stats.host_bytes, stats.live_bytes], [0; 3]);
    }

    #[test]
    fn what_cannot_be_read_from_its_file_is_an_error_and_the_next_call_works() {
        let (manager, held) = three(1 << 20);
        let fail = || Err(Error::file("weights", "is gone"));
        let left = manager.leave_in_file(Arc::new(fail), BYTES);
        manager.expect(&[2, 3]);
        for _ in 0..2 {
            assert!(manager.bring(&left).is_err());
            assert!(manager.bring(&held[2]).is_err(), "what comes next cannot be read");
            bring(&manager, &held[1]);
        }
        drop((left, held));
        assert_eq!((manager.stats().live_bytes, manager.stats().host_bytes), (0, 0));
    }

    #[test]
    fn what_was_copied_ahead_goes_with_what_it_was_copied_of() {
        let (manager, mut held) = three(1 << 20);
        drop(bring(&manager, &held[0]));
        assert_eq!(manager.stats().live_bytes, BYTES);
        drop(held.remove(1));
        assert_eq!(manager.stats().live_bytes, 0);
        assert_eq!(bring(&manager, &held[0]).1, 1, "what is gone is not expected");
        drop(held);
        manager.trim();
        assert_eq!((manager.stats().held_bytes, manager.stats().host_bytes), (0, 0));
        assert_eq!(Arc::strong_count(&manager), 1);
    }
}
