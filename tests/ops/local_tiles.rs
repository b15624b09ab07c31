//! Products by tiles in local memory in each configuration that GPUs are given, on every device
//! that compiles OpenCL C: also on one that would choose tiles in registers for itself.

use std::sync::Arc;

use ellesmere::hardware::detect;
use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::ops::Padding;
use ellesmere::{DType, Device, DeviceOptions};

use crate::claiming::Claiming;
use crate::common::{assert_close, largest, oracle};
use crate::{conv2d, gemm};

/// TILE_M, TILE_N, TILE_K, ITEM_M, ITEM_N and BUFFERS.
const CONFIGURATIONS: [(&str, [u32; 6]); 5] = [
    ("the largest that an op suggests", [64, 128, 16, 4, 8, 1]),
    ("the default", [64, 64, 8, 8, 4, 1]),
    ("for few rows", [32, 64, 16, 4, 4, 1]),
    ("for few rows and outputs", [32, 32, 16, 4, 4, 1]),
    ("two buffers", [64, 64, 8, 8, 4, 2]),
];

const NAMES: [&str; 6] = ["TILE_M", "TILE_N", "TILE_K", "ITEM_M", "ITEM_N", "BUFFERS"];

/// PoCL and whatever else is found, as GPUs, made to use a configuration.
///
/// llvmpipe is left out: its compiler takes half a minute for each of these, and `every_kernel`
/// gives it one.
fn devices(values: [u32; 6]) -> Vec<Device> {
    let values: Vec<_> =
        NAMES.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value)).collect();
    let forced = ["gemm_local", "conv2d_local"].map(|kernel| (kernel.to_owned(), values.clone()));
    let entries = detect().entries;
    let usable = entries.iter().filter(|entry| {
        entry.unusable().is_none()
            && entry.info.backend == "opencl"
            && !entry.info.platform.starts_with("rusticl")
    });
    let open = |entry: &ellesmere::hardware::DeviceEntry| {
        let inner = entry.open().unwrap();
        let info = DeviceInfo { kind: DeviceKind::Gpu, vector_width: 1, ..inner.info().clone() };
        let options =
            DeviceOptions { poison: true, forced: forced.to_vec(), ..DeviceOptions::default() };
        Device::new(Arc::new(Claiming::new(inner, info)), &options)
    };
    usable.map(open).collect()
}

#[test]
fn products_agree_with_the_definition_in_every_configuration() {
    let cases = [
        gemm::plain("less than a tile of anything", &[3], 5, 7),
        gemm::plain("whole tiles alone", &[128], 64, 128),
        gemm::Case {
            columns: [77, 45],
            bias: true,
            residual: true,
            ..gemm::plain("two inputs with tails, a row and an output too many", &[1, 129], 0, 133)
        },
    ];
    for (configuration, values) in CONFIGURATIONS {
        for device in devices(values) {
            for (dtype, case) in
                DType::ALL.into_iter().flat_map(|d| cases.iter().map(move |c| (d, c)))
            {
                let expected = gemm::run(&oracle(&device), dtype, case);
                let tolerance =
                    gemm::tolerance(dtype, case.columns.iter().sum(), largest(&expected));
                let why = format!("{}, {configuration}, {dtype}", case.why);
                assert_close(&device, &why, &gemm::run(&device, dtype, case), &expected, tolerance);
            }
        }
    }
}

#[test]
fn convolutions_agree_with_the_definition_in_every_configuration() {
    let strided = Padding { bottom: 1, right: 1, ..Padding::default() };
    let cases = [
        conv2d::plain("less than a tile of anything", [1, 3, 2, 3], 5),
        conv2d::plain("whole tiles alone", [2, 8, 8, 32], 128),
        conv2d::Case {
            bias: conv2d::Bias::Sample,
            residual: true,
            ..conv2d::plain(
                "a tail for each tap, a row and an output too many",
                [1, 5, 13, 41],
                129,
            )
        },
        conv2d::Case {
            params: ellesmere::ops::Conv2d { stride: 2, padding: strided, ..conv2d::SAME },
            bias: conv2d::Bias::Output,
            ..conv2d::plain("strided", [1, 12, 10, 16], 34)
        },
        conv2d::Case {
            params: ellesmere::ops::Conv2d { upsample: true, crop: [1, 1], ..conv2d::SAME },
            ..conv2d::plain("read twice as large but for a row and a column", [2, 3, 5, 20], 32)
        },
    ];
    for (configuration, values) in CONFIGURATIONS {
        for device in devices(values) {
            for (dtype, case) in
                DType::ALL.into_iter().flat_map(|d| cases.iter().map(move |c| (d, c)))
            {
                let expected = conv2d::run(&oracle(&device), dtype, case);
                let terms = case.params.kernel.iter().product::<usize>() * case.x[3];
                let tolerance = gemm::tolerance(dtype, terms, largest(&expected));
                let why = format!("{}, {configuration}, {dtype}", case.why);
                let actual = conv2d::run(&device, dtype, case);
                assert_close(&device, &why, &actual, &expected, tolerance);
            }
        }
    }
}
