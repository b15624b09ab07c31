use ellesmere::{DType, Device, DeviceOptions, Tensor, ops};

use crate::common::{devices, oracle, values};

fn run(device: &Device, from: DType, to: DType, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    // Ties, subnormal halves and the largest half among them.
    let special = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 6e-8, -3e-5, 65504.0, 0.0];
    let values: Vec<f32> = special.into_iter().chain(values(1, count)).take(count).collect();
    let x = Tensor::from_slice(device, shape, from, &values).unwrap();
    let y = ops::cast(&x, to).unwrap();
    assert_eq!((y.shape(), y.dtype()), (shape, to));
    y.to_vec().unwrap()
}

#[test]
fn is_the_definition_exactly() {
    for device in devices() {
        for (from, to) in [(DType::F32, DType::F16), (DType::F16, DType::F32)] {
            for shape in [vec![1], vec![3, 7], vec![2, 40, 31]] {
                let (actual, expected) =
                    (run(&device, from, to, &shape), run(&oracle(&device), from, to, &shape));
                let name = &device.info().name;
                assert_eq!(actual, expected, "{shape:?} from {from} to {to} on {name}");
            }
        }
    }
}

#[test]
fn rounds_to_the_nearest_half() {
    let found = run(&Device::definitions(None), DType::F32, DType::F16, &[5]);
    assert_eq!(found[..2], [1.0, 1.0 + 4.0 / 2048.0]);
    assert_eq!(found[4], 65504.0);
}

#[test]
fn splits_as_its_tensor_does() {
    let options = DeviceOptions { max_allocation_bytes: Some(2048), ..Default::default() };
    let shape = [2, 40, 31];
    let split = run(&Device::cpu_with(&options), DType::F32, DType::F16, &shape);
    assert_eq!(split, run(&Device::cpu(), DType::F32, DType::F16, &shape));
}
