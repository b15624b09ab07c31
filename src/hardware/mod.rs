//! What hardware there is, and what known hardware should reach.

mod detect;
mod free_memory;
mod preset;

pub use detect::{Detected, DeviceEntry, Wanted, detect};
pub use free_memory::{FreeMemory, free_memory};
pub use preset::{Preset, memory_fraction};
