//! One file a format: what the bytes of a block mean, and how they are chosen.
//!
//! `decode` and `encode` take one block each, and its values; but `encode` of `i8` all of a row.

pub(super) mod bf16;
mod f8;
pub(super) mod f8_e4m3;
pub(super) mod f8_e5m2;
pub(super) mod i8;
pub(super) mod q4_0;
pub(super) mod q4_1;
pub(super) mod q4_k;
pub(super) mod q5_0;
pub(super) mod q5_1;
pub(super) mod q5_k;
pub(super) mod q6_k;
pub(super) mod q8_0;

/// The values of a small block.
const SMALL: usize = 32;

/// The values of a small block, as an array.
fn small(values: &[f32]) -> &[f32; SMALL] {
    values.try_into().expect("a block has 32 values")
}

/// Splits 16 bytes into 32 levels: the lower halves, then the upper ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// What [`nibbles`] splits, of the lower 4 bits of `levels`.
fn put_nibbles(bytes: &mut [u8], levels: &[u8]) {
    let (low, high) = levels.split_at(bytes.len());
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | (high & 15) << 4;
    }
}

/// Levels of 5 bits: the fifth ones apart, as one number of 32 bits.
fn five_bits<'a>(fifth: &'a [u8], rest: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    let fifth = u32::from_le_bytes(fifth.try_into().expect("4 bytes"));
    nibbles(rest).enumerate().map(move |(at, low)| low | ((fifth >> at & 1) as u8) << 4)
}

/// What [`five_bits`] reads: 4 bytes, and 16.
fn put_five_bits(bytes: &mut [u8], levels: &[u8; SMALL]) {
    let (fifth, rest) = bytes.split_at_mut(4);
    let bits = levels.iter().rev().fold(0, |bits: u32, level| bits << 1 | u32::from(level >> 4));
    fifth.copy_from_slice(&bits.to_le_bytes());
    put_nibbles(rest, levels);
}
