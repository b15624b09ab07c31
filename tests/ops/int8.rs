//! Products in bytes: `"quantize_rows"` and `"qgemm_i8"`.

use ellesmere::ops::{self, Activation, Epilogue, Products, SplitWeights, Weights};
use ellesmere::{DType, Device, DeviceOptions, Format, Tensor};

use crate::blocks::{all_devices, blocks, tensor};
use crate::common::{assert_close, largest, oracle, values};
use crate::gemm::tolerance;

struct Case {
    why: &'static str,
    rows: usize,
    columns: [usize; 2],
    outputs: usize,
}

/// Whole numbers up to 127, one of which is in every 32 of a row: their levels are the same numbers
/// however a scale's inverse is rounded. Scaled so that they are numbers of f16, too.
fn whole(seed: u64, row: usize, count: usize) -> Vec<f32> {
    let number = |(index, value): (usize, f32)| match index % row % 32 {
        7 => 127.0 / 16.0,
        _ => (value * 127.0).round() / 16.0,
    };
    values(seed, count).into_iter().enumerate().map(number).collect()
}

fn multiply(device: &Device, dtype: DType, format: Format, case: &Case) -> Tensor {
    let &Case { rows, columns: [columns, columns2], outputs, .. } = case;
    let inputs = columns + columns2;
    let all = whole(1, inputs, rows * inputs);
    let part = |from: usize, to: usize| {
        let values: Vec<f32> =
            all.chunks_exact(inputs).flat_map(|row| row[from..to].to_vec()).collect();
        Tensor::from_slice(device, &[1, rows, to - from], dtype, &values).unwrap()
    };
    let weights = Weights::blocks(device, format, [outputs, inputs, 1], || {
        Ok(blocks(format, 3, outputs, inputs))
    });
    let weights = weights.unwrap().multiplied_in(Products::Int8);
    let x2 = (columns2 > 0).then(|| part(columns, inputs));
    let bias = tensor(device, 4, &[outputs], DType::F32);
    let residual = tensor(device, 5, &[1, rows, outputs], dtype);
    let (bias, residual) = (Some(&bias), Some(&residual));
    let epilogue = Epilogue { bias, activation: Activation::Silu, residual };
    ops::gemm(&part(0, columns), x2.as_ref(), &weights, epilogue).unwrap()
}

#[test]
fn products_agree_with_the_definition() {
    let cases = [
        Case { why: "a text encoder's layer", rows: 77, columns: [768, 0], outputs: 96 },
        Case { why: "rows and outputs of odd number", rows: 9, columns: [1280, 0], outputs: 45 },
        Case { why: "two inputs that share a block", rows: 33, columns: [500, 268], outputs: 33 },
    ];
    for device in all_devices() {
        let formats = Format::ALL.into_iter().filter(|format| format.has_integer_levels());
        for (index, format) in formats.enumerate() {
            let dtype = DType::ALL[index % 2];
            for case in &cases {
                let expected = multiply(&oracle(&device), dtype, format, case);
                let terms = case.columns.iter().sum();
                let tolerance = tolerance(dtype, terms, largest(&expected));
                let why = format!("{}, {format}, {dtype}", case.why);
                device.profile().set_enabled(true);
                let known = device.profile().records().len();
                let actual = multiply(&device, dtype, format, case);
                assert_close(&device, &why, &actual, &expected, tolerance);
                let records = device.profile().records().split_off(known);
                for kernel in ["quantize_rows", "qgemm_i8"] {
                    assert!(records.iter().any(|record| record.name == kernel), "{why}");
                }
            }
        }
    }
}

#[test]
fn values_are_rounded_by_half_a_level_at_most() {
    let (format, rows, outputs, inputs) = (Format::Q8_0, 40, 64, 1280);
    for device in all_devices() {
        let weights = |products| {
            let rows = || Ok(blocks(format, 3, outputs, inputs));
            let weights = Weights::blocks(&device, format, [outputs, inputs, 1], rows);
            weights.unwrap().multiplied_in(products)
        };
        for dtype in DType::ALL {
            let x = tensor(&device, 1, &[rows, inputs], dtype);
            let of =
                |products| ops::gemm(&x, None, &weights(products), Epilogue::default()).unwrap();
            let (exact, rounded) = (of(Products::F32), of(Products::Int8));
            assert!(exact.to_vec().unwrap() != rounded.to_vec().unwrap());
            // Values and weights are at most 1: each term is off by at most half a level of 1/127.
            // These errors have no direction, so their sum is near the root of their number; six
            // times that is not met by chance. Results of f16 are rounded besides.
            let tolerance = 6.0 * (inputs as f32 / 12.0).sqrt() / 127.0
                + 2.0 * dtype.rounding() * largest(&exact);
            assert_close(&device, &format!("{dtype}"), &rounded, &exact, tolerance);
        }
    }
}

#[test]
fn few_rows_and_weights_that_are_values_are_multiplied_as_numbers() {
    let device = Device::cpu();
    let format = Format::Q5_0;
    let rows = || Ok(blocks(format, 1, 64, 96));
    let of = |products, x: &Tensor| {
        let weights = Weights::blocks(&device, format, [64, 96, 1], rows).unwrap();
        let y = ops::gemm(x, None, &weights.multiplied_in(products), Epilogue::default());
        y.unwrap().to_vec().unwrap()
    };
    let few = tensor(&device, 2, &[8, 96], DType::F32);
    assert!(of(Products::Int8, &few) == of(Products::F32, &few));
    let more = tensor(&device, 2, &[9, 96], DType::F32);
    assert!(of(Products::Int8, &more) != of(Products::F32, &more));
    let values = Weights::linear(&device, DType::F32, [64, 96], || Ok(values(1, 64 * 96)));
    assert_eq!(values.unwrap().multiplied_in(Products::Int8).products(), Products::F32);
}

#[test]
fn pieces_are_the_same_to_the_bit() {
    let (format, outputs, inputs) = (Format::Q4K, 100, 256);
    let of = |device: &Device| {
        let rows = || Ok(blocks(format, 1, outputs, inputs));
        let weights = SplitWeights::blocks(device, format, [outputs, inputs, 1], rows).unwrap();
        let weights = weights.multiplied_in(Products::Int8);
        let x = tensor(device, 2, &[1, 19, inputs], DType::F16);
        let y = weights.multiply(&x, None, Epilogue::default()).unwrap();
        (weights.pieces().len(), y.to_vec().unwrap())
    };
    let whole = of(&Device::cpu());
    // Two panels of one block each.
    let max_allocation_bytes = Some(2 * 148 * 32);
    let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
    let split = of(&Device::cpu_with(&options));
    assert_eq!((whole.0, split.0), (1, 2));
    assert!(split.1 == whole.1);
}
