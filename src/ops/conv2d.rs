//! Convolutions of images.

use std::ops::Range;

use crate::device::{Call, Tunable, arguments};
use crate::info::DeviceInfo;
use crate::ops::epilogue::is_output_bias;
use crate::ops::tiles::{Tile, local_tiling, register_tiling};
use crate::ops::{Epilogue, Weights, gemm};
use crate::tensor::{Band, Tensor};
use crate::tune::Class;
use crate::{Error, Result};

/// Zeros around an image, in pixels of what the convolution reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns before.
    pub left: usize,
    /// Columns after.
    pub right: usize,
}

impl Padding {
    /// As much on every side.
    pub fn same(size: usize) -> Self {
        Self { top: size, bottom: size, left: size, right: size }
    }
}

/// What a convolution does besides its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// The step of the window, both ways.
    pub stride: usize,
    /// Zeros around the image (around the larger one, with `upsample`).
    pub padding: Padding,
    /// Whether x is read twice as large, each pixel standing for four.
    pub upsample: bool,
    /// Rows and columns at the end of the image that are not there (of the larger one, with
    /// `upsample`): an odd size upsampled from its rounded half is one less than twice the half.
    pub crop: [usize; 2],
}

impl Conv2d {
    /// The size as which an image of `size` is read, 0 where nothing is left of it.
    fn read_size(&self, size: [usize; 2]) -> [usize; 2] {
        let scale = 1 + usize::from(self.upsample);
        [0, 1].map(|axis| (size[axis] * scale).saturating_sub(self.crop[axis]))
    }
}

/// The sizes that decide how a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// N.
    pub samples: usize,
    /// H and W of x.
    pub input: [usize; 2],
    /// I.
    pub channels: usize,
    /// oH and oW.
    pub output: [usize; 2],
    /// O.
    pub outputs: usize,
    /// The window and how it moves.
    pub params: Conv2d,
    /// Whether the bias differs from sample to sample.
    pub sample_bias: bool,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Each pixel by itself: [`gemm()`].
    Pointwise,
    /// `conv2d_register`: implicit GEMM, a work-item holds a large tile in wide vectors.
    RegisterTiles,
    /// `conv2d_local`: implicit GEMM, a work-group shares tiles in local memory.
    LocalTiles,
}

/// The algorithm for a convolution on a device: the first applicable one, most specific first.
pub fn plan(problem: &Problem, info: &DeviceInfo) -> Algorithm {
    let pixel_by_pixel = Conv2d {
        kernel: [1, 1],
        stride: 1,
        padding: Padding::default(),
        upsample: false,
        crop: [0, 0],
    };
    if problem.params == pixel_by_pixel && !problem.sample_bias {
        Algorithm::Pointwise
    } else if info.prefers_register_tiles() {
        Algorithm::RegisterTiles
    } else {
        Algorithm::LocalTiles
    }
}

/// A convolution: `activation(conv(x) + bias) + residual`.
///
/// # Shapes
///
/// - `x`: `[N, H, W, I]`
/// - `weights`: O outputs, kH * kW * I inputs; stored as `x` is
/// - bias: `[O]`, f32; or one for each sample, `[N, O]`, of the element type of `x` (a residual
///   block's time embedding, which a [`gemm()`] gives)
/// - residual: the result's shape and element type
/// - result: `[N, oH, oW, O]`, of the element type of `x`, with
///   `oH = (H + top + bottom - kH) / stride + 1`, where H counts twice with `upsample`, less what
///   `crop` leaves out; oW likewise
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above, if a window does not fit, or if padding
/// is not less than the window; [`Error::OutOfMemory`], [`Error::Build`], [`Error::Device`].
///
/// # Precision
///
/// Sums and the epilogue are f32 for every element type; the result is rounded once.
pub fn conv2d(
    x: &Tensor,
    weights: &Weights,
    params: &Conv2d,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let problem = check(x, weights, params, &epilogue)?;
    let (kernel, tile): (_, Tile) = match plan(&problem, x.device().info()) {
        Algorithm::Pointwise => return gemm(x, None, weights, epilogue),
        Algorithm::RegisterTiles => ("conv2d_register", register_tiling),
        Algorithm::LocalTiles => ("conv2d_local", local_tiling),
    };
    let Problem { samples, input: [_, width], channels, output, outputs, .. } = problem;
    let [out_height, out_width] = output;
    let y = Tensor::empty_like(x, &[samples, out_height, out_width, outputs], x.dtype())?;
    let (output_bias, sample_bias) = match epilogue.bias {
        Some(bias) if problem.sample_bias => (None, Some(bias)),
        bias => (bias, None),
    };
    for band in y.bands() {
        let window = input_rows(&problem, &band.rows);
        let x_rows = Band { samples: band.samples.clone(), rows: window.rows.clone() };
        let bias_rows = Band { samples: band.samples.clone(), rows: 0..outputs };
        let x_band = x.band(&x_rows)?;
        let sample_bias_band = sample_bias.map(|bias| bias.band(&bias_rows)).transpose()?;
        let residual_band = epilogue.residual.map(|tensor| tensor.band(&band)).transpose()?;
        let rows = y.elements(&band) / outputs;
        let class = Class(vec![
            ("rows", rows),
            ("outputs", outputs),
            ("channels", channels),
            ("taps", params.kernel[0] * params.kernel[1]),
            ("stride", params.stride),
        ]);
        let tiling = tile(x.device(), kernel, x.dtype(), &class);
        let moved = x.elements(&x_rows) + outputs * weights.inputs() + rows * outputs;
        x.device().run_tuned(
            &Call {
                kernel,
                dtype: x.dtype(),
                configuration: &tiling.configuration,
                arguments: &arguments! {
                    x: &*x_band,
                    weights: weights.buffer(),
                    bias: output_bias.map(Tensor::buffer),
                    sample_bias: sample_bias_band.as_deref(),
                    residual: residual_band.as_deref(),
                    y: Output(y.output(&band)),
                    samples: band.samples.len() as u32,
                    height: window.rows.len() as u32,
                    width: width as u32,
                    channels: channels as u32,
                    out_height: band.rows.len() as u32,
                    out_width: out_width as u32,
                    outputs: outputs as u32,
                    kernel_height: params.kernel[0] as u32,
                    kernel_width: params.kernel[1] as u32,
                    stride: params.stride as u32,
                    top: window.top,
                    left: params.padding.left as i32,
                    read_height: window.read_height as u32,
                    read_width: params.read_size(problem.input)[1] as u32,
                    enlarge: u32::from(params.upsample),
                    activation: epilogue.activation as u32,
                },
                groups: tiling.groups,
                local: tiling.local,
                flop: 2 * (rows * outputs) as u64 * weights.inputs() as u64,
                bytes: (moved * x.dtype().size()) as u64,
            },
            &Tunable {
                class: &class,
                output: x.dtype(),
                grid: &|configuration| (tiling.grid)(&class, configuration),
            },
        )?;
    }
    Ok(y)
}

fn check(x: &Tensor, weights: &Weights, params: &Conv2d, epilogue: &Epilogue) -> Result<Problem> {
    let shape_error = |detail| Err(Error::shape("conv2d", detail));
    let &[samples, height, width, channels] = x.shape() else {
        return shape_error(format!("x must be [N, H, W, I], got {:?}", x.shape()));
    };
    let ([kernel_height, kernel_width], padding) = (params.kernel, params.padding);
    if params.stride == 0 || kernel_height == 0 || kernel_width == 0 {
        let (kernel, stride) = (params.kernel, params.stride);
        return shape_error(format!(
            "kernel and stride must be at least 1, got {kernel:?} and {stride}"
        ));
    }
    if padding.top.max(padding.bottom) >= kernel_height
        || padding.left.max(padding.right) >= kernel_width
    {
        let kernel = params.kernel;
        return shape_error(format!(
            "padding must be less than kernel {kernel:?}, got {padding:?}"
        ));
    }
    let (inputs, outputs) = (kernel_height * kernel_width * channels, weights.outputs());
    if weights.inputs() != inputs {
        let got = weights.inputs();
        return shape_error(format!(
            "weights must have {kernel_height} * {kernel_width} * {channels} inputs, got {got}"
        ));
    }
    let [read_height, read_width] = params.read_size([height, width]);
    if read_height == 0 || read_width == 0 {
        let crop = params.crop;
        return shape_error(format!("crop must leave some of {height} by {width}, got {crop:?}"));
    }
    let padded_height = read_height + padding.top + padding.bottom;
    let padded_width = read_width + padding.left + padding.right;
    if padded_height < kernel_height || padded_width < kernel_width {
        let kernel = params.kernel;
        return shape_error(format!(
            "kernel {kernel:?} must fit x with its padding, got {padded_height} by {padded_width}"
        ));
    }
    let output = [
        (padded_height - kernel_height) / params.stride + 1,
        (padded_width - kernel_width) / params.stride + 1,
    ];
    let mut sample_bias = false;
    if let Some(bias) = epilogue.bias {
        sample_bias = bias.shape() == [samples, outputs] && bias.dtype() == x.dtype();
        if !sample_bias && !is_output_bias(bias, outputs) {
            let (shape, got, dtype) = (bias.shape(), bias.dtype(), x.dtype());
            return shape_error(format!(
                "bias must be [{outputs}] f32 or [{samples}, {outputs}] {dtype}, got {shape:?} {got}"
            ));
        }
    }
    epilogue.check("conv2d", x, weights, &[samples, output[0], output[1], outputs])?;
    let (input, params) = ([height, width], *params);
    Ok(Problem { samples, input, channels, output, outputs, params, sample_bias })
}

/// The rows of x that some rows of the result are computed from.
struct Window {
    rows: Range<usize>,
    /// Where they end as they are read.
    read_height: usize,
    /// The padding above those rows; negative where the first of them is read from its second
    /// half on (of two upsampled rows).
    top: i32,
}

/// Never empty: padding is less than the window, so every window has a row of x in it.
fn input_rows(problem: &Problem, output_rows: &Range<usize>) -> Window {
    let Conv2d { kernel, stride, padding, upsample, .. } = problem.params;
    let shift = u32::from(upsample);
    let [read_height, _] = problem.params.read_size(problem.input);
    let first = (output_rows.start * stride).saturating_sub(padding.top);
    let end = ((output_rows.end - 1) * stride + kernel[0]).saturating_sub(padding.top);
    let rows = first >> shift..((end.min(read_height) - 1) >> shift) + 1;
    let top =
        padding.top as i64 - (output_rows.start * stride) as i64 + ((rows.start << shift) as i64);
    let read_height = (rows.len() << shift).min(read_height - (rows.start << shift));
    Window { rows, read_height, top: top as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tiles::tests::{cpu, gpu};

    fn layer(channels: usize, outputs: usize, side: usize) -> Problem {
        let padding = Padding::same(1);
        Problem {
            samples: 1,
            input: [side, side],
            channels,
            output: [side, side],
            outputs,
            params: Conv2d { kernel: [3, 3], stride: 1, padding, upsample: false, crop: [0, 0] },
            sample_bias: false,
        }
    }

    #[test]
    fn one_pixel_windows_are_products_and_the_rest_goes_by_the_device() {
        let pointwise = |padding, stride| Problem {
            params: Conv2d { kernel: [1, 1], stride, padding, upsample: false, crop: [0, 0] },
            ..layer(320, 640, 32)
        };
        let down = Padding { bottom: 1, right: 1, ..Padding::default() };
        let strided = Conv2d { stride: 2, padding: down, ..layer(1, 1, 1).params };
        let cases = [
            ("unet resnet", layer(320, 320, 64), Algorithm::LocalTiles),
            ("unet shortcut", pointwise(Padding::default(), 1), Algorithm::Pointwise),
            ("strided, pixel by pixel", pointwise(Padding::default(), 2), Algorithm::LocalTiles),
            (
                "shortcut with a time embedding",
                Problem { sample_bias: true, ..pointwise(Padding::default(), 1) },
                Algorithm::LocalTiles,
            ),
            (
                "vae downsample",
                Problem { params: strided, output: [32, 32], ..layer(128, 128, 64) },
                Algorithm::LocalTiles,
            ),
            ("vae's last", layer(128, 3, 512), Algorithm::LocalTiles),
        ];
        for (name, problem, on_gpu) in cases {
            assert_eq!(plan(&problem, &gpu()), on_gpu, "{name}");
            let on_cpu = match on_gpu {
                Algorithm::LocalTiles => Algorithm::RegisterTiles,
                other => other,
            };
            assert_eq!(plan(&problem, &cpu(16)), on_cpu, "{name}");
        }
    }

    #[test]
    fn a_band_reads_its_rows_and_their_neighbours() {
        let rows = |problem: &Problem, output: Range<usize>| {
            let window = input_rows(problem, &output);
            (window.rows, window.top)
        };
        let same = layer(4, 4, 8);
        assert_eq!(rows(&same, 0..8), (0..8, 1), "the whole image");
        assert_eq!(rows(&same, 0..2), (0..3, 1), "the first rows");
        assert_eq!(rows(&same, 2..4), (1..5, 0), "rows in the middle");
        assert_eq!(rows(&same, 7..8), (6..8, 0), "the last row");
        let up = Problem { params: Conv2d { upsample: true, ..same.params }, ..same };
        assert_eq!(rows(&up, 0..16), (0..8, 1), "the whole image, upsampled");
        assert_eq!(rows(&up, 2..4), (0..3, -1), "upsampled rows 1..5, of which 0 is not read");
        assert_eq!(rows(&up, 3..5), (1..3, 0), "upsampled rows 2..6");
        let padding = Padding { bottom: 1, right: 1, ..Padding::default() };
        let down = Problem { params: Conv2d { stride: 2, padding, ..same.params }, ..same };
        assert_eq!(rows(&down, 1..3), (2..7, 0), "strided rows");
        assert_eq!(rows(&down, 3..4), (6..8, 0), "strided rows with padding below");
    }
}
