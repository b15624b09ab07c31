//! Compiled programs: in memory, then on disk, then from the source.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;

use super::disk::Disk;
use crate::backend::{Backend, Program, ProgramSource};
use crate::{DType, Result};

/// Programs by what they were compiled from.
#[derive(Debug, Default)]
pub struct ProgramCache {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    disk: Option<Disk>,
    built: AtomicU64,
    loaded: AtomicU64,
}

/// Where the programs of a device came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramStats {
    /// Compiled from source.
    pub built: u64,
    /// Loaded from disk.
    pub loaded: u64,
}

/// Locked while its program is compiled, so that no program is compiled twice and none waits for
/// another.
type Slot = Mutex<Option<Arc<Program>>>;

/// A [`ProgramSource`] with the source's address for its text, which would take long to compare
/// at every launch. The same text at two addresses is two programs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kernel: &'static str,
    dtype: DType,
    parameters: Vec<(&'static str, u32)>,
    source: (usize, usize),
}

impl ProgramCache {
    /// A cache that also keeps its programs as files in `folder`, which need not exist.
    pub fn on_disk(folder: PathBuf) -> Self {
        Self { disk: Some(Disk::new(folder)), ..Self::default() }
    }

    /// The program of `source`, compiled at most once.
    ///
    /// # Errors
    ///
    /// As [`Backend::build`]. What goes wrong with a file is no error: the source is compiled.
    pub fn get(&self, backend: &dyn Backend, source: ProgramSource) -> Result<Arc<Program>> {
        let key = Key {
            kernel: source.kernel,
            dtype: source.dtype,
            parameters: source.parameters.clone(),
            source: (source.source.as_ptr() as usize, source.source.len()),
        };
        let slot = Arc::clone(lock(&self.slots).entry(key).or_default());
        let mut slot = lock(&slot);
        if let Some(program) = &*slot {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(self.load_or_build(backend, &source)?);
        *slot = Some(Arc::clone(&program));
        Ok(program)
    }

    /// Has the programs of `sources` ready, several threads at it. `progress` is told how many are,
    /// by one thread at a time and in ascending order.
    ///
    /// # Errors
    ///
    /// As [`ProgramCache::get`], of the first that fails; the rest are left.
    pub fn prepare(
        &self,
        backend: &dyn Backend,
        sources: &[ProgramSource],
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new((0, progress));
        let work = || -> Result<()> {
            while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = self.get(backend, source.clone()) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                let (ready, progress) = &mut *lock(&done);
                *ready += 1;
                progress(*ready);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads.min(sources.len())).map(|_| scope.spawn(work)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<_>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            // All are waited for, whichever fails.
            let results: Vec<Result<()>> = workers.into_iter().map(join).collect();
            results.into_iter().collect()
        })
    }

    /// How many programs were compiled, and how many loaded.
    pub fn stats(&self) -> ProgramStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgramStats { built: count(&self.built), loaded: count(&self.loaded) }
    }

    fn load_or_build(&self, backend: &dyn Backend, source: &ProgramSource) -> Result<Program> {
        let file = self.disk.as_ref().filter(|_| backend.executes());
        let file = file.map(|disk| disk.entry(backend, source));
        if let Some(binary) = file.as_ref().and_then(|file| file.read()) {
            match backend.load(source, &binary) {
                Ok(program) => {
                    self.loaded.fetch_add(1, Ordering::Relaxed);
                    return Ok(program);
                }
                // A driver may be updated without changing its version.
                Err(error) => tracing::debug!("{} is built again: {error}", source.kernel),
            }
        }
        let program = backend.build(source)?;
        self.built.fetch_add(1, Ordering::Relaxed);
        if let Some(file) = file
            && let Some(binary) = backend.binary(&program)
        {
            file.write(&binary);
        }
        Ok(program)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
