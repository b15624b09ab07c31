//! Blocks of 256 values in eight parts of 32, each with a scale and a least value of 6 bits, which
//! have a scale each for the whole block: what q4_k and q5_k share.

use super::search::{self, Affine, half, half_at, inverse, put_half};

/// The parts of a block.
const PARTS: usize = 8;

/// The values of a part.
pub(super) const PART: usize = 32;

/// Where the levels start in a block: after two f16 and the packed scales.
pub(super) const HEADER_BYTES: usize = 16;

/// The largest number of 6 bits.
const MOST: f32 = 63.0;

/// `x = scale * level + least` of each part.
pub(super) fn affines(block: &[u8]) -> [Affine; PARTS] {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|part| {
        let [of_scale, of_least] = numbers(&block[4..HEADER_BYTES], part);
        Affine { scale: scale * f32::from(of_scale), least: -(least * f32::from(of_least)) }
    })
}

/// The two numbers of 6 bits of a part: the first four parts have theirs in a byte each, whose upper
/// bits are those of the others.
fn numbers(packed: &[u8], part: usize) -> [u8; 2] {
    if part < 4 {
        return [packed[part] & 63, packed[part + 4] & 63];
    }
    let low = packed[part + 4];
    [low & 15 | packed[part - 4] >> 6 << 4, low >> 4 | packed[part] >> 6 << 4]
}

fn put_numbers(packed: &mut [u8], part: usize, [scale, least]: [u8; 2]) {
    if part < 4 {
        packed[part] |= scale;
        packed[part + 4] |= least;
    } else {
        packed[part + 4] |= scale & 15 | (least & 15) << 4;
        packed[part - 4] |= scale >> 4 << 6;
        packed[part] |= least >> 4 << 6;
    }
}

/// Writes the header for `values`, and gives the level of each, of at most `most`.
pub(super) fn encode(values: &[f32], most: f32, block: &mut [u8]) -> [u8; PARTS * PART] {
    block.fill(0);
    let parts = values.as_chunks::<PART>().0;
    let wanted: [Affine; PARTS] =
        std::array::from_fn(|part| search::affine(&parts[part], most, 0.0, |value| value));
    let shared = |largest: f32| match half(largest / MOST) {
        // Better one scale too large than all values gone.
        0.0 if largest > 0.0 => half::f16::from_bits(1).to_f32(),
        shared => shared,
    };
    let scale = shared(wanted.iter().fold(0.0, |a, b| b.scale.max(a)));
    let least = shared(wanted.iter().fold(0.0, |a, b| a.max(-b.least)));
    put_half(block, 0, scale);
    put_half(block, 2, least);
    let mut all = [0; PARTS * PART];
    for (part, levels) in all.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
        let near = [wanted[part].scale * inverse(scale), -wanted[part].least * inverse(least)];
        let (numbers, found) = nearest(&parts[part], [scale, least], near, most);
        put_numbers(&mut block[4..HEADER_BYTES], part, numbers);
        *levels = found.map(|level| level as u8);
    }
    all
}

/// The numbers of 6 bits around `near` with the least error, and the levels with them.
fn nearest(
    values: &[f32; PART],
    [scale, least]: [f32; 2],
    near: [f32; 2],
    most: f32,
) -> ([u8; 2], [f32; PART]) {
    let around = |near: f32| {
        let near = near.round();
        [0.0, -1.0, 1.0].map(|step| (near + step).clamp(0.0, MOST))
    };
    let mut best = (f32::INFINITY, [0; 2], [0.0; PART]);
    for of_scale in around(near[0]) {
        for of_least in around(near[1]) {
            // As they are decoded.
            let affine = Affine { scale: scale * of_scale, least: -(least * of_least) };
            let (error, levels) = search::error(values, affine, [0.0, most]);
            if error < best.0 {
                best = (error, [of_scale as u8, of_least as u8], levels);
            }
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_numbers_come_back() {
        let wanted: [[u8; 2]; PARTS] =
            std::array::from_fn(|part| [part as u8 * 9, 63 - part as u8 * 7]);
        let mut packed = [0; 12];
        for (part, numbers) in wanted.iter().enumerate() {
            put_numbers(&mut packed, part, *numbers);
        }
        assert_eq!(std::array::from_fn(|part| numbers(&packed, part)), wanted);
    }
}
