//! See `kernels/conv2d_register.cl` and `kernels/conv2d_local.cl`.

use rayon::prelude::*;

use super::product::{self, Epilogue, Product, Rows};
use super::{Arguments, PANEL, Reals, activation, rows};

/// What a convolution's sizes are called in its kernels.
pub struct Sizes {
    pub samples: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub outputs: usize,
    pub kernel_height: usize,
    pub kernel_width: usize,
    pub stride: usize,
    pub top: i32,
    pub left: i32,
    pub read_height: usize,
    pub read_width: usize,
    pub enlarge: usize,
}

impl Sizes {
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            samples: arguments.size("samples"),
            height: arguments.size("height"),
            width: arguments.size("width"),
            channels: arguments.size("channels"),
            out_height: arguments.size("out_height"),
            out_width: arguments.size("out_width"),
            outputs: arguments.size("outputs"),
            kernel_height: arguments.size("kernel_height"),
            kernel_width: arguments.size("kernel_width"),
            stride: arguments.size("stride"),
            top: arguments.int("top"),
            left: arguments.int("left"),
            read_height: arguments.size("read_height"),
            read_width: arguments.size("read_width"),
            enlarge: arguments.size("enlarge"),
        }
    }

    /// Pixels of the result, of all samples.
    pub fn rows(&self) -> usize {
        self.samples * self.out_height * self.out_width
    }

    /// The row of x under a row of the window, if that is not padding.
    pub fn row(&self, out_row: usize, kernel_row: usize) -> Option<usize> {
        position(out_row * self.stride + kernel_row, self.top, self.read_height, self.enlarge)
    }

    /// The column of x under a column of the window, if that is not padding.
    fn column(&self, out_column: usize, kernel_column: usize) -> Option<usize> {
        position(out_column * self.stride + kernel_column, self.left, self.read_width, self.enlarge)
    }
}

/// `padded` counts from the first pixel of padding; the result, from the first of x.
fn position(padded: usize, padding: i32, size: usize, enlarge: usize) -> Option<usize> {
    let read = usize::try_from(padded as i64 - i64::from(padding)).ok()?;
    (read < size).then_some(read >> enlarge)
}

pub fn definition(arguments: &Arguments) {
    let sizes = Sizes::new(arguments);
    let Sizes { height, width, channels, out_height, out_width, outputs, .. } = sizes;
    let inputs = sizes.kernel_height * sizes.kernel_width * channels;
    let (x, weights) = (arguments.reals("x"), arguments.weights("weights"));
    let bias = arguments.optional_floats("bias");
    let sample_bias = arguments.optional_reals("sample_bias");
    let residual = arguments.optional_reals("residual");
    let activation = arguments.size("activation");
    let weight = |output: usize, k: usize| {
        f64::from(weights.get((output / PANEL * inputs + k) * PANEL + output % PANEL))
    };
    let result = |index: usize| {
        let (pixel, output) = (index / outputs, index % outputs);
        let (out_row, out_column) = (pixel / out_width % out_height, pixel % out_width);
        let sample = pixel / out_width / out_height;
        let mut sum = 0.0;
        for kernel_row in 0..sizes.kernel_height {
            let Some(row) = sizes.row(out_row, kernel_row) else { continue };
            for kernel_column in 0..sizes.kernel_width {
                let Some(column) = sizes.column(out_column, kernel_column) else { continue };
                let first = ((sample * height + row) * width + column) * channels;
                let first_k = (kernel_row * sizes.kernel_width + kernel_column) * channels;
                for channel in 0..channels {
                    sum += f64::from(x.get(first + channel)) * weight(output, first_k + channel);
                }
            }
        }
        sum += bias.map_or(0.0, |bias| f64::from(bias[output]));
        sum += sample_bias.map_or(0.0, |bias| f64::from(bias.get(sample * outputs + output)));
        let residual = residual.map_or(0.0, |residual| f64::from(residual.get(index)));
        activation::define(activation, sum) + residual
    };
    let count = sizes.rows() * outputs;
    let results: Vec<f64> = (0..count).into_par_iter().map(result).collect();
    let mut y = arguments.reals_out("y");
    for (index, value) in results.into_iter().enumerate() {
        y.set(index, value);
    }
}

/// Windows of x as the rows of a matrix: (row, column, channel), channels contiguous.
struct Windows<'a> {
    x: Reals<'a>,
    sizes: Sizes,
}

impl Rows for Windows<'_> {
    #[inline(always)]
    fn pack(&self, pixel: usize, first: usize, target: &mut [f32]) {
        let sizes = &self.sizes;
        let (out_row, out_column) = (pixel / sizes.out_width, pixel % sizes.out_width);
        let (sample, out_row) = (out_row / sizes.out_height, out_row % sizes.out_height);
        let (tap, mut channel) = (first / sizes.channels, first % sizes.channels);
        let mut kernel_row = tap / sizes.kernel_width;
        let mut kernel_column = tap % sizes.kernel_width;
        let mut rest = target;
        while !rest.is_empty() {
            let run = rest.len().min(sizes.channels - channel);
            let (target, after) = rest.split_at_mut(run);
            let row = sizes.row(out_row, kernel_row);
            match row.zip(sizes.column(out_column, kernel_column)) {
                Some((row, column)) => {
                    let pixel = (sample * sizes.height + row) * sizes.width + column;
                    rows::read(&self.x, pixel * sizes.channels + channel, target);
                }
                None => target.fill(0.0),
            }
            (rest, channel) = (after, 0);
            kernel_column += 1;
            if kernel_column == sizes.kernel_width {
                (kernel_row, kernel_column) = (kernel_row + 1, 0);
            }
        }
    }
}

/// What becomes of a convolution's sums.
pub fn epilogue<'a>(arguments: &Arguments<'a>, sizes: &Sizes) -> Epilogue<'a> {
    Epilogue {
        bias: arguments.optional_floats("bias"),
        sample_bias: arguments.optional_reals("sample_bias"),
        sample_rows: sizes.out_height * sizes.out_width,
        activation: arguments.size("activation") as u32,
        residual: arguments.optional_reals("residual"),
    }
}

pub fn fast(arguments: &Arguments) {
    let sizes = Sizes::new(arguments);
    let product = Product {
        batch: 1,
        rows: sizes.rows(),
        outputs: sizes.outputs,
        inputs: sizes.kernel_height * sizes.kernel_width * sizes.channels,
        weights: arguments.weights("weights"),
        epilogue: epilogue(arguments, &sizes),
    };
    let windows = Windows { x: arguments.reals("x"), sizes };
    product::run(&product, &windows, arguments.reals_out("y"));
}
