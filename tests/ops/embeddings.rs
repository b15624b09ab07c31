use ellesmere::memory::Lifetime;
use ellesmere::ops::{self, TimestepEmbedding, Vocabulary};
use ellesmere::{DType, Device, DeviceOptions, Format, Tensor, quant};

use crate::blocks::blocks;
use crate::common::{assert_close, devices, oracle, values};

const SD: TimestepEmbedding =
    TimestepEmbedding { width: 320, flip_sin_to_cos: true, freq_shift: 0.0 };

fn timesteps(device: &Device, dtype: DType, params: &TimestepEmbedding) -> Tensor {
    ops::timestep_embedding(device, dtype, &[0.0, 1.0, 521.25, 999.0], params).unwrap()
}

#[test]
fn timesteps_agree_with_the_definition() {
    let cases = [
        ("SD 1.5", SD),
        ("an odd width ends in zeros", TimestepEmbedding { width: 33, ..SD }),
        ("sines first", TimestepEmbedding { flip_sin_to_cos: false, ..SD }),
        ("a shifted lowest frequency", TimestepEmbedding { freq_shift: 1.0, ..SD }),
        ("the least width", TimestepEmbedding { width: 2, ..SD }),
    ];
    for device in devices() {
        for dtype in DType::ALL {
            for (why, params) in &cases {
                let expected = timesteps(&oracle(&device), dtype, params);
                // One rounding of a result below 1, and sines within 2e-7 of theirs.
                let tolerance = 2.0 * dtype.rounding() + 2e-7;
                assert_close(
                    &device,
                    why,
                    &timesteps(&device, dtype, params),
                    &expected,
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn timesteps_have_hand_derived_values() {
    let params = TimestepEmbedding { width: 5, ..SD };
    let y = ops::timestep_embedding(&Device::definitions(None), DType::F32, &[2.0], &params);
    // Frequencies 1 and 1/100; cosines, sines, zero.
    let expected = [2f32.cos(), 0.02f32.cos(), 2f32.sin(), 0.02f32.sin(), 0.0];
    approx::assert_relative_eq!(y.unwrap().to_vec().unwrap()[..], expected, epsilon = 1e-6);
}

#[test]
fn timesteps_refuse_a_shift_that_leaves_no_frequency() {
    let params = TimestepEmbedding { width: 2, freq_shift: 1.0, ..SD };
    let error = ops::timestep_embedding(&Device::cpu(), DType::F32, &[1.0], &params);
    assert_eq!(
        error.unwrap_err().to_string(),
        "timestep_embedding: freq_shift must be less than 1, got 1"
    );
}

fn tokens(device: &Device, dtype: DType, ids: &[u32], length: usize, width: usize) -> Tensor {
    let rows = || Ok(values(1, 10 * width));
    let words = Vocabulary::values(device, Lifetime::Resident, dtype, [10, width], rows).unwrap();
    let places = Tensor::from_slice(device, &[7, width], dtype, &values(2, 7 * width)).unwrap();
    ops::token_embedding(ids, length, &words, &places).unwrap()
}

#[test]
fn tokens_agree_with_the_definition() {
    for device in devices() {
        for dtype in DType::ALL {
            for width in [1, 5, 64, 100] {
                let ids = [3, 0, 9, 9, 1, 2];
                for length in [1, 3, 6] {
                    let actual = tokens(&device, dtype, &ids, length, width);
                    let expected = tokens(&oracle(&device), dtype, &ids, length, width);
                    // A sum below 2, rounded to one side or the other.
                    assert_close(&device, "tokens", &actual, &expected, 4.0 * dtype.rounding());
                }
            }
        }
    }
}

#[test]
fn tokens_in_blocks_are_those_that_files_have_to_the_bit() {
    for device in devices() {
        for (index, format) in Format::ALL.into_iter().enumerate() {
            // Of two panels; some of their tokens, in all places of four that are read together.
            let (ids, channels) = ([3, 40, 33, 6, 9, 0, 34], 512);
            let rows = blocks(format, 1, 41, channels);
            let mut expected = vec![0.0; 41 * channels];
            quant::decode(format, &rows, &mut expected).unwrap();
            let expected = ids.map(|id| &expected[id as usize * channels..][..channels]).concat();
            let (kept, shape) = (Lifetime::Resident, [41, channels]);
            let words = Vocabulary::blocks(&device, kept, format, shape, || Ok(rows)).unwrap();
            let dtype = DType::ALL[index % 2];
            let zeros = vec![0.0; ids.len() * channels];
            let places = Tensor::from_slice(&device, &[ids.len(), channels], dtype, &zeros);
            let y = ops::token_embedding(&ids, ids.len(), &words, &places.unwrap()).unwrap();
            let expected = expected.into_iter().map(|value| match dtype {
                DType::F32 => value,
                DType::F16 => half::f16::from_f32(value).to_f32(),
            });
            let name = &device.info().name;
            assert!(y.to_vec().unwrap().into_iter().eq(expected), "{format}, {dtype} on {name}");
        }
    }
}

#[test]
fn tokens_have_hand_derived_values() {
    let device = Device::definitions(None);
    let words = || Ok(vec![1., 2., 3., 4., 5., 6.]);
    let words = Vocabulary::values(&device, Lifetime::Resident, DType::F32, [3, 2], words).unwrap();
    let places = Tensor::from_slice(&device, &[2, 2], DType::F32, &[10., 20., 30., 40.]).unwrap();
    let y = ops::token_embedding(&[2, 0, 1, 1], 2, &words, &places).unwrap();
    assert_eq!(y.shape(), [2, 2, 2]);
    assert_eq!(y.to_vec().unwrap(), [15., 26., 31., 42., 13., 24., 33., 44.]);
}

#[test]
fn tokens_split_over_the_largest_allocation() {
    // What a panel of 32 tokens takes.
    let options = DeviceOptions { max_allocation_bytes: Some(32 * 20 * 4), ..Default::default() };
    let split = Device::cpu_with(&options);
    let ids: Vec<u32> = (0..70).map(|id| id % 10).collect();
    let whole = tokens(&Device::cpu(), DType::F32, &ids, 7, 20);
    assert_close(&split, "split", &tokens(&split, DType::F32, &ids, 7, 20), &whole, 0.0);
}

#[test]
fn tokens_refuse_an_unknown_id() {
    let device = Device::cpu();
    let table = Tensor::from_slice(&device, &[4, 2], DType::F32, &[0.0; 8]).unwrap();
    let words = || Ok(vec![0.0; 8]);
    let words = Vocabulary::values(&device, Lifetime::Resident, DType::F32, [4, 2], words).unwrap();
    let error = ops::token_embedding(&[1, 4], 2, &words, &table).unwrap_err();
    assert_eq!(error.to_string(), "token_embedding: ids must be below 4, got 4");
    let error = ops::token_embedding(&[1, 2, 3, 0, 1], 5, &words, &table).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token_embedding: positions must be [at least 5, 2] f32, got [4, 2] f32"
    );
}
