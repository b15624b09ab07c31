//! Products by fragments of f16 in each configuration that matrix units are given, on every device
//! that compiles OpenCL C: also on one without such units, by the words' portable bodies.

use std::sync::Arc;

use ellesmere::hardware::detect;
use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::ops::{Activation, matrix_configurations};
use ellesmere::{DType, Device, DeviceOptions, Format};

use crate::claiming::Claiming;
use crate::common::{assert_close, largest, oracle};
use crate::{blocks, gemm};

/// PoCL and whatever else is found, as GPUs with matrix units, made to use a configuration of
/// `gemm_matrix`.
///
/// llvmpipe is left out: its compiler takes half a minute for each of these.
pub fn devices(values: &[(&str, u32)]) -> Vec<Device> {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let options = DeviceOptions {
        poison: true,
        forced: vec![("gemm_matrix".to_owned(), values)],
        ..DeviceOptions::default()
    };
    let (kind, vector_width, matrix_units) = (DeviceKind::Gpu, 1, true);
    claiming(&options, |info| DeviceInfo { kind, vector_width, matrix_units, ..info })
}

/// PoCL and whatever else is found, under another description.
pub fn claiming(options: &DeviceOptions, claim: impl Fn(DeviceInfo) -> DeviceInfo) -> Vec<Device> {
    let entries = detect().entries;
    let usable = entries.iter().filter(|entry| {
        let rusticl = entry.info.platform.starts_with("rusticl");
        entry.unusable().is_none() && entry.info.backend == "opencl" && !rusticl
    });
    let open = |entry: &ellesmere::hardware::DeviceEntry| {
        let inner = entry.open().unwrap();
        let info = claim(inner.info().clone());
        let device = Device::new(Arc::new(Claiming::new(inner, info)), options);
        device.profile().set_enabled(true);
        device
    };
    usable.map(open).collect()
}

/// The kernel of the last launch.
pub fn launched(device: &Device) -> &'static str {
    device.profile().records().iter().rfind(|record| record.launch.is_some()).unwrap().name
}

fn check(device: &Device, case: &gemm::Case) {
    let expected = gemm::run(&oracle(device), DType::F16, case);
    // Products of f16 are exact in f32, where they are summed as everywhere.
    let terms = case.columns.iter().sum();
    let tolerance = gemm::tolerance(DType::F16, terms, largest(&expected));
    let actual = gemm::run(device, DType::F16, case);
    assert_close(device, case.why, &actual, &expected, tolerance);
    assert_eq!(launched(device), "gemm_matrix");
}

#[test]
fn products_agree_with_the_definition_in_every_configuration() {
    let cases = [
        gemm::plain("less than a fragment of anything but rows", &[9], 5, 7),
        gemm::plain("whole tiles alone", &[128], 64, 128),
        gemm::plain("terms that end in the second half of a tile", &[1, 17], 88, 33),
        gemm::Case {
            columns: [77, 45],
            bias: true,
            activation: Activation::Gelu,
            residual: true,
            ..gemm::plain("two inputs with tails, a row and an output too many", &[1, 129], 0, 133)
        },
    ];
    for values in matrix_configurations() {
        for device in devices(&values) {
            cases.iter().for_each(|case| check(&device, case));
        }
    }
}

#[test]
fn other_depths_of_tiles_agree_with_the_definition() {
    for depth in [16, 64] {
        let tile = [("TILE_M", 64), ("TILE_N", 128), ("TEAM_N", 64), ("WG_SIZE", 128)];
        for device in devices(&[&tile[..], &[("TILE_K", depth)]].concat()) {
            check(&device, &gemm::plain("tails of terms", &[65], 149, 130));
        }
    }
}

#[test]
fn weights_in_blocks_are_rounded_to_f16_once() {
    for device in devices(&[]) {
        for format in Format::ALL {
            let case = blocks::plain("two rows of tiles", &[1, 70], 768, 45);
            let run =
                |device: &Device| blocks::multiply(device, DType::F16, format, &case).unwrap();
            let expected = run(&oracle(&device));
            let terms = case.columns[0];
            // Each of `terms` products of values in -1..1, a third in the mean square, is off by a
            // rounding of its weight, half a unit in the last place at most. They add up as a random
            // walk does, of which this is six deviations.
            let rounding = DType::F16.rounding() * 2.0 * (terms as f32).sqrt();
            let tolerance = gemm::tolerance(DType::F16, terms, largest(&expected)) + rounding;
            assert_close(&device, &format.to_string(), &run(&device), &expected, tolerance);
            assert_eq!(launched(&device), "gemm_matrix");
        }
    }
}

#[test]
fn activations_of_f32_are_multiplied_as_they_are() {
    for device in devices(&[]) {
        gemm::run(&device, DType::F32, &gemm::plain("a product of f32", &[1, 40], 32, 32));
        assert_eq!(launched(&device), "gemm_local");
    }
}
