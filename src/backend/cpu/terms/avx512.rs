//! Products of a row with a panel of weights in blocks, by AVX-512: levels are multiplied as they
//! are, and their sums scaled once a group. Decoding to memory first takes twice as long.

use std::arch::x86_64::*;

use super::PANEL;
use crate::Format;

/// How far ahead blocks are fetched, in bytes: the processor's own look ahead ends at every page.
const AHEAD: usize = 4096;

/// sums = the products of `x` with a panel of as many terms, whose blocks are `blocks`.
///
/// # Panics
///
/// If `x` is not whole blocks, or `blocks` are not as many.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
pub fn multiply(format: Format, blocks: &[u8], x: &[f32], sums: &mut [f32; PANEL]) {
    let (terms, bytes) = (format.block_values(), format.held_bytes() * PANEL);
    assert!(x.len().is_multiple_of(terms) && blocks.len() == x.len() / terms * bytes);
    // SAFETY: this function has the instructions; there are as many blocks as `x` has terms for.
    let total = unsafe {
        match format {
            Format::Q8_0 => panel::<{ id(Format::Q8_0) }>(blocks, bytes, x, terms),
            Format::Q4_0 => panel_of_pairs::<{ id(Format::Q4_0) }>(blocks, bytes, x, terms),
            Format::Q4_1 => panel_of_pairs::<{ id(Format::Q4_1) }>(blocks, bytes, x, terms),
            Format::Q5_0 => panel::<{ id(Format::Q5_0) }>(blocks, bytes, x, terms),
            Format::Q5_1 => panel::<{ id(Format::Q5_1) }>(blocks, bytes, x, terms),
            Format::Q4K => panel_of_pairs::<{ id(Format::Q4K) }>(blocks, bytes, x, terms),
            Format::Q5K => panel::<{ id(Format::Q5K) }>(blocks, bytes, x, terms),
            Format::Q6K => panel::<{ id(Format::Q6K) }>(blocks, bytes, x, terms),
            Format::BF16 => panel_of_numbers::<{ id(Format::BF16) }>(blocks, bytes, x, terms),
            Format::F8E4M3 => panel_of_numbers::<{ id(Format::F8E4M3) }>(blocks, bytes, x, terms),
            Format::F8E5M2 => panel_of_numbers::<{ id(Format::F8E5M2) }>(blocks, bytes, x, terms),
            Format::I8 => panel::<{ id(Format::I8) }>(blocks, bytes, x, terms),
        }
    };
    for (half, total) in total.into_iter().enumerate() {
        // SAFETY: a panel is two vectors.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(half * 16), total) };
    }
}

/// A format as a constant that a function is compiled for.
const fn id(format: Format) -> u8 {
    format as u8
}

const Q8_0: u8 = id(Format::Q8_0);
const Q4_0: u8 = id(Format::Q4_0);
const Q4_1: u8 = id(Format::Q4_1);
const Q5_0: u8 = id(Format::Q5_0);
const Q5_1: u8 = id(Format::Q5_1);
const Q4_K: u8 = id(Format::Q4K);
const Q5_K: u8 = id(Format::Q5K);
const Q6_K: u8 = id(Format::Q6K);
const BF16: u8 = id(Format::BF16);
const F8_E4M3: u8 = id(Format::F8E4M3);
const F8_E5M2: u8 = id(Format::F8E5M2);
const I8: u8 = id(Format::I8);

/// Fetches what is as far ahead of a block of so many bytes. An address that is none is no fault.
#[inline(always)]
fn fetch_ahead(block: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: what is fetched is only named.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD + line).cast()) };
    }
}

/// # Safety
///
/// The host has the instructions of [`multiply`], here and below; `blocks` has a block of `bytes`
/// bytes for every `terms` of `x`.
#[inline(always)]
unsafe fn panel<const FORMAT: u8>(
    blocks: &[u8],
    bytes: usize,
    x: &[f32],
    terms: usize,
) -> [__m512; 2] {
    // SAFETY: every offset is inside a block.
    unsafe {
        let mut total = [_mm512_setzero_ps(); 2];
        for (block, x) in blocks.chunks_exact(bytes).zip(x.chunks_exact(terms)) {
            let block = block.as_ptr();
            fetch_ahead(block, bytes);
            for (group, x) in x.chunks_exact(32).enumerate() {
                // Two sums for each half, which do not wait for each other.
                let zero = _mm512_setzero_ps();
                let (mut part, mut sum_x) = ([[zero; 2]; 2], zero);
                for first in [0, 16] {
                    let term = 32 * group + first;
                    for k in 0..16 {
                        let x = _mm512_set1_ps(x[first + k]);
                        for (half, sum) in part[k % 2].iter_mut().enumerate() {
                            let level = level::<FORMAT>(block, term + k, half * 16);
                            let level = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(level));
                            *sum = _mm512_fmadd_ps(level, x, *sum);
                        }
                        if has_least(FORMAT) {
                            sum_x = _mm512_add_ps(sum_x, x);
                        }
                    }
                    // As many terms have one scale, or half of them.
                    if first == 0 && FORMAT != Q6_K {
                        continue;
                    }
                    for (half, total) in total.iter_mut().enumerate() {
                        let sum = _mm512_add_ps(part[0][half], part[1][half]);
                        let scale = scale::<FORMAT>(block, term, half * 16);
                        *total = _mm512_fmadd_ps(scale, sum, *total);
                        if has_least(FORMAT) {
                            let least = least::<FORMAT>(block, term, half * 16);
                            *total = _mm512_fmadd_ps(least, sum_x, *total);
                        }
                    }
                    part = [[zero; 2]; 2];
                }
            }
        }
        total
    }
}

/// [`panel`] for levels of 4 bits in pairs: a permutation of 16 numbers takes 4 bits of each lane and
/// gives what they stand for, so that nothing is masked, shifted or converted but for the upper halves.
///
/// # Safety
///
/// As of [`panel`].
#[inline(always)]
unsafe fn panel_of_pairs<const FORMAT: u8>(
    blocks: &[u8],
    bytes: usize,
    x: &[f32],
    terms: usize,
) -> [__m512; 2] {
    // SAFETY: as of `panel`.
    unsafe {
        let zero = _mm512_set1_ps(if FORMAT == Q4_0 { 8.0 } else { 0.0 });
        let count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let levels = _mm512_sub_ps(_mm512_cvtepi32_ps(count), zero);
        let mut total = [_mm512_setzero_ps(); 2];
        for (block, x) in blocks.chunks_exact(bytes).zip(x.chunks_exact(terms)) {
            let block = block.as_ptr();
            fetch_ahead(block, bytes);
            for (group, x) in x.chunks_exact(32).enumerate() {
                // For the lower and the upper ones of pairs, and for each half of the panel.
                let mut part = [[_mm512_setzero_ps(); 2]; 2];
                for k in 0..16 {
                    let (lower_x, upper_x) = (_mm512_set1_ps(x[k]), _mm512_set1_ps(x[16 + k]));
                    let [lowers, uppers] = &mut part;
                    for (half, sums) in lowers.iter_mut().zip(uppers).enumerate() {
                        let pairs = bytes16(block, 16 * group + k, half * 16);
                        let lower = _mm512_cvtepu8_epi32(pairs);
                        let upper = _mm512_srli_epi32::<4>(lower);
                        let lower = _mm512_permutexvar_ps(lower, levels);
                        let upper = _mm512_permutexvar_ps(upper, levels);
                        *sums.0 = _mm512_fmadd_ps(lower, lower_x, *sums.0);
                        *sums.1 = _mm512_fmadd_ps(upper, upper_x, *sums.1);
                    }
                }
                let sum_x = match has_least(FORMAT) {
                    true => {
                        let halves = [0, 16].map(|first| _mm512_loadu_ps(x.as_ptr().add(first)));
                        _mm512_reduce_add_ps(_mm512_add_ps(halves[0], halves[1]))
                    }
                    false => 0.0,
                };
                for (half, total) in total.iter_mut().enumerate() {
                    let sum = _mm512_add_ps(part[0][half], part[1][half]);
                    let scale = scale::<FORMAT>(block, 32 * group, half * 16);
                    *total = _mm512_fmadd_ps(scale, sum, *total);
                    if has_least(FORMAT) {
                        let least = least::<FORMAT>(block, 32 * group, half * 16);
                        *total = _mm512_fmadd_ps(least, _mm512_set1_ps(sum_x), *total);
                    }
                }
            }
        }
        total
    }
}

/// [`panel`] for levels that are numbers of 8 or 16 bits, without scales.
///
/// # Safety
///
/// As of [`panel`].
#[inline(always)]
unsafe fn panel_of_numbers<const FORMAT: u8>(
    blocks: &[u8],
    bytes: usize,
    x: &[f32],
    terms: usize,
) -> [__m512; 2] {
    // SAFETY: as of `panel`.
    unsafe {
        // Four sums for each half, which do not wait for each other.
        let mut part = [[_mm512_setzero_ps(); 2]; 4];
        for (block, x) in blocks.chunks_exact(bytes).zip(x.chunks_exact(terms)) {
            let block = block.as_ptr();
            fetch_ahead(block, bytes);
            for (term, &x) in x.iter().enumerate() {
                let x = _mm512_set1_ps(x);
                for (half, sum) in part[term % 4].iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(number::<FORMAT>(block, term, half * 16), x, *sum);
                }
            }
        }
        let scale = _mm512_set1_ps(if FORMAT == F8_E4M3 { super::E4M3_SCALE } else { 1.0 });
        std::array::from_fn(|half| {
            let [a, b, c, d] = part.map(|sums| sums[half]);
            _mm512_mul_ps(scale, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
        })
    }
}

/// 16 numbers of a term; of f8_e4m3 before they are scaled.
#[inline(always)]
unsafe fn number<const FORMAT: u8>(block: *const u8, term: usize, at: usize) -> __m512 {
    // SAFETY: the caller vouches for the term.
    unsafe {
        match FORMAT {
            BF16 => {
                let bits = _mm256_loadu_si256(block.add(2 * (term * PANEL + at)).cast());
                let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits));
                _mm512_castsi512_ps(bits)
            }
            F8_E4M3 => {
                // With its sign in the upper bits, all but one of which go.
                let wide = _mm256_cvtepi8_epi16(bytes16(block, term, at));
                let bits = _mm256_slli_epi16::<7>(wide);
                let bits = _mm256_and_si256(bits, _mm256_set1_epi16(0xbf80u16 as i16));
                _mm512_cvtph_ps(bits)
            }
            F8_E5M2 => {
                let wide = _mm256_cvtepu8_epi16(bytes16(block, term, at));
                _mm512_cvtph_ps(_mm256_slli_epi16::<8>(wide))
            }
            _ => unreachable!("others have scales"),
        }
    }
}

const fn has_least(format: u8) -> bool {
    matches!(format, Q4_1 | Q5_1 | Q4_K | Q5_K)
}

/// 16 bytes of a row of the block.
#[inline(always)]
unsafe fn bytes16(block: *const u8, row: usize, at: usize) -> __m128i {
    // SAFETY: the caller vouches for the row.
    unsafe { _mm_loadu_si128(block.add(row * PANEL + at).cast()) }
}

/// 16 bytes of a row as floats.
#[inline(always)]
unsafe fn unsigned16(block: *const u8, row: usize, at: usize) -> __m512 {
    // SAFETY: as of `bytes16`.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes16(block, row, at))) }
}

/// 16 halves of a pair of rows.
#[inline(always)]
unsafe fn halves16(block: *const u8, row: usize, at: usize) -> __m512 {
    // SAFETY: the caller vouches for the rows.
    unsafe {
        let bits = _mm256_loadu_si256(block.add(row * PANEL + 2 * at).cast());
        _mm512_cvtph_ps(bits)
    }
}

#[inline(always)]
unsafe fn nibble(block: *const u8, row: usize, term: usize, at: usize) -> __m128i {
    // SAFETY: as of the functions called.
    unsafe {
        let pairs = bytes16(block, row + term % 16, at);
        let pairs = if term % 32 < 16 { pairs } else { _mm_srli_epi16::<4>(pairs) };
        _mm_and_si128(pairs, _mm_set1_epi8(15))
    }
}

/// 16 where the fifth bit is set.
#[inline(always)]
unsafe fn fifth(block: *const u8, row: usize, term: usize, at: usize) -> __m128i {
    // SAFETY: as of the functions called.
    unsafe {
        let eight = bytes16(block, row + term % 32 / 8, at);
        let set = _mm_test_epi8_mask(eight, _mm_set1_epi8((1u8 << (term % 8)) as i8));
        _mm_maskz_mov_epi8(set, _mm_set1_epi8(16))
    }
}

/// Levels, less what stands for 0.
#[inline(always)]
unsafe fn level<const FORMAT: u8>(block: *const u8, term: usize, at: usize) -> __m128i {
    // SAFETY: as of the functions called; rows are those of `kernels/quant/`.
    unsafe {
        let group = term / 32;
        match FORMAT {
            Q8_0 | I8 => bytes16(block, term, at),
            Q5_0 | Q5_1 => {
                let level = _mm_or_si128(nibble(block, 0, term, at), fifth(block, 16, term, at));
                let zero = if FORMAT == Q5_0 { 16 } else { 0 };
                _mm_sub_epi8(level, _mm_set1_epi8(zero))
            }
            Q5_K => {
                let lower = nibble(block, 16 * group, term, at);
                _mm_or_si128(lower, fifth(block, 128 + 4 * group, term, at))
            }
            Q6_K => {
                let lower = nibble(block, 16 * group, term, at);
                let four = bytes16(block, 128 + 8 * group + term % 8, at);
                let shift = _mm_cvtsi32_si128((term % 32 / 8 * 2) as i32);
                let upper = _mm_and_si128(_mm_srl_epi16(four, shift), _mm_set1_epi8(3));
                let level = _mm_or_si128(lower, _mm_slli_epi16::<4>(upper));
                _mm_sub_epi8(level, _mm_set1_epi8(32))
            }
            _ => unreachable!("levels of 4 bits are multiplied in pairs"),
        }
    }
}

/// Scales of the group that a term is in.
#[inline(always)]
unsafe fn scale<const FORMAT: u8>(block: *const u8, term: usize, at: usize) -> __m512 {
    // SAFETY: as of `level`.
    unsafe {
        match FORMAT {
            Q8_0 => halves16(block, 32, at),
            I8 => _mm512_loadu_ps(block.add(32 * PANEL + 4 * at).cast()),
            Q4_0 | Q4_1 => halves16(block, 16, at),
            Q5_0 | Q5_1 => halves16(block, 20, at),
            Q4_K => _mm512_mul_ps(halves16(block, 144, at), unsigned16(block, 128 + term / 32, at)),
            Q5_K => _mm512_mul_ps(halves16(block, 176, at), unsigned16(block, 160 + term / 32, at)),
            Q6_K => {
                let scale = _mm512_cvtepi8_epi32(bytes16(block, 192 + term / 16, at));
                _mm512_mul_ps(halves16(block, 208, at), _mm512_cvtepi32_ps(scale))
            }
            _ => unreachable!("every format has scales"),
        }
    }
}

/// What is added to each term of the group.
#[inline(always)]
unsafe fn least<const FORMAT: u8>(block: *const u8, term: usize, at: usize) -> __m512 {
    // SAFETY: as of `level`.
    unsafe {
        let (halves, row) = match FORMAT {
            Q4_1 => return halves16(block, 18, at),
            Q5_1 => return halves16(block, 22, at),
            Q4_K => (halves16(block, 146, at), 136 + term / 32),
            Q5_K => (halves16(block, 178, at), 168 + term / 32),
            _ => unreachable!("the format has least values"),
        };
        _mm512_fnmadd_ps(halves, unsigned16(block, row, at), _mm512_setzero_ps())
    }
}
