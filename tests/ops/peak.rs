use ellesmere::ops::{Action, peak_fma, peak_int8, peak_launch, peak_local, peak_memory};
use ellesmere::{DType, Device, Error, Tensor};

use crate::common::{assert_close, devices, largest, oracle, values};

fn tensor(device: &Device, dtype: DType, count: usize) -> Tensor {
    Tensor::from_slice(device, &[count], dtype, &values(3, count)).unwrap()
}

const ELEMENTS: [(&str, usize); 4] = [
    ("less than a vector", 3),
    ("one vector of each width", 16),
    ("ends in the middle of a vector and of a work-group", 1031),
    ("several work-groups of each size", 4096),
];

#[test]
fn chains_agree_with_the_definition() {
    for device in devices() {
        for dtype in DType::ALL {
            for (why, elements) in ELEMENTS {
                for turns in [1, 37] {
                    let run = |device: &Device| {
                        peak_fma(&tensor(device, dtype, elements), turns, DType::F32).unwrap()
                    };
                    let (actual, expected) = (run(&device), run(&oracle(&device)));
                    // Each turn halves an error and more, so a chain is off by less than four
                    // roundings of its largest value, 16; 16 chains are summed; one rounding to
                    // the type to either side.
                    let tolerance = 16.0 * 16.0 * 4.0 * f32::EPSILON
                        + 2.0 * largest(&expected) * dtype.rounding();
                    assert_close(&device, why, &actual, &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn arithmetic_in_f16_agrees_or_is_refused() {
    for device in devices() {
        let run = |device: &Device| peak_fma(&tensor(device, DType::F32, 100), 37, DType::F16);
        match run(&device) {
            Ok(actual) => {
                let expected = run(&oracle(&device)).unwrap();
                // As above, in halves: the start and the factor are rounded too, and so is each
                // of at most 16 partial sums of at most 8.
                let tolerance = 16.0 * (4.0 + 8.0) * 2.0 * DType::F16.rounding();
                assert_close(&device, "f16", &actual, &expected, tolerance);
            }
            Err(Error::Build { .. }) => {}
            Err(error) => panic!("{}: {error}", device.info().name),
        }
    }
}

#[test]
fn dot_products_are_the_definition_exactly() {
    for device in devices() {
        for (why, words) in ELEMENTS {
            for dot in [false, true] {
                let run = |device: &Device| peak_int8(device, words, 37, dot);
                match run(&device) {
                    Ok(actual) => {
                        let expected = run(&oracle(&device)).unwrap();
                        assert_close(&device, why, &actual, &expected, 0.0);
                    }
                    Err(Error::Build { .. }) if dot => {}
                    Err(error) => panic!("{why} on {}: {error}", device.info().name),
                }
            }
        }
    }
}

#[test]
fn one_value_is_written() {
    for device in devices() {
        assert_eq!(peak_launch(&device, 2.5).unwrap().to_vec().unwrap(), [2.5]);
        assert_eq!(peak_launch(&oracle(&device), 2.5).unwrap().to_vec().unwrap(), [2.5]);
    }
}

#[test]
fn local_memory_is_read_where_the_definition_says() {
    for device in devices() {
        // More reads than the tile has vectors, so that they wrap; 130 turns of 8 by 4 floats.
        for turns in [1, 130] {
            let run =
                |device: &Device| peak_local(&tensor(device, DType::F32, 4096), 3, turns).unwrap();
            let (actual, expected) = (run(&device), run(&oracle(&device)));
            // So many terms of at most 1, 16 a vector at most, each rounded into a sum that is at
            // most as large as their number.
            let terms = (turns * 8 * 16) as f32;
            let tolerance = terms.sqrt() * terms * f32::EPSILON;
            assert_close(&device, "local", &actual, &expected, tolerance);
        }
    }
}

#[test]
fn memory_is_read_written_and_copied_whole() {
    for device in devices() {
        for (why, elements) in ELEMENTS {
            let x = values(3, elements);
            let on = |device: &Device| tensor(device, DType::F32, elements);
            let copy = peak_memory(&device, Action::Copy(&on(&device))).unwrap();
            assert_eq!(copy.to_vec().unwrap(), x, "{why} on {}", device.info().name);
            let written = peak_memory(&device, Action::Write(elements, 2.5)).unwrap();
            let written = written.to_vec().unwrap();
            assert_eq!(written, vec![2.5; elements], "{why} on {}", device.info().name);
            let read = |device: &Device| peak_memory(device, Action::Read(&on(device))).unwrap();
            let (actual, expected) = (read(&device), read(&oracle(&device)));
            // Terms of at most 1, each rounded into a sum of at most as many as there are.
            let terms = elements as f32;
            let tolerance = terms.sqrt() * terms * f32::EPSILON;
            assert_close(&device, why, &actual, &expected, tolerance);
        }
    }
}

#[test]
fn misuse_is_named() {
    let device = Device::cpu();
    let x = tensor(&device, DType::F16, 16);
    let message = |result: Result<Tensor, Error>| result.unwrap_err().to_string();
    let range = "expected 1 to 4294967295, got 0";
    assert_eq!(message(peak_fma(&x, 0, DType::F32)), format!("turns: {range}"));
    assert_eq!(message(peak_int8(&device, 0, 1, false)), format!("words: {range}"));
    assert_eq!(
        message(peak_local(&x, 1, 1)),
        "peak_local: x must be [4096] of f32, got [16] of f16"
    );
    assert_eq!(
        message(peak_memory(&device, Action::Read(&x))),
        "peak_memory: x must be of f32, got f16"
    );
    assert_eq!(message(peak_memory(&device, Action::Write(0, 1.0))), format!("elements: {range}"));
}
