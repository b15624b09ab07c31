//! The devices that kernels are tested on.

use ellesmere::hardware::{DeviceEntry, detect};

/// All that can be used, the host last. Where a driver is the stand-in of
/// `tests/fake_hip`, its device alone: the others are tested without it.
pub fn entries() -> Vec<DeviceEntry> {
    let detected = detect();
    detected.notes.iter().for_each(|note| eprintln!("{note}"));
    let mut entries = detected.entries;
    for entry in &entries {
        if let Some(reason) = entry.unusable() {
            eprintln!("{} is not tested: {reason}", entry.id);
        }
    }
    entries.retain(|entry| entry.unusable().is_none());
    let is_stand_in = |entry: &DeviceEntry| entry.info.platform.contains("fake_hip");
    if entries.iter().any(is_stand_in) {
        entries.retain(is_stand_in);
    }
    entries
}
