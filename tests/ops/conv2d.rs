use ellesmere::ops::{self, Activation, Conv2d, Epilogue, Padding, Weights};
use ellesmere::{DType, Device, DeviceOptions, Tensor};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};
use crate::gemm::tolerance;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bias {
    None,
    Output,
    Sample,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub why: &'static str,
    /// N, H, W, I
    pub x: [usize; 4],
    pub outputs: usize,
    pub params: Conv2d,
    pub bias: Bias,
    pub activation: Activation,
    pub residual: bool,
}

pub const SAME: Conv2d = Conv2d {
    kernel: [3, 3],
    stride: 1,
    padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
    upsample: false,
    crop: [0, 0],
};

/// 3x3 without an epilogue.
pub fn plain(why: &'static str, x: [usize; 4], outputs: usize) -> Case {
    let (params, activation) = (SAME, Activation::None);
    Case { why, x, outputs, params, bias: Bias::None, activation, residual: false }
}

fn output_shape(case: &Case) -> [usize; 4] {
    let ([samples, height, width, _], Conv2d { kernel, stride, padding, upsample, crop }) =
        (case.x, case.params);
    let scale = if upsample { 2 } else { 1 };
    let (read_height, read_width) = (height * scale - crop[0], width * scale - crop[1]);
    let out_height = (read_height + padding.top + padding.bottom - kernel[0]) / stride + 1;
    let out_width = (read_width + padding.left + padding.right - kernel[1]) / stride + 1;
    [samples, out_height, out_width, case.outputs]
}

pub fn run(device: &Device, dtype: DType, case: &Case) -> Tensor {
    let tensor = |seed, shape: &[usize], dtype| {
        Tensor::from_slice(device, shape, dtype, &values(seed, shape.iter().product())).unwrap()
    };
    let ([samples, .., channels], outputs) = (case.x, case.outputs);
    let [kernel_height, kernel_width] = case.params.kernel;
    let weights =
        Weights::conv2d(device, dtype, [outputs, channels, kernel_height, kernel_width], || {
            Ok(values(2, outputs * channels * kernel_height * kernel_width))
        });
    let bias = match case.bias {
        Bias::None => None,
        Bias::Output => Some(tensor(3, &[outputs], DType::F32)),
        Bias::Sample => Some(tensor(4, &[samples, outputs], dtype)),
    };
    let residual = case.residual.then(|| tensor(5, &output_shape(case), dtype));
    let epilogue =
        Epilogue { bias: bias.as_ref(), activation: case.activation, residual: residual.as_ref() };
    let x = tensor(1, &case.x, dtype);
    ops::conv2d(&x, &weights.unwrap(), &case.params, epilogue).unwrap()
}

fn check(case: &Case) {
    for device in devices() {
        for dtype in DType::ALL {
            let expected = run(&oracle(&device), dtype, case);
            assert_eq!(expected.shape(), output_shape(case), "{}", case.why);
            let terms = case.params.kernel.iter().product::<usize>() * case.x[3];
            let tolerance = tolerance(dtype, terms, largest(&expected));
            assert_close(&device, case.why, &run(&device, dtype, case), &expected, tolerance);
        }
    }
}

fn cases() -> Vec<Case> {
    let below = Padding { bottom: 1, right: 1, ..Padding::default() };
    vec![
        plain("one pixel: nothing but padding around it", [1, 1, 1, 1], 1),
        plain("few channels in: the first layer", [1, 9, 7, 4], 48),
        plain("few channels out: the last layer", [1, 7, 19, 40], 3),
        plain("few channels out: narrower than a tile", [1, 7, 9, 40], 3),
        plain(
            "few channels in: more pixels in a row than a strip, outputs of odd number",
            [1, 3, 301, 3],
            37,
        ),
        Case {
            bias: Bias::Sample,
            residual: true,
            activation: Activation::Silu,
            ..plain("few channels in: two samples, a whole epilogue", [2, 9, 13, 4], 64)
        },
        Case {
            params: Conv2d { padding: Padding { left: 0, right: 2, top: 2, bottom: 0 }, ..SAME },
            ..plain("few channels in: uneven padding", [1, 6, 15, 8], 20)
        },
        Case {
            params: Conv2d { crop: [1, 2], ..SAME },
            ..plain("few channels in: rows and columns that are not there", [2, 6, 15, 2], 33)
        },
        plain(
            "few channels out: more pixels in a row than a strip, rows for several items",
            [1, 19, 301, 12],
            3,
        ),
        plain(
            "few channels out: taps in two panels, channels apart by a power of two",
            [1, 5, 18, 1024],
            4,
        ),
        Case {
            bias: Bias::Sample,
            residual: true,
            activation: Activation::Silu,
            ..plain(
                "few channels out: two samples, taps in three panels, a whole epilogue",
                [2, 9, 17, 24],
                8,
            )
        },
        Case {
            params: Conv2d { padding: Padding { left: 0, right: 2, top: 2, bottom: 0 }, ..SAME },
            ..plain("few channels out: uneven padding", [1, 6, 23, 10], 5)
        },
        Case {
            params: Conv2d { padding: Padding { left: 2, right: 0, top: 0, bottom: 2 }, ..SAME },
            ..plain("few channels out: uneven padding, two strips", [1, 3, 57, 16], 2)
        },
        Case {
            params: Conv2d { crop: [1, 2], ..SAME },
            ..plain("few channels out: rows and columns that are not there", [2, 6, 18, 9], 1)
        },
        plain("channels of odd number", [1, 6, 5, 17], 33),
        plain("more terms than a block of K, which ends inside a window", [1, 4, 4, 160], 36),
        Case {
            bias: Bias::Output,
            residual: true,
            ..plain("two samples of more pixels than a block", [2, 11, 13, 8], 32)
        },
        Case {
            bias: Bias::Sample,
            activation: Activation::Silu,
            ..plain("a bias for each sample: a time embedding", [3, 5, 5, 16], 40)
        },
        Case {
            params: Conv2d { stride: 2, ..SAME },
            ..plain("the UNet's downsampling, odd sides", [1, 9, 11, 12], 32)
        },
        Case {
            params: Conv2d { stride: 2, padding: below, ..SAME },
            ..plain("the VAE's downsampling: padding below and to the right", [1, 8, 10, 12], 32)
        },
        Case {
            params: Conv2d { upsample: true, ..SAME },
            ..plain("read twice as large", [2, 3, 5, 20], 32)
        },
        Case {
            params: Conv2d { stride: 2, upsample: true, ..SAME },
            ..plain("read twice as large with a stride", [1, 5, 4, 6], 10)
        },
        Case {
            params: Conv2d { upsample: true, crop: [1, 1], ..SAME },
            ..plain("read twice as large but for a row and a column", [2, 3, 5, 20], 32)
        },
        Case {
            params: Conv2d { kernel: [1, 1], padding: Padding::default(), ..SAME },
            bias: Bias::Output,
            ..plain("pixel by pixel: a product", [2, 4, 3, 36], 40)
        },
        Case {
            params: Conv2d { kernel: [1, 1], padding: Padding::default(), ..SAME },
            bias: Bias::Sample,
            ..plain("pixel by pixel with a bias for each sample", [2, 4, 3, 36], 40)
        },
        Case {
            params: Conv2d { kernel: [1, 1], stride: 2, padding: Padding::default(), ..SAME },
            ..plain("every other pixel", [1, 5, 7, 12], 8)
        },
        Case {
            params: Conv2d {
                kernel: [2, 5],
                padding: Padding { top: 1, bottom: 0, left: 4, right: 2 },
                ..SAME
            },
            ..plain("an uneven window with uneven padding", [1, 6, 8, 7], 9)
        },
        Case {
            params: Conv2d { padding: Padding::default(), ..SAME },
            ..plain("no padding", [1, 5, 5, 8], 8)
        },
    ]
}

#[test]
fn agrees_with_the_definition() {
    cases().iter().for_each(check);
}

#[test]
fn agrees_with_the_definition_where_winograd_is_planned() {
    let case = Case {
        bias: Bias::Sample,
        activation: Activation::Silu,
        residual: true,
        ..plain("many channels, sides that cut tiles", [2, 29, 34, 200], 200)
    };
    for device in devices() {
        for dtype in DType::ALL {
            let expected = run(&oracle(&device), dtype, &case);
            let known = device.profile().records().len();
            device.profile().set_enabled(true);
            let actual = run(&device, dtype, &case);
            let records = device.profile().records().split_off(known);
            let planned = records.iter().any(|record| record.name == "winograd_output");
            assert!(planned, "{}", device.info().name);
            let largest = largest(&expected);
            // The definition's transforms are f64; its matrices between them are f32, as all are.
            let tolerance =
                tolerance(dtype, 9 * 200, largest) + ops::winograd_error(4, 200) * largest;
            assert_close(&device, case.why, &actual, &expected, tolerance);
        }
    }
}

proptest! {
    #![proptest_config(drawn(16))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(
        x in (1..3usize, 1..12usize, 1..12usize, 1..40usize),
        outputs in 1..70usize,
        kernel in 1..4usize,
        stride in 1..3usize,
        padding in 0..256usize,
        upsample: bool,
        crop in 0..4usize,
        bias in 0..3usize,
    ) {
        let side = |shift: u32| (padding >> shift & 3).min(kernel - 1);
        let padding = Padding { top: side(0), bottom: side(2), left: side(4), right: side(6) };
        let scale = if upsample { 2 } else { 1 };
        let crop = [crop % 2, crop / 2];
        let (height, width) = (x.1 * scale - crop[0], x.2 * scale - crop[1]);
        prop_assume!(height > 0 && height + padding.top + padding.bottom >= kernel);
        prop_assume!(width > 0 && width + padding.left + padding.right >= kernel);
        check(&Case {
            params: Conv2d { kernel: [kernel, kernel], stride, padding, upsample, crop },
            bias: [Bias::None, Bias::Output, Bias::Sample][bias],
            ..plain("drawn", [x.0, x.1, x.2, x.3], outputs)
        });
    }
}

#[test]
fn few_channels_have_kernels_of_their_own_on_cpu_devices() {
    let device = Device::cpu();
    device.profile().set_enabled(true);
    let launched = |case: &Case| {
        run(&device, DType::F32, case);
        device.profile().records().last().expect("a launch is recorded").name
    };
    let few_inputs = plain("the first layer", [1, 5, 6, 4], 32);
    assert_eq!(launched(&few_inputs), "conv2d_few_inputs");
    assert_eq!(launched(&plain("the last", [1, 5, 20, 32], 4)), "conv2d_few_outputs");
    let strided = Case { params: Conv2d { stride: 2, ..SAME }, ..few_inputs };
    assert_eq!(launched(&strided), "conv2d_register");
}

#[test]
fn an_image_in_several_blocks_gives_the_same_result() {
    let cases = [
        plain("3x3", [2, 48, 10, 16], 24),
        Case { bias: Bias::Sample, residual: true, ..plain("epilogue", [2, 48, 10, 16], 24) },
        Case {
            params: Conv2d { stride: 2, ..SAME },
            ..plain("two rows for one", [2, 48, 10, 32], 24)
        },
        Case {
            params: Conv2d { upsample: true, ..SAME },
            ..plain("one row for two, cut at odd rows too", [2, 27, 5, 16], 24)
        },
        Case {
            params: Conv2d { upsample: true, crop: [1, 1], ..SAME },
            ..plain("one row for two but for the last", [2, 27, 5, 16], 24)
        },
    ];
    for dtype in DType::ALL {
        // Weights are 9,216 elements at most, which no limit may be below; a sample of a result is
        // 5,760 to 12,960. Several limits give bands of odd and of even numbers of rows.
        for most_elements in [9216, 9600, 10000] {
            for case in &cases {
                let options = DeviceOptions {
                    max_allocation_bytes: Some((most_elements * dtype.size()) as u64),
                    ..DeviceOptions::default()
                };
                let whole = run(&Device::cpu(), dtype, case).to_vec().unwrap();
                let split = run(&Device::cpu_with(&options), dtype, case).to_vec().unwrap();
                assert!(split == whole, "{} {dtype}, {most_elements}", case.why);
            }
        }
    }
}

#[test]
fn the_definition_slides_its_window_over_the_padded_image() {
    let device = Device::definitions(None);
    let image: Vec<f32> = (1..=9).map(|value| value as f32).collect();
    let x = Tensor::from_slice(&device, &[1, 3, 3, 1], DType::F32, &image).unwrap();
    let convolve = |values: [f32; 9], params: Conv2d| {
        let weights = Weights::conv2d(&device, DType::F32, [1, 1, 3, 3], || Ok(values.to_vec()));
        let y = ops::conv2d(&x, &weights.unwrap(), &params, Epilogue::default()).unwrap();
        y.to_vec().unwrap()
    };
    let sum = [1.0; 9];
    let center = [0., 0., 0., 0., 1., 0., 0., 0., 0.];
    let above_left = [1., 0., 0., 0., 0., 0., 0., 0., 0.];
    assert_eq!(convolve(sum, SAME), [12., 21., 16., 27., 45., 33., 24., 39., 28.]);
    assert_eq!(convolve(above_left, SAME), [0., 0., 0., 0., 1., 2., 0., 4., 5.]);
    assert_eq!(convolve(sum, Conv2d { stride: 2, ..SAME }), [12., 16., 24., 28.]);
    let below = Padding { bottom: 1, right: 1, ..Padding::default() };
    let down = Conv2d { stride: 2, padding: below, ..SAME };
    assert_eq!(convolve(sum, down), [45.0]);
    assert_eq!(convolve(above_left, down), [1.0]);
    let up = [
        [1., 1., 2., 2., 3., 3.],
        [1., 1., 2., 2., 3., 3.],
        [4., 4., 5., 5., 6., 6.],
        [4., 4., 5., 5., 6., 6.],
        [7., 7., 8., 8., 9., 9.],
        [7., 7., 8., 8., 9., 9.],
    ];
    assert_eq!(convolve(center, Conv2d { upsample: true, ..SAME }), up.concat());
    let below_right = [0., 0., 0., 0., 0., 0., 0., 0., 1.];
    let up = [
        [1., 2., 2., 3., 0.],
        [4., 5., 5., 6., 0.],
        [4., 5., 5., 6., 0.],
        [7., 8., 8., 9., 0.],
        [0., 0., 0., 0., 0.],
    ];
    let odd = Conv2d { upsample: true, crop: [1, 1], ..SAME };
    assert_eq!(convolve(below_right, odd), up.concat());
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&device, shape, DType::F32, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let weights = Weights::conv2d(&device, DType::F32, [5, 2, 3, 3], || Ok(vec![0.0; 90])).unwrap();
    let refused = |x: &[usize], params, bias: &[usize]| {
        let bias = tensor(bias);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        ops::conv2d(&tensor(x), &weights, &params, epilogue).unwrap_err().to_string()
    };
    let cases = [
        (refused(&[4, 4, 2], SAME, &[5]), "conv2d: x must be [N, H, W, I], got [4, 4, 2]"),
        (refused(&[1, 4, 4, 3], SAME, &[5]), "conv2d: weights must have 3 * 3 * 3 inputs, got 18"),
        (
            refused(&[2, 4, 4, 2], SAME, &[2, 4]),
            "conv2d: bias must be [5] f32 or [2, 5] f32, got [2, 4] f32",
        ),
        (
            refused(&[1, 4, 4, 2], Conv2d { stride: 0, ..SAME }, &[5]),
            "conv2d: kernel and stride must be at least 1, got [3, 3] and 0",
        ),
        (
            refused(&[1, 1, 4, 2], Conv2d { padding: Padding::default(), ..SAME }, &[5]),
            "conv2d: kernel [3, 3] must fit x with its padding, got 1 by 4",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
    let wide = Conv2d { padding: Padding { top: 3, ..Padding::same(1) }, ..SAME };
    let message = refused(&[1, 4, 4, 2], wide, &[5]);
    assert!(message.starts_with("conv2d: padding must be less than kernel [3, 3], got Padding"));
}
