//! Ctrl-C: once, to end after the candidate that runs; twice, to end now.

use std::sync::atomic::{AtomicU32, Ordering};

use ellesmere::{Error, Result};

static STOPS: AtomicU32 = AtomicU32::new(0);

pub fn on_ctrl_c() -> Result<()> {
    let handler = || {
        if STOPS.fetch_add(1, Ordering::SeqCst) == 0 {
            eprintln!("\nclbench: stopping after this candidate; Ctrl-C again to stop at once");
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Error::argument("Ctrl-C", error))
}

/// Whether no other candidate is to be started.
pub fn soon() -> bool {
    STOPS.load(Ordering::SeqCst) > 0
}

/// Whether the one that runs is to be given up.
pub fn at_once() -> bool {
    STOPS.load(Ordering::SeqCst) > 1
}
