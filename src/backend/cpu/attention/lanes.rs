//! The few vector operations that attention and Winograd's transforms are made of, in three
//! instruction sets.

/// A vector of f32.
///
/// # Safety
///
/// Of every function: the host has the type's instructions, and `at` points to `COUNT` floats.
pub trait Lanes: Copy {
    /// Numbers in a vector.
    const COUNT: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn subtract(self, other: Self) -> Self;
    unsafe fn multiply(self, other: Self) -> Self;
    /// self * factor + term
    unsafe fn multiply_add(self, factor: Self, term: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// self * 2^n, where n is the integer in the low bits of `shifted`.
    unsafe fn times_power(self, shifted: Self) -> Self;
}

/// e^x for x <= 0 within 2 ulp, as `vector_math::exp_of`; next to nothing below -87.
///
/// # Safety
///
/// As [`Lanes`].
#[inline(always)]
pub unsafe fn exp_of_negative<L: Lanes>(x: L) -> L {
    // SAFETY: as this function's.
    unsafe {
        let constant = |value| L::splat(value);
        let round = constant(12_582_912.0);
        let x = x.max(constant(-87.3));
        let shifted = x.multiply_add(constant(std::f32::consts::LOG2_E), round);
        let turns = shifted.subtract(round);
        let rest = turns.multiply_add(constant(-0.693_359_4), x);
        let rest = turns.multiply_add(constant(2.121_944_4e-4), rest);
        let tail = constant(1.978_926_1e-4).multiply_add(rest, constant(1.394_575_2e-3));
        let tail = tail.multiply_add(rest, constant(8.333_504e-3));
        let tail = tail.multiply_add(rest, constant(4.166_628e-2));
        let tail = tail.multiply_add(rest, constant(1.666_666_6e-1));
        let tail = tail.multiply_add(rest, constant(0.5));
        let value = tail.multiply_add(rest.multiply(rest), rest.add(constant(1.0)));
        value.times_power(shifted)
    }
}

/// Plain Rust, for a host without the vectors below, and for what is left beside whole vectors.
impl<const N: usize> Lanes for [f32; N] {
    const COUNT: usize = N;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; N]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller vouches for so many floats.
        unsafe { at.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller vouches for so many floats.
        unsafe { at.cast::<Self>().write(self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    unsafe fn multiply(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * other[lane])
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, term: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * factor[lane] + term[lane])
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        std::array::from_fn(|lane| if self[lane] > other[lane] { self[lane] } else { other[lane] })
    }

    #[inline(always)]
    unsafe fn times_power(self, shifted: Self) -> Self {
        std::array::from_fn(|lane| {
            let exponent = (shifted[lane].to_bits() << 23).wrapping_add(0x3f80_0000);
            self[lane] * f32::from_bits(exponent)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512F.
    impl Lanes for __m512 {
        const COUNT: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller vouches for the instructions, here and below.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: the caller vouches for 16 floats.
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: the caller vouches for 16 floats.
            unsafe { _mm512_storeu_ps(at, self) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn subtract(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm512_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm512_mul_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm512_fmadd_ps(self, factor, term) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm512_max_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn times_power(self, shifted: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe {
                let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
                let one = _mm512_set1_epi32(0x3f80_0000);
                _mm512_mul_ps(self, _mm512_castsi512_ps(_mm512_add_epi32(exponent, one)))
            }
        }
    }

    /// AVX2 and FMA.
    impl Lanes for __m256 {
        const COUNT: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller vouches for the instructions, here and below.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: the caller vouches for 8 floats.
            unsafe { _mm256_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: the caller vouches for 8 floats.
            unsafe { _mm256_storeu_ps(at, self) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn subtract(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm256_fmadd_ps(self, factor, term) }
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe { _mm256_max_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn times_power(self, shifted: Self) -> Self {
            // SAFETY: as `splat`.
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                let one = _mm256_set1_epi32(0x3f80_0000);
                _mm256_mul_ps(self, _mm256_castsi256_ps(_mm256_add_epi32(exponent, one)))
            }
        }
    }
}
