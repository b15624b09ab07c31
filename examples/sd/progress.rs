//! What is shown while a picture is drawn.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ellesmere::pipeline::Progress;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Set by Ctrl-C; looked at after every step.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C end the work after the step that is running. A second one ends it at once:
/// outputs are renamed into place when they are whole, so nothing half-written is left.
pub fn stop_on_ctrl_c() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if STOPPED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    })
}

/// A bar with seconds per iteration and the time left, or nothing where stderr is no terminal.
pub struct Display {
    bar: ProgressBar,
}

impl Display {
    pub fn new() -> Self {
        let seconds_per_iteration = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let rate = state.per_sec();
            let _ = if rate > 0.0 {
                write!(out, "{:.2} s/it", 1.0 / rate)
            } else {
                write!(out, "- s/it")
            };
        };
        let style = ProgressStyle::with_template(
            "{msg:9} {wide_bar} {pos}/{len} {s_it} {elapsed} left {eta}",
        )
        .expect("the template is well-formed")
        .with_key("s_it", seconds_per_iteration);
        let bar = ProgressBar::new(0).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar }
    }

    pub fn message(&self, message: impl Into<Cow<'static, str>>) {
        self.bar.set_message(message);
    }

    /// For [`Pipeline::generate`](ellesmere::pipeline::Pipeline::generate).
    pub fn observe(&self, progress: &Progress) -> ControlFlow<()> {
        match progress {
            Progress::PromptCut { dropped } => {
                self.note(&format!("the prompt is too long; no effect: {dropped:?}"));
            }
            Progress::LowMemory { part, rung, requested_bytes } => {
                let megabytes = *requested_bytes as f64 / 1e6;
                self.note(&format!("no room for {megabytes:.1} MB in {part}: {rung}"));
            }
            Progress::Step { done, total, .. } => {
                self.bar.set_message("drawing");
                self.bar.set_length(*total as u64);
                self.bar.set_position(*done as u64);
            }
            Progress::Timing { done, total } => {
                self.bar.set_message("timing");
                self.bar.set_length(*total as u64);
                self.bar.set_position(*done as u64);
            }
            Progress::VaeTiled { tile } => {
                self.note(&format!("the VAE works in tiles of {tile} pixels, parked on the host"));
            }
            Progress::VaeBlended { tile } => {
                self.note(&format!("the VAE works in tiles of {tile} pixels, blended"));
            }
            Progress::VaeTile { done, total } => {
                self.bar.set_message(format!("tile {done} of {total}"));
            }
            Progress::Decoding => self.bar.set_message("decoding"),
            _ => {}
        }
        if STOPPED.load(Ordering::SeqCst) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("note: {text}"));
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
