//! Grids that are cut, so that no launch takes longer than a limit.
//!
//! A part is a box of a grid's work-groups that is launched with a global offset. How large it may be
//! follows from how long the work-groups of the same problem took before: the first part of an unknown
//! one is the least that keeps the device busy, and is waited for; so are those that are much larger
//! than any before, until half the limit is reached. From then on nothing is waited for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Launch, LaunchLimit, ProgramSource, Timer, Value};
use crate::Result;

/// Before the source of a program whose launches may be cut. A global offset moves the ids of
/// work-items, but not those of work-groups, which kernels place themselves by. What is added is the
/// same for a whole work-group, as compilers know: no loop or branch becomes one of each work-item.
pub const GROUPS_FROM_OFFSET: &str = "\
#define get_group_id(axis) (get_group_id(axis) + get_global_offset(axis) / get_local_size(axis))
#line 1
";

/// Whether a kernel does not mind being launched in parts: one that shares its work out by the number
/// of work-groups would see the part's. Such kernels are for CPU devices, which draw no screen.
pub fn can_be_cut(source: &ProgramSource) -> bool {
    !["get_num_groups", "get_global_size"].iter().any(|word| source.source.contains(word))
}

/// A part is made for so much of the limit: what is measured differs from time to time.
const FILLED: f64 = 0.5;
/// By so much a part is larger than the largest that was measured.
const GROWTH: usize = 8;
/// A part that is larger than what was measured by more than this is measured too.
const FAMILIAR: usize = 2;
/// Drivers put work off until a program's first launch, so its time alone says little.
const MEASURED_AT_LEAST: u32 = 2;

/// What a driver has been given to run: a part of a launch, or a transfer.
pub trait Timed {
    /// Whether it is complete or has failed.
    fn is_over(&self) -> bool;

    /// As [`Timer::elapsed`].
    fn elapsed(&self) -> Option<Duration>;

    /// As [`Timer::span`].
    fn span(&self) -> Option<Range<Duration>>;
}

/// The parts of a launch in their order, or one transfer.
pub struct Times<P>(pub Vec<P>);

impl<P: Timed> Times<P> {
    fn each(&self) -> impl Iterator<Item = Duration> {
        // A part that the clock is too coarse for counts nothing.
        self.0.iter().filter_map(Timed::elapsed)
    }
}

impl<P: Timed + Send> Timer for Times<P> {
    fn elapsed(&self) -> Option<Duration> {
        self.each().reduce(|all, part| all + part)
    }

    fn span(&self) -> Option<Range<Duration>> {
        Some(self.0.first()?.span()?.start..self.0.last()?.span()?.end)
    }

    fn parts(&self) -> usize {
        self.0.len()
    }

    fn longest(&self) -> Option<Duration> {
        self.each().max()
    }
}

/// A kernel with its arguments, and the queue that it goes to.
pub trait Parts {
    /// A part that was queued. A clone is the same one.
    type Part: Timed + Clone;

    /// Queues the work-groups of a grid from `start` on.
    fn enqueue(&self, start: [usize; 3], groups: [usize; 3]) -> Result<Self::Part>;

    /// Has the driver begin with what is queued: with a part of several at once, so that others have
    /// their turn before the next.
    fn submit(&self, is_of_several: bool) -> Result<()>;

    /// Waits for what is queued, transfers apart.
    fn drain(&self) -> Result<()>;
}

/// What is known of how long the work-groups of a program take.
pub struct Paces<P>(Mutex<HashMap<Problem, Pace<P>>>);

impl<P> Default for Paces<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P: Timed + Clone> Paces<P> {
    /// Queues a launch in parts of which each takes no longer than the limit, as far as is known.
    pub fn launch(
        &self,
        queue: &impl Parts<Part = P>,
        launch: &Launch,
        limit: &LaunchLimit,
    ) -> Result<Vec<P>> {
        let mut paces = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let pace = paces.entry(Problem::of(launch)).or_default();
        let all: usize = launch.groups.iter().product();
        pace.look();
        let mut parts = Vec::new();
        let mut done = 0;
        while done < all {
            let most = pace.most(limit);
            let (start, groups) = next(launch.groups, done, most);
            let count: usize = groups.iter().product();
            done += count;
            let is_measured = pace.is_unsure_of(count);
            if is_measured {
                queue.drain()?;
            }
            let begin = Instant::now();
            let part = queue.enqueue(start, groups)?;
            if is_measured {
                queue.drain()?;
                let host = begin.elapsed();
                pace.learn(count, part.elapsed().unwrap_or(host));
            } else {
                queue.submit(done < all || !parts.is_empty())?;
                pace.expect(count, most, &part);
            }
            parts.push(part);
        }
        Ok(parts)
    }
}

/// Launches of a program that take the same time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Problem {
    groups: [usize; 3],
    local: [usize; 3],
    numbers: Vec<i64>,
}

impl Problem {
    /// By its grid and its integers; what is in its buffers has no part in it.
    fn of(launch: &Launch) -> Self {
        let numbers = launch.arguments.iter().filter_map(|argument| match argument.value {
            Value::U32(number) => Some(i64::from(number)),
            Value::I32(number) => Some(i64::from(number)),
            Value::Input(_) | Value::Output(_) | Value::Absent | Value::F32(_) => None,
        });
        Self { groups: launch.groups, local: launch.local, numbers: numbers.collect() }
    }
}

/// How long the work-groups of a problem take.
struct Pace<P> {
    /// The work-groups of the part that was measured last.
    groups: usize,
    /// What each of them took, in seconds: of few, which do not fill the device, more.
    seconds_each: f64,
    /// How many parts were measured.
    measured: u32,
    /// One that is running, whose time is to be looked at when it is over.
    running: Option<(usize, P)>,
}

impl<P> Default for Pace<P> {
    fn default() -> Self {
        Self { groups: 0, seconds_each: 0.0, measured: 0, running: None }
    }
}

impl<P: Timed + Clone> Pace<P> {
    /// The most work-groups that the next part may have.
    fn most(&self, limit: &LaunchLimit) -> usize {
        if self.measured == 0 {
            return limit.least_groups.max(1);
        }
        let fitting = FILLED * limit.longest.as_secs_f64() / self.seconds_each.max(1e-12);
        (fitting.round() as usize)
            .min(self.groups.saturating_mul(GROWTH))
            .max(limit.least_groups)
            .max(1)
    }

    /// Whether a part of so many work-groups is to be measured before the next one is made.
    fn is_unsure_of(&self, groups: usize) -> bool {
        self.measured < MEASURED_AT_LEAST || groups > self.groups.saturating_mul(FAMILIAR)
    }

    /// Takes in what a part of so many work-groups took.
    fn learn(&mut self, groups: usize, time: Duration) {
        let each = time.as_secs_f64() / groups as f64;
        let is_first = self.measured < MEASURED_AT_LEAST;
        self.seconds_each = if self.measured == 0 {
            each
        } else if is_first {
            each.min(self.seconds_each)
        } else if groups > self.groups.saturating_mul(FAMILIAR) || each > self.seconds_each {
            // What is slower counts at once,
            each
        } else {
            // and what is quicker by half.
            (each + self.seconds_each) / 2.0
        };
        self.groups = groups;
        self.measured = self.measured.saturating_add(1);
    }

    /// Has the time of a part that was queued looked at later, if it says something: the last one of
    /// a grid may be small, and leaves the device idle.
    fn expect(&mut self, groups: usize, most: usize, part: &P) {
        if self.running.is_none() && (groups >= self.groups || 2 * groups >= most) {
            self.running = Some((groups, part.clone()));
        }
    }

    /// Takes in the time of a part that is over by now.
    fn look(&mut self) {
        if let Some((groups, part)) = self.running.take_if(|(_, part)| part.is_over())
            && let Some(time) = part.elapsed()
        {
            self.learn(groups, time);
        }
    }
}

/// The next part of a grid of which `done` work-groups, the first axis fastest, are launched: where it
/// starts, and a box of at most `most` work-groups, whole rows and slices where they are at hand.
fn next(grid: [usize; 3], done: usize, most: usize) -> ([usize; 3], [usize; 3]) {
    let [row, rows, slices] = grid;
    let slice = row * rows;
    let start @ [x, y, z] = [done % row, done / row % rows, done / slice];
    let groups = if x == 0 && y == 0 && most >= slice {
        [row, rows, (most / slice).min(slices - z)]
    } else if x == 0 && most >= row {
        [row, (most / row).min(rows - y), 1]
    } else {
        [most.min(row - x), 1, 1]
    };
    (start, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KERNELS;

    /// Where nothing is queued.
    impl Timed for () {
        fn is_over(&self) -> bool {
            true
        }

        fn elapsed(&self) -> Option<Duration> {
            None
        }

        fn span(&self) -> Option<Range<Duration>> {
            None
        }
    }

    /// The parts of a grid, each of at most `most` work-groups.
    fn parts(grid: [usize; 3], most: usize) -> Vec<([usize; 3], [usize; 3])> {
        let (mut done, mut parts) = (0, Vec::new());
        while done < grid.iter().product() {
            let part = next(grid, done, most);
            done += part.1.iter().product::<usize>();
            parts.push(part);
        }
        parts
    }

    #[test]
    fn parts_have_every_group_of_a_grid_once_and_no_more_than_they_may() {
        for grid in [[1, 1, 1], [7, 1, 1], [1, 5, 1], [1, 1, 4], [3, 4, 5], [16, 2, 3]] {
            let all: usize = grid.iter().product();
            for most in [1, 2, 3, 4, 5, 11, 12, 13, 24, 60, 96, 1000] {
                let mut launched = vec![0; all];
                for (start, groups) in parts(grid, most) {
                    assert!(groups.iter().product::<usize>() <= most, "{grid:?} {most}");
                    for z in start[2]..start[2] + groups[2] {
                        for y in start[1]..start[1] + groups[1] {
                            for x in start[0]..start[0] + groups[0] {
                                launched[(z * grid[1] + y) * grid[0] + x] += 1;
                            }
                        }
                    }
                }
                assert!(launched.iter().all(|&count| count == 1), "{grid:?} {most}: {launched:?}");
            }
        }
    }

    #[test]
    fn parts_are_rows_and_slices_where_these_fit() {
        assert_eq!(parts([3, 4, 5], 60), [([0; 3], [3, 4, 5])]);
        assert_eq!(parts([3, 4, 5], 30).len(), 3, "two slices each");
        assert_eq!(parts([3, 4, 1], 7), [([0; 3], [3, 2, 1]), ([0, 2, 0], [3, 2, 1])]);
        assert_eq!(parts([5, 1, 2], 3).len(), 4);
    }

    /// A device on which so many work-groups run at once, each for so long.
    fn time(groups: usize, at_once: usize, each: Duration) -> Duration {
        each * groups.div_ceil(at_once) as u32
    }

    #[test]
    fn parts_grow_until_they_take_half_the_limit_and_never_pass_it() {
        let limit = LaunchLimit { longest: Duration::from_millis(20), least_groups: 36 };
        // Up to four work-groups run on a compute unit at once.
        let took = |groups| time(groups, 144, Duration::from_micros(300));
        let mut pace = Pace::<()>::default();
        let (mut measured, mut most) = (0, 0);
        for _ in 0..40 {
            most = pace.most(&limit);
            assert!(took(most) <= limit.longest, "{most}");
            if pace.is_unsure_of(most) {
                measured += 1;
                pace.learn(most, took(most));
            }
        }
        assert!(took(most) > limit.longest / 3, "{most}");
        assert!(measured < 8, "{measured}");
    }

    #[test]
    fn a_part_is_never_less_than_what_runs_at_once() {
        let limit = LaunchLimit { longest: Duration::from_millis(1), least_groups: 36 };
        let mut pace = Pace::<()>::default();
        for _ in 0..4 {
            assert_eq!(pace.most(&limit), 36);
            pace.learn(36, Duration::from_millis(50));
        }
    }

    #[test]
    fn what_the_first_launch_of_a_program_takes_is_forgotten() {
        let limit = LaunchLimit { longest: Duration::from_millis(20), least_groups: 4 };
        let mut pace = Pace::<()>::default();
        pace.learn(4, Duration::from_secs(3));
        assert!(pace.is_unsure_of(4));
        pace.learn(4, Duration::from_micros(400));
        assert!(!pace.is_unsure_of(8));
        assert_eq!(pace.most(&limit), 32);
    }

    #[test]
    fn a_card_that_slows_down_gets_smaller_parts_at_once_and_larger_ones_later() {
        let limit = LaunchLimit { longest: Duration::from_millis(20), least_groups: 4 };
        let mut pace = Pace::<()>::default();
        for _ in 0..3 {
            pace.learn(1000, Duration::from_millis(10));
        }
        assert_eq!(pace.most(&limit), 1000);
        pace.learn(1000, Duration::from_millis(40));
        let slow = pace.most(&limit);
        assert_eq!(slow, 250);
        let mut groups = slow;
        for _ in 0..20 {
            pace.learn(groups, Duration::from_micros(10) * groups as u32);
            groups = pace.most(&limit);
        }
        assert!(groups > 900, "{groups}");
    }

    #[test]
    fn only_kernels_that_cpu_devices_alone_are_given_cannot_be_cut() {
        let whole = KERNELS.iter().filter(|kernel| {
            let (name, source) = (kernel.name, kernel.source);
            let parameters = Vec::new();
            let dtype = crate::DType::F32;
            !can_be_cut(&ProgramSource { kernel: name, dtype, parameters, source })
        });
        let whole: Vec<_> = whole.map(|kernel| kernel.name).collect();
        let expected =
            ["conv2d_few_inputs", "conv2d_few_outputs", "conv2d_register", "gemm_register"];
        assert_eq!(whole, expected);
    }
}
