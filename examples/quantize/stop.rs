//! What Ctrl-C does.

use std::sync::atomic::{AtomicBool, Ordering};

use ellesmere::{Error, Result};

/// Set by Ctrl-C; looked at after every piece of a tensor and every step of a picture.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C end the work at its next step. A second one ends it at once: files are renamed into
/// place when they are whole, so nothing that looks finished is left.
pub fn on_ctrl_c() -> Result<()> {
    let handled = ctrlc::set_handler(|| {
        if STOPPED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    handled.map_err(|error| Error::argument("Ctrl-C", error))
}

/// Whether it was pressed.
pub fn is_asked_for() -> bool {
    STOPPED.load(Ordering::SeqCst)
}
