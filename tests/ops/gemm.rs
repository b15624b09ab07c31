use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::ops::{self, Activation, Epilogue, Weights};
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, oracle, values};

const ACTIVATIONS: [Activation; 5] = [
    Activation::None,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
];

#[derive(Clone, Debug)]
pub struct Case {
    pub why: &'static str,
    /// Of x, without its last axis.
    pub leading: Vec<usize>,
    /// Columns of x and of x2.
    pub columns: [usize; 2],
    pub outputs: usize,
    pub bias: bool,
    pub activation: Activation,
    pub residual: bool,
}

/// Without an epilogue.
pub fn plain(why: &'static str, leading: &[usize], inputs: usize, outputs: usize) -> Case {
    let (leading, activation) = (leading.to_vec(), Activation::None);
    Case { why, leading, columns: [inputs, 0], outputs, bias: false, activation, residual: false }
}

pub fn run(device: &Device, dtype: DType, case: &Case) -> Tensor {
    compute(device, dtype, case, ops::gemm)
}

/// In slices of K, whatever the device would choose.
fn run_split(device: &Device, dtype: DType, slices: usize, case: &Case) -> Tensor {
    compute(device, dtype, case, |x, x2, weights, epilogue| {
        ops::gemm_split(x, x2, weights, slices, epilogue)
    })
}

fn compute(
    device: &Device,
    dtype: DType,
    case: &Case,
    op: impl Fn(&Tensor, Option<&Tensor>, &Weights, Epilogue) -> Result<Tensor>,
) -> Tensor {
    let [columns, columns2] = case.columns;
    let (inputs, outputs) = (columns + columns2, case.outputs);
    let tensor = |seed, last: usize, dtype| {
        let shape: Vec<usize> = case.leading.iter().copied().chain([last]).collect();
        let count = shape.iter().product();
        Tensor::from_slice(device, &shape, dtype, &values(seed, count)).unwrap()
    };
    let x = tensor(1, columns, dtype);
    let x2 = (columns2 > 0).then(|| tensor(2, columns2, dtype));
    let weights =
        Weights::linear(device, dtype, [outputs, inputs], || Ok(values(3, outputs * inputs)));
    let bias = case
        .bias
        .then(|| Tensor::from_slice(device, &[outputs], DType::F32, &values(4, outputs)).unwrap());
    let residual = case.residual.then(|| tensor(5, outputs, dtype));
    let epilogue =
        Epilogue { bias: bias.as_ref(), activation: case.activation, residual: residual.as_ref() };
    op(&x, x2.as_ref(), &weights.unwrap(), epilogue).unwrap()
}

/// What f32 sums of `terms` products of values in -1..1 may differ by from f64, to which an
/// activation adds nothing of note: none is steeper than 1.13.
///
/// Partial sums stay within a few times sqrt(terms / 9), the deviation of such a sum; each of
/// `terms` additions rounds that by half an epsilon, and the roundings add up as a random walk
/// does: sqrt(terms / 9) * sqrt(terms) * eps / 2, of which this is 12 times, for the partial
/// sums' and the walk's own tails, and one unit for the epilogue. The result is rounded to its
/// type once, which may fall to either side here and in the definition.
pub fn tolerance(dtype: DType, terms: usize, largest: f32) -> f32 {
    (2.0 * terms as f32 + 4.0) * f32::EPSILON + 2.0 * dtype.rounding() * largest
}

fn check(case: &Case) {
    for device in devices() {
        for dtype in DType::ALL {
            let expected = run(&oracle(&device), dtype, case);
            let terms = case.columns.iter().sum();
            let tolerance = tolerance(dtype, terms, largest(&expected));
            assert_close(&device, case.why, &run(&device, dtype, case), &expected, tolerance);
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    let cases = [
        plain("one of everything", &[1], 1, 1),
        plain("one term", &[3, 5], 1, 70),
        plain("a matrix of odd sizes", &[13], 17, 33),
        plain("a row of odd size: a time embedding", &[2], 321, 1280),
        plain("outputs a multiple of no vector", &[1, 25], 64, 77),
        plain("more rows than a block, fewer outputs than a vector", &[3, 67], 24, 4),
        plain("more terms than a block of K", &[1, 30], 1300, 40),
        plain("images: a shortcut", &[2, 5, 7], 36, 64),
        plain("one row", &[1], 1280, 33),
        Case {
            columns: [33, 50],
            bias: true,
            residual: true,
            ..plain("few rows of two inputs, a whole epilogue", &[5], 0, 100)
        },
        plain("the most rows that are few", &[8], 320, 64),
        plain("one row more, in tiles that are read in place", &[1, 29], 320, 64),
        plain("rows apart by a power of two", &[1, 40], 1024, 64),
        Case {
            columns: [33, 31],
            ..plain("two inputs that meet at an odd column", &[2, 9], 0, 40)
        },
        Case { columns: [512, 320], ..plain("two inputs and several K blocks", &[1, 14], 0, 32) },
        Case {
            columns: [40, 1500],
            ..plain("K blocks of the second input alone", &[1, 14], 0, 32)
        },
        Case {
            bias: true,
            residual: true,
            ..plain("a whole epilogue: an attention's last layer", &[2, 20], 80, 96)
        },
    ];
    cases.iter().for_each(check);
}

#[test]
fn slices_agree_with_the_definition_and_with_the_product_in_one() {
    let whole = |case| Case { bias: true, activation: Activation::Silu, residual: true, ..case };
    let cases = [
        (2, plain("slices of whole tiles", &[1, 64], 256, 64)),
        (4, plain("a last slice that is shorter, and no whole tile", &[1, 35], 1301, 37)),
        (8, plain("fewer terms than slices have", &[1, 9], 69, 5)),
        (4, whole(plain("a whole epilogue, of two axes", &[33], 200, 70))),
        (
            2,
            whole(Case {
                columns: [77, 108],
                ..plain("two inputs that meet inside a slice", &[2, 20], 0, 45)
            }),
        ),
        (
            4,
            Case {
                columns: [64, 192],
                ..plain("two inputs that meet where slices do", &[1, 12], 0, 32)
            },
        ),
    ];
    for device in devices() {
        for (dtype, (slices, case)) in
            DType::ALL.into_iter().flat_map(|dtype| cases.iter().map(move |case| (dtype, case)))
        {
            let why = format!("{}, {slices} slices, {dtype}", case.why);
            let actual = run_split(&device, dtype, *slices, case);
            let (oracle, terms) = (oracle(&device), case.columns.iter().sum::<usize>());
            // Adding up the slices is one more addition for each.
            for expected in [run_split(&oracle, dtype, *slices, case), run(&oracle, dtype, case)] {
                let tolerance = tolerance(dtype, terms + slices, largest(&expected));
                assert_close(&device, &why, &actual, &expected, tolerance);
            }
        }
    }
}

#[test]
fn a_gpu_short_of_work_takes_slices_and_a_dry_run_counts_their_scratch() {
    let info = DeviceInfo {
        kind: DeviceKind::Gpu,
        compute_units: 36,
        vector_width: 1,
        ..Device::cpu().info().clone()
    };
    let device = Device::definitions(Some(info.clone()));
    let case = plain("one tile of many terms", &[1, 9], 4096, 20);
    let planned = device.dry_run();
    run(&planned, DType::F16, &case);
    device.profile().set_enabled(true);
    run(&device, DType::F16, &case);
    let records = device.profile().records();
    let launched: Vec<_> =
        records.iter().filter(|r| r.launch.is_some()).map(|record| record.name).collect();
    assert_eq!(launched, ["gemm_split", "gemm_merge"]);
    assert_eq!(planned.memory_stats(), device.memory_stats());
    let whole = Device::definitions(Some(DeviceInfo { compute_units: 0, ..info }));
    run(&whole, DType::F16, &case);
    let most = |device: &Device| device.memory_stats().peak_live_bytes;
    assert!(most(&device) >= most(&whole) + 8 * 9 * 20 * 4, "of eight slices");
}

#[test]
fn few_rows_have_a_kernel_of_their_own() {
    let device = Device::cpu();
    device.profile().set_enabled(true);
    for (rows, kernel) in [(1, "gemv"), (8, "gemv"), (9, "gemm_register")] {
        run(&device, DType::F32, &plain("few rows", &[1, rows], 16, 32));
        let records = device.profile().records();
        assert_eq!(records.last().expect("a launch is recorded").name, kernel, "{rows} rows");
    }
}

#[test]
fn every_activation_agrees_with_its_definition() {
    for activation in ACTIVATIONS {
        let why = "an activation between bias and residual";
        // Sums of 200 terms reach far into both tails.
        check(&Case { bias: true, residual: true, activation, ..plain(why, &[1, 19], 200, 45) });
    }
}

proptest! {
    #![proptest_config(drawn(16))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(
        rows in 1..150usize,
        columns in 1..200usize,
        columns2 in 0..100usize,
        outputs in 1..150usize,
        epilogue in 0..20usize,
    ) {
        check(&Case {
            why: "drawn",
            leading: vec![1, rows],
            columns: [columns, columns2],
            outputs,
            bias: epilogue % 2 == 0,
            activation: ACTIVATIONS[epilogue / 4],
            residual: epilogue / 2 % 2 == 0,
        });
    }
}

#[test]
fn a_tensor_in_several_blocks_gives_the_same_result() {
    for dtype in DType::ALL {
        // The largest result is 6,400 elements of 4 or 2 bytes, the weights and biases are less.
        let most_bytes = Some(2500 * dtype.size() as u64);
        let case = Case {
            columns: [20, 13],
            bias: true,
            activation: Activation::Silu,
            residual: true,
            ..plain("two samples of rows", &[2, 50], 0, 64)
        };
        let split = DeviceOptions { max_allocation_bytes: most_bytes, ..DeviceOptions::default() };
        let whole = run(&Device::cpu(), dtype, &case).to_vec().unwrap();
        assert_eq!(run(&Device::cpu_with(&split), dtype, &case).to_vec().unwrap(), whole);
    }
}

#[test]
fn the_definition_multiplies_adds_and_activates() {
    let device = Device::definitions(None);
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::from_slice(&device, shape, DType::F32, values).unwrap()
    };
    let x = tensor(&[2, 1], &[1.0, 2.0]);
    let x2 = tensor(&[2, 2], &[3.0, 4.0, 5.0, 6.0]);
    let weights =
        Weights::linear(&device, DType::F32, [2, 3], || Ok(vec![1.0, 0.0, -1.0, 0.5, 2.0, 0.25]));
    let (bias, residual) = (tensor(&[2], &[10.0, -7.5]), tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let y = |activation| {
        let epilogue = Epilogue { bias: Some(&bias), activation, residual: Some(&residual) };
        ops::gemm(&x, Some(&x2), weights.as_ref().unwrap(), epilogue).unwrap().to_vec().unwrap()
    };
    // Products: 1 - 4 and 0.5 + 6 + 1; 2 - 6 and 1 + 10 + 1.5.
    assert_eq!(y(Activation::None), [-3.0 + 11.0, 7.5 - 5.5, -4.0 + 13.0, 12.5 - 3.5]);
    // Before the residual: 7, 0, 6 and 5.
    let expected = |f: fn(f64) -> f64| {
        [f(7.0) + 1.0, f(0.0) + 2.0, f(6.0) + 3.0, f(5.0) + 4.0].map(|value| value as f32)
    };
    assert_eq!(y(Activation::Silu), expected(|x| x / (1.0 + (-x).exp())));
    assert_eq!(y(Activation::QuickGelu), expected(|x| x / (1.0 + (-1.702 * x).exp())));
    // 1 - Phi(5) is 2.8665157e-7, of 6 and 7 less than a rounding.
    assert_eq!(y(Activation::Gelu), expected(|x| x * (1.0 - 2.866_515_7e-7 * f64::from(x == 5.0))));
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::cpu();
    let tensor = |shape: &[usize], dtype| {
        Tensor::from_slice(&device, shape, dtype, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let weights = Weights::linear(&device, DType::F32, [3, 8], || Ok(vec![0.0; 24])).unwrap();
    let refused = |x: &Tensor, x2: Option<&Tensor>, epilogue: Epilogue| {
        ops::gemm(x, x2, &weights, epilogue).unwrap_err().to_string()
    };
    let (x, half) = (tensor(&[4, 8], DType::F32), tensor(&[4, 8], DType::F16));
    let none = Epilogue::default();
    assert_eq!(
        refused(&tensor(&[4, 7], DType::F32), None, none),
        "gemm: x must be [.., 8], got [4, 7]"
    );
    assert_eq!(refused(&half, None, none), "gemm: weights must be f16 as x is, got f32");
    assert_eq!(
        refused(&x, Some(&half), none),
        "gemm: x and x2 must be [.., K1] and [.., K2] of one type with K1 + K2 = 8, got [4, 8] \
         f32 and [4, 8] f16"
    );
    let bias = tensor(&[4], DType::F32);
    assert_eq!(
        refused(&x, None, Epilogue { bias: Some(&bias), ..none }),
        "gemm: bias must be [3] f32, got [4] f32"
    );
    assert_eq!(
        refused(&x, None, Epilogue { residual: Some(&x), ..none }),
        "gemm: residual must be [4, 3] f32, got [4, 8] f32"
    );
    let error = ops::gemm_split(&x, None, &weights, 3, none).unwrap_err().to_string();
    assert_eq!(error, "gemm_split: slices must be 2, 4 or 8, got 3");
}
