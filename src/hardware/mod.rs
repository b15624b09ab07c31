//! What hardware there is.

mod detect;

pub use detect::{Detected, DeviceEntry, Wanted, detect};
