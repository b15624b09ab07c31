//! What hardware there is, and what known hardware should reach.

mod detect;
mod preset;

pub use detect::{Detected, DeviceEntry, Wanted, detect};
pub use preset::Preset;
