use ellesmere::ops::{self, Activation, GroupNorm};
use ellesmere::{DType, Device, DeviceOptions, Tensor};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};

#[derive(Clone, Debug)]
struct Case {
    why: &'static str,
    /// Of x, without channels.
    shape: Vec<usize>,
    /// Of x and of x2; 0 where there is none.
    channels: [usize; 2],
    groups: usize,
    offset: f32,
    activation: Activation,
}

fn base() -> Case {
    Case {
        why: "",
        shape: vec![1, 5, 7],
        channels: [16, 0],
        groups: 4,
        offset: 0.0,
        activation: Activation::None,
    }
}

impl Case {
    fn run(&self, device: &Device, dtype: DType) -> Tensor {
        let pixels: usize = self.shape.iter().product();
        let input = |seed, channels| {
            let values: Vec<f32> =
                values(seed, pixels * channels).iter().map(|v| v + self.offset).collect();
            let shape = [&self.shape[..], &[channels]].concat();
            Tensor::from_slice(device, &shape, dtype, &values).unwrap()
        };
        let [x_channels, x2_channels] = self.channels;
        let channels = x_channels + x2_channels;
        let parameter = |seed| {
            Tensor::from_slice(device, &[channels], DType::F32, &values(seed, channels)).unwrap()
        };
        let x2 = (x2_channels > 0).then(|| input(2, x2_channels));
        let params = GroupNorm { groups: self.groups, eps: 1e-5, activation: self.activation };
        let (gamma, beta) = (parameter(3), parameter(4));
        ops::group_norm(&input(1, x_channels), x2.as_ref(), &gamma, &beta, &params).unwrap()
    }

    fn check(&self) {
        for device in devices() {
            for dtype in DType::ALL {
                let expected = self.run(&oracle(&device), dtype);
                // One rounding of the result, which may fall to either side in the definition
                // and on the device; and f32 statistics, whose error grows with the mean they
                // subtract: deviations are 0.58 here, so scales are below 1.8 and the mean, the
                // shift and their product each lose 1.8 * offset ulp. Activations are as steep
                // as 1.2, and an exponential of relaxed mathematics loses a few ulp more.
                let tolerance = largest(&expected) * (2.0 * dtype.rounding() + 8.0 * f32::EPSILON)
                    + (16.0 + 8.0 * self.offset) * f32::EPSILON;
                let why = format!("{} in {dtype}", self.why);
                assert_close(&device, &why, &self.run(&device, dtype), &expected, tolerance);
            }
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    let silu = Activation::Silu;
    let cases = [
        Case { why: "smaller than any tile", shape: vec![1, 1], channels: [4, 0], ..base() },
        Case { why: "one group", groups: 1, ..base() },
        Case { why: "one channel in a group", groups: 16, ..base() },
        Case { why: "SD 1.5's 10 in a group", channels: [320, 0], groups: 32, ..base() },
        Case { why: "a whole number of chunks", shape: vec![1, 16, 16], ..base() },
        Case { why: "tokens, two samples", shape: vec![2, 77], activation: silu, ..base() },
        Case { why: "video", shape: vec![2, 3, 4, 5], ..base() },
        Case { why: "channels that fill no vector", channels: [15, 0], groups: 3, ..base() },
        Case { why: "mean far from zero", shape: vec![1, 20, 20], offset: 100.0, ..base() },
        Case { why: "two inputs", channels: [32, 16], activation: silu, ..base() },
        Case { why: "a group over the border", channels: [40, 20], groups: 2, ..base() },
        Case { why: "a vector over the border", channels: [9, 14], groups: 1, ..base() },
        Case { why: "x2 wider than x", channels: [1, 31], activation: silu, ..base() },
        Case { why: "GELU", activation: Activation::Gelu, ..base() },
        Case { why: "tanh GELU", activation: Activation::GeluTanh, ..base() },
        Case { why: "quick GELU", activation: Activation::QuickGelu, ..base() },
    ];
    cases.iter().for_each(Case::check);
}

proptest! {
    #![proptest_config(drawn(8))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(
        pixels in 2..200usize,
        samples in 1..3usize,
        groups in 1..6usize,
        per_group in 1..30usize,
        part in 0.0..1.0f64,
    ) {
        let channels = groups * per_group;
        let x2 = ((channels as f64 * part) as usize).min(channels - 1);
        let channels = [channels - x2, x2];
        Case { why: "drawn", shape: vec![samples, pixels], channels, groups, ..base() }.check();
    }
}

#[test]
fn has_hand_derived_values() {
    let device = Device::definitions(None);
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::from_slice(&device, shape, DType::F32, values).unwrap()
    };
    // Groups (1, 3, 5, 7), with mean 4 and variance 5, and (2, 2, 2, 2).
    let x = tensor(&[1, 2, 4], &[1.0, 3.0, 2.0, 2.0, 5.0, 7.0, 2.0, 2.0]);
    let gamma = tensor(&[4], &[1.0, 2.0, 1.0, 1.0]);
    let beta = tensor(&[4], &[0.0, 10.0, 0.5, -0.5]);
    let params = GroupNorm { groups: 2, eps: 4.0, activation: Activation::None };
    let y = ops::group_norm(&x, None, &gamma, &beta, &params).unwrap();
    let expected = [-1.0, 10.0 - 2.0 / 3.0, 0.5, -0.5, 1.0 / 3.0, 12.0, 0.5, -0.5];
    approx::assert_relative_eq!(y.to_vec().unwrap()[..], expected, epsilon = 1e-5);
}

#[test]
fn splits_as_its_tensors_do() {
    let split_at = |bytes| {
        Device::cpu_with(&DeviceOptions {
            max_allocation_bytes: Some(bytes),
            poison: true,
            ..Default::default()
        })
    };
    // Rows of 7 x 16 floats are 448 B: bands of a few rows, whose chunks are short.
    for channels in [[16, 0], [8, 8]] {
        let case = Case { shape: vec![2, 31, 7], channels, ..base() };
        let whole = case.run(&Device::cpu(), DType::F32);
        let tolerance = largest(&whole) * 16.0 * f32::EPSILON + 16.0 * f32::EPSILON;
        let split = split_at(8000);
        assert_close(&split, "split", &case.run(&split, DType::F32), &whole, tolerance);
    }
}

#[test]
fn refuses_what_does_not_agree() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&device, shape, DType::F32, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let x = tensor(&[1, 3, 8]);
    let error = |x2: Option<&Tensor>, gamma: usize, groups| {
        let (gamma, beta) = (tensor(&[gamma]), tensor(&[12]));
        let params = GroupNorm { groups, eps: 1e-5, activation: Activation::None };
        ops::group_norm(&x, x2, &gamma, &beta, &params).unwrap_err().to_string()
    };
    let x2 = tensor(&[1, 3, 4]);
    assert_eq!(error(Some(&x2), 8, 4), "group_norm: gamma must be [12] f32, got [8] f32");
    assert_eq!(
        error(Some(&x2), 12, 5),
        "group_norm: expected groups that divide 12 channels, got 5"
    );
    assert_eq!(
        error(Some(&tensor(&[1, 4, 4])), 12, 4),
        "group_norm: x2 must be [1, 3, 8] but for C, got [1, 4, 4]"
    );
}
