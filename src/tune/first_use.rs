//! Tunes a launch with its own arguments: what [`Autotune::OnFirstUse`](super::Autotune) does.
//!
//! A kernel writes nothing but its outputs, so candidates run in place. Before each, the outputs
//! are filled with a pattern: what the default configuration leaves of it, a candidate must leave
//! as well, and what it writes must be the same but for rounding. At the end the outputs hold what
//! they held, and the launch that the caller asked for is still to be made.

use std::time::{Duration, Instant};

use crate::backend::{Argument, Backend, Buffer, Launch, Program, ProgramSource, Value};
use crate::kernel::{Configuration, Kernel};
use crate::tune::{Search, Space, StrategyKind};
use crate::{DType, Result};

/// Work-groups, and work-items in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Work-groups.
    pub groups: [usize; 3],
    /// Work-items in each.
    pub local: [usize; 3],
}

/// A launch whose configuration is open.
pub struct OpenLaunch<'a> {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// What `REAL` is.
    pub dtype: DType,
    /// How the elements of its outputs are stored.
    pub output: DType,
    /// In the kernel's order.
    pub arguments: &'a [Argument<'a>],
    /// The launch that a configuration leads to.
    pub grid: &'a dyn Fn(&Configuration) -> Grid,
}

/// What tuning has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The quickest configuration and its seconds.
    pub best: (Configuration, f64),
    /// The second.
    pub runner_up: Option<(Configuration, f64)>,
    /// The default's seconds.
    pub default_seconds: f64,
    /// How many were tried.
    pub trials: usize,
}

/// What outputs are filled with: as f32 and as f16 a number, large and of no computation.
const PATTERN: u8 = 0x7b;
/// Timed runs of a candidate, of which the median counts.
const RUNS: usize = 9;
/// Runs of a long kernel, which are spread less.
const LEAST_RUNS: usize = 3;
/// After so long a kernel is long.
const LONG: Duration = Duration::from_millis(50);
/// A candidate whose first run is so many times slower than the best is not run again.
const HOPELESS: f64 = 1.5;

/// Searches for `limit`, from the default configuration and then `near`, what is known of problems
/// like this one. `None` if not even the default was timed before the limit was over.
///
/// # Errors
///
/// Those of the default configuration, and of reading and writing the outputs. A candidate that
/// fails is only passed over.
pub fn tune(
    backend: &dyn Backend,
    launch: &OpenLaunch,
    default: &Configuration,
    near: &Configuration,
    limit: Duration,
) -> Result<Option<Found>> {
    let begin = Instant::now();
    let outputs = Outputs::save(backend, launch)?;
    let searched = search(backend, launch, &outputs, [default, near], begin + limit);
    let restored = outputs.restore(backend);
    let found = searched?;
    restored?;
    Ok(found)
}

fn search(
    backend: &dyn Backend,
    launch: &OpenLaunch,
    outputs: &Outputs,
    [default, near]: [&Configuration; 2],
    end: Instant,
) -> Result<Option<Found>> {
    let space = Space::new(launch.kernel, default, backend.info());
    let starts = [default, near].map(|configuration| space.find_configuration(configuration));
    let starts: Vec<usize> = starts.into_iter().flatten().collect();
    let mut search = Search::new(&space, StrategyKind::default(), 0, &starts);
    outputs.fill(backend)?;
    let candidate = Candidate::build(backend, launch, default)?;
    candidate.run(backend, launch)?;
    let reference = outputs.read(backend)?;
    let mut timed: Vec<(Configuration, f64)> = Vec::new();
    let mut trials = 0;
    while Instant::now() < end
        && let Some(number) = search.ask()
    {
        let configuration = space.configuration(default, number);
        let best = search.best().map_or(f64::INFINITY, |(_, seconds)| seconds);
        let tried = try_one(backend, launch, outputs, &reference, &configuration, best);
        let seconds = match tried {
            Ok(seconds) => seconds,
            Err(error) => {
                tracing::debug!("{} {configuration}: {error}", launch.kernel.name);
                None
            }
        };
        search.tell(number, seconds);
        trials += 1;
        timed.extend(seconds.map(|seconds| (configuration, seconds)));
    }
    let of_default = timed.iter().find(|(configuration, _)| configuration == default);
    let Some(default_seconds) = of_default.map(|(_, seconds)| *seconds) else { return Ok(None) };
    timed.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut timed = timed.into_iter();
    let best = timed.next().expect("the default was timed");
    Ok(Some(Found { best, runner_up: timed.next(), default_seconds, trials }))
}

/// The median seconds of a candidate; `None` if it is wrong.
fn try_one(
    backend: &dyn Backend,
    launch: &OpenLaunch,
    outputs: &Outputs,
    reference: &[Vec<u8>],
    configuration: &Configuration,
    best: f64,
) -> Result<Option<f64>> {
    let candidate = Candidate::build(backend, launch, configuration)?;
    outputs.fill(backend)?;
    // Also warms up: drivers put work off until a program's first launch.
    candidate.run(backend, launch)?;
    let actual = outputs.read(backend)?;
    let agrees = |(actual, expected): (&Vec<u8>, &Vec<u8>)| agree(launch.output, actual, expected);
    if !actual.iter().zip(reference).all(agrees) {
        return Ok(None);
    }
    let begin = Instant::now();
    let mut runs: Vec<f64> = Vec::new();
    while runs.len() < LEAST_RUNS || (runs.len() < RUNS && begin.elapsed() < LONG) {
        runs.push(candidate.run(backend, launch)?.as_secs_f64());
        if runs[0] > HOPELESS * best {
            break;
        }
    }
    runs.sort_by(f64::total_cmp);
    Ok(Some(runs[runs.len() / 2]))
}

struct Candidate {
    program: Program,
    grid: Grid,
}

impl Candidate {
    fn build(
        backend: &dyn Backend,
        launch: &OpenLaunch,
        configuration: &Configuration,
    ) -> Result<Self> {
        let source = ProgramSource {
            kernel: launch.kernel.name,
            dtype: launch.dtype,
            parameters: configuration.values().to_vec(),
            source: launch.kernel.source,
        };
        let grid = (launch.grid)(configuration);
        Ok(Self { program: backend.build(&source)?, grid })
    }

    /// Runs it once: by the device's clock where it has one, else by the host's.
    fn run(&self, backend: &dyn Backend, launch: &OpenLaunch) -> Result<Duration> {
        let Grid { groups, local } = self.grid;
        let start = Instant::now();
        let timer = backend
            .launch(&self.program, &Launch { arguments: launch.arguments, groups, local })?;
        backend.finish()?;
        let elapsed = start.elapsed();
        Ok(timer.elapsed().unwrap_or(elapsed))
    }
}

/// What a launch writes, and what was there before.
struct Outputs<'a> {
    buffers: Vec<&'a Buffer>,
    saved: Vec<Vec<u8>>,
}

impl<'a> Outputs<'a> {
    fn save(backend: &dyn Backend, launch: &OpenLaunch<'a>) -> Result<Self> {
        let outputs = launch.arguments.iter().filter_map(|argument| match argument.value {
            Value::Output(buffer) => Some(buffer),
            _ => None,
        });
        let mut outputs = Self { buffers: outputs.collect(), saved: Vec::new() };
        outputs.saved = outputs.read(backend)?;
        Ok(outputs)
    }

    fn read(&self, backend: &dyn Backend) -> Result<Vec<Vec<u8>>> {
        let read = |buffer: &&Buffer| {
            let mut bytes = vec![0; buffer.bytes() as usize];
            backend.read(buffer, 0, &mut bytes)?;
            Ok(bytes)
        };
        self.buffers.iter().map(read).collect()
    }

    fn fill(&self, backend: &dyn Backend) -> Result<()> {
        for (buffer, saved) in self.buffers.iter().zip(&self.saved) {
            backend.write(buffer, 0, &vec![PATTERN; saved.len()])?;
        }
        Ok(())
    }

    fn restore(&self, backend: &dyn Backend) -> Result<()> {
        let mut pairs = self.buffers.iter().zip(&self.saved);
        pairs.try_for_each(|(buffer, saved)| backend.write(buffer, 0, saved))
    }
}

/// Whether two results are the same but for rounding: a rounding of each to its type, and f32 sums
/// in another order, which are at most 1e-4 of the largest element apart at a model's lengths.
fn agree(dtype: DType, actual: &[u8], expected: &[u8]) -> bool {
    let size = dtype.size();
    let value = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]),
        [a, b] => half::f16::from_ne_bytes([a, b]).to_f32(),
        _ => unreachable!("an element has 2 or 4 bytes"),
    };
    let written = |bytes: &[u8]| bytes.iter().any(|&byte| byte != PATTERN);
    let elements = expected.chunks_exact(size).filter(|bytes| written(bytes)).map(value);
    let finite = elements.filter(|value| value.is_finite());
    let largest = finite.fold(0.0f32, |largest, value| largest.max(value.abs()));
    let tolerance = largest * (2.0 * dtype.rounding() + 1e-4);
    // What follows the last element, if anything, is nobody's.
    let pairs = actual.chunks_exact(size).zip(expected.chunks_exact(size));
    let mut pairs = pairs.filter(|(actual, expected)| actual != expected);
    pairs.all(|(actual, expected)| {
        if !written(expected) || !written(actual) {
            return false;
        }
        let (actual, expected) = (value(actual), value(expected));
        (actual - expected).abs() <= tolerance || (actual.is_nan() && expected.is_nan())
    })
}

impl std::fmt::Debug for OpenLaunch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenLaunch").field("kernel", &self.kernel.name).finish_non_exhaustive()
    }
}
