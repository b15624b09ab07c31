use ellesmere::{DType, Device, DeviceOptions, Tensor, ops};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};

fn run(device: &Device, dtype: DType, shape: &[usize]) -> Tensor {
    let x: Vec<f32> = values(1, shape.iter().product()).iter().map(|v| 6.0 * v).collect();
    ops::geglu(&Tensor::from_slice(device, shape, dtype, &x).unwrap()).unwrap()
}

fn check(why: &str, shape: &[usize]) {
    for device in devices() {
        for dtype in DType::ALL {
            let expected = run(&oracle(&device), dtype, shape);
            // One rounding of the result, which may fall to either side; and an error function
            // whose 16 ulp (what OpenCL grants) weigh as much as both factors, below 6.
            let tolerance =
                largest(&expected) * 2.0 * dtype.rounding() + 36.0 * 16.0 * f32::EPSILON / 2.0;
            assert_close(&device, why, &run(&device, dtype, shape), &expected, tolerance);
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    check("one channel", &[3, 2]);
    check("channels that fill no vector", &[2, 5, 38]);
    check("a feed-forward layer's width", &[1, 3, 2560]);
    check("more channels than a work-group takes", &[1, 2, 2 * 1100]);
}

proptest! {
    #![proptest_config(drawn(8))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(rows in 1..30usize, channels in 1..200usize) {
        check("drawn", &[rows, 2 * channels]);
    }
}

#[test]
fn has_hand_derived_values() {
    let device = Device::definitions(None);
    let x = Tensor::from_slice(&device, &[1, 6], DType::F32, &[2., 3., -4., 0., 1., -1.]).unwrap();
    // GELU(1) = Phi(1) = 0.8413447, GELU(-1) = -Phi(-1) = -0.1586553.
    let expected = [0.0, 3.0 * 0.841_344_7, 4.0 * 0.158_655_3];
    let y = ops::geglu(&x).unwrap().to_vec().unwrap();
    approx::assert_relative_eq!(y[..], expected, epsilon = 1e-6);
}

#[test]
fn splits_as_its_tensor_does() {
    let options = DeviceOptions { max_allocation_bytes: Some(4096), ..Default::default() };
    let split = Device::cpu_with(&options);
    let shape = [2, 50, 38];
    let whole = run(&Device::cpu(), DType::F32, &shape);
    assert_close(&split, "split", &run(&split, DType::F32, &shape), &whole, 0.0);
}

#[test]
fn refuses_an_odd_width() {
    let device = Device::cpu();
    let x = Tensor::from_slice(&device, &[2, 3], DType::F32, &[0.0; 6]).unwrap();
    let error = ops::geglu(&x).unwrap_err();
    assert_eq!(error.to_string(), "geglu: x must be [.., 2C], at least two axes, got [2, 3]");
}
