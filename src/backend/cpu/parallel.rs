//! Work that is shared out among threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Chunks of parts for each thread: enough that the last ones end together.
const CHUNKS: usize = 32;

/// Does every part, each once.
///
/// The calling thread begins at once and takes parts as the pool's threads do. To hand all of them
/// to the pool and sleep would cost two wake-ups in a row before every thread works and another at
/// the end, of tens of microseconds each: much beside a small kernel. Parts are taken in their
/// order, so that what neighbours share is in a cache, and by whoever is free.
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
    let work = || {
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
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
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
}
