//! Devices without which the tests fail.

use ellesmere::info::DeviceInfo;
use ellesmere::knob;

/// Says which devices are tested.
///
/// # Panics
///
/// If `ELLESMERE_REQUIRE_DEVICES` names a device that is not among them. It is a list such as
/// `cpu,pocl,llvmpipe`: each name must be a part of some device's backend, platform or name.
pub fn check<'a>(devices: impl Iterator<Item = &'a DeviceInfo>) {
    let described: Vec<String> =
        devices.map(|info| format!("{}: {}, {}", info.backend, info.platform, info.name)).collect();
    for name in knob::require_devices().unwrap() {
        let there = described.iter().any(|text| text.to_lowercase().contains(&name));
        assert!(there, "ELLESMERE_REQUIRE_DEVICES demands {name}, there are {described:#?}");
    }
    eprintln!("tested on {described:#?}");
}
