//! What is shown while candidates are tried: a bar, or a line now and then.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where stderr is no terminal.
const PERIOD: Duration = Duration::from_secs(5);

pub struct Display {
    bar: Option<ProgressBar>,
    last: Instant,
    name: String,
}

/// How far a problem is.
pub struct State<'a> {
    pub done: usize,
    pub candidates: usize,
    /// The best candidate's seconds and billions of operations a second.
    pub best: Option<(f64, f64)>,
    pub left: Option<Duration>,
    /// Candidates by outcome, such as `3 timeout`.
    pub failed: &'a str,
}

impl Display {
    /// `name` says what is tuned.
    pub fn new(name: String, candidates: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
            let style = style.expect("the template is well-formed");
            let bar = ProgressBar::new(candidates as u64).with_style(style);
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, last: Instant::now(), name }
    }

    pub fn update(&mut self, state: &State) {
        self.show(state.done, &state.text());
    }

    /// That so many candidates are done, and a text.
    pub fn show(&mut self, done: usize, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(text.to_owned());
        } else if self.last.elapsed() >= PERIOD {
            self.last = Instant::now();
            eprintln!("{}: {text}", self.name);
        }
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl State<'_> {
    fn text(&self) -> String {
        let mut text = format!("{}/{} candidates", self.done, self.candidates);
        match self.best {
            Some((seconds, rate)) => {
                text += &format!(", best {:.3} ms, {rate:.1} GFLOP/s", seconds * 1e3);
            }
            None => text += ", none right yet",
        }
        if !self.failed.is_empty() {
            text += &format!(", {}", self.failed);
        }
        if let Some(left) = self.left {
            let seconds = Duration::from_secs(left.as_secs_f64().ceil() as u64);
            text += &format!(", {} left", humantime::format_duration(seconds));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_many_the_best_and_how_long() {
        let left = Some(Duration::from_millis(61_200));
        let state = State {
            done: 3,
            candidates: 90,
            best: Some((0.0015, 250.0)),
            left,
            failed: "1 timeout",
        };
        assert_eq!(
            state.text(),
            "3/90 candidates, best 1.500 ms, 250.0 GFLOP/s, 1 timeout, 1m 2s left"
        );
        let state = State { done: 0, candidates: 90, best: None, left: None, failed: "" };
        assert_eq!(state.text(), "0/90 candidates, none right yet");
    }
}
