//! See `kernels/winograd_input.cl`.

use super::attention::lanes::Lanes;
use super::vector_math::widen;
use super::winograd::{self, MOST, Target, Task, both_ways, floats, matrices, transform_window};
use super::{Arguments, Reals};

/// The windows of x, by what their sizes are called in the kernel.
struct Windows<'a> {
    x: Reals<'a>,
    tile: usize,
    height: usize,
    width: usize,
    channels: usize,
    first_tile: usize,
    tiles: usize,
    tile_rows: usize,
    tile_columns: usize,
    top: i32,
    left: i32,
    read_height: usize,
    read_width: usize,
    enlarge: usize,
}

impl<'a> Windows<'a> {
    fn new(arguments: &Arguments<'a>) -> Self {
        Self {
            x: arguments.reals("x"),
            tile: arguments.parameter("TILE") as usize,
            height: arguments.size("height"),
            width: arguments.size("width"),
            channels: arguments.size("channels"),
            first_tile: arguments.size("first_tile"),
            tiles: arguments.size("tiles"),
            tile_rows: arguments.size("tile_rows"),
            tile_columns: arguments.size("tile_columns"),
            top: arguments.int("top"),
            left: arguments.int("left"),
            read_height: arguments.size("read_height"),
            read_width: arguments.size("read_width"),
            enlarge: arguments.size("enlarge"),
        }
    }

    /// The first element of x at a place of a tile's window, if that is not padding.
    fn pixel(&self, index: usize, row: usize, column: usize) -> Option<usize> {
        let tile = self.first_tile + index;
        let (tile_row, tile_column) = (tile / self.tile_columns, tile % self.tile_columns);
        let (sample, tile_row) = (tile_row / self.tile_rows, tile_row % self.tile_rows);
        let read = |at: usize, padding: i32, size: usize| {
            let at = usize::try_from(at as i64 - i64::from(padding)).ok()?;
            (at < size).then_some(at >> self.enlarge)
        };
        let row = read(tile_row * self.tile + row, self.top, self.read_height)?;
        let column = read(tile_column * self.tile + column, self.left, self.read_width)?;
        Some(((sample * self.height + row) * self.width + column) * self.channels)
    }
}

pub fn definition(arguments: &Arguments) {
    let sizes = Windows::new(arguments);
    let window = sizes.tile + 2;
    let windows = arguments.floats_out("windows");
    for index in 0..sizes.tiles {
        for channel in 0..sizes.channels {
            let value = |place: usize| match sizes.pixel(index, place / window, place % window) {
                Some(pixel) => f64::from(sizes.x.get(pixel + channel)),
                None => 0.0,
            };
            let values: Vec<f64> = (0..window * window).map(value).collect();
            let done = both_ways(matrices(sizes.tile).window, &values);
            for (place, value) in done.into_iter().enumerate() {
                windows[(place * sizes.tiles + index) * sizes.channels + channel] = value as f32;
            }
        }
    }
}

struct Input<'a> {
    sizes: Windows<'a>,
    windows: Target<'a, f32>,
}

pub fn fast(arguments: &Arguments) {
    let sizes = Windows::new(arguments);
    let tiles = sizes.tiles;
    let windows = Target::new(arguments.floats_out("windows"));
    winograd::run(&Input { sizes, windows }, tiles);
}

impl Task for Input<'_> {
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

impl Input<'_> {
    /// # Safety
    ///
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn transform<L: Lanes, const TILE: usize>(&self, index: usize, scratch: &mut Vec<f32>) {
        let (sizes, window, channels) = (&self.sizes, TILE + 2, self.sizes.channels);
        let places = window * window;
        let decoded = floats(scratch, (places + 1) * channels);
        // Padding is a row of zeros.
        let (decoded, zeros) = decoded.split_at_mut(places * channels);
        zeros.fill(0.0);
        let pixel = |place| sizes.pixel(index, place / window, place % window);
        if let Reals::F16(x) = sizes.x {
            for (place, target) in decoded.chunks_exact_mut(channels).enumerate() {
                if let Some(start) = pixel(place) {
                    widen(&x[start..start + channels], target);
                }
            }
        }
        let sources: [&[f32]; MOST * MOST] = std::array::from_fn(|place| {
            let inside = if place < places { pixel(place) } else { None };
            match (inside, sizes.x) {
                (None, _) => &*zeros,
                (Some(start), Reals::F32(x)) => &x[start..start + channels],
                (Some(_), Reals::F16(_)) => &decoded[place * channels..][..channels],
            }
        });
        // SAFETY: no two parts have a tile in common; every source and target has `channels`
        // floats. The instructions are as this function's.
        unsafe {
            let targets: [*mut f32; MOST * MOST] = std::array::from_fn(|place| {
                if place >= places {
                    return std::ptr::null_mut();
                }
                let at = (place * sizes.tiles + index) * channels;
                self.windows.part(at, channels).as_mut_ptr()
            });
            let whole = channels / L::COUNT * L::COUNT;
            for at in (0..whole).step_by(L::COUNT) {
                transform_at::<L, TILE>(&sources, &targets, at);
            }
            for at in whole..channels {
                transform_at::<[f32; 1], TILE>(&sources, &targets, at);
            }
        }
    }
}

/// # Safety
///
/// As [`Lanes`]; every source and target of the window has a vector from `at` on.
#[inline(always)]
unsafe fn transform_at<L: Lanes, const TILE: usize>(
    sources: &[&[f32]; MOST * MOST],
    targets: &[*mut f32; MOST * MOST],
    at: usize,
) {
    let window = TILE + 2;
    // SAFETY: as this function's.
    unsafe {
        let mut half_done = [[L::splat(0.0); MOST]; MOST];
        for (c, half_done) in half_done.iter_mut().take(window).enumerate() {
            let mut column = [L::splat(0.0); MOST];
            for (r, value) in column.iter_mut().take(window).enumerate() {
                *value = L::load(sources[r * window + c].as_ptr().add(at));
            }
            *half_done = transform_window::<L, TILE>(column);
        }
        for r in 0..window {
            let mut row = [L::splat(0.0); MOST];
            for (value, column) in row.iter_mut().zip(&half_done) {
                *value = column[r];
            }
            let done = transform_window::<L, TILE>(row);
            for (c, done) in done.iter().take(window).enumerate() {
                done.store(targets[r * window + c].add(at));
            }
        }
    }
}
