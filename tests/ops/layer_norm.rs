use ellesmere::{DType, Device, Tensor, ops};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};

struct Case {
    why: &'static str,
    shape: Vec<usize>,
    offset: f32,
}

fn run(device: &Device, dtype: DType, case: &Case) -> Tensor {
    let channels = *case.shape.last().unwrap();
    let x: Vec<f32> =
        values(1, case.shape.iter().product()).iter().map(|v| v + case.offset).collect();
    let x = Tensor::from_slice(device, &case.shape, dtype, &x).unwrap();
    let gamma = Tensor::from_slice(device, &[channels], DType::F32, &values(2, channels)).unwrap();
    let beta = Tensor::from_slice(device, &[channels], DType::F32, &values(3, channels)).unwrap();
    ops::layer_norm(&x, &gamma, &beta, 1e-5).unwrap()
}

fn check(case: &Case) {
    for device in devices() {
        for dtype in DType::ALL {
            let expected = run(&oracle(&device), dtype, case);
            // One rounding of the result, which may fall to either side in the definition and on
            // the device; and f32 statistics, whose error grows with the mean they subtract.
            let tolerance = largest(&expected) * 2.0 * dtype.rounding()
                + (16.0 + 8.0 * case.offset) * f32::EPSILON;
            assert_close(&device, case.why, &run(&device, dtype, case), &expected, tolerance);
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    let cases = [
        Case { why: "a row shorter than a work-group", shape: vec![3, 5], offset: 0.0 },
        Case { why: "CLIP's hidden size", shape: vec![2, 77, 768], offset: 0.0 },
        Case { why: "mean far from zero", shape: vec![1, 16, 320], offset: 100.0 },
    ];
    cases.iter().for_each(check);
}

proptest! {
    #![proptest_config(drawn(16))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(rows in 1..40usize, channels in 2..400usize) {
        check(&Case { why: "drawn", shape: vec![rows, channels], offset: 0.0 });
    }
}

#[test]
fn refuses_a_beta_of_another_size() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&device, shape, DType::F32, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let error = ops::layer_norm(&tensor(&[4, 6]), &tensor(&[6]), &tensor(&[5]), 1e-5).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: beta must be [6] f32, got [5] f32");
}
