use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::ops::{self, Attention, Columns};
use ellesmere::{DType, Device, DeviceOptions, Tensor};
use proptest::prelude::*;

use crate::common::{assert_close, devices, drawn, largest, open_devices, oracle, values};
use crate::matrix_tiles;

#[derive(Clone, Debug)]
struct Case {
    why: &'static str,
    samples: usize,
    heads: usize,
    head_width: usize,
    queries: usize,
    keys: usize,
    causal: bool,
    /// Of the scores, about.
    size: f32,
}

const BASE: Case = Case {
    why: "",
    samples: 1,
    heads: 2,
    head_width: 8,
    queries: 3,
    keys: 5,
    causal: false,
    size: 1.0,
};

impl Case {
    fn params(&self) -> Attention {
        let scale = self.size / (self.head_width as f32).sqrt();
        let &Case { heads, head_width, causal, .. } = self;
        Attention { heads, head_width, scale, causal }
    }

    /// q, k and v.
    fn inputs(&self, device: &Device, dtype: DType) -> [Tensor; 3] {
        let width = self.heads * self.head_width;
        [(1, self.queries), (2, self.keys), (3, self.keys)].map(|(seed, rows)| {
            let values = values(seed, self.samples * rows * width);
            Tensor::from_slice(device, &[self.samples, rows, width], dtype, &values).unwrap()
        })
    }

    fn run(&self, device: &Device, dtype: DType) -> Tensor {
        let [q, k, v] = self.inputs(device, dtype);
        ops::attention((&q).into(), (&k).into(), (&v).into(), &self.params()).unwrap()
    }

    /// The result is a mean of values, which are below 1: it is rounded once, which may fall to
    /// either side in the definition and on the device. A weight is as wrong, relatively, as its
    /// score is absolutely: a sum of head_width products, whose roundings add up as a random walk
    /// does, and an exponential, which on a device with relaxed mathematics may lose as many bits
    /// as its argument has before the point. Sums of weights walk likewise.
    fn tolerance(&self, dtype: DType) -> f32 {
        let width = self.head_width as f32;
        let score = self.size * width.sqrt();
        let weight = 2.0 * (width.sqrt() + 8.0) * score + (self.keys as f32).sqrt() + 8.0;
        2.0 * dtype.rounding() + weight * f32::EPSILON
    }

    fn check(&self) {
        for device in devices() {
            for dtype in DType::ALL {
                let expected = self.run(&oracle(&device), dtype);
                let actual = self.run(&device, dtype);
                let why = format!("{} in {dtype}", self.why);
                assert_close(&device, &why, &actual, &expected, self.tolerance(dtype));
            }
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    let cases = [
        Case { why: "smaller than any tile", ..BASE },
        Case { why: "one key: the value itself", keys: 1, ..BASE },
        Case { why: "one query, as of a pooled token", queries: 1, keys: 70, ..BASE },
        Case { why: "77 keys of a prompt, two samples", samples: 2, queries: 70, keys: 77, ..BASE },
        Case { why: "whole tiles exactly", queries: 64, keys: 64, head_width: 16, ..BASE },
        Case { why: "one more than whole tiles", queries: 65, keys: 65, head_width: 17, ..BASE },
        Case { why: "many tiles of keys", queries: 33, keys: 300, heads: 1, ..BASE },
        Case { why: "a key more than a register device's tile", keys: 129, heads: 1, ..BASE },
        Case { why: "several work-items", queries: 300, keys: 150, heads: 1, ..BASE },
        Case { why: "whole vectors, one column more", head_width: 33, keys: 29, ..BASE },
        Case { why: "SD 1.5's widths", head_width: 40, queries: 9, keys: 77, ..BASE },
        Case { why: "SD 2's width", head_width: 64, queries: 9, keys: 40, ..BASE },
        Case { why: "SD 1.5's middle", head_width: 80, queries: 33, keys: 33, ..BASE },
        Case { why: "SD 1.5's depth", head_width: 160, queries: 33, keys: 33, heads: 1, ..BASE },
        Case {
            why: "the VAE's one head",
            head_width: 512,
            queries: 35,
            keys: 66,
            heads: 1,
            ..BASE
        },
        Case { why: "one column", head_width: 1, ..BASE },
        Case { why: "scores far apart", size: 60.0, queries: 20, keys: 70, ..BASE },
        Case { why: "a causal prompt", queries: 77, keys: 77, causal: true, samples: 2, ..BASE },
        Case { why: "causal over many tiles", queries: 150, keys: 150, causal: true, ..BASE },
        Case { why: "causal, more keys than queries", keys: 90, causal: true, ..BASE },
    ];
    cases.iter().for_each(Case::check);
}

#[test]
fn fragments_agree_with_the_definition() {
    let cases = [
        Case { why: "smaller than a fragment", ..BASE },
        Case { why: "no whole eights of columns", head_width: 33, queries: 20, keys: 29, ..BASE },
        Case { why: "no whole quads of columns", head_width: 17, keys: 70, ..BASE },
        Case { why: "SD 1.5's first", head_width: 40, queries: 70, keys: 150, ..BASE },
        Case { why: "SD 2's width", head_width: 64, queries: 64, keys: 128, samples: 2, ..BASE },
        Case { why: "SD 1.5's middle", head_width: 80, queries: 65, keys: 77, ..BASE },
        Case { why: "scores far apart", size: 60.0, queries: 20, keys: 70, ..BASE },
        Case { why: "causal over several tiles", queries: 150, keys: 150, causal: true, ..BASE },
        Case { why: "causal, more keys than queries", keys: 90, causal: true, ..BASE },
    ];
    let dtype = DType::F16;
    for device in matrix_tiles::devices(&[]) {
        for case in &cases {
            let (expected, actual) = (case.run(&oracle(&device), dtype), case.run(&device, dtype));
            // Every weight is rounded to f16: the mean of values below 1 is off by no more.
            let tolerance = case.tolerance(dtype) + dtype.rounding();
            assert_close(&device, case.why, &actual, &expected, tolerance);
            assert_eq!(matrix_tiles::launched(&device), "attention_matrix");
        }
    }
}

/// Tiles and vectors that devices elsewhere are suggested, or that a tuner tries.
#[test]
fn agrees_in_other_configurations() {
    let configurations = [
        [("VECTOR", 4), ("TILE", 6), ("KEYS", 16), ("BLOCKS", 1)],
        [("VECTOR", 8), ("TILE", 6), ("KEYS", 96), ("BLOCKS", 4)],
        [("VECTOR", 16), ("TILE", 12), ("KEYS", 64), ("BLOCKS", 2)],
    ];
    let cases = [
        Case { why: "parts of tiles", queries: 150, keys: 77, head_width: 20, ..BASE },
        Case { why: "causal", queries: 100, keys: 100, head_width: 20, causal: true, ..BASE },
    ];
    for values in configurations {
        let forced = values.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let forced = vec![("attention_register".to_owned(), forced)];
        let options = DeviceOptions { poison: true, forced, ..Default::default() };
        let devices = open_devices(&options);
        for device in devices.iter().filter(|device| device.info().prefers_register_tiles()) {
            for case in &cases {
                let expected = case.run(&oracle(device), DType::F32);
                let actual = case.run(device, DType::F32);
                let why = format!("{} with {values:?}", case.why);
                assert_close(device, &why, &actual, &expected, case.tolerance(DType::F32));
            }
        }
    }
}

/// Hosts with AMX would not launch the one, hosts without it not the other; where a compiler has no
/// instructions for tiles, their portable body is run.
#[test]
fn registers_and_tiles_agree_with_the_definition() {
    let cases = [
        Case { why: "parts of tiles", queries: 150, keys: 77, head_width: 65, ..BASE },
        Case { why: "causal", queries: 150, keys: 140, head_width: 64, causal: true, ..BASE },
        Case { why: "scores far apart", size: 60.0, queries: 20, keys: 70, head_width: 80, ..BASE },
        Case { why: "a VAE's", head_width: 512, queries: 70, keys: 130, heads: 1, ..BASE },
    ];
    let tiles = [("KEYS", 32), ("BLOCKS", 1)];
    let registers = [("KEYS", 32), ("BLOCKS", 2)];
    for (kernel, amx, forced) in
        [("attention_register", false, registers), ("attention_amx", true, tiles)]
    {
        let forced = forced.map(|(name, value)| (name.to_owned(), value)).to_vec();
        for forced in [vec![], vec![(kernel.to_owned(), forced)]] {
            let options = DeviceOptions { poison: true, forced, ..DeviceOptions::default() };
            let claim = |info| DeviceInfo { kind: DeviceKind::Cpu, vector_width: 16, amx, ..info };
            for device in matrix_tiles::claiming(&options, claim) {
                for (case, dtype) in cases.iter().flat_map(|case| DType::ALL.map(|t| (case, t))) {
                    let expected = case.run(&oracle(&device), dtype);
                    let actual = case.run(&device, dtype);
                    let why = format!("{} in {dtype} by {kernel}", case.why);
                    assert_close(&device, &why, &actual, &expected, case.tolerance(dtype));
                    assert_eq!(matrix_tiles::launched(&device), kernel);
                }
            }
        }
    }
}

/// The middle of a VAE at 1024x1024: a matrix of its scores would take 1 GiB.
#[test]
fn long_sequences_of_wide_heads_need_little_memory() {
    let (rows, head_width) = (16_384, 512);
    let values = vec![0.0; rows * head_width];
    for device in devices() {
        let dry = device.dry_run();
        let [q, k, v] = [0; 3].map(|_| {
            Tensor::from_slice(&dry, &[1, rows, head_width], DType::F32, &values).unwrap()
        });
        let before = dry.memory_stats().peak_held_bytes;
        let params = Attention { heads: 1, head_width, scale: 0.04, causal: false };
        let y = ops::attention((&q).into(), (&k).into(), (&v).into(), &params).unwrap();
        assert_eq!(y.shape(), [1, rows, head_width]);
        let result = 4 * values.len() as u64;
        let scratch = dry.memory_stats().peak_held_bytes - before - result;
        assert!(scratch <= 64 << 20, "{scratch} B of scratch");
    }
}

proptest! {
    #![proptest_config(drawn(8))]

    #[test]
    fn agrees_with_the_definition_on_drawn_shapes(
        heads in 1..4usize,
        head_width in 1..50usize,
        queries in 1..90usize,
        keys in 1..90usize,
        causal: bool,
    ) {
        Case { why: "drawn", heads, head_width, queries, keys, causal, ..BASE }.check();
    }
}

#[test]
fn has_hand_derived_values() {
    let device = Device::definitions(None);
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::from_slice(&device, shape, DType::F32, values).unwrap()
    };
    // One head of two columns; scores ln 3 and 0, weights 3/4 and 1/4.
    let q = tensor(&[1, 1, 2], &[3f32.ln(), 5.0]);
    let k = tensor(&[1, 2, 2], &[2.0, 0.0, 0.0, 0.0]);
    let v = tensor(&[1, 2, 2], &[4.0, -8.0, 0.0, 8.0]);
    let params = Attention { heads: 1, head_width: 2, scale: 0.5, causal: false };
    let y = ops::attention((&q).into(), (&k).into(), (&v).into(), &params).unwrap();
    approx::assert_relative_eq!(y.to_vec().unwrap()[..], [3.0, -4.0], epsilon = 1e-6);
    // The first query sees the first key alone.
    let params = Attention { causal: true, ..params };
    let y = ops::attention((&q).into(), (&k).into(), (&v).into(), &params).unwrap();
    assert_eq!(y.to_vec().unwrap(), [4.0, -8.0]);
}

#[test]
fn reads_parts_of_a_fused_product() {
    let case = Case { queries: 40, keys: 40, head_width: 20, samples: 2, ..BASE };
    let width = case.heads * case.head_width;
    for device in devices() {
        for dtype in DType::ALL {
            let [q, k, v] = case.inputs(&device, dtype).map(|part| part.to_vec().unwrap());
            // Rows of q | k | v | something else.
            let fused: Vec<f32> = (0..2 * 40)
                .flat_map(|row| {
                    let part = |part: &Vec<f32>| part[row * width..][..width].to_vec();
                    [part(&q), part(&k), part(&v), vec![f32::NAN; 3]].concat()
                })
                .collect();
            let shape = [2, 40, 3 * width + 3];
            let fused = Tensor::from_slice(&device, &shape, dtype, &fused).unwrap();
            let part = |index| Columns { tensor: &fused, start: index * width };
            let y = ops::attention(part(0), part(1), part(2), &case.params()).unwrap();
            assert_close(&device, "fused", &y, &case.run(&device, dtype), 0.0);
        }
    }
}

#[test]
fn splits_as_its_tensors_do() {
    let case = Case { queries: 50, keys: 50, head_width: 16, samples: 2, causal: true, ..BASE };
    // 50 rows of 128 B: keys of one sample fit, those of both do not.
    let options =
        DeviceOptions { max_allocation_bytes: Some(6600), poison: true, ..Default::default() };
    let split = Device::cpu_with(&options);
    let expected = case.run(&Device::cpu(), DType::F32);
    let tolerance = case.tolerance(DType::F32);
    assert_close(&split, "split", &case.run(&split, DType::F32), &expected, tolerance);
}

#[test]
fn takes_as_many_heads_at_once_as_their_keys_fit() {
    let base = Case { heads: 3, head_width: 16, queries: 50, keys: 50, causal: true, ..BASE };
    // 50 rows of 64 B in f32 are the keys of a head.
    let cases = [
        (Case { why: "all of one sample", samples: 2, ..base.clone() }, 9600),
        (Case { why: "two, then one", samples: 2, ..base.clone() }, 6600),
        (Case { why: "one after the other", ..base.clone() }, 3300),
        (Case { why: "of both samples, for few queries", samples: 2, queries: 5, ..base }, 6600),
    ];
    for (case, f32_bytes) in cases {
        for dtype in DType::ALL {
            let most_bytes = f32_bytes * dtype.size() as u64 / 4;
            let max_allocation_bytes = Some(most_bytes);
            let options =
                DeviceOptions { max_allocation_bytes, poison: true, ..DeviceOptions::default() };
            for (whole, split) in devices().iter().zip(&open_devices(&options)) {
                // Rows of q | k | v: more columns than the largest allocation has room for.
                let fused = |device: &Device, dtype| {
                    let [q, k, v] = case.inputs(device, dtype);
                    let width = case.heads * case.head_width;
                    let [k, v] = [k, v].map(|part| part.to_vec().unwrap());
                    let row = |row: usize| {
                        let part = |part: &[f32]| part[row * width..][..width].to_vec();
                        [part(&k), part(&v)].concat()
                    };
                    let rows: Vec<f32> = (0..case.samples * case.keys).flat_map(row).collect();
                    let shape = [case.samples, case.keys, 2 * width];
                    let kv = Tensor::from_slice(device, &shape, dtype, &rows).unwrap();
                    let part = |start| Columns { tensor: &kv, start };
                    ops::attention((&q).into(), part(0), part(width), &case.params()).unwrap()
                };
                let why = format!("{} in {dtype}", case.why);
                let expected = case.run(whole, dtype);
                assert_close(split, &why, &case.run(split, dtype), &expected, 0.0);
                assert_close(split, &why, &fused(split, dtype), &expected, 0.0);
                let largest = split.memory_stats().largest_allocation_bytes;
                assert!(largest <= most_bytes, "{why}: {largest} B");
            }
        }
    }
}

#[test]
fn refuses_what_does_not_agree() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&device, shape, DType::F32, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let params = Attention { heads: 2, head_width: 4, scale: 1.0, causal: false };
    let (q, k) = (tensor(&[1, 3, 8]), tensor(&[1, 5, 8]));
    let error = |q: &Tensor, k: Columns, v: &Tensor, params: &Attention| {
        ops::attention(q.into(), k, v.into(), params).unwrap_err().to_string()
    };
    assert_eq!(
        error(&q, (&k).into(), &tensor(&[1, 6, 8]), &params),
        "attention: v must be [1, 5, at least 8], got [1, 6, 8] from column 0"
    );
    assert_eq!(
        error(&q, Columns { tensor: &k, start: 1 }, &k, &params),
        "attention: k must be [1, 5, at least 9], got [1, 5, 8] from column 1"
    );
    assert_eq!(
        error(&q, (&k).into(), &k, &Attention { head_width: 513, ..params }),
        "attention: expected at least one head of 1 to 512 columns, got 2 of 513"
    );
}

#[test]
fn refuses_keys_that_are_over_one_allocation() {
    let options = DeviceOptions { max_allocation_bytes: Some(2048), ..Default::default() };
    let device = Device::cpu_with(&options);
    let case = Case { keys: 50, head_width: 16, ..BASE };
    let [q, k, v] = case.inputs(&device, DType::F32);
    let error = ops::attention((&q).into(), (&k).into(), (&v).into(), &case.params());
    assert_eq!(
        error.unwrap_err().to_string(),
        "attention: a head of k must fit one allocation of 2048 B, got 3200 B"
    );
}

#[test]
fn a_result_is_a_mean_of_values() {
    for device in devices() {
        let case = Case { size: 1000.0, queries: 40, keys: 100, ..BASE };
        let [_, _, v] = case.inputs(&device, DType::F32);
        let y = case.run(&device, DType::F32);
        assert!(largest(&y) <= largest(&v) * 1.000_01, "scores too large for an exponential");
    }
}
