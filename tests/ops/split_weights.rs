//! Weights over the largest allocation, in pieces.

use ellesmere::ops::{
    self, Activation, Conv2d, Epilogue, PANEL, Padding, SplitWeights, Weights, conv2d,
};
use ellesmere::{DType, Device, DeviceOptions, Error, Result, Tensor};

use crate::common::{devices, open_devices, values};

fn tensor(device: &Device, seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let values = values(seed, shape.iter().product());
    Tensor::from_slice(device, shape, dtype, &values).unwrap()
}

type Product<'a> = &'a dyn Fn(&Tensor, Option<&Tensor>, Epilogue) -> Result<Tensor>;

/// The devices, and the same ones with a largest allocation.
fn both(max_allocation_bytes: u64) -> Vec<(Device, Device)> {
    let max_allocation_bytes = Some(max_allocation_bytes);
    let options = DeviceOptions { max_allocation_bytes, poison: true, ..DeviceOptions::default() };
    devices().into_iter().zip(open_devices(&options)).collect()
}

/// 100 outputs of 64 inputs, of which two panels fit one allocation.
const LINEAR: [usize; 2] = [100, 64];
const WINOGRAD: &str = "by Winograd's algorithm";

#[test]
fn products_by_pieces_are_those_of_one_block_to_the_bit() {
    for dtype in DType::ALL {
        let most_bytes = (2 * PANEL * LINEAR[1] * dtype.size()) as u64;
        for (whole_device, split_device) in both(most_bytes) {
            let read = || Ok(values(1, LINEAR[0] * LINEAR[1]));
            let whole = Weights::linear(&whole_device, dtype, LINEAR, read).unwrap();
            let split = SplitWeights::linear(&split_device, dtype, LINEAR, read).unwrap();
            let offloaded = {
                let _offloading = split_device.offload_weights();
                SplitWeights::linear(&split_device, dtype, LINEAR, read).unwrap()
            };
            let sizes: Vec<usize> = split.pieces().iter().map(Weights::outputs).collect();
            assert_eq!(sizes, [64, 36]);
            for (why, leading, columns, activation, extras) in [
                ("few rows", &[3][..], [64, 0], Activation::None, true),
                ("a matrix", &[37], [64, 0], Activation::Silu, true),
                ("two inputs, of two samples", &[2, 19], [40, 24], Activation::None, true),
                (
                    "a picture, without bias and residual",
                    &[1, 6, 6],
                    [64, 0],
                    Activation::Gelu,
                    false,
                ),
            ] {
                let of = |device: &Device, op: Product| {
                    let shape = |columns| [leading, &[columns]].concat();
                    let x = tensor(device, 2, &shape(columns[0]), dtype);
                    let x2 = (columns[1] > 0).then(|| tensor(device, 3, &shape(columns[1]), dtype));
                    let bias = extras.then(|| tensor(device, 4, &[LINEAR[0]], DType::F32));
                    let residual = extras.then(|| tensor(device, 5, &shape(LINEAR[0]), dtype));
                    let (bias, residual) = (bias.as_ref(), residual.as_ref());
                    let y = op(&x, x2.as_ref(), Epilogue { bias, activation, residual }).unwrap();
                    (y.shape().to_vec(), y.to_vec().unwrap())
                };
                let expected = of(&whole_device, &|x, x2, e| ops::gemm(x, x2, &whole, e));
                let why = format!("{why}, {dtype} on {}", split_device.info().name);
                assert_eq!(
                    of(&split_device, &|x, x2, e| split.multiply(x, x2, e)),
                    expected,
                    "{why}"
                );
                let got = of(&split_device, &|x, x2, e| offloaded.multiply(x, x2, e));
                assert_eq!(got, expected, "offloaded: {why}");
            }
            let most = split_device.memory_stats().largest_allocation_bytes;
            assert!(most <= most_bytes, "{most} of {most_bytes} B");
        }
    }
}

#[test]
fn convolutions_by_pieces_are_those_of_one_block_to_the_bit() {
    let plain = Conv2d {
        kernel: [3, 3],
        stride: 1,
        padding: Padding::same(1),
        upsample: false,
        crop: [0, 0],
    };
    let pointwise = Conv2d { kernel: [1, 1], padding: Padding::default(), ..plain };
    // Channels, outputs, side, and panels in an allocation.
    for (why, [channels, outputs, side, panels], params, sample_bias) in [
        ("directly", [16, 100, 7, 2], plain, false),
        ("with a bias for each sample", [16, 100, 5, 2], plain, true),
        ("strided", [16, 100, 7, 2], Conv2d { stride: 2, ..plain }, false),
        ("upsampled", [16, 100, 3, 2], Conv2d { upsample: true, ..plain }, false),
        ("pixel by pixel", [64, 100, 4, 2], pointwise, false),
        // A piece alone has too few outputs for Winograd's algorithm to pay.
        (WINOGRAD, [160, 160, 16, 4], plain, false),
    ] {
        let samples = if sample_bias { 2 } else { 1 };
        let [kernel_height, kernel_width] = params.kernel;
        let inputs = channels * kernel_height * kernel_width;
        let shape = [outputs, channels, kernel_height, kernel_width];
        // A transformed panel, always f32, is as large as four f32 ones: more than all in f16.
        let dtypes = if why == WINOGRAD { &[DType::F32][..] } else { &DType::ALL[..] };
        for &dtype in dtypes {
            let most_bytes = (panels * PANEL * inputs * dtype.size()) as u64;
            for (whole_device, split_device) in both(most_bytes) {
                let read = || Ok(values(1, outputs * inputs));
                let whole = Weights::conv2d(&whole_device, dtype, shape, read).unwrap();
                let split = SplitWeights::conv2d(&split_device, dtype, shape, read).unwrap();
                assert!(split.pieces().len() > 1);
                let of = |device: &Device, op: &dyn Fn(&Tensor, Epilogue) -> Result<Tensor>| {
                    let x = tensor(device, 2, &[samples, side, side, channels], dtype);
                    let bias = match sample_bias {
                        true => tensor(device, 3, &[samples, outputs], dtype),
                        false => tensor(device, 3, &[outputs], DType::F32),
                    };
                    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                    let shape = op(&x, epilogue).unwrap().shape().to_vec();
                    let residual = tensor(device, 4, &shape, dtype);
                    let y = op(&x, Epilogue { residual: Some(&residual), ..epilogue }).unwrap();
                    (shape, y.to_vec().unwrap())
                };
                let expected = of(&whole_device, &|x, e| ops::conv2d(x, &whole, &params, e));
                let got = of(&split_device, &|x, e| split.convolve(x, &params, e));
                assert_eq!(got, expected, "{why}, {dtype} on {}", split_device.info().name);
                let most = split_device.memory_stats().largest_allocation_bytes;
                assert!(most <= most_bytes, "{why}: {most} of {most_bytes} B");
            }
        }
    }
    // The case is what it says.
    let problem = |outputs| conv2d::Problem {
        samples: 1,
        input: [16, 16],
        channels: 160,
        output: [16, 16],
        outputs,
        params: plain,
        sample_bias: false,
    };
    let host = Device::cpu();
    let is_winograd = |outputs| {
        matches!(conv2d::plan(&problem(outputs), host.info()), conv2d::Algorithm::Winograd { .. })
    };
    assert!(is_winograd(160) && !is_winograd(96));
}

#[test]
fn a_panel_over_the_largest_allocation_is_one_line() {
    let most_bytes = (PANEL * LINEAR[1] * 4 - 1) as u64;
    let options = DeviceOptions { max_allocation_bytes: Some(most_bytes), ..Default::default() };
    let device = Device::cpu_with(&options);
    let read = || Ok(values(1, LINEAR[0] * LINEAR[1]));
    let error = SplitWeights::linear(&device, DType::F32, LINEAR, read).unwrap_err();
    assert!(matches!(error, Error::Allocation { .. }));
    let expected = "tensor: 8192 B in one block, but the largest allocation is 8191 B";
    assert_eq!(error.to_string(), expected);
}
