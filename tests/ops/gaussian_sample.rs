use ellesmere::{DType, Device, DeviceOptions, Tensor, ops};

use crate::common::{assert_close, devices, largest, oracle, values};

fn run(device: &Device, dtype: DType, shape: [usize; 4], spread: f32) -> Tensor {
    let [samples, height, width, channels] = shape;
    let count: usize = shape.iter().product();
    let moments: Vec<f32> = values(1, 2 * count).iter().map(|value| spread * value).collect();
    let moments =
        Tensor::from_slice(device, &[samples, height, width, 2 * channels], dtype, &moments);
    let noise = Tensor::from_slice(device, &shape, DType::F32, &values(2, count)).unwrap();
    ops::gaussian_sample(&moments.unwrap(), &noise, 0.18215).unwrap()
}

#[test]
fn agrees_with_the_definition() {
    let cases = [
        ("a latent", [2, 5, 7, 4], 3.0),
        ("one channel", [1, 1, 1, 1], 3.0),
        ("logarithms beyond both bounds", [1, 8, 9, 4], 50.0),
    ];
    for device in devices() {
        for dtype in DType::ALL {
            for (why, shape, spread) in cases {
                let expected = run(&oracle(&device), dtype, shape, spread);
                // f32 arithmetic of a few steps, and an exponential of an argument up to 10, of
                // which relaxed mathematics may lose as many bits as are before the point.
                let tolerance = largest(&expected) * 24.0 * f32::EPSILON;
                let actual = run(&device, dtype, shape, spread);
                assert_close(&device, why, &actual, &expected, tolerance);
            }
        }
    }
}

#[test]
fn has_hand_derived_values() {
    let device = Device::definitions(None);
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::from_slice(&device, shape, DType::F32, values).unwrap()
    };
    // Deviations 1 and 2.
    let moments = tensor(&[1, 1, 1, 4], &[5.0, -1.0, 0.0, 4f32.ln()]);
    let y = ops::gaussian_sample(&moments, &tensor(&[1, 1, 1, 2], &[1.0, 3.0]), 0.5).unwrap();
    approx::assert_relative_eq!(y.to_vec().unwrap()[..], [3.0, 2.5], epsilon = 1e-6);
}

#[test]
fn splits_as_its_tensors_do() {
    let options = DeviceOptions { max_allocation_bytes: Some(2048), ..Default::default() };
    let split = Device::cpu_with(&options);
    let shape = [2, 20, 9, 4];
    let whole = run(&Device::cpu(), DType::F32, shape, 3.0);
    assert_close(&split, "split", &run(&split, DType::F32, shape, 3.0), &whole, 0.0);
}

#[test]
fn refuses_noise_of_another_size() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&device, shape, DType::F32, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let error = ops::gaussian_sample(&tensor(&[1, 2, 2, 8]), &tensor(&[1, 2, 2, 8]), 1.0);
    assert_eq!(
        error.unwrap_err().to_string(),
        "gaussian_sample: noise must be [1, 2, 2, 4] f32, got [1, 2, 2, 8] f32"
    );
}
