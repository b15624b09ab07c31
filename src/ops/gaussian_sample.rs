//! A sample of the distribution that an encoder gives.

use crate::device::{Call, Grid, Tunable, arguments};
use crate::kernel::Configuration;
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{DType, Error, Result};

/// (mean + exp(clamp(log variance, -30, 20) / 2) * noise) * scale
///
/// # Shapes
///
/// - `moments`: `[N, H, W, 2C]`, means first, then logarithms of variances
/// - `noise`: `[N, H, W, C]`, f32
/// - result: `[N, H, W, C]`, f32
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// f32 for every element type of `moments`.
pub fn gaussian_sample(moments: &Tensor, noise: &Tensor, scale: f32) -> Result<Tensor> {
    let error = |detail: String| Err(Error::shape("gaussian_sample", detail));
    let shape = match *moments.shape() {
        [samples, height, width, both] if both.is_multiple_of(2) => {
            [samples, height, width, both / 2]
        }
        ref got => return error(format!("moments must be [N, H, W, 2C], got {got:?}")),
    };
    if noise.shape() != shape || noise.dtype() != DType::F32 {
        let (got, dtype) = (noise.shape(), noise.dtype());
        return error(format!("noise must be {shape:?} f32, got {got:?} {dtype}"));
    }
    let channels = shape[3];
    let y = Tensor::empty_like(moments, &shape, DType::F32)?;
    for band in y.bands() {
        let elements = y.elements(&band);
        let class = Class(vec![("elements", elements)]);
        let (device, dtype) = (moments.device(), moments.dtype());
        let configuration = device.configuration("gaussian_sample", dtype, &class, &[]);
        let grid = |configuration: &Configuration| {
            let items = configuration.size("WG_SIZE");
            Grid { groups: [elements.div_ceil(items), 1, 1], local: [items, 1, 1] }
        };
        let Grid { groups, local } = grid(&configuration);
        let (moments_band, noise_band) = (moments.band(&band)?, noise.band(&band)?);
        let y_band = y.output(&band)?;
        moments.device().run_tuned(
            &Call {
                kernel: "gaussian_sample",
                dtype: moments.dtype(),
                configuration: &configuration,
                arguments: &arguments! {
                    moments: &*moments_band,
                    noise: &*noise_band,
                    y: Output(&y_band),
                    pixels: (elements / channels) as u32,
                    channels: channels as u32,
                    scale: scale,
                },
                groups,
                local,
                flop: 16 * elements as u64,
                bytes: (elements * (2 * moments.dtype().size() + 8)) as u64,
            },
            &Tunable { class: &class, output: DType::F32, grid: &grid },
        )?;
        y_band.keep()?;
    }
    Ok(y)
}
