//! Weights in blocks of few bits: what every kernel that reads them makes of each format.

use std::sync::Arc;

use ellesmere::hardware::{DeviceEntry, detect};
use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::ops::{self, Activation, Conv2d, Epilogue, Padding, SplitWeights, Weights};
use ellesmere::{DType, Device, DeviceOptions, Error, Format, Result, Tensor, quant};

use crate::claiming::Claiming;
use crate::common::{assert_close, devices, largest, oracle, values};
use crate::gemm::tolerance;

/// Rows of `outputs`, each of `inputs` values in blocks.
pub fn blocks(format: Format, seed: u64, outputs: usize, inputs: usize) -> Vec<u8> {
    let values = values(seed, outputs * inputs);
    let mut blocks = vec![0; quant::bytes(format, values.len()).unwrap()];
    quant::encode_rows(format, inputs, &values, &mut blocks).unwrap();
    blocks
}

pub fn tensor(device: &Device, seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let values = values(seed, shape.iter().product());
    Tensor::from_slice(device, shape, dtype, &values).unwrap()
}

/// The devices, and what compiles OpenCL C as GPUs: the kernels by tiles in local memory.
///
/// llvmpipe is left out there: its compiler takes half a minute for each of those programs.
pub fn all_devices() -> Vec<Device> {
    let entries = detect().entries;
    let usable = entries.iter().filter(|entry| {
        let rusticl = entry.info.platform.starts_with("rusticl");
        entry.unusable().is_none() && entry.info.backend == "opencl" && !rusticl
    });
    let open = |entry: &DeviceEntry| {
        let inner = entry.open().unwrap();
        let info = DeviceInfo { kind: DeviceKind::Gpu, vector_width: 1, ..inner.info().clone() };
        let options = DeviceOptions { poison: true, ..DeviceOptions::default() };
        Device::new(Arc::new(Claiming::new(inner, info)), &options)
    };
    let rusticl = |device: &Device| device.info().platform.starts_with("rusticl");
    let own = devices().into_iter().filter(|device| !rusticl(device));
    own.chain(usable.map(open)).collect()
}

pub struct Product {
    why: &'static str,
    leading: &'static [usize],
    pub columns: [usize; 2],
    outputs: usize,
    slices: Option<usize>,
}

/// One input, one product.
pub fn plain(
    why: &'static str,
    leading: &'static [usize],
    columns: usize,
    outputs: usize,
) -> Product {
    Product { why, leading, columns: [columns, 0], outputs, slices: None }
}

pub fn multiply(device: &Device, dtype: DType, format: Format, case: &Product) -> Result<Tensor> {
    let ([columns, columns2], outputs) = (case.columns, case.outputs);
    let inputs = columns + columns2;
    let of = |seed, last| tensor(device, seed, &[case.leading, &[last]].concat(), dtype);
    let weights = Weights::blocks(device, format, [outputs, inputs, 1], || {
        Ok(blocks(format, 3, outputs, inputs))
    })?;
    let x2 = (columns2 > 0).then(|| of(2, columns2));
    let (bias, residual) = (tensor(device, 4, &[outputs], DType::F32), of(5, outputs));
    let (bias, residual) = (Some(&bias), Some(&residual));
    let epilogue = Epilogue { bias, activation: Activation::Silu, residual };
    match case.slices {
        None => ops::gemm(&of(1, columns), x2.as_ref(), &weights, epilogue),
        Some(slices) => ops::gemm_split(&of(1, columns), x2.as_ref(), &weights, slices, epilogue),
    }
}

#[test]
fn products_agree_with_the_definition() {
    let cases = [
        plain("rows of both halves of guidance", &[2], 1280, 33),
        Product {
            columns: [300, 468],
            ..plain("few rows of two inputs, whose border is within a group of terms", &[3], 0, 70)
        },
        plain("more terms than a block of K, rows and outputs of odd number", &[2, 13], 1536, 45),
        Product { columns: [512, 256], ..plain("two inputs", &[1, 14], 0, 64) },
        Product { slices: Some(4), ..plain("slices", &[1, 35], 1280, 65) },
    ];
    for device in all_devices() {
        for (index, format) in Format::ALL.into_iter().enumerate() {
            // Activations of one type for each: what is decoded does not depend on it.
            let dtype = DType::ALL[index % 2];
            for case in &cases {
                let expected = multiply(&oracle(&device), dtype, format, case).unwrap();
                let terms = case.columns.iter().sum();
                let tolerance = tolerance(dtype, terms, largest(&expected));
                let why = format!("{}, {format}, {dtype}", case.why);
                let actual = multiply(&device, dtype, format, case).unwrap();
                assert_close(&device, &why, &actual, &expected, tolerance);
            }
        }
    }
}

struct Convolution {
    why: &'static str,
    x: [usize; 4],
    outputs: usize,
    params: Conv2d,
    winograd: Option<usize>,
}

const SAME: Conv2d = Conv2d {
    kernel: [3, 3],
    stride: 1,
    padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
    upsample: false,
    crop: [0, 0],
};

fn convolve(device: &Device, dtype: DType, format: Format, case: &Convolution) -> Tensor {
    let Convolution { x, outputs, params, .. } = case;
    let (channels, taps) = (x[3], params.kernel.iter().product());
    let weights = Weights::blocks(device, format, [*outputs, channels, taps], || {
        Ok(blocks(format, 2, *outputs, channels * taps))
    })
    .unwrap();
    let bias = tensor(device, 3, &[*outputs], DType::F32);
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    let x = tensor(device, 1, x, dtype);
    match case.winograd {
        None => ops::conv2d(&x, &weights, params, epilogue),
        Some(tile) => ops::winograd(&x, &weights, params, tile, epilogue),
    }
    .unwrap()
}

#[test]
fn convolutions_agree_with_the_definition() {
    let plain = |why, x, outputs, params| Convolution { why, x, outputs, params, winograd: None };
    let pointwise = Conv2d { kernel: [1, 1], padding: Padding::default(), ..SAME };
    let cases = [
        plain("few outputs: no kernel of the edges", [1, 3, 2, 256], 3, SAME),
        plain("strided", [1, 5, 6, 256], 20, Conv2d { stride: 2, ..SAME }),
        plain("a shortcut", [2, 3, 4, 512], 20, pointwise),
        Convolution { winograd: Some(2), ..plain("tiles of 2", [1, 5, 6, 256], 33, SAME) },
        Convolution { winograd: Some(4), ..plain("tiles of 4", [1, 9, 6, 256], 64, SAME) },
    ];
    for device in all_devices() {
        for (index, format) in Format::ALL.into_iter().enumerate() {
            // One size of Winograd's tiles for each: what is decoded does not depend on it.
            let other = [2, 4][index % 2];
            for case in cases.iter().filter(|case| case.winograd != Some(other)) {
                let dtype = DType::F32;
                let expected = convolve(&oracle(&device), dtype, format, case);
                let terms = case.params.kernel.iter().product::<usize>() * case.x[3];
                let tolerance = match case.winograd {
                    None => tolerance(dtype, terms, largest(&expected)),
                    // Both are within the bound of a direct convolution.
                    Some(tile) => 2.0 * ops::winograd_error(tile, case.x[3]) * largest(&expected),
                };
                let why = format!("{}, {format}", case.why);
                let actual = convolve(&device, dtype, format, case);
                assert_close(&device, &why, &actual, &expected, tolerance);
            }
        }
    }
}

#[test]
fn a_row_with_a_single_one_gives_the_weights_that_files_have_to_the_bit() {
    for device in all_devices() {
        for format in Format::ALL {
            let (outputs, inputs) = (37, 512);
            let rows = blocks(format, 7, outputs, inputs);
            let mut weights = vec![0.0; outputs * inputs];
            quant::decode(format, &rows, &mut weights).unwrap();
            let shape = [outputs, inputs, 1];
            let held = Weights::blocks(&device, format, shape, || Ok(rows.clone())).unwrap();
            // All rows at once, and one by itself: tiles and few rows.
            for picked in [(0..inputs).collect::<Vec<_>>(), vec![300]] {
                let mut x = vec![0.0; picked.len() * inputs];
                for (row, k) in picked.iter().enumerate() {
                    x[row * inputs + k] = 1.0;
                }
                let x = Tensor::from_slice(&device, &[picked.len(), inputs], DType::F32, &x);
                let y = ops::gemm(&x.unwrap(), None, &held, Epilogue::default()).unwrap();
                for (index, value) in y.to_vec().unwrap().into_iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let expected = weights[output * inputs + picked[row]];
                    let name = &device.info().name;
                    assert_eq!(value, expected, "{format} on {name}: {output}, {}", picked[row]);
                }
            }
        }
    }
}

#[test]
fn pieces_and_copies_from_the_host_are_the_same_to_the_bit() {
    let (format, outputs, inputs) = (Format::Q4K, 100, 256);
    let rows = || Ok(blocks(format, 1, outputs, inputs));
    let of = |device: &Device| {
        let weights = SplitWeights::blocks(device, format, [outputs, inputs, 1], rows).unwrap();
        let x = tensor(device, 2, &[1, 19, inputs], DType::F16);
        let y = weights.multiply(&x, None, Epilogue::default()).unwrap();
        (weights.pieces().len(), y.to_vec().unwrap())
    };
    let whole = of(&Device::cpu());
    assert_eq!(whole.0, 1);
    // Two panels of one block each.
    let max_allocation_bytes = Some(2 * 148 * 32);
    let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
    let device = Device::cpu_with(&options);
    let split = of(&device);
    let _offloading = device.offload_weights();
    let offloaded = of(&device);
    assert_eq!((split.0, offloaded.0), (2, 2));
    assert!(split.1 == whole.1 && offloaded.1 == whole.1);
}

#[test]
fn what_is_no_block_is_refused() {
    let device = Device::cpu();
    let refused =
        |format, shape, bytes| match Weights::blocks(&device, format, shape, || Ok(vec![0; bytes]))
        {
            Err(Error::Shape { detail, .. }) => detail,
            other => panic!("{other:?}"),
        };
    assert_eq!(
        refused(Format::Q8_0, [4, 40, 9], 0),
        "q8_0 takes a multiple of 32 channels, got 40"
    );
    assert_eq!(
        refused(Format::Q6K, [4, 320, 1], 0),
        "q6_k takes a multiple of 256 channels, got 320"
    );
    assert_eq!(refused(Format::Q4_0, [4, 64, 1], 143), "expected 144 B of q4_0, got 143 B");
}
