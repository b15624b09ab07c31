//! Winograd's algorithm in one pass, in each of its configurations, against its definition and
//! against the direct convolution.

use ellesmere::ops::{self, Activation, Conv2d, Padding};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};

use crate::common::{assert_close, largest, open_devices, oracle};
use crate::winograd::{Case, SAME, compute, direct, plain, tolerance};

fn run(device: &Device, dtype: DType, case: &Case) -> Result<Tensor> {
    compute(device, dtype, case, |x, weights, epilogue| {
        ops::winograd_local(x, weights, &case.params, epilogue)
    })
}

fn cases() -> Vec<Case> {
    vec![
        plain("one pixel: a tile that is nearly all outside", 2, [1, 1, 1, 8], 1),
        plain("sides that cut tiles, outputs that cut a panel", 2, [1, 7, 9, 24], 33),
        Case {
            residual: true,
            ..plain("two samples in one work-group, whole tiles and panels", 2, [2, 4, 6, 32], 64)
        },
        Case {
            sample_bias: true,
            activation: Activation::Silu,
            residual: true,
            ..plain("the whole epilogue", 2, [3, 5, 6, 16], 36)
        },
        Case {
            params: Conv2d { upsample: true, crop: [1, 1], ..SAME },
            ..plain("read twice as large but for a row and a column", 2, [2, 3, 5, 8], 32)
        },
        Case {
            params: Conv2d { padding: Padding { top: 2, bottom: 0, left: 0, right: 1 }, ..SAME },
            ..plain("uneven padding", 2, [1, 6, 8, 8], 8)
        },
        Case { offset: 20.0, ..plain("mean far from zero", 2, [1, 9, 9, 40], 32) },
    ]
}

#[test]
fn agrees_with_the_direct_convolution_and_with_the_definition() {
    for (tiles, channels) in [(16, 8), (16, 4), (32, 4)] {
        let values = [("TILES", tiles), ("CHANNELS", channels)];
        let values = values.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let forced = vec![("winograd_local".to_owned(), values)];
        let options = DeviceOptions { poison: true, forced, ..DeviceOptions::default() };
        for device in open_devices(&options) {
            // One configuration is what a compiler that takes minutes is given.
            if channels == 4 && device.info().platform.starts_with("rusticl") {
                continue;
            }
            for dtype in DType::ALL {
                for case in cases() {
                    let direct = direct(dtype, &case);
                    let tolerance = tolerance(dtype, &case, largest(&direct));
                    let why = format!("{}, {tiles} tiles, {channels} channels", case.why);
                    let actual = run(&device, dtype, &case).unwrap();
                    assert_close(&device, &why, &actual, &direct, tolerance);
                    let expected = run(&oracle(&device), dtype, &case).unwrap();
                    assert_close(&device, &why, &actual, &expected, tolerance);
                }
            }
        }
    }
}

/// Panels in two blocks, and bands.
#[test]
fn in_several_blocks_it_gives_the_same_result() {
    let case = Case {
        residual: true,
        sample_bias: true,
        ..plain("several blocks", 2, [2, 10, 7, 64], 70)
    };
    // A panel of transformed weights is 16 * 64 * 32 floats, which no limit may be below.
    let panel_bytes = 16 * 64 * 32 * 4;
    for dtype in DType::ALL {
        let whole = run(&Device::cpu(), dtype, &case).unwrap().to_vec().unwrap();
        let options = DeviceOptions {
            max_allocation_bytes: Some(2 * panel_bytes + 4096),
            ..DeviceOptions::default()
        };
        let split = run(&Device::cpu_with(&options), dtype, &case).unwrap().to_vec().unwrap();
        assert!(split == whole, "{dtype}");
    }
}

#[test]
fn refuses_what_it_is_not_for() {
    let case = plain("refused", 2, [1, 6, 6, 4], 4);
    let message = run(&Device::cpu(), DType::F32, &case).unwrap_err().to_string();
    assert_eq!(
        message,
        "winograd_local: kernel, stride and channels must be [3, 3], 1 and a multiple of 8, got \
         [3, 3], 1 and 4"
    );
}
