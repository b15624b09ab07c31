//! How long launches and transfers take on a device: measured once each, then remembered.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Device, DeviceOptions};
use crate::backend::record::{RecordedLaunch, RecordedValue};
use crate::backend::{Argument, CopyRegion, Launch, Value};
use crate::memory::{self, Block, Lifetime};
use crate::tune::Autotune;
use crate::{Error, Result};

mod file;

pub(super) use file::Timings;

/// What moving bytes takes on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferRates {
    /// From the host to the device.
    pub write: TransferRate,
    /// From the device to the host.
    pub read: TransferRate,
    /// On the device.
    pub copy: TransferRate,
    /// Beyond the write itself, the first write to fresh memory: systems hand it out page by page.
    pub allocate: TransferRate,
    /// The same of the host's memory, beyond the read to there.
    pub host_allocate: TransferRate,
}

/// What so many bytes take: transfers of three sizes, and lines between and beyond them. One line
/// would not do where large transfers are made in another way than small ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferRate {
    /// The bytes of a transfer and its seconds, the smallest first.
    points: [(u64, f64); 3],
}

impl TransferRate {
    /// Transfers that each take `latency_seconds`, and move `gb_s` 10^9 bytes a second.
    pub fn new(latency_seconds: f64, gb_s: f64) -> Self {
        Self::through(TRANSFERS.map(|bytes| (bytes, latency_seconds + bytes as f64 / (gb_s * 1e9))))
    }

    /// The seconds of `count` transfers of `bytes` in all.
    pub fn seconds(&self, count: u64, bytes: u64) -> f64 {
        let [small, middle, large] = self.points;
        let each = bytes as f64 / count.max(1) as f64;
        let [(begin, short), (end, long)] =
            if each < middle.0 as f64 { [small, middle] } else { [middle, large] };
        let slope = (long - short) / (end - begin) as f64;
        count as f64 * (short + slope * (each - begin as f64)).max(0.0)
    }

    /// The seconds of `bytes` of a large transfer.
    pub fn seconds_of_a_part(&self, bytes: u64) -> f64 {
        let [.., (large, seconds)] = self.points;
        seconds * bytes as f64 / large as f64
    }

    /// From the times of three transfers. Of times that make no sense, such as those of an idle
    /// driver, the large one's holds: a smaller one takes no longer, and some of it.
    fn through(mut points: [(u64, f64); 3]) -> Self {
        points[2].1 = points[2].1.max(1e-9);
        for index in [1, 0] {
            let (bytes, seconds) = points[index + 1];
            let share = points[index].0 as f64 / bytes as f64;
            points[index].1 = points[index].1.clamp(1e-4 * share * seconds, seconds);
        }
        Self { points }
    }
}

/// A launch is repeated for so long, in rounds, and for a few rounds at least.
const TIME: Duration = Duration::from_millis(30);
const MOST_ROUNDS: usize = 9;
const LEAST_ROUNDS: usize = 3;
/// Launches shorter than this are measured once more when all have been: what disturbs the machine
/// for a moment is over then.
const SHORT_SECONDS: f64 = 0.05;
/// How long a round is at least, and of how many launches at most: what a queue costs for each is
/// part of its time.
const ROUND: Duration = Duration::from_millis(4);
const MOST_LAUNCHES: u32 = 64;
/// What kernels call the weights. A model uses each once and then so many others that it has left the
/// caches when it is used again; so launches in a row each have their own, as many as that takes.
const WEIGHTS: &str = "weights";
const MOST_WEIGHTS: u64 = 32;
const CACHED_BYTES: u64 = 64 << 20;
/// The transfers from which rates follow.
const TRANSFERS: [u64; 3] = [64 << 10, 512 << 10, 16 << 20];
/// Of so much at once no allocator keeps what was given back: its memory is fresh. Where there is no
/// room for it, the large transfer has to do.
const FRESH_BYTES: u64 = 40 << 20;
const TRANSFER_RUNS: usize = 7;
const TRANSFER_ROUNDS: usize = 3;
/// Small transfers are measured some at a time, which take about so many bytes.
const TRANSFER_BYTES: u64 = 2 << 20;

impl Device {
    /// What is known of the seconds of each of `launches` here: `None` for what was never measured.
    pub fn known_seconds(&self, launches: &[RecordedLaunch]) -> Vec<Option<f64>> {
        launches.iter().map(|launch| self.inner.timings.get(&self.key_of(launch))).collect()
    }

    /// The seconds of each of `launches` here. What is not known is measured, on memory that is
    /// filled with drawn values and given back afterwards, and remembered, in the cache folder as
    /// well if the device has one. `progress` is told how many were measured, of how many, and ends
    /// it by an error.
    ///
    /// `None` is the time of a launch for whose buffers the budget has no room now.
    ///
    /// # Errors
    ///
    /// Those of `progress`; [`Error::Build`], [`Error::Device`]. A file that cannot be read or
    /// written is no error but one of [`Device::notes`].
    pub fn measure_seconds(
        &self,
        launches: &[RecordedLaunch],
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Option<f64>>> {
        let timings = &self.inner.timings;
        let mut unknown: BTreeMap<String, &RecordedLaunch> = BTreeMap::new();
        for launch in launches {
            unknown.entry(self.key_of(launch)).or_insert(launch);
        }
        unknown.retain(|key, _| timings.get(key).is_none());
        if unknown.is_empty() || !self.executes() {
            return Ok(self.known_seconds(launches));
        }
        let bench = self.beside()?;
        let mut measure = || {
            for (done, (key, launch)) in unknown.iter().enumerate() {
                progress(done, unknown.len())?;
                bench.measure_kept(key, launch, timings)?;
            }
            for (key, launch) in &unknown {
                // Still to be stopped.
                progress(unknown.len(), unknown.len())?;
                if timings.get(key).is_some_and(|seconds| seconds < SHORT_SECONDS) {
                    bench.measure_kept(key, launch, timings)?;
                }
            }
            Ok(())
        };
        let measured = measure();
        // What was measured before it was ended holds.
        timings.keep();
        measured.map(|()| self.known_seconds(launches))
    }

    /// What transfers take here, measured where it is not known. Of large ones for which there is no
    /// room now it follows from small ones.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there is no room for 1 MiB, [`Error::Argument`] if the host has none
    /// for 64 MiB, [`Error::Device`].
    pub fn transfer_rates(&self) -> Result<TransferRates> {
        let timings = &self.inner.timings;
        let is_unknown = |kinds: &[&str], bytes| {
            kinds.iter().any(|kind| timings.get(&transfer_key(kind, bytes)).is_none())
        };
        let kinds = [WRITE, READ, COPY, FRESH_READ, KNOWN_WRITE, FRESH_WRITE];
        let unknown: Vec<u64> =
            TRANSFERS.into_iter().filter(|bytes| is_unknown(&kinds, *bytes)).collect();
        let fresh = is_unknown(&[KNOWN_WRITE, FRESH_WRITE], FRESH_BYTES).then_some(FRESH_BYTES);
        if unknown.is_empty() && fresh.is_none() {
            return Ok(self.known_rates().expect("all transfers were measured"));
        }
        let bench = self.beside()?;
        let mut host = HostPieces::default();
        let mut measure = || {
            for &bytes in &unknown {
                bench.measure_transfers(bytes, &mut host, timings)?;
                bench.measure_fresh(bytes, timings)?;
            }
            fresh.map_or(Ok(()), |bytes| bench.measure_fresh(bytes, timings))
        };
        // In turn, as what disturbs the machine for a moment is over when it comes round again.
        for _ in 0..TRANSFER_ROUNDS {
            match measure() {
                Err(Error::OutOfMemory { .. }) if self.known_rates().is_some() => {}
                measured => measured?,
            }
        }
        timings.keep();
        Ok(self.known_rates().expect("transfers were measured"))
    }

    /// What is known of [`Device::transfer_rates`].
    pub fn known_rates(&self) -> Option<TransferRates> {
        let [small, middle, large] = TRANSFERS;
        let seconds = |kind, bytes| self.inner.timings.get(&transfer_key(kind, bytes));
        let rate = |seconds: &dyn Fn(u64) -> Option<f64>, large| {
            let [short, medium] = [seconds(small)?, seconds(middle)?];
            let long = seconds(large).unwrap_or(medium * (large as f64 / middle as f64));
            Some(TransferRate::through([(small, short), (middle, medium), (large, long)]))
        };
        let of = |kind| rate(&|bytes| seconds(kind, bytes), large);
        // What is longer of one than of the other.
        let longer = |kind, other, large| {
            rate(&|bytes| Some(seconds(kind, bytes)? - seconds(other, bytes)?), large)
        };
        let most = seconds(FRESH_WRITE, FRESH_BYTES).map_or(large, |_| FRESH_BYTES);
        Some(TransferRates {
            write: of(WRITE)?,
            read: of(READ)?,
            copy: of(COPY)?,
            allocate: longer(FRESH_WRITE, KNOWN_WRITE, most)?,
            host_allocate: longer(FRESH_READ, READ, large)?,
        })
    }

    /// What is known of `key`, or else the seconds that `measure` finds, which are remembered.
    ///
    /// # Errors
    ///
    /// Those of `measure`.
    pub(crate) fn remembered(
        &self,
        key: &str,
        measure: impl FnOnce() -> Result<f64>,
    ) -> Result<f64> {
        if let Some(known) = self.known(key) {
            return Ok(known);
        }
        let seconds = measure()?;
        self.inner.timings.put(key.to_owned(), seconds);
        self.inner.timings.keep();
        Ok(seconds)
    }

    /// What [`Device::remembered`] remembers.
    pub(crate) fn known(&self, key: &str) -> Option<f64> {
        self.inner.timings.get(key)
    }

    /// Where the device keeps what it finds between runs, if anywhere.
    pub fn cache_dir(&self) -> Option<&Path> {
        self.inner.timings.folder()
    }

    /// The same hardware with memory and a profile of its own, so that measuring leaves no trace in
    /// those of this one, within what its budget has left.
    pub(crate) fn beside(&self) -> Result<Self> {
        self.memory().trim();
        let stats = self.memory_stats();
        let used = stats.held_bytes.saturating_add(stats.registered_bytes());
        let bench = self.sharing_programs(&DeviceOptions {
            budget_bytes: Some(stats.budget_bytes.saturating_sub(used)),
            max_allocation_bytes: Some(self.memory().max_allocation_bytes()),
            autotune: Autotune::Off,
            ..DeviceOptions::default()
        });
        // Not under what this device was given to do.
        self.finish()?;
        Ok(bench)
    }

    fn key_of(&self, launch: &RecordedLaunch) -> String {
        key(launch, self.backend().launch_limit())
    }

    /// Measures a launch, if there is room, and keeps the time unless a shorter one is known.
    fn measure_kept(&self, key: &str, launch: &RecordedLaunch, timings: &Timings) -> Result<()> {
        match self.measure(launch) {
            Ok(seconds) => {
                timings.put_least(key.to_owned(), seconds);
                Ok(())
            }
            Err(Error::OutOfMemory { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The median of some rounds, each the mean of launches in a row.
    fn measure(&self, recorded: &RecordedLaunch) -> Result<f64> {
        let backend = self.backend();
        let program = self.inner.programs.get(backend, recorded.program.clone())?;
        let blocks = self.buffers(recorded)?;
        let others = self.other_weights(recorded)?;
        let in_turn: Vec<Vec<Argument>> = std::iter::once(None)
            .chain(others.iter().map(Some))
            .map(|weights| arguments(recorded, &blocks, weights))
            .collect();
        let mut in_turn = in_turn.iter().cycle();
        let (groups, local) = (recorded.groups, recorded.local);
        let mut run = |count: u32| {
            let start = Instant::now();
            for arguments in in_turn.by_ref().take(count as usize) {
                drop(backend.launch(&program, &Launch { arguments, groups, local })?);
            }
            backend.finish()?;
            Ok::<_, Error>(start.elapsed() / count)
        };
        // Drivers put work off until a program's first launch.
        run(1)?;
        let once = run(1)?;
        let fitting = ROUND.as_nanos() / once.as_nanos().max(1);
        let count = (fitting as u32).clamp(1, MOST_LAUNCHES);
        let mut rounds = Vec::new();
        let begin = Instant::now();
        while rounds.len() < LEAST_ROUNDS || rounds.len() < MOST_ROUNDS && begin.elapsed() < TIME {
            rounds.push(run(count)?);
        }
        rounds.sort_unstable();
        Ok(rounds[rounds.len() / 2].as_secs_f64())
    }

    /// A block for each argument that is a buffer, filled with what a kernel can compute with.
    fn buffers(&self, recorded: &RecordedLaunch) -> Result<Vec<Option<Block>>> {
        let block = |(name, value): &(&str, RecordedValue)| {
            let (RecordedValue::Input(bytes) | RecordedValue::Output(bytes)) = *value else {
                return Ok(None);
            };
            // Numbers of rows and the like: the first is always there.
            let is_index = recorded.program.source.contains(&format!("uint *{name}"));
            self.filled(bytes, if is_index { zeros } else { drawn }).map(Some)
        };
        recorded.arguments.iter().map(block).collect()
    }

    /// Weights that take the place of a launch's own, as many as there is room for; none if it has no
    /// weights.
    fn other_weights(&self, recorded: &RecordedLaunch) -> Result<Vec<Block>> {
        let is_weights = |(name, value): &(&str, RecordedValue)| match *value {
            RecordedValue::Input(bytes) if *name == WEIGHTS => Some(bytes),
            _ => None,
        };
        let Some(bytes) = recorded.arguments.iter().find_map(is_weights) else {
            return Ok(Vec::new());
        };
        let count = CACHED_BYTES.div_ceil(bytes.max(1)).min(MOST_WEIGHTS);
        let mut others = Vec::new();
        for _ in 1..count {
            match self.filled(bytes, drawn) {
                Ok(block) => others.push(block),
                Err(Error::OutOfMemory { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(others)
    }

    fn filled(&self, bytes: u64, piece: fn(usize) -> Vec<u8>) -> Result<Block> {
        let block = self.memory().allocate(bytes, Lifetime::Resident)?;
        self.fill(&block, piece)?;
        Ok(block)
    }

    fn fill(&self, block: &Block, piece: fn(usize) -> Vec<u8>) -> Result<()> {
        const PIECE: usize = 1 << 20;
        let all = block.buffer().bytes();
        let piece = piece(PIECE.min(all as usize));
        let mut offset = 0;
        while offset < all {
            let length = (all - offset).min(piece.len() as u64) as usize;
            self.backend().write(block.buffer(), offset, &piece[..length])?;
            offset += length as u64;
        }
        Ok(())
    }

    fn measure_transfers(
        &self,
        bytes: u64,
        host: &mut HostPieces,
        timings: &Timings,
    ) -> Result<()> {
        let backend = self.backend();
        let count = (TRANSFER_BYTES / bytes).max(1);
        let all = || 0..count;
        let allocate = || self.memory().allocate(bytes, Lifetime::Resident);
        let [first, second] = [allocate()?, allocate()?];
        let (source, target) = (first.buffer(), second.buffer());
        backend.write(target, 0, host.next(bytes)?)?;
        let write = self
            .usual(&mut || all().try_for_each(|_| backend.write(source, 0, host.next(bytes)?)))?;
        let copy = self.usual(&mut || {
            all().try_for_each(|_| {
                backend.copy(&CopyRegion {
                    source,
                    source_offset: 0,
                    target,
                    target_offset: 0,
                    bytes,
                    rows: 1,
                    source_pitch: 0,
                    target_pitch: 0,
                })
            })
        })?;
        let read =
            self.usual(&mut || all().try_for_each(|_| backend.read(source, 0, host.next(bytes)?)))?;
        let fresh = self.usual(&mut || {
            all().try_for_each(|_| backend.read(source, 0, &mut memory::zeros(bytes as usize)?))
        })?;
        let times = [(WRITE, write), (COPY, copy), (READ, read), (FRESH_READ, fresh)];
        for (kind, seconds) in times {
            timings.put_least(transfer_key(kind, bytes), seconds / count as f64);
        }
        Ok(())
    }

    /// What a write takes longer into memory that nobody had before.
    fn measure_fresh(&self, bytes: u64, timings: &Timings) -> Result<()> {
        let allocate = || self.memory().allocate(bytes, Lifetime::Resident);
        let block = allocate()?;
        let known = self.usual(&mut || self.fill(&block, zeros))?;
        drop(block);
        let fresh = self.usual(&mut || self.fill(&allocate()?, zeros))?;
        timings.put_least(transfer_key(KNOWN_WRITE, bytes), known);
        timings.put_least(transfer_key(FRESH_WRITE, bytes), fresh);
        Ok(())
    }

    /// The median of some runs.
    fn usual(&self, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let mut runs = Vec::new();
        for _ in 0..TRANSFER_RUNS {
            let start = Instant::now();
            run()?;
            self.finish()?;
            runs.push(start.elapsed().as_secs_f64());
        }
        runs.sort_by(f64::total_cmp);
        Ok(runs[TRANSFER_RUNS / 2])
    }
}

/// What transfers are measured with on the host: other bytes each time, as what a model moves has left
/// the caches since it was there last.
#[derive(Default)]
struct HostPieces {
    /// Nothing before the first is asked for: what the device has no room for needs none.
    all: Vec<u8>,
    next: usize,
}

impl HostPieces {
    fn next(&mut self, bytes: u64) -> Result<&mut [u8]> {
        if self.all.is_empty() {
            self.all = memory::zeros(CACHED_BYTES as usize)?;
            let piece = drawn(1 << 20);
            self.all.chunks_exact_mut(piece.len()).for_each(|chunk| chunk.copy_from_slice(&piece));
        }
        let bytes = bytes as usize;
        let start = if self.next + bytes > self.all.len() { 0 } else { self.next };
        self.next = start + bytes;
        Ok(&mut self.all[start..self.next])
    }
}

/// By what a launch is known: everything but the bytes of its buffers, which follow from its
/// integers, and numbers of type `float`. One that may be cut takes another time.
fn key(launch: &RecordedLaunch, limit: Option<Duration>) -> String {
    let program = &launch.program;
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(program.source);
    add(program.dtype.name());
    add(&format!("{:?} {:?} {:?}", program.parameters, launch.groups, launch.local));
    for (name, value) in &launch.arguments {
        add(name);
        add(&match value {
            RecordedValue::Input(_) | RecordedValue::Output(_) => "buffer".to_owned(),
            RecordedValue::Absent => "absent".to_owned(),
            RecordedValue::U32(value) => value.to_string(),
            RecordedValue::I32(value) => value.to_string(),
            RecordedValue::F32(_) => "number".to_owned(),
        });
    }
    if let Some(limit) = limit {
        add(&format!("within {} ns", limit.as_nanos()));
    }
    let digits: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {digits}", program.kernel)
}

/// What is measured of transfers.
const WRITE: &str = "write";
const READ: &str = "read";
const COPY: &str = "copy";
const FRESH_READ: &str = "read to fresh memory";
const KNOWN_WRITE: &str = "write of zeros";
const FRESH_WRITE: &str = "write of zeros to fresh memory";

fn transfer_key(kind: &str, bytes: u64) -> String {
    format!("{kind} of {bytes} B")
}

/// A launch's arguments, with other weights than its own if there are any.
fn arguments<'a>(
    recorded: &RecordedLaunch,
    blocks: &'a [Option<Block>],
    weights: Option<&'a Block>,
) -> Vec<Argument<'a>> {
    let argument =
        |(&(name, value), block): (&(&'static str, RecordedValue), &'a Option<Block>)| {
            let own = || block.as_ref().expect("every buffer has its block").buffer();
            let input = || match weights {
                Some(weights) if name == WEIGHTS => weights.buffer(),
                _ => own(),
            };
            let value = match value {
                RecordedValue::Input(_) => Value::Input(input()),
                RecordedValue::Output(_) => Value::Output(own()),
                RecordedValue::Absent => Value::Absent,
                RecordedValue::U32(value) => Value::U32(value),
                RecordedValue::I32(value) => Value::I32(value),
                RecordedValue::F32(value) => Value::F32(value),
            };
            Argument { name, value }
        };
    recorded.arguments.iter().zip(blocks).map(argument).collect()
}

fn zeros(bytes: usize) -> Vec<u8> {
    vec![0; bytes]
}

/// Numbers of both signs, from 2^-2 to 1 as f16. As f32 each pair is a number from 2^-23 to 2^-7: of
/// neither type do they, or products of a few, have the exponents that processors are slow with.
fn drawn(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 40) as u16;
        // Two binades, all mantissas, and a sign.
        0x3400 | (bits & 0x07ff) | (bits & 0x8000)
    };
    (0..bytes.div_ceil(2)).flat_map(|_| next().to_ne_bytes()).take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_take_the_time_of_their_size() {
        let [small, middle, large] = TRANSFERS;
        let rate = TransferRate::through([(small, 1e-5), (middle, 8e-5), (large, 1e-3)]);
        let seconds = [0, small, middle, large].map(|bytes| rate.seconds(1, bytes));
        approx::assert_relative_eq!(seconds[..], [0.0, 1e-5, 8e-5, 1e-3], epsilon = 1e-12);
        // The mean size counts, and beyond the largest the line goes on.
        approx::assert_relative_eq!(rate.seconds(4, 4 * middle), 32e-5, max_relative = 1e-9);
        let beyond = 1e-3 + (1e-3 - 8e-5) * large as f64 / (large - middle) as f64;
        approx::assert_relative_eq!(rate.seconds(1, 2 * large), beyond, max_relative = 1e-9);
        approx::assert_relative_eq!(rate.seconds_of_a_part(large / 8), 1e-3 / 8.0);
        assert_eq!(rate.seconds(0, 0), 0.0);
    }

    #[test]
    fn what_a_file_leaves_out_is_measured() {
        let device = Device::cpu();
        for bytes in TRANSFERS {
            device.inner.timings.put(transfer_key(READ, bytes), 1e-3);
        }
        device.inner.timings.put(transfer_key(FRESH_WRITE, FRESH_BYTES), 1e-3);
        let rates = device.transfer_rates().unwrap();
        assert_eq!(device.known_rates(), Some(rates));
    }

    #[test]
    fn times_that_make_no_sense_leave_some() {
        // A small transfer that took longer than a large one, and one that took no time.
        let rate = TransferRate::through(TRANSFERS.map(|bytes| (bytes, 0.0)));
        assert!(rate.seconds(1, TRANSFERS[2]) > 0.0);
        let [small, middle, large] = TRANSFERS;
        let rate = TransferRate::through([(small, 5e-3), (middle, -1e-3), (large, 1e-3)]);
        let seconds = TRANSFERS.map(|bytes| rate.seconds(1, bytes));
        assert!(seconds.is_sorted() && seconds[0] > 0.0, "{seconds:?}");
    }
}
