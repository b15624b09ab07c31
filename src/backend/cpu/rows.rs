//! Rows of any element type as floats, in parallel: what the fast paths of norms have in common.

use super::parallel;
use super::vector_math::{narrow, widen};
use super::{Reals, RealsMut};

/// Elements that a task takes: a part of the first cache.
const TASK: usize = 8192;

/// The elements from `start` on as floats.
#[inline(always)]
pub fn read(x: &Reals, start: usize, target: &mut [f32]) {
    match x {
        Reals::F32(values) => target.copy_from_slice(&values[start..start + target.len()]),
        Reals::F16(values) => widen(&values[start..start + target.len()], target),
    }
}

/// Has `fill` write `rows` rows of `width` elements, a few at a time: it is told the first element
/// and given the place of its rows.
pub fn write(y: RealsMut, rows: usize, width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let length = (TASK / width).max(1) * width;
    match y {
        RealsMut::F32(y) => {
            let y = &mut y[..rows * width];
            parallel::for_each_piece(y, length, |index, values| {
                fill(index * length, values);
            });
        }
        RealsMut::F16(y) => {
            let (y, scratch) = (&mut y[..rows * width], || vec![0.0; length]);
            parallel::for_each_piece_init(y, length, scratch, |scratch, index, halves| {
                let values = &mut scratch[..halves.len()];
                fill(index * length, values);
                narrow(values, halves);
            });
        }
    }
}

/// Has the processor fetch the line at `address`: a hint, of any address.
#[inline(always)]
pub fn fetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 host has the instruction, and it faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
