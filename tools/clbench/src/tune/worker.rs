//! The process that opens the device and runs candidates, any of which may be its last.
//!
//! It ends when its stdin is closed: when the tuner is done with it, or is no more.

use std::io::{BufRead as _, Write as _};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use ellesmere::Result;
use ellesmere::tune::Outcome;

use super::measure::{Bench, one_line};
use super::protocol::{Answer, Candidate, Report, Request};

pub fn run() -> Result<ExitCode> {
    let requests = read_requests();
    let mut bench: Option<Bench> = None;
    // The end of requests is the end of the tuner.
    while let Ok(request) = requests.recv() {
        let answer = match request {
            Request::Prepare(task) => {
                // What the last problem held goes back before the next one is prepared.
                let backend = bench.take().map(Bench::into_backend);
                match Bench::prepare(&task, backend) {
                    Ok(prepared) => {
                        bench = Some(prepared);
                        Answer::Ready
                    }
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Request::Try(candidate) => match &bench {
                Some(bench) => Answer::Done(measure(bench, &candidate)),
                None => Answer::Failed("no problem was prepared".to_owned()),
            },
        };
        self::answer(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

/// A candidate whose launch is refused by a panic, such as a stand-in of other arguments, is one
/// that failed.
fn measure(bench: &Bench, candidate: &Candidate) -> Report {
    let measure = || bench.measure(candidate, &|| answer(&Answer::Step));
    std::panic::catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Report::failed(Outcome::Runtime, one_line(text))
    })
}

/// Reads on while a candidate runs, so that the end of the tuner is the end of a candidate that
/// has none.
fn read_requests() -> mpsc::Receiver<Request> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Some(request) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                break;
            };
            if sender.send(request).is_err() {
                return;
            }
        }
        // A driver's own clean-up might wait for a candidate that never ends: it is not run.
        std::process::abort();
    });
    receiver
}

/// One line on stdout, begun anew, for a driver may have printed there.
fn answer(answer: &Answer) {
    let text = serde_json::to_string(answer).expect("answers are numbers and texts");
    let mut stdout = std::io::stdout().lock();
    // A tuner that reads no more has closed stdin as well.
    let _ = write!(stdout, "\n{text}\n").and_then(|()| stdout.flush());
}
