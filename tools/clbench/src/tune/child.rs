//! Workers: started, asked, given up.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ellesmere::tune::Outcome;
use ellesmere::{Error, Result};
use process_wrap::std::{StdChildWrapper, StdCommandWrap};

use super::measure::one_line;
use super::protocol::{Answer, Candidate, Report, Request, Task};
use super::stop;

/// How long a worker may take to open its device and to compute what is right.
const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// Workers in a row that fail to prepare before the tuner gives up.
const ATTEMPTS: u32 = 3;
/// Between two of them: a driver that was killed may come back.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a stop is looked for.
const TICK: Duration = Duration::from_millis(50);
/// A worker's last words on stderr, of which the last line is told.
const LAST_LINES: usize = 8;

/// Runs candidates in a worker, and in another one after one has ended it.
pub struct Runner {
    limit: Duration,
    worker: Option<Worker>,
    prepared: Option<Task>,
    /// Workers that were started so far.
    pub started: u64,
}

/// What came of a candidate.
pub enum Ended {
    /// The worker lives on.
    Reported(Report),
    /// The worker is no more: it crashed, or hung and was killed.
    Killed(Report),
    /// The user did not want to wait for it.
    Abandoned,
}

/// Why there is no answer.
enum Silence {
    TimedOut,
    Died(String),
    Stopped,
}

struct Worker {
    child: Box<dyn StdChildWrapper>,
    stdin: ChildStdin,
    answers: mpsc::Receiver<Answer>,
    last_words: Arc<Words>,
}

impl Runner {
    /// `limit` is what a step of a candidate may take.
    pub fn new(limit: Duration) -> Self {
        Self { limit, worker: None, prepared: None, started: 0 }
    }

    /// Gets a worker ready for the candidates of `task`.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] if workers fail to several times in a row; [`Error::Cancelled`].
    pub fn prepare(&mut self, task: &Task) -> Result<()> {
        if self.worker.is_some() && self.prepared.as_ref() == Some(task) {
            return Ok(());
        }
        let mut detail = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            if stop::at_once() {
                return Err(Error::Cancelled);
            }
            let worker = match &mut self.worker {
                Some(worker) => worker,
                None => {
                    self.started += 1;
                    self.worker.insert(Worker::start()?)
                }
            };
            worker.send(&Request::Prepare(task.clone()));
            detail = match worker.answer(PREPARE_LIMIT) {
                Ok(Answer::Ready) => {
                    self.prepared = Some(task.clone());
                    return Ok(());
                }
                Ok(Answer::Failed(detail)) => detail,
                Ok(other) => format!("the worker answered {other:?}"),
                Err(Silence::TimedOut) => {
                    format!("the worker was not ready after {} s", PREPARE_LIMIT.as_secs())
                }
                Err(Silence::Died(detail)) => detail,
                Err(Silence::Stopped) => return Err(Error::Cancelled),
            };
            self.worker = None;
        }
        let detail = format!("{ATTEMPTS} workers in a row failed, the last: {}", one_line(&detail));
        Err(Error::NoDevice { wanted: task.device.clone(), detail })
    }

    /// Tries a candidate of the task that was prepared last.
    pub fn run(&mut self, candidate: &Candidate) -> Ended {
        let Some(worker) = &mut self.worker else {
            unreachable!("a candidate is run after its problem was prepared");
        };
        // What was said of earlier candidates says nothing of this one's end.
        lock(&worker.last_words).clear();
        worker.send(&Request::Try(candidate.clone()));
        let silence = loop {
            match worker.answer(self.limit) {
                Ok(Answer::Step) => {}
                Ok(Answer::Done(report)) => return Ended::Reported(report),
                Ok(Answer::Ready | Answer::Failed(_)) => {
                    break Silence::Died("the worker lost its problem".to_owned());
                }
                Err(silence) => break silence,
            }
        };
        self.worker = None;
        match silence {
            Silence::TimedOut => {
                let detail = format!("no end after {}", humantime::format_duration(self.limit));
                Ended::Killed(Report::failed(Outcome::Timeout, detail))
            }
            Silence::Died(detail) => {
                Ended::Killed(Report::failed(Outcome::Runtime, one_line(&detail)))
            }
            Silence::Stopped => Ended::Abandoned,
        }
    }
}

impl Worker {
    fn start() -> Result<Self> {
        let failed = |error: std::io::Error| Error::Device {
            call: "starting a worker",
            detail: error.to_string(),
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = StdCommandWrap::with_new(program, |command| {
            command.arg("tune-worker");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        });
        // A group of its own: Ctrl-C is for the tuner alone, and all of it is killed at once.
        #[cfg(unix)]
        command.wrap(process_wrap::std::ProcessGroup::leader());
        #[cfg(windows)]
        command.wrap(process_wrap::std::JobObject);
        let mut child = command.spawn().map_err(failed)?;
        let taken = "a worker's pipes are taken once";
        let stdin = child.stdin().take().expect(taken);
        let answers = read_answers(child.stdout().take().expect(taken));
        let last_words = read_last_words(child.stderr().take().expect(taken));
        Ok(Self { child, stdin, answers, last_words })
    }

    /// A worker that does not listen has ended, which its silence will tell.
    fn send(&mut self, request: &Request) {
        let text = serde_json::to_string(request).expect("requests are numbers and texts");
        let _ = writeln!(self.stdin, "{text}").and_then(|()| self.stdin.flush());
    }

    fn answer(&mut self, limit: Duration) -> Result<Answer, Silence> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left.min(TICK)) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Died(self.epitaph())),
                Err(RecvTimeoutError::Timeout) if stop::at_once() => return Err(Silence::Stopped),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Silence::TimedOut),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// How it ended: it has closed its stdout.
    fn epitaph(&mut self) -> String {
        // It may have closed its stdout without ending.
        let _ = self.child.start_kill();
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let words = lock(&self.last_words);
        match words.back() {
            Some(last) => format!("the worker ended by {status}: {last}"),
            None => format!("the worker ended by {status}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // All that it has started goes with it. Nothing is lost: a worker keeps nothing.
        let _ = self.child.start_kill();
        let _ = self.child.wait();
    }
}

type Words = Mutex<VecDeque<String>>;

fn lock(words: &Words) -> MutexGuard<'_, VecDeque<String>> {
    // Every change is complete before anything can panic.
    words.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What a driver prints between the answers is passed over.
fn read_answers(stdout: impl Read + Send + 'static) -> mpsc::Receiver<Answer> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            if let Ok(answer) = serde_json::from_slice(&line)
                && sender.send(answer).is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn read_last_words(stderr: impl Read + Send + 'static) -> Arc<Words> {
    let words = Arc::new(Mutex::new(VecDeque::new()));
    let target = Arc::clone(&words);
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            // Backtraces are no words.
            if line.is_empty() || line.starts_with("note: ") {
                continue;
            }
            let mut words = lock(&target);
            words.push_back(line);
            if words.len() > LAST_LINES {
                words.pop_front();
            }
        }
    });
    words
}
