//! What several test programs share.

use std::path::Path;
use std::sync::OnceLock;

use ellesmere::{Device, DeviceOptions, Tensor};
use proptest::prelude::ProptestConfig;

pub mod demo;
pub mod psnr;
mod required;
mod tested;

/// Every device that kernels are tested on, with blocks that start as NaNs: the CPU backend and
/// each OpenCL device, one card once; or the stand-in's, where there is one.
///
/// # Panics
///
/// If one that `ELLESMERE_REQUIRE_DEVICES` names is not there.
pub fn devices() -> Vec<Device> {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    let poisoned = DeviceOptions { poison: true, ..DeviceOptions::default() };
    DEVICES.get_or_init(|| open_devices(&poisoned)).clone()
}

/// The same devices, opened anew under `options`.
pub fn open_devices(options: &DeviceOptions) -> Vec<Device> {
    // Not the user's own cache, and gone with `cargo clean`.
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let options = DeviceOptions { cache_dir, ..options.clone() };
    let mut devices = Vec::new();
    // The host first: its failures are the easiest to read.
    let entries = tested::entries();
    for entry in entries.iter().rev().filter(|entry| entry.duplicate_of.is_none()) {
        match Device::open_entry(entry, &options) {
            Ok(device) => devices.push(device),
            Err(error) => eprintln!("{} is not tested: {error}", entry.id),
        }
    }
    required::check(devices.iter().map(|device| device.info()));
    devices
}

/// The device on which every kernel is its definition, choosing as `device` does.
pub fn oracle(device: &Device) -> Device {
    Device::definitions(Some(device.info().clone()))
}

/// So many drawn shapes, or fewer if `PROPTEST_CASES` asks for fewer.
pub fn drawn(most: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: most.min(config.cases), ..config }
}

/// Values in -1..1 that depend on `seed` alone.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Asserts that every element of `actual` is within `tolerance` of the definition's, and that
/// there are as many.
#[track_caller]
pub fn assert_close(
    device: &Device,
    why: &str,
    actual: &Tensor,
    expected: &Tensor,
    tolerance: f32,
) {
    let name = &device.info().name;
    assert_eq!(actual.shape(), expected.shape(), "{why} on {name}");
    let (actual, expected) = (actual.to_vec().unwrap(), expected.to_vec().unwrap());
    let worst = actual
        .iter()
        .zip(&expected)
        .enumerate()
        .map(|(index, (a, e))| (index, (a - e).abs()))
        // A NaN is worse than any difference.
        .max_by(|(_, a), (_, b)| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b)));
    if let Some((index, difference)) = worst {
        assert!(
            difference <= tolerance,
            "{why} on {name}: element {index} is {}, the definition says {}: off by {difference}, \
             tolerance {tolerance}",
            actual[index],
            expected[index],
        );
    }
}

/// The largest magnitude among the elements of a tensor.
pub fn largest(tensor: &Tensor) -> f32 {
    tensor.to_vec().unwrap().into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}
