//! What else than launches takes time, measured where it is not known.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::device::{Device, TransferRate, TransferRates};
use crate::models::{ModelFiles, UNet};
use crate::nn::{Loader, TensorSource};
use crate::ops::{self, Epilogue, Weights};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// What is known of a device beside its launches, and what is usual of the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub transfers: TransferRates,
    /// What the host does for a launch, in seconds.
    pub host_seconds: f64,
    /// Reading and packing a byte of weights, in seconds.
    pub loading: f64,
}

const USUAL_HOST_SECONDS: f64 = 1e-5;
/// How many bytes of weights are read and packed in a second.
const USUAL_LOAD_B_S: f64 = 1e9;

/// What transfers take where nobody has measured it.
fn usual_transfers() -> TransferRates {
    let transfer = TransferRate::new(2e-5, 6.0);
    let fresh = TransferRate::new(1e-5, 5.0);
    let copy = TransferRate::new(1e-5, 20.0);
    TransferRates { write: transfer, read: transfer, copy, allocate: fresh, host_allocate: fresh }
}

/// By what [`host_seconds`] is remembered.
const HOST_KEY: &str = "host for a launch";

impl Rates {
    /// What is known, nothing being measured.
    pub fn known(device: &Device) -> Self {
        Self {
            transfers: device.known_rates().unwrap_or_else(usual_transfers),
            host_seconds: device.known(HOST_KEY).unwrap_or(USUAL_HOST_SECONDS),
            loading: 1.0 / USUAL_LOAD_B_S,
        }
    }

    /// All of it, measured as far as there is room.
    pub fn measured(device: &Device, files: &ModelFiles, dtype: DType) -> Result<Self> {
        let measured = device.transfer_rates().map(drop).and_then(|()| host_seconds(device));
        match measured {
            Ok(_) | Err(Error::OutOfMemory { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { loading: seconds_per_byte(device, files, dtype)?, ..Self::known(device) })
    }
}

/// What the host does for a launch beside the launch itself: an op's checks and choices, memory from
/// the pool, and threads that have to be woken where the host computes.
fn host_seconds(device: &Device) -> Result<f64> {
    /// Pairs of ops in a row, and how often.
    const PAIRS: usize = 64;
    const ROUNDS: usize = 7;
    device.remembered(HOST_KEY, || {
        let bench = device.beside()?;
        let dry = bench.dry_run_within(u64::MAX / 2);
        Pairs::new(&dry)?.run(1)?;
        let (launches, stages) = dry.recorded_stages().expect("a dry run records");
        let known = device.measure_seconds(&launches, |_, _| Ok(()))?;
        let (mut count, mut launched) = (0, 0.0);
        for (&index, &times) in stages.iter().flat_map(|stage| &stage.launches) {
            count += times;
            launched += times as f64 * known[index].unwrap_or_default();
        }
        let pairs = Pairs::new(&bench)?;
        pairs.run(PAIRS)?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            pairs.run(PAIRS)?;
            rounds.push(start.elapsed().as_secs_f64() / PAIRS as f64);
        }
        rounds.sort_by(f64::total_cmp);
        Ok(((rounds[ROUNDS / 2] - launched) / count.max(1) as f64).max(1e-9))
    })
}

/// Two small ops, one after the other.
struct Pairs {
    x: Tensor,
    weights: Weights,
    ones: Tensor,
}

impl Pairs {
    const ROWS: usize = 64;
    const CHANNELS: usize = 128;

    fn new(device: &Device) -> Result<Self> {
        let (rows, channels) = (Self::ROWS, Self::CHANNELS);
        let dtype = DType::F32;
        Ok(Self {
            x: Tensor::from_slice(device, &[rows, channels], dtype, &vec![1.0; rows * channels])?,
            weights: Weights::linear(device, dtype, [channels; 2], || {
                Ok(vec![1e-3; channels * channels])
            })?,
            ones: Tensor::from_slice(device, &[channels], dtype, &vec![1.0; channels])?,
        })
    }

    fn run(&self, count: usize) -> Result<()> {
        let mut x = self.x.clone();
        for _ in 0..count {
            let bias = Some(&self.ones);
            x = ops::gemm(&x, None, &self.weights, Epilogue { bias, ..Epilogue::default() })?;
            x = ops::layer_norm(&x, &self.ones, &self.ones, 1e-5)?;
        }
        x.device().finish()
    }
}

/// A checkpoint that notes what a model asks for.
struct Noted<'a> {
    source: &'a dyn TensorSource,
    tensors: RefCell<Vec<(String, Vec<usize>)>>,
}

impl TensorSource for Noted<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.source.check(name, shape)?;
        self.tensors.borrow_mut().push((name.to_owned(), shape.to_vec()));
        Ok(())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.source.read(name, shape)
    }
}

/// What loading a byte of weights takes: that of some of the UNet's, which are most of a model. Small
/// ones are among them, as a tensor takes its time by itself.
fn seconds_per_byte(device: &Device, files: &ModelFiles, dtype: DType) -> Result<f64> {
    /// After so long it is known well enough.
    const LIMIT: Duration = Duration::from_millis(400);
    /// How many are loaded first, from all over the model; then those between them.
    const SAMPLES: usize = 128;
    let part = &files.unet;
    let noted = Noted { source: &part.weights, tensors: RefCell::default() };
    UNet::load(&device.dry_run_within(u64::MAX / 2), dtype, &part.config, &noted)?;
    let tensors = noted.tensors.into_inner();
    let bench = device.beside()?;
    let loader = Loader::new(&bench, dtype, &part.weights);
    // A model's weights take memory that was not used before: none of it goes back meanwhile.
    let (mut vectors, mut weights) = (Vec::new(), Vec::new());
    // An odd step: of weights and biases in turn it takes both.
    let step = tensors.len().div_ceil(SAMPLES) | 1;
    let (begin, mut seconds, mut bytes) = (Instant::now(), [0.0; 2], 0);
    for (name, shape) in (0..step).flat_map(|first| tensors.iter().skip(first).step_by(step)) {
        let mut load = || {
            let start = Instant::now();
            let bytes = match shape[..] {
                [length] => {
                    let vector = loader.vector(name, length)?;
                    let bytes = length * vector.dtype().size();
                    vectors.push(vector);
                    bytes
                }
                _ => {
                    let sizes = std::array::from_fn(|axis| *shape.get(axis).unwrap_or(&1));
                    let weight = loader.convolution(name, sizes)?;
                    let bytes = weight.pieces().iter().map(Weights::bytes).sum();
                    weights.push(weight);
                    bytes
                }
            };
            Ok::<_, Error>((start.elapsed().as_secs_f64(), bytes))
        };
        match load().and_then(|first| Ok((first, load()?))) {
            Ok(((first, size), (second, _))) => {
                seconds = [seconds[0] + first, seconds[1] + second];
                bytes += size;
            }
            // What the budget has no room for is loaded in another way, as quickly.
            Err(Error::OutOfMemory { .. }) => {
                vectors.clear();
                weights.clear();
            }
            Err(error) => return Err(error),
        }
        if begin.elapsed() > LIMIT {
            break;
        }
    }
    match bytes {
        0 => Ok(1.0 / USUAL_LOAD_B_S),
        // The better of two: whatever disturbs one makes it slower.
        bytes => Ok(seconds[0].min(seconds[1]) / bytes as f64),
    }
}
