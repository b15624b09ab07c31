//! Candidates drawn evenly, and the numbers that every strategy draws.

use super::{Known, Strategy};

/// The strategy: what a search does that knows nothing.
#[derive(Debug)]
pub struct Uniform;

impl Strategy for Uniform {
    fn ask(&mut self, known: &Known, random: &mut Random) -> usize {
        known.draw(random)
    }
}

/// SplitMix64: a seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias, bound / 2^64, is nothing.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
