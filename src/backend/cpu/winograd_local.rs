//! See `kernels/winograd_local.cl`.

use rayon::prelude::*;

use super::winograd::{both_ways, matrices};
use super::{Arguments, PANEL, activation};

const PLACES: usize = 16;

pub fn definition(arguments: &Arguments) {
    let size = |name| arguments.size(name);
    let [samples, height, width, channels, out_height, out_width, outputs] =
        ["samples", "height", "width", "channels", "out_height", "out_width", "outputs"].map(size);
    let [first_panel, panels, read_height, read_width, enlarge] =
        ["first_panel", "panels", "read_height", "read_width", "enlarge"].map(size);
    let (top, left) = (arguments.int("top"), arguments.int("left"));
    let (x, transformed) = (arguments.reals("x"), arguments.floats("transformed"));
    let bias = arguments.optional_floats("bias");
    let sample_bias = arguments.optional_reals("sample_bias");
    let residual = arguments.optional_reals("residual");
    let mut y = arguments.reals_out("y");
    let (tile_rows, tile_columns) = (out_height.div_ceil(2), out_width.div_ceil(2));

    // The first element of x at a place of a tile's window, if that is not padding.
    let pixel = |tile: usize, place: usize| {
        let read = |at: usize, padding: i32, size: usize| {
            let at = usize::try_from(at as i64 - i64::from(padding)).ok()?;
            (at < size).then_some(at >> enlarge)
        };
        let sample = tile / tile_columns / tile_rows;
        let row = read(tile / tile_columns % tile_rows * 2 + place / 4, top, read_height)?;
        let column = read(tile % tile_columns * 2 + place % 4, left, read_width)?;
        Some(((sample * height + row) * width + column) * channels)
    };
    // The sums of products of a tile, place by place of each of the panels' outputs.
    let products = |tile: usize| {
        let mut sums = vec![[0.0; PLACES]; panels * PANEL];
        for channel in 0..channels {
            let value = |place| pixel(tile, place).map_or(0.0, |at| x.get(at + channel).into());
            let window: Vec<f64> = (0..PLACES).map(value).collect();
            let window = both_ways(matrices(2).window, &window);
            for (n, sums) in sums.iter_mut().enumerate() {
                for (place, sum) in sums.iter_mut().enumerate() {
                    let panel = (place * panels + n / PANEL) * channels + channel;
                    *sum += window[place] * f64::from(transformed[panel * PANEL + n % PANEL]);
                }
            }
        }
        sums
    };
    let tiles = samples * tile_rows * tile_columns;
    let all: Vec<_> = (0..tiles).into_par_iter().map(products).collect();
    for (tile, sums) in all.iter().enumerate() {
        let sample = tile / tile_columns / tile_rows;
        for (n, sums) in sums.iter().enumerate() {
            let output = first_panel * PANEL + n;
            if output >= outputs {
                break;
            }
            for (at, mut sum) in both_ways(matrices(2).products, sums).into_iter().enumerate() {
                let row = tile / tile_columns % tile_rows * 2 + at / 2;
                let column = tile % tile_columns * 2 + at % 2;
                if row >= out_height || column >= out_width {
                    continue;
                }
                let pixel = (sample * out_height + row) * out_width + column;
                let place = sample * outputs + output;
                sum += bias.map_or(0.0, |bias| f64::from(bias[output]));
                sum += sample_bias.map_or(0.0, |bias| f64::from(bias.get(place)));
                let at = pixel * outputs + output;
                let residual = residual.map_or(0.0, |all| f64::from(all.get(at)));
                y.set(at, activation::define(arguments.size("activation"), sum) + residual);
            }
        }
    }
}
