//! Scales of the least squared error, by trying some and improving each by least squares.

use half::f16;

/// How far from the obvious scale others are tried, in levels.
const STEPS: [f32; 9] = [0.0, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9, 1.2, -1.2];

/// How often a candidate's scale is made the best for its levels.
const REFITS: usize = 2;

/// A scale, and the least value that it stands on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) least: f32,
}

/// The nearest f16 that is a number.
pub(super) fn half(value: f32) -> f32 {
    let most = f16::MAX.to_f32();
    f16::from_f32(value.clamp(-most, most)).to_f32()
}

/// An f16 of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Stores what [`half`] gave.
pub(super) fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// 1 over a scale; of none, or one so small that this is no number, 0: all levels are 0 then.
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// `value` rounded to a whole number in `low..=high`, as a vector instruction of any machine can:
/// to a float of this size, only whole numbers can be added.
fn level(value: f32, low: f32, high: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0;
    (value.clamp(low, high) + WHOLE) - WHOLE
}

/// Whole levels in `low..=high` nearest to `values`, as `least + scale * level`.
pub(super) fn levels<const N: usize>(
    values: &[f32; N],
    affine: Affine,
    [low, high]: [f32; 2],
) -> [f32; N] {
    let inverse = inverse(affine.scale);
    values.map(|value| level((value - affine.least) * inverse, low, high))
}

/// The squared error of `values` as `least + scale * level`, and the levels.
pub(super) fn error<const N: usize>(
    values: &[f32; N],
    affine: Affine,
    range: [f32; 2],
) -> (f32, [f32; N]) {
    let levels = levels(values, affine, range);
    let mut squares = [0.0; 8];
    for (values, levels) in values.as_chunks::<8>().0.iter().zip(levels.as_chunks::<8>().0) {
        for ((square, value), level) in squares.iter_mut().zip(values).zip(levels) {
            let error = value - (affine.scale * level + affine.least);
            *square += error * error;
        }
    }
    (sum(squares), levels)
}

/// In a fixed order, so that every machine chooses the same.
fn sum(parts: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = parts;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    let mut sums = [0.0; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sum(sums)
}

/// The best of what was tried.
struct Best {
    error: f32,
    affine: Affine,
}

impl Best {
    fn offer(&mut self, error: f32, affine: Affine) {
        if error < self.error {
            *self = Self { error, affine };
        }
    }
}

/// The scale by which whole levels in `low..=high` come nearest to `values`.
///
/// `low` is the further from zero: the largest value takes it, whatever its sign, and the scale has
/// the sign that this needs. `stored` is what of a scale can be stored.
pub(super) fn scale<const N: usize>(
    values: &[f32; N],
    [low, high]: [f32; 2],
    stored: impl Fn(f32) -> f32,
) -> f32 {
    let largest = values.iter().fold(0.0, |a: f32, b| if b.abs() > a.abs() { *b } else { a });
    let first = Affine { scale: stored(largest / low), least: 0.0 };
    let mut best = Best { error: error(values, first, [low, high]).0, affine: first };
    if largest == 0.0 {
        return first.scale;
    }
    for step in STEPS {
        let mut affine = Affine { scale: stored(largest / (low + step)), least: 0.0 };
        for _ in 0..=REFITS {
            let (error, levels) = error(values, affine, [low, high]);
            best.offer(error, affine);
            let refit = dot(values, &levels) / dot(&levels, &levels);
            // Of levels that are all 0, there is none.
            if !refit.is_finite() {
                break;
            }
            let refit = stored(refit);
            if refit == affine.scale {
                break;
            }
            affine.scale = refit;
        }
    }
    best.affine.scale
}

/// Scale and least value by which whole levels in `0..=most` come nearest to `values`.
///
/// `most_least` is over any least value that can be stored: 0 where least values are never over
/// zero. `stored` is what of both can be stored.
pub(super) fn affine<const N: usize>(
    values: &[f32; N],
    most: f32,
    most_least: f32,
    stored: impl Fn(f32) -> f32,
) -> Affine {
    let smallest = values.iter().copied().fold(most_least, f32::min);
    let largest = values.iter().copied().fold(smallest, f32::max);
    let range = [0.0, most];
    let of = |scale: f32, least: f32| Affine { scale: stored(scale), least: stored(least) };
    // Halves, since the whole of the range may be over what f32 holds.
    let spread = |levels: f32| (largest / levels - smallest / levels).min(f32::MAX);
    let first = of(spread(most), smallest);
    let mut best = Best { error: error(values, first, range).0, affine: first };
    let total = dot(values, &[1.0; N]);
    for step in STEPS {
        let mut affine = of(spread(most + step), smallest);
        for _ in 0..=REFITS {
            let (error, levels) = error(values, affine, range);
            best.offer(error, affine);
            let (count, once) = (N as f32, dot(&levels, &[1.0; N]));
            let (twice, product) = (dot(&levels, &levels), dot(values, &levels));
            let mut refit = Affine {
                scale: (count * product - once * total) / (count * twice - once * once),
                least: (twice * total - once * product) / (count * twice - once * once),
            };
            if refit.least > most_least {
                refit = Affine { scale: product / twice, least: most_least };
            }
            if !(refit.scale.is_finite() && refit.least.is_finite()) {
                break;
            }
            let refit = of(refit.scale, refit.least);
            if (refit.scale, refit.least) == (affine.scale, affine.least) {
                break;
            }
            affine = refit;
        }
    }
    best.affine
}
