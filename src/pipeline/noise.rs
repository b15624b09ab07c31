//! Gaussian noise, number for number as PyTorch draws it on the CPU.
//!
//! A seed means the same picture as in diffusers only if the noise is the same, so this follows
//! `torch.Generator("cpu").manual_seed(seed)` and `torch.randn(.., generator=g)` in f32 through
//! both of its ways: 16 values and more are filled in blocks of 16 from 24-bit uniforms, fewer are
//! drawn in pairs from 53-bit uniforms, and the odd one of a pair waits for the next small draw.

use std::f64::consts::TAU;

use crate::{Error, Result};

const STATE: usize = 624;
const PERIOD_OFFSET: usize = 397;

/// The Mersenne Twister `mt19937` (Matsumoto and Nishimura, 1998): 32 random bits at a time.
#[derive(Clone)]
struct MersenneTwister {
    state: [u32; STATE],
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for index in 1..STATE {
            let before = state[index - 1];
            state[index] =
                1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index as u32);
        }
        MersenneTwister { state, next: STATE }
    }

    fn refill(&mut self) {
        for index in 0..STATE {
            let upper = self.state[index] & 0x8000_0000;
            let lower = self.state[(index + 1) % STATE] & 0x7fff_ffff;
            let joined = upper | lower;
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + PERIOD_OFFSET) % STATE] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn bits_32(&mut self) -> u32 {
        if self.next == STATE {
            self.refill();
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c_5680;
        bits ^= (bits << 15) & 0xefc6_0000;
        bits ^ (bits >> 18)
    }

    /// In `[0, 1)`, from 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.bits_32() & ((1 << 24) - 1)) as f32 / (1 << 24) as f32
    }

    /// In `[0, 1)`, from 53 bits: the high half is drawn first.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.bits_32());
        let low = u64::from(self.bits_32());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// A seeded source of normal numbers, equal to `torch.Generator("cpu").manual_seed(seed)`.
///
/// ```
/// use ellesmere::pipeline::noise::Generator;
///
/// let mut generator = Generator::new(42);
/// let latent = generator.normal(4 * 64 * 64);
/// assert!((latent[0] - 1.926915).abs() < 1e-6);
/// ```
#[derive(Clone)]
pub struct Generator {
    engine: MersenneTwister,
    /// The second of a pair that only one value was asked of.
    kept: Option<f64>,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Generator").finish_non_exhaustive()
    }
}

/// How many values PyTorch fills together; shorter draws go one by one.
const BLOCK: usize = 16;

impl Generator {
    /// A generator at the start of the sequence of `seed`.
    ///
    /// As in PyTorch only the low 32 bits of the seed decide: `5` and `2^32 + 5` draw the same.
    pub fn new(seed: u64) -> Self {
        Generator { engine: MersenneTwister::new(seed as u32), kept: None }
    }

    /// The next `count` numbers of mean 0 and deviation 1, as `torch.randn(count, generator=g)`.
    ///
    /// A tensor's values come in the order of its memory: draw latents as `[N, C, H, W]`.
    ///
    /// # Precision
    ///
    /// The uniforms behind the numbers are the same bits as PyTorch's. Logarithm, sine and cosine
    /// are rounded once, from f64, where PyTorch's vector library may be off by one unit in the
    /// last place, so numbers agree to 3 such units (4e-7 relative).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.one_normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.engine.uniform_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(uniform_to_normal);
        if !rest.is_empty() {
            // The last 16 are drawn anew, over some that were ready: PyTorch does so.
            let last: &mut [f32; BLOCK] =
                values.last_chunk_mut().expect("there are at least 16 values here");
            last.fill_with(|| self.engine.uniform_f32());
            uniform_to_normal(last);
        }
        values
    }

    /// Box-Muller in f64, two values for two uniforms.
    fn one_normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let angle = TAU * self.engine.uniform_f64();
        let radius = (-2.0 * (-self.engine.uniform_f64()).ln_1p()).sqrt();
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Box-Muller in f32: the first 8 uniforms are radii, the other 8 angles.
fn uniform_to_normal(values: &mut [f32; BLOCK]) {
    let (radii, angles) = values.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        // 1 - u is in (0, 1], so the logarithm is finite.
        let logarithm = f64::from(1.0 - *first).ln() as f32;
        let radius = (-2.0 * logarithm).sqrt();
        let angle = f64::from(TAU as f32 * *second);
        *first = radius * angle.cos() as f32;
        *second = radius * angle.sin() as f32;
    }
}

/// `count` normal numbers for a batch of pictures, as diffusers' `randn_tensor`.
///
/// With one generator the whole batch is one draw; with several, each draws its own equal part.
/// These differ even for the first picture when a part is not a multiple of 16 values.
///
/// # Errors
///
/// [`Error::Argument`] if there is no generator or `count` cannot be shared out equally.
pub fn normal_batch(generators: &mut [Generator], count: usize) -> Result<Vec<f32>> {
    if generators.is_empty() || !count.is_multiple_of(generators.len()) {
        return Err(Error::argument(
            "generators",
            format!("expected a number that divides {count} values, got {}", generators.len()),
        ));
    }
    let part = count / generators.len();
    Ok(generators.iter_mut().flat_map(|generator| generator.normal(part)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_published_mersenne_twister() {
        // The first outputs for the seed of the reference program, and its 10,000th.
        let mut engine = MersenneTwister::new(5489);
        let first: Vec<u32> = (0..3).map(|_| engine.bits_32()).collect();
        assert_eq!(first, [3_499_211_612, 581_869_302, 3_890_346_734]);
        let last = (3..10_000).map(|_| engine.bits_32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn short_draws_continue_with_the_kept_half_of_a_pair() {
        let whole = Generator::new(3).normal(15);
        let mut generator = Generator::new(3);
        let pieces: Vec<f32> =
            [1, 2, 5, 7].iter().flat_map(|&count| generator.normal(count)).collect();
        assert_eq!(whole, pieces);
    }

    #[test]
    fn long_draws_leave_the_kept_half_alone() {
        let mut generator = Generator::new(3);
        generator.normal(1);
        generator.normal(64);
        assert_eq!(generator.normal(1)[0], Generator::new(3).normal(2)[1]);
    }

    #[test]
    fn a_rest_below_sixteen_redraws_the_last_sixteen() {
        let even = Generator::new(9).normal(32);
        let odd = Generator::new(9).normal(33);
        // 33 uniforms first, then 16 more for the values from 17 on.
        assert_eq!(even[..16], odd[..16]);
        assert_eq!(odd[17], {
            let mut engine = MersenneTwister::new(9);
            let mut block = [0.0; 16];
            (0..33).for_each(|_| _ = engine.uniform_f32());
            block.fill_with(|| engine.uniform_f32());
            uniform_to_normal(&mut block);
            block[0]
        });
        assert_eq!(odd.len(), 33);
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        assert_eq!(Generator::new(5).normal(40), Generator::new((1 << 32) + 5).normal(40));
        assert_ne!(Generator::new(5).normal(40), Generator::new(6).normal(40));
    }

    #[test]
    fn numbers_have_mean_0_and_deviation_1() {
        let count = 100_000;
        let values = Generator::new(0).normal(count);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count as f64;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / count as f64;
        // Five deviations of the estimates: 1 / sqrt(count) and sqrt(2 / count).
        assert!(mean.abs() < 5.0 / (count as f64).sqrt(), "mean {mean}");
        assert!((square - 1.0).abs() < 5.0 * (2.0 / count as f64).sqrt(), "square {square}");
    }

    #[test]
    fn a_batch_is_one_draw_or_one_a_picture() {
        let one = normal_batch(&mut [Generator::new(1)], 40).unwrap();
        assert_eq!(one, Generator::new(1).normal(40));
        let two = normal_batch(&mut [Generator::new(1), Generator::new(2)], 40).unwrap();
        assert_eq!(two[..20], Generator::new(1).normal(20));
        assert_eq!(two[20..], Generator::new(2).normal(20));
    }

    #[test]
    fn a_batch_that_cannot_be_shared_out_is_refused() {
        let error = normal_batch(&mut [Generator::new(1), Generator::new(2)], 5).unwrap_err();
        assert_eq!(error.to_string(), "generators: expected a number that divides 5 values, got 2");
        assert!(normal_batch(&mut [], 4).is_err());
    }
}
