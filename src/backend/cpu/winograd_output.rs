//! See `kernels/winograd_output.cl`.

use half::f16;

use super::attention::lanes::Lanes;
use super::vector_math::{activate, narrow, widen};
use super::winograd::{self, MOST, Target, Task, both_ways, floats, matrices, transform_products};
use super::{Arguments, Reals, RealsMut, activation, rows};

/// The products of tiles, by what their sizes are called in the kernel.
struct Products<'a> {
    products: &'a [f32],
    bias: Option<&'a [f32]>,
    sample_bias: Option<Reals<'a>>,
    residual: Option<Reals<'a>>,
    tile: usize,
    out_height: usize,
    out_width: usize,
    outputs: usize,
    first_output: usize,
    block_outputs: usize,
    first_tile: usize,
    tiles: usize,
    tile_rows: usize,
    tile_columns: usize,
    activation: u32,
}

impl<'a> Products<'a> {
    fn new(arguments: &Arguments<'a>) -> Self {
        Self {
            products: arguments.floats("products"),
            bias: arguments.optional_floats("bias"),
            sample_bias: arguments.optional_reals("sample_bias"),
            residual: arguments.optional_reals("residual"),
            tile: arguments.parameter("TILE") as usize,
            out_height: arguments.size("out_height"),
            out_width: arguments.size("out_width"),
            outputs: arguments.size("outputs"),
            first_output: arguments.size("first_output"),
            block_outputs: arguments.size("block_outputs"),
            first_tile: arguments.size("first_tile"),
            tiles: arguments.size("tiles"),
            tile_rows: arguments.size("tile_rows"),
            tile_columns: arguments.size("tile_columns"),
            activation: arguments.size("activation") as u32,
        }
    }

    /// The sample of a tile.
    fn sample(&self, index: usize) -> usize {
        (self.first_tile + index) / self.tile_columns / self.tile_rows
    }

    /// The first element of y that is of a pixel of a tile and of the block of outputs, if the
    /// pixel is inside.
    fn pixel(&self, index: usize, row: usize, column: usize) -> Option<usize> {
        let tile = self.first_tile + index;
        let row = tile / self.tile_columns % self.tile_rows * self.tile + row;
        let column = tile % self.tile_columns * self.tile + column;
        let inside = row < self.out_height && column < self.out_width;
        let pixel = (self.sample(index) * self.out_height + row) * self.out_width + column;
        inside.then_some(pixel * self.outputs + self.first_output)
    }
}

pub fn definition(arguments: &Arguments) {
    let sizes = Products::new(arguments);
    let places = (sizes.tile + 2) * (sizes.tile + 2);
    let mut y = arguments.reals_out("y");
    for index in 0..sizes.tiles {
        for n in 0..sizes.block_outputs {
            let product = |place: usize| {
                sizes.products[(place * sizes.tiles + index) * sizes.block_outputs + n].into()
            };
            let products: Vec<f64> = (0..places).map(product).collect();
            let done = both_ways(matrices(sizes.tile).products, &products);
            let output = sizes.first_output + n;
            for (at, mut sum) in done.into_iter().enumerate() {
                let pixel = sizes.pixel(index, at / sizes.tile, at % sizes.tile);
                let Some(start) = pixel else { continue };
                sum += sizes.bias.map_or(0.0, |bias| f64::from(bias[output]));
                let place = sizes.sample(index) * sizes.outputs + output;
                sum += sizes.sample_bias.map_or(0.0, |bias| f64::from(bias.get(place)));
                let residual = sizes.residual.map_or(0.0, |all| f64::from(all.get(start + n)));
                let value = activation::define(sizes.activation as usize, sum) + residual;
                y.set(start + n, value);
            }
        }
    }
}

struct Output<'a> {
    sizes: Products<'a>,
    y: Elements<'a>,
}

enum Elements<'a> {
    F32(Target<'a, f32>),
    F16(Target<'a, f16>),
}

pub fn fast(arguments: &Arguments) {
    let sizes = Products::new(arguments);
    let tiles = sizes.tiles;
    let y = match arguments.reals_out("y") {
        RealsMut::F32(y) => Elements::F32(Target::new(y)),
        RealsMut::F16(y) => Elements::F16(Target::new(y)),
    };
    winograd::run(&Output { sizes, y }, tiles);
}

impl Task for Output<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self, index: usize, scratch: &mut Vec<f32>) {
        // SAFETY: as this function's.
        unsafe {
            match self.sizes.tile {
                2 => self.transform::<L, 2>(index, scratch),
                _ => self.transform::<L, 4>(index, scratch),
            }
        }
    }
}

impl Output<'_> {
    /// # Safety
    ///
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn transform<L: Lanes, const TILE: usize>(&self, index: usize, scratch: &mut Vec<f32>) {
        let (sizes, count) = (&self.sizes, self.sizes.block_outputs);
        let scratch = floats(scratch, (TILE * TILE + 2) * count);
        let (shift, scratch) = scratch.split_at_mut(count);
        let (residual, pixels) = scratch.split_at_mut(count);
        self.shift(index, shift, residual);
        let places = (TILE + 2) * (TILE + 2);
        let sources: [&[f32]; MOST * MOST] = std::array::from_fn(|place| {
            let place = place.min(places - 1);
            &sizes.products[(place * sizes.tiles + index) * count..][..count]
        });
        let whole = count / L::COUNT * L::COUNT;
        // SAFETY: sources and the shift have `count` floats, and so has each pixel. The
        // instructions are as this function's.
        unsafe {
            for at in (0..whole).step_by(L::COUNT) {
                transform_at::<L, TILE>(&sources, shift, pixels, at);
            }
            for at in whole..count {
                transform_at::<[f32; 1], TILE>(&sources, shift, pixels, at);
            }
        }
        for (at, values) in pixels.chunks_exact_mut(count).enumerate() {
            if let Some(start) = sizes.pixel(index, at / TILE, at % TILE) {
                // SAFETY: no two parts have a tile in common, nor two tiles a pixel. The
                // instructions are as this function's.
                unsafe { self.store::<L>(start, values, residual) };
            }
        }
    }

    /// What is added to every pixel of a tile; `row` is scratch.
    fn shift(&self, index: usize, shift: &mut [f32], row: &mut [f32]) {
        let Products { bias, sample_bias, first_output, outputs, .. } = self.sizes;
        match bias {
            Some(bias) => shift.copy_from_slice(&bias[first_output..first_output + shift.len()]),
            None => shift.fill(0.0),
        }
        if let Some(bias) = sample_bias {
            let start = self.sizes.sample(index) * outputs + first_output;
            let row = read(bias, start, row);
            shift.iter_mut().zip(row).for_each(|(shift, bias)| *shift += bias);
        }
    }

    /// The epilogue of one pixel.
    ///
    /// # Safety
    ///
    /// As [`Lanes`], and nobody else has these elements of y.
    #[inline(always)]
    unsafe fn store<L: Lanes>(&self, start: usize, values: &mut [f32], row: &mut [f32]) {
        activate(values, self.sizes.activation);
        if let Some(residual) = self.sizes.residual {
            let row = read(residual, start, row);
            values.iter_mut().zip(row).for_each(|(value, other)| *value += other);
        }
        match &self.y {
            Elements::F32(y) => {
                // SAFETY: as this function's.
                let y = unsafe { y.part(start, values.len()) };
                y.copy_from_slice(values);
                // A store to a line that is not there waits for it: the next tile's come now.
                let next = y.as_ptr().wrapping_add(self.sizes.tile * self.sizes.outputs);
                for at in (0..values.len()).step_by(16) {
                    rows::fetch_line(next.wrapping_add(at).cast());
                }
            }
            Elements::F16(y) => {
                // SAFETY: as this function's.
                narrow(values, unsafe { y.part(start, values.len()) });
            }
        }
    }
}

/// The elements from `start` on as floats, as many as `row` holds: where they lie, or in `row`.
#[inline(always)]
fn read<'a>(source: Reals<'a>, start: usize, row: &'a mut [f32]) -> &'a [f32] {
    match source {
        Reals::F32(values) => &values[start..start + row.len()],
        Reals::F16(values) => {
            widen(&values[start..start + row.len()], row);
            row
        }
    }
}

/// # Safety
///
/// As [`Lanes`]; sources and shift have a vector from `at` on, and so has each pixel, of which
/// there are `TILE * TILE`.
#[inline(always)]
unsafe fn transform_at<L: Lanes, const TILE: usize>(
    sources: &[&[f32]; MOST * MOST],
    shift: &[f32],
    pixels: &mut [f32],
    at: usize,
) {
    let window = TILE + 2;
    // SAFETY: as this function's.
    unsafe {
        let shift_here = L::load(shift.as_ptr().add(at));
        let mut half_done = [[L::splat(0.0); MOST]; MOST];
        for (c, half_done) in half_done.iter_mut().take(window).enumerate() {
            let mut column = [L::splat(0.0); MOST];
            for (r, value) in column.iter_mut().take(window).enumerate() {
                *value = L::load(sources[r * window + c].as_ptr().add(at));
            }
            *half_done = transform_products::<L, TILE>(column);
        }
        for r in 0..TILE {
            let mut row = [L::splat(0.0); MOST];
            for (value, column) in row.iter_mut().zip(&half_done) {
                *value = column[r];
            }
            let done = transform_products::<L, TILE>(row);
            for (c, done) in done.iter().take(TILE).enumerate() {
                let pixel = (r * TILE + c) * shift.len();
                done.add(shift_here).store(pixels.as_mut_ptr().add(pixel + at));
            }
        }
    }
}
