//! Winograd's algorithm against its definition, which goes through the same transforms in f64, and
//! against the definition of the direct convolution, which knows nothing of transforms.

use ellesmere::ops::{self, Activation, Conv2d, Epilogue, Padding, Weights};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};

#[derive(Clone, Debug)]
pub struct Case {
    pub why: &'static str,
    pub tile: usize,
    /// N, H, W, I
    pub x: [usize; 4],
    pub outputs: usize,
    pub params: Conv2d,
    pub sample_bias: bool,
    pub activation: Activation,
    pub residual: bool,
    /// Added to every value of x: a mean far from zero.
    pub offset: f32,
}

pub const SAME: Conv2d = Conv2d {
    kernel: [3, 3],
    stride: 1,
    padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
    upsample: false,
    crop: [0, 0],
};

pub fn plain(why: &'static str, tile: usize, x: [usize; 4], outputs: usize) -> Case {
    let (params, activation) = (SAME, Activation::None);
    let (sample_bias, residual, offset) = (false, false, 0.0);
    Case { why, tile, x, outputs, params, sample_bias, activation, residual, offset }
}

fn run(device: &Device, dtype: DType, case: &Case) -> Result<Tensor> {
    compute(device, dtype, case, |x, weights, epilogue| {
        ops::winograd(x, weights, &case.params, case.tile, epilogue)
    })
}

/// The direct convolution in f64. So few outputs are never planned as Winograd's.
pub fn direct(dtype: DType, case: &Case) -> Tensor {
    let plan = |x: &Tensor, weights: &Weights, epilogue: Epilogue| {
        ops::conv2d(x, weights, &case.params, epilogue)
    };
    compute(&Device::definitions(None), dtype, case, plan).unwrap()
}

pub fn compute(
    device: &Device,
    dtype: DType,
    case: &Case,
    op: impl Fn(&Tensor, &Weights, Epilogue) -> Result<Tensor>,
) -> Result<Tensor> {
    let [samples, height, width, channels] = case.x;
    let tensor = |values: Vec<f32>, shape: &[usize], dtype| {
        Tensor::from_slice(device, shape, dtype, &values).unwrap()
    };
    let outputs = case.outputs;
    let weights = Weights::conv2d(device, dtype, [outputs, channels, 3, 3], || {
        Ok(values(2, outputs * channels * 9))
    })?;
    let bias = match case.sample_bias {
        true => tensor(values(4, samples * outputs), &[samples, outputs], dtype),
        false => tensor(values(3, outputs), &[outputs], DType::F32),
    };
    let scale = if case.params.upsample { 2 } else { 1 };
    let Padding { top, bottom, left, right } = case.params.padding;
    let y_shape = [
        samples,
        height * scale - case.params.crop[0] + top + bottom - 2,
        width * scale - case.params.crop[1] + left + right - 2,
        outputs,
    ];
    let residual =
        case.residual.then(|| tensor(values(5, y_shape.iter().product()), &y_shape, dtype));
    let epilogue =
        Epilogue { bias: Some(&bias), activation: case.activation, residual: residual.as_ref() };
    let x = values(1, samples * height * width * channels);
    let x = tensor(x.into_iter().map(|x| x + case.offset).collect(), &case.x, dtype);
    op(&x, &weights, epilogue)
}

/// The bound of `winograd_error`, of results up to `largest`, and the rounding to the element type
/// of either side.
pub fn tolerance(dtype: DType, case: &Case, largest: f32) -> f32 {
    largest * (2.0 * dtype.rounding() + ops::winograd_error(case.tile, case.x[3]))
}

fn check(case: &Case) {
    for dtype in DType::ALL {
        let direct = direct(dtype, case);
        let tolerance = tolerance(dtype, case, largest(&direct));
        for device in devices() {
            let actual = run(&device, dtype, case).unwrap();
            assert_close(&device, case.why, &actual, &direct, tolerance);
            let expected = run(&oracle(&device), dtype, case).unwrap();
            assert_close(&device, case.why, &actual, &expected, tolerance);
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tile in [2, 4] {
        cases.extend([
            plain("one pixel: a tile that is nearly all outside", tile, [1, 1, 1, 1], 1),
            plain(
                "channels and outputs of odd numbers, sides that cut tiles",
                tile,
                [1, 7, 9, 17],
                33,
            ),
            Case {
                residual: true,
                ..plain(
                    "two samples, whole vectors, sides of whole tiles",
                    tile,
                    [2, 8, 12, 32],
                    32,
                )
            },
            Case {
                sample_bias: true,
                activation: Activation::Silu,
                residual: true,
                ..plain("the whole epilogue", tile, [3, 5, 6, 20], 36)
            },
            Case {
                params: Conv2d { upsample: true, ..SAME },
                ..plain("read twice as large", tile, [2, 5, 3, 16], 32)
            },
            Case {
                params: Conv2d { upsample: true, crop: [1, 1], ..SAME },
                ..plain("read twice as large but for a row and a column", tile, [2, 3, 5, 20], 32)
            },
            Case {
                params: Conv2d {
                    padding: Padding { top: 2, bottom: 0, left: 0, right: 1 },
                    ..SAME
                },
                ..plain("uneven padding", tile, [1, 6, 8, 8], 8)
            },
            Case {
                params: Conv2d { padding: Padding::default(), ..SAME },
                ..plain("no padding", tile, [1, 6, 7, 8], 8)
            },
            Case { offset: 20.0, ..plain("mean far from zero", tile, [1, 9, 9, 40], 32) },
        ]);
    }
    cases
}

#[test]
fn agrees_with_the_direct_convolution_and_with_the_definition() {
    cases().iter().for_each(check);
}

/// What the plan rests on: `winograd_error` bounds the error on drawn data, with a mean of zero and
/// with others, and is below what is allowed for every model's channels.
#[test]
fn the_error_is_within_its_bound_and_the_bound_within_a_thousandth() {
    for tile in [2, 4] {
        for channels in [16, 64, 320, 1280, 2560] {
            let bound = ops::winograd_error(tile, channels);
            assert!(bound <= 1e-3, "{bound} of {channels} channels");
            for offset in [0.0, 1.0, 30.0] {
                let case = Case { offset, ..plain("drawn", tile, [1, 8, 8, channels], 32) };
                let direct = direct(DType::F32, &case);
                let tolerance = bound * largest(&direct);
                for device in devices() {
                    let actual = run(&device, DType::F32, &case).unwrap();
                    let why = format!("{channels} channels, mean {offset}, tiles of {tile}");
                    assert_close(&device, &why, &actual, &direct, tolerance);
                }
            }
        }
    }
}

/// Blocks of tiles and of outputs, each with a last one that is smaller, and bands.
#[test]
fn in_several_blocks_it_gives_the_same_result() {
    // 30 tiles and 3 panels; a panel of transformed weights is 36 * 64 * 32 floats.
    let case = Case {
        residual: true,
        sample_bias: true,
        ..plain("several blocks", 4, [2, 24, 17, 64], 70)
    };
    let panel_bytes = 36 * 64 * 32 * 4;
    for dtype in DType::ALL {
        let whole = run(&Device::cpu(), dtype, &case).unwrap().to_vec().unwrap();
        for most_bytes in [panel_bytes, 2 * panel_bytes + 4096] {
            let options = DeviceOptions {
                max_allocation_bytes: Some(most_bytes as u64),
                ..DeviceOptions::default()
            };
            let split = Device::cpu_with(&options);
            split.profile().set_enabled(true);
            let y = run(&split, dtype, &case).unwrap().to_vec().unwrap();
            assert!(y == whole, "{dtype}, {most_bytes}");
            let records = split.profile().records();
            let count = |name| records.iter().filter(|record| record.name == name).count();
            assert!(count("winograd_output") > count("winograd_input").max(1), "{most_bytes}");
        }
    }
}

#[test]
fn refuses_what_it_is_not_for() {
    let case = plain("refused", 4, [1, 6, 6, 4], 4);
    let message = |case: &Case| run(&Device::cpu(), DType::F32, case).unwrap_err().to_string();
    let stride = Case { params: Conv2d { stride: 2, ..SAME }, ..case.clone() };
    assert_eq!(
        message(&stride),
        "winograd: kernel, stride and tile must be [3, 3], 1, and 2 or 4, got [3, 3], 2 and 4"
    );
    assert!(message(&Case { tile: 3, ..case }).ends_with("got [3, 3], 1 and 3"));
}

proptest! {
    #![proptest_config(drawn(16))]

    #[test]
    fn agrees_on_drawn_shapes(
        x in (1..3usize, 1..14usize, 1..14usize, 1..40usize),
        outputs in 1..40usize,
        tile in 1..3usize,
        padding in 0..81usize,
        upsample: bool,
        crop in 0..4usize,
        residual: bool,
        sample_bias: bool,
    ) {
        let side = |power: u32| padding / 3usize.pow(power) % 3;
        let padding = Padding { top: side(0), bottom: side(1), left: side(2), right: side(3) };
        let scale = if upsample { 2 } else { 1 };
        let crop = [crop % 2, crop / 2];
        let (height, width) = (x.1 * scale - crop[0], x.2 * scale - crop[1]);
        prop_assume!(height > 0 && height + padding.top + padding.bottom >= 3);
        prop_assume!(width > 0 && width + padding.left + padding.right >= 3);
        check(&Case {
            params: Conv2d { padding, upsample, crop, ..SAME },
            residual,
            sample_bias,
            ..plain("drawn", 2 * tile, [x.0, x.1, x.2, x.3], outputs)
        });
    }
}
