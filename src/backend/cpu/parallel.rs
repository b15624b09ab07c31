//! Work that is shared out among threads.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::{hint, mem};

/// Chunks of parts for each thread: enough that the last ones end together.
const CHUNKS: usize = 32;

/// Does every part, each once.
///
/// The calling thread begins at once and takes parts as the pool's threads do. Parts are taken in
/// their order, so that what neighbours share is in a cache, and by whoever is free.
pub fn for_each(parts: usize, part: impl Fn(usize) + Sync) {
    for_each_init(parts, || (), |(), index| part(index));
}

/// As [`for_each`], with what `new` makes for each thread.
pub fn for_each_init<S>(
    parts: usize,
    new: impl Fn() -> S + Sync,
    part: impl Fn(&mut S, usize) + Sync,
) {
    let threads = rayon::current_num_threads().min(parts);
    let chunk = parts.div_ceil(CHUNKS * threads.max(1)).max(1);
    let next = AtomicUsize::new(0);
    with_help(threads.saturating_sub(1), &|| {
        let mut state = new();
        loop {
            let first = next.fetch_add(chunk, Ordering::Relaxed);
            if first >= parts {
                return;
            }
            for index in first..parts.min(first + chunk) {
                part(&mut state, index);
            }
        }
    });
}

/// Has `part` write every `length` values, and what is left at the end: it is told the number of the
/// piece.
pub fn for_each_piece<T: Send>(
    values: &mut [T],
    length: usize,
    part: impl Fn(usize, &mut [T]) + Sync,
) {
    for_each_piece_init(values, length, || (), |(), index, piece| part(index, piece));
}

/// As [`for_each_piece`], with what `new` makes for each thread.
pub fn for_each_piece_init<T: Send, S>(
    values: &mut [T],
    length: usize,
    new: impl Fn() -> S + Sync,
    part: impl Fn(&mut S, usize, &mut [T]) + Sync,
) {
    let pieces: Vec<Mutex<&mut [T]>> = values.chunks_mut(length).map(Mutex::new).collect();
    for_each_init(pieces.len(), new, |state, index| {
        let mut piece = pieces[index].lock().expect("every piece is taken once");
        part(state, index, &mut piece);
    });
}

/// Has `work` done by this thread, and by as many of the pool's as come before it is through.
///
/// A thread that has to be woken comes tens of microseconds later. A scope of the pool would wait for
/// each of them, though the work were done: several times what a small kernel takes.
fn with_help(helpers: usize, work: &(dyn Fn() + Sync)) {
    if helpers == 0 {
        return work();
    }
    let help = Arc::new(Help::with(work));
    {
        // Before `work` goes out of sight, also by a panic.
        let _closing = Closing(&help);
        for _ in 0..helpers {
            let help = Arc::clone(&help);
            rayon::spawn(move || help.give());
        }
        work();
    }
    let panic = help.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(panic) = panic {
        panic::resume_unwind(panic);
    }
}

/// What threads help with as long as it is open.
struct Help {
    /// There as long as it is open, or somebody is helping.
    work: *const (dyn Fn() + Sync),
    /// How many are helping, and [`CLOSED`] once nobody may begin to.
    state: AtomicUsize,
    caller: Thread,
    /// What a helper has panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

const CLOSED: usize = 1 << (usize::BITS - 1);
/// How often the caller looks whether all have left before it sleeps: some ten microseconds.
const LOOKS: u32 = 2000;

// SAFETY: what `work` points to is `Sync`; all else is `Send` and `Sync` by itself.
unsafe impl Send for Help {}
// SAFETY: as above.
unsafe impl Sync for Help {}

impl Help {
    /// Open. It is to be closed, by [`Closing`], before `work` is no more.
    fn with(work: &(dyn Fn() + Sync)) -> Self {
        // SAFETY: the same pointer; that it may outlive what it points to is what `state` is for.
        let work: *const (dyn Fn() + Sync + 'static) = unsafe { mem::transmute(work) };
        let (state, panic) = (AtomicUsize::new(0), Mutex::default());
        Self { work, state, caller: thread::current(), panic }
    }

    fn give(&self) {
        let enter = |state| (state & CLOSED == 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return;
        }
        // SAFETY: it was open, so `work` is there until this has left.
        let work = unsafe { &*self.work };
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(work)) {
            let mut kept = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert(panic);
        }
        if self.state.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }
}

/// Closes what is helped with, and waits until all have left, when it is dropped.
struct Closing<'a>(&'a Help);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(help) = self;
        help.state.fetch_or(CLOSED, Ordering::Relaxed);
        let mut looks = 0;
        while help.state.load(Ordering::Acquire) != CLOSED {
            if looks < LOOKS {
                hint::spin_loop();
                looks += 1;
            } else {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for parts in [0usize, 1, 2, 63, 64, 65, 10_000] {
            let done: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            let seen = AtomicUsize::new(0);
            for_each_init(parts, Vec::new, |mine: &mut Vec<usize>, index| {
                assert!(!mine.contains(&index));
                mine.push(index);
                seen.fetch_add(1, Ordering::Relaxed);
                done[index].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(seen.into_inner(), parts);
            assert!(done.into_iter().all(|count| count.into_inner() == 1), "of {parts}");
        }
    }

    #[test]
    fn every_piece_is_written() {
        let mut values = vec![0; 1003];
        for_each_piece(&mut values, 10, |index, piece| piece.fill(index));
        assert!(values.iter().enumerate().all(|(at, value)| *value == at / 10));
        for_each_piece(&mut values[..0], 10, |_, _| panic!("there is none"));
    }

    #[test]
    fn a_panic_of_any_thread_is_the_callers() {
        let me = thread::current().id();
        for mine in [true, false] {
            let helped = AtomicUsize::new(0);
            let work = || {
                let is_me = thread::current().id() == me;
                helped.fetch_add(usize::from(!is_me), Ordering::Relaxed);
                // The caller is not through before somebody has come.
                while helped.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
                assert!(is_me != mine, "a part failed");
            };
            let caught = panic::catch_unwind(AssertUnwindSafe(|| with_help(3, &work)));
            let panic = caught.unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"a part failed"));
        }
        for_each(8, |_| ());
    }

    #[test]
    fn who_comes_late_does_nothing() {
        let count = AtomicUsize::new(0);
        let work = || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let help = Help::with(&work);
        drop(Closing(&help));
        help.give();
        assert_eq!(count.into_inner(), 0);
    }
}
