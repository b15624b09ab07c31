//! Timesteps as vectors.

use crate::device::{Call, Device, Grid, Tunable, arguments};
use crate::kernel::Configuration;
use crate::memory::Lifetime;
use crate::tensor::{Tensor, to_bytes};
use crate::tune::Class;
use crate::{DType, Error, Result};

/// How [`timestep_embedding`] lays out its waves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Columns of the result.
    pub width: usize,
    /// Cosines first, then sines; the other way round if false.
    pub flip_sin_to_cos: bool,
    /// How far the lowest frequency lies below the longest period: 0 or 1.
    pub freq_shift: f32,
}

const MAX_PERIOD: f32 = 10_000.0;

/// Sines and cosines of each timestep at frequencies from 1 down to about 1 / 10000.
///
/// # Shapes
///
/// - result: `[N, width]` for N timesteps; of an odd width the last column is 0
///
/// # Errors
///
/// [`Error::Shape`] if there is no timestep, if `width` is less than 2, or if `freq_shift` leaves
/// no frequency; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// Frequencies and angles are f32, rounded where diffusers rounds them, since an angle of 999
/// keeps only four decimals; their sines are right to 1e-6.
pub fn timestep_embedding(
    device: &Device,
    dtype: DType,
    timesteps: &[f32],
    params: &TimestepEmbedding,
) -> Result<Tensor> {
    let &TimestepEmbedding { width, flip_sin_to_cos, freq_shift } = params;
    let error = |detail: String| Err(Error::shape("timestep_embedding", detail));
    let (samples, half) = (timesteps.len(), width / 2);
    if samples == 0 || half == 0 {
        return error(format!(
            "expected a timestep and a width of at least 2, got {samples} and {width}"
        ));
    }
    let count = half as f32 - freq_shift;
    // A NaN is no count either.
    if !(count > 0.0 && count.is_finite()) {
        return error(format!("freq_shift must be less than {half}, got {freq_shift}"));
    }
    let upload = |values: Vec<f32>| {
        let bytes = values.len() * size_of::<f32>();
        device.upload(bytes, Lifetime::Transient, || Ok(to_bytes(&values, DType::F32)))
    };
    let frequency = |index| (-MAX_PERIOD.ln() * index as f32 / count).exp();
    let frequencies = upload((0..half).map(frequency).collect())?;
    let timesteps = upload(timesteps.to_vec())?;
    let y = Tensor::empty(device, &[samples, width], dtype)?;
    if y.bands().len() > 1 {
        return error(format!("{samples} x {width} is over the device's largest allocation"));
    }
    let class = Class(vec![("samples", samples), ("width", width)]);
    let configuration = device.configuration("timestep_embedding", dtype, &class, &[]);
    let grid = |configuration: &Configuration| {
        let items = configuration.size("WG_SIZE");
        Grid { groups: [width.div_ceil(items), samples, 1], local: [items, 1, 1] }
    };
    let Grid { groups, local } = grid(&configuration);
    device.run_tuned(
        &Call {
            kernel: "timestep_embedding",
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                timesteps: timesteps.buffer(),
                frequencies: frequencies.buffer(),
                y: Output(y.buffer()),
                samples: samples as u32,
                width: width as u32,
                flip_sin_to_cos: u32::from(flip_sin_to_cos),
            },
            groups,
            local,
            flop: 20 * (samples * width) as u64,
            bytes: (samples * width * dtype.size()) as u64,
        },
        &Tunable { class: &class, output: dtype, grid: &grid },
    )?;
    Ok(y)
}
