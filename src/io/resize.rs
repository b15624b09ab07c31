//! Resizing as Pillow does it (`Image.resize` with `LANCZOS`): rows first, then columns, rounded
//! to 8 bits between the two.
//!
//! A start image should be the one that diffusers sees, which resizes by Pillow. Crates round in
//! another way or not at all, and at sharp edges that is several levels. (Pillow 13 takes the
//! columns first for some sizes, by a rule of its own; there it differs in the same way.)

use std::f64::consts::PI;

/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 22;

/// Reach of the window on each side, in pixels of the smaller picture.
const REACH: f64 = 3.0;

/// The weights of the old pixels, from `first`, in one new pixel.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// An RGB picture of `[height, width]` at another size, rows first shortened, then columns.
pub(super) fn lanczos(pixels: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let [height, width] = from;
    let [new_height, new_width] = to;
    let mut pixels = pixels.to_vec();
    if new_width != width {
        let windows = windows(width, new_width);
        let rows = pixels.chunks_exact(width * 3);
        pixels =
            rows.flat_map(|row| windows.iter().flat_map(|window| pixel(row, window))).collect();
    }
    if new_height != height {
        let stride = new_width * 3;
        let windows = windows(height, new_height);
        pixels = windows.iter().flat_map(|window| row(&pixels, stride, window)).collect();
    }
    pixels
}

/// One new pixel of a row.
fn pixel(row: &[u8], window: &Window) -> [u8; 3] {
    let mut sums = [HALF; 3];
    let old = row[window.first * 3..].as_chunks::<3>().0;
    for (pixel, weight) in old.iter().zip(&window.weights) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += i64::from(value) * i64::from(*weight);
        }
    }
    sums.map(level)
}

/// One new row of `stride` values.
fn row(pixels: &[u8], stride: usize, window: &Window) -> Vec<u8> {
    let mut sums = vec![HALF; stride];
    let old = pixels.chunks_exact(stride).skip(window.first);
    for (row, weight) in old.zip(&window.weights) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += i64::from(value) * i64::from(*weight);
        }
    }
    sums.into_iter().map(level).collect()
}

/// One half, added before the bits behind the point are dropped.
const HALF: i64 = 1 << (WEIGHT_BITS - 1);

fn level(sum: i64) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The window of each of `new` pixels over `old` ones.
fn windows(old: usize, new: usize) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    let spread = scale.max(1.0);
    let window = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = (center - REACH * spread + 0.5).max(0.0) as usize;
        let end = ((center + REACH * spread + 0.5) as usize).min(old);
        let weight = |at: usize| window((at as f64 - center + 0.5) * (1.0 / spread));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..new).map(window).collect()
}

/// Lanczos's window: the middle of a sinc, faded by a wider one.
fn window(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-REACH..REACH).contains(&x) { sinc(x) * sinc(x / REACH) } else { 0.0 }
}
