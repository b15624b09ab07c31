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
    /// The most rows of two vectors whose sums stay in registers, beside what they are made of.
    const ROWS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn subtract(self, other: Self) -> Self;
    unsafe fn multiply(self, other: Self) -> Self;
    /// self * factor + term
    unsafe fn multiply_add(self, factor: Self, term: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// self * 2^n, where n is the integer in the low bits of `shifted` and leaves the result normal.
    unsafe fn times_power(self, shifted: Self) -> Self;
    /// Whether a lane of `self` is greater than that of `other`.
    unsafe fn exceeds(self, other: Self) -> bool;
    /// Turns `COUNT` rows of `COUNT` floats into columns. Rows are `from_stride` and `to_stride`
    /// floats apart.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

/// 2^x for x <= 0, 2^-125 below that; within 2e-7 of itself.
///
/// # Safety
///
/// As [`Lanes`].
#[inline(always)]
#[expect(clippy::approx_constant, reason = "a fitted coefficient is near ln 2, and not ln 2")]
pub unsafe fn exp2_of_negative<L: Lanes>(x: L) -> L {
    // SAFETY: as this function's.
    unsafe {
        // Adding this leaves the nearest integer in the low bits.
        let round = L::splat(12_582_912.0);
        let x = x.max(L::splat(-125.0));
        let shifted = x.add(round);
        let rest = x.subtract(shifted.subtract(round));
        // A minimax fit of 2^r on |r| <= 1/2 that is 1 at 0: within 9.2e-8, and roundings.
        let value = L::splat(1.326_472_7e-3).multiply_add(rest, L::splat(9.671_513e-3));
        let value = value.multiply_add(rest, L::splat(5.550_733_6e-2));
        let value = value.multiply_add(rest, L::splat(2.402_224_2e-1));
        let value = value.multiply_add(rest, L::splat(6.931_47e-1));
        value.multiply_add(rest, L::splat(1.0)).times_power(shifted)
    }
}

/// Plain Rust, for a host without the vectors below, and for what is left beside whole vectors.
impl<const N: usize> Lanes for [f32; N] {
    const COUNT: usize = N;
    const ROWS: usize = 4;

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
            f32::from_bits(self[lane].to_bits().wrapping_add(shifted[lane].to_bits() << 23))
        })
    }

    #[inline(always)]
    unsafe fn exceeds(self, other: Self) -> bool {
        std::iter::zip(self, other).any(|(a, b)| a > b)
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: the caller vouches for 8 rows of 8 floats in both.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512F.
    impl Lanes for __m512 {
        const COUNT: usize = 16;
        const ROWS: usize = 14;

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
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), exponent))
            }
        }

        #[inline(always)]
        unsafe fn exceeds(self, other: Self) -> bool {
            // SAFETY: as `splat`.
            unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, other) != 0 }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as `splat`, and 16 rows of 16 floats in both.
            unsafe {
                let mut rows = [_mm512_setzero_ps(); 16];
                for (index, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_ps(from.add(index * from_stride));
                }
                // Quarter k of quads[4 * g + c] is column 4 * k + c of the rows from 4 * g on.
                let mut quads = rows;
                for group in (0..16).step_by(4) {
                    let [a, b] = [rows[group], rows[group + 1]];
                    let [c, d] = [rows[group + 2], rows[group + 3]];
                    let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                    let other_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                    let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                    let other_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                    quads[group] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, other_low));
                    quads[group + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, other_low));
                    quads[group + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, other_high));
                    quads[group + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, other_high));
                }
                for c in 0..4 {
                    let even = _mm512_shuffle_f32x4::<0x88>(quads[c], quads[4 + c]);
                    let odd = _mm512_shuffle_f32x4::<0xdd>(quads[c], quads[4 + c]);
                    let other_even = _mm512_shuffle_f32x4::<0x88>(quads[8 + c], quads[12 + c]);
                    let other_odd = _mm512_shuffle_f32x4::<0xdd>(quads[8 + c], quads[12 + c]);
                    let columns = [
                        _mm512_shuffle_f32x4::<0x88>(even, other_even),
                        _mm512_shuffle_f32x4::<0x88>(odd, other_odd),
                        _mm512_shuffle_f32x4::<0xdd>(even, other_even),
                        _mm512_shuffle_f32x4::<0xdd>(odd, other_odd),
                    ];
                    for (k, column) in columns.into_iter().enumerate() {
                        _mm512_storeu_ps(to.add((4 * k + c) * to_stride), column);
                    }
                }
            }
        }
    }

    /// AVX2 and FMA.
    impl Lanes for __m256 {
        const COUNT: usize = 8;
        const ROWS: usize = 6;

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
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), exponent))
            }
        }

        #[inline(always)]
        unsafe fn exceeds(self, other: Self) -> bool {
            // SAFETY: as `splat`.
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self, other)) != 0 }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as `splat`, and 8 rows of 8 floats in both.
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 8];
                for (index, row) in rows.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(from.add(index * from_stride));
                }
                // Half k of quads[4 * g + c] is column 4 * k + c of the rows from 4 * g on.
                let mut quads = rows;
                for group in (0..8).step_by(4) {
                    let [a, b] = [rows[group], rows[group + 1]];
                    let [c, d] = [rows[group + 2], rows[group + 3]];
                    let (low, other_low) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    let (high, other_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    quads[group] = _mm256_shuffle_ps::<0x44>(low, other_low);
                    quads[group + 1] = _mm256_shuffle_ps::<0xee>(low, other_low);
                    quads[group + 2] = _mm256_shuffle_ps::<0x44>(high, other_high);
                    quads[group + 3] = _mm256_shuffle_ps::<0xee>(high, other_high);
                }
                for c in 0..4 {
                    let (a, b) = (quads[c], quads[4 + c]);
                    let columns = [
                        _mm256_permute2f128_ps::<0x20>(a, b),
                        _mm256_permute2f128_ps::<0x31>(a, b),
                    ];
                    for (k, column) in columns.into_iter().enumerate() {
                        _mm256_storeu_ps(to.add((4 * k + c) * to_stride), column);
                    }
                }
            }
        }
    }
}
