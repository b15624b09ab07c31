//! Convolutions of images.

use std::ops::Range;

use crate::device::{Device, OnDevice};
use crate::info::DeviceInfo;
use crate::ops::epilogue::is_output_bias;
use crate::ops::group_norm::Normed;
use crate::ops::tiles::{local_tiling, register_tiling};
use crate::ops::weights::{Extent, Storage};
use crate::ops::{Epilogue, Weights, gemm};
use crate::tensor::{Band, BandBuffer, Tensor};
use crate::{Error, Result};

mod direct;
mod edges;
mod winograd;

pub use edges::Edge;
use edges::{edge, edge_tiling};

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
    /// Whether a window of 3 x 3 goes pixel by pixel: what Winograd's transforms are made for.
    fn is_3x3_of_stride_1(&self) -> bool {
        self.kernel == [3, 3] && self.stride == 1
    }

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
    /// [`winograd()`]: fewer products, between transforms.
    Winograd {
        /// Outputs of a tile each way: 2 or 4.
        tile: usize,
    },
    /// A kernel for few channels in or out.
    Edge(Edge),
    /// [`winograd_local()`]: fewer products, and the transforms of windows and products with them.
    WinogradLocal,
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
    } else if let Some(tile) = winograd::best_tile(problem, info) {
        Algorithm::Winograd { tile }
    } else if let Some(edge) = edge(problem, info) {
        Algorithm::Edge(edge)
    } else if winograd::local::applies(problem) && winograd::local::pays(problem, info) {
        Algorithm::WinogradLocal
    } else {
        directly(info)
    }
}

/// A convolution: `activation(conv(x) + bias) + residual`.
///
/// # Shapes
///
/// - `x`: `[N, H, W, I]`
/// - `weights`: O outputs, kH * kW * I inputs; stored as `x` is, or in blocks
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
/// Sums and the epilogue are f32 for every element type; the result is rounded once. Where
/// [`plan`] chooses Winograd's algorithm, its transforms round too: [`winograd_error`] says how
/// much.
pub fn conv2d(
    x: &Tensor,
    weights: &Weights,
    params: &Conv2d,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let problem = check(x, weights.extent(), params, &epilogue)?;
    let algorithm = plan_on(&problem, weights.storage(), x.device());
    compute(x, None, weights, problem, epilogue, algorithm)
}

/// As [`plan`], but for Winograd's algorithm where not even one panel of the weight would fit the
/// device's largest allocation once it is transformed, and for kernels that read no blocks: then
/// directly.
pub(super) fn plan_on(problem: &Problem, storage: Storage, device: &Device) -> Algorithm {
    let planned = plan(problem, device.info());
    let tile = match planned {
        Algorithm::Edge(_) if storage.format().is_some() => return directly(device.info()),
        Algorithm::Winograd { tile } => tile,
        Algorithm::WinogradLocal => winograd::local::TILE,
        _ => return planned,
    };
    match winograd::panel_bytes(tile, problem.channels) as u64 {
        bytes if bytes <= device.memory().max_allocation_bytes() => planned,
        _ => directly(device.info()),
    }
}

fn directly(info: &DeviceInfo) -> Algorithm {
    match info.prefers_register_tiles() {
        true => Algorithm::RegisterTiles,
        false => Algorithm::LocalTiles,
    }
}

/// Of a checked problem, by an algorithm; of `normed`, whose input `x` is, if there is such.
pub(super) fn compute(
    x: &Tensor,
    normed: Option<&Normed>,
    weights: &Weights,
    problem: Problem,
    epilogue: Epilogue,
    algorithm: Algorithm,
) -> Result<Tensor> {
    let job = || Ok(Job { normed, ..Job::new(x, weights, problem, epilogue)? });
    match algorithm {
        Algorithm::Pointwise => {
            let whole = normed.map(Normed::whole).transpose()?;
            gemm(whole.as_ref().unwrap_or(x), None, weights, epilogue)
        }
        Algorithm::Winograd { tile } => winograd::run(&job()?, tile),
        Algorithm::Edge(edge) => direct::run(&job()?, edge.kernel(), edge_tiling),
        Algorithm::WinogradLocal => winograd::local::run(&job()?),
        Algorithm::RegisterTiles => direct::run(&job()?, "conv2d_register", register_tiling),
        Algorithm::LocalTiles => direct::run(&job()?, "conv2d_local", local_tiling),
    }
}

/// As [`conv2d()`] with a window of 3 x 3 and a stride of 1, by Winograd's algorithm on tiles of
/// `tile` outputs each way (2 or 4), whatever [`plan`] would choose.
///
/// # Errors
///
/// As [`conv2d()`]; [`Error::Shape`] for another window, stride or tile.
///
/// # Precision
///
/// See [`winograd_error`].
pub fn winograd(
    x: &Tensor,
    weights: &Weights,
    params: &Conv2d,
    tile: usize,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let problem = check(x, weights.extent(), params, &epilogue)?;
    if !params.is_3x3_of_stride_1() || ![2, 4].contains(&tile) {
        let Conv2d { kernel, stride, .. } = *params;
        let detail = format!(
            "kernel, stride and tile must be [3, 3], 1, and 2 or 4, got {kernel:?}, {stride} and \
             {tile}"
        );
        return Err(Error::shape("winograd", detail));
    }
    winograd::run(&Job::new(x, weights, problem, epilogue)?, tile)
}

/// As [`winograd()`] with tiles of two outputs each way, in one pass that a work-group makes in
/// local memory, whatever [`plan`] would choose.
///
/// # Errors
///
/// As [`conv2d()`]; [`Error::Shape`] for another window or stride, or if channels are no multiple
/// of 8.
///
/// # Precision
///
/// See [`winograd_error`].
pub fn winograd_local(
    x: &Tensor,
    weights: &Weights,
    params: &Conv2d,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let problem = check(x, weights.extent(), params, &epilogue)?;
    if !winograd::local::applies(&problem) {
        let detail = format!(
            "kernel, stride and channels must be [3, 3], 1 and a multiple of {}, got {:?}, {} and \
             {}",
            winograd::local::CHANNELS,
            params.kernel,
            params.stride,
            problem.channels
        );
        return Err(Error::shape("winograd_local", detail));
    }
    winograd::local::run(&Job::new(x, weights, problem, epilogue)?)
}

pub use winograd::winograd_error;

/// A convolution that was checked.
struct Job<'a> {
    x: &'a Tensor,
    /// What is read instead of `x`, its input.
    normed: Option<&'a Normed<'a>>,
    /// The weight's panels.
    panels: OnDevice,
    storage: Storage,
    weight_bytes: usize,
    problem: Problem,
    epilogue: Epilogue<'a>,
}

/// What one band of the result is computed from.
struct Part<'a> {
    window: Window,
    /// Elements of x that are read.
    x_elements: usize,
    x: BandBuffer<'a>,
    bias: Option<&'a Tensor>,
    sample_bias: Option<BandBuffer<'a>>,
    residual: Option<BandBuffer<'a>>,
}

impl<'a> Job<'a> {
    fn new(
        x: &'a Tensor,
        weights: &'a Weights,
        problem: Problem,
        epilogue: Epilogue<'a>,
    ) -> Result<Self> {
        let (panels, storage) = (weights.on_device()?, weights.storage());
        let weight_bytes = weights.bytes();
        Ok(Self { x, normed: None, panels, storage, weight_bytes, problem, epilogue })
    }

    /// The result, before anything is written to it.
    fn result(&self) -> Result<Tensor> {
        let Problem { samples, output: [height, width], outputs, .. } = self.problem;
        Tensor::empty_like(self.x, &[samples, height, width, outputs], self.x.dtype())
    }

    fn part(&self, band: &Band) -> Result<Part<'_>> {
        let window = input_rows(&self.problem, &band.rows);
        let x_rows = Band { samples: band.samples.clone(), rows: window.rows.clone() };
        let bias_rows = Band { samples: band.samples.clone(), rows: 0..self.problem.outputs };
        let (bias, sample_bias) = match self.epilogue.bias {
            Some(bias) if self.problem.sample_bias => (None, Some(bias.band(&bias_rows)?)),
            bias => (bias, None),
        };
        Ok(Part {
            window,
            x_elements: self.x.elements(&x_rows),
            x: match self.normed {
                Some(normed) => normed.band(&x_rows)?,
                None => self.x.band(&x_rows)?,
            },
            bias,
            sample_bias,
            residual: self.epilogue.residual.map(|tensor| tensor.band(band)).transpose()?,
        })
    }
}

/// The problem, if everything agrees.
pub(super) fn check(
    x: &Tensor,
    weights: Extent,
    params: &Conv2d,
    epilogue: &Epilogue,
) -> Result<Problem> {
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
    let (inputs, outputs) = (kernel_height * kernel_width * channels, weights.outputs);
    if weights.inputs != inputs {
        let got = weights.inputs;
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
    epilogue.check("conv2d", x, weights.storage, &[samples, output[0], output[1], outputs])?;
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
    use crate::{DType, DeviceOptions};

    pub(super) fn layer(channels: usize, outputs: usize, side: usize) -> Problem {
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
    fn one_pixel_windows_are_products_and_the_rest_goes_by_channels_and_device() {
        let pointwise = |padding, stride| Problem {
            params: Conv2d { kernel: [1, 1], stride, padding, upsample: false, crop: [0, 0] },
            ..layer(320, 640, 32)
        };
        let down = Padding { bottom: 1, right: 1, ..Padding::default() };
        let strided = Conv2d { stride: 2, padding: down, ..layer(1, 1, 1).params };
        let up = Conv2d { upsample: true, ..layer(1, 1, 1).params };
        let [local, register] = [Algorithm::LocalTiles, Algorithm::RegisterTiles];
        let [few_inputs, few_outputs] = [Edge::FewInputs, Edge::FewOutputs].map(Algorithm::Edge);
        let (pixels, winograd) = (Algorithm::Pointwise, Algorithm::Winograd { tile: 4 });
        let fused = Algorithm::WinogradLocal;
        let time_embedding = Problem { sample_bias: true, ..pointwise(Padding::default(), 1) };
        let vae_down = Problem { params: strided, output: [32, 32], ..layer(128, 128, 64) };
        let unet_up = Problem { params: up, output: [32, 32], ..layer(1280, 1280, 16) };
        let cases = [
            ("unet resnet", layer(320, 320, 64), winograd, winograd),
            ("unet resnet of both", layer(2560, 1280, 16), fused, winograd),
            ("unet upsample", unet_up, fused, winograd),
            ("unet upsample, guided", Problem { samples: 2, ..unet_up }, winograd, winograd),
            ("unet resnet at its smallest", layer(1280, 1280, 8), local, register),
            ("unet shortcut", pointwise(Padding::default(), 1), pixels, pixels),
            ("strided, pixel by pixel", pointwise(Padding::default(), 2), local, register),
            ("shortcut with a time embedding", time_embedding, local, register),
            ("vae downsample", vae_down, local, register),
            ("vae resnet", layer(512, 512, 64), winograd, winograd),
            ("vae resnet at its largest", layer(128, 128, 512), fused, winograd),
            ("unet's first", layer(4, 320, 64), local, few_inputs),
            ("vae's last", layer(128, 3, 512), local, few_outputs),
        ];
        for (name, problem, on_gpu, on_cpu) in cases {
            assert_eq!(plan(&problem, &gpu()), on_gpu, "{name}");
            assert_eq!(plan(&problem, &cpu(16)), on_cpu, "{name}");
        }
    }

    #[test]
    fn a_panel_that_does_not_fit_once_it_is_transformed_goes_directly() {
        let problem = layer(512, 512, 64);
        // 36 places of 512 channels and 32 outputs.
        let panel_bytes = 36 * 512 * 32 * 4;
        for (most_bytes, expected) in [
            (panel_bytes, Algorithm::Winograd { tile: 4 }),
            (panel_bytes - 1, directly(Device::cpu().info())),
        ] {
            let options =
                DeviceOptions { max_allocation_bytes: Some(most_bytes), ..Default::default() };
            assert_eq!(
                plan_on(&problem, Storage::Values(DType::F32), &Device::cpu_with(&options)),
                expected
            );
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
