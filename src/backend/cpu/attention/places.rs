//! Where attention's rows are read and written: columns of tensors, of either element type.

use super::super::vector_math::{narrow, widen};
use super::super::{Reals, RealsMut};
use super::tile::CHUNK;

/// What is to be computed.
pub struct Problem<'a> {
    pub q: Part<'a>,
    pub k: Part<'a>,
    pub v: Part<'a>,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_width: usize,
    pub first_sample: usize,
    pub samples: usize,
    pub first_query: usize,
    pub causal: bool,
    pub scale: f32,
}

/// Columns of a tensor.
pub struct Part<'a> {
    pub values: Reals<'a>,
    pub stride: usize,
    pub start: usize,
}

impl Part<'_> {
    /// Columns of a row as floats.
    #[inline(always)]
    pub fn read(&self, row: usize, column: usize, target: &mut [f32]) {
        let start = row * self.stride + self.start + column;
        match self.values {
            Reals::F32(values) => copy(&values[start..start + target.len()], target),
            Reals::F16(values) => widen(&values[start..start + target.len()], target),
        }
    }

    /// The cache lines that columns of a row lie in.
    pub fn lines(&self, row: usize, column: usize, width: usize, lines: &mut Vec<*const i8>) {
        let start = row * self.stride + self.start + column;
        match self.values {
            Reals::F32(values) => lines_of(values[start..].as_ptr(), width, lines),
            Reals::F16(values) => lines_of(values[start..].as_ptr(), width, lines),
        }
    }
}

/// Copies a row, which is too short to be worth a call.
#[inline(always)]
fn copy(source: &[f32], target: &mut [f32]) {
    for (source, target) in source.as_chunks().0.iter().zip(target.as_chunks_mut().0) {
        let _: (&[f32; CHUNK], &mut [f32; CHUNK]) = (source, &mut *target);
        *target = *source;
    }
    // The rest, with some of what is there already.
    match (source.last_chunk::<CHUNK>(), target.last_chunk_mut::<CHUNK>()) {
        (Some(source), Some(target)) => *target = *source,
        _ => target.copy_from_slice(source),
    }
}

/// The cache lines that some elements lie in.
#[inline(always)]
fn lines_of<T>(start: *const T, count: usize, lines: &mut Vec<*const i8>) {
    let behind = start.wrapping_add(count).addr();
    for line in (start.addr() / 64 * 64..behind).step_by(64) {
        lines.push(start.cast::<i8>().with_addr(line));
    }
}

/// A result that many threads write parts of.
pub struct Output {
    start: Start,
    length: usize,
}

enum Start {
    F32(*mut f32),
    F16(*mut half::f16),
}

// SAFETY: elements are written through `Output::write` alone, whose callers see to it that no two
// write the same.
unsafe impl Sync for Output {}

impl Output {
    pub fn new(y: RealsMut) -> Self {
        match y {
            RealsMut::F32(y) => Self { length: y.len(), start: Start::F32(y.as_mut_ptr()) },
            RealsMut::F16(y) => Self { length: y.len(), start: Start::F16(y.as_mut_ptr()) },
        }
    }

    /// The cache lines that some elements lie in.
    pub fn lines(&self, at: usize, count: usize, lines: &mut Vec<*const i8>) {
        assert!(at + count <= self.length);
        match self.start {
            Start::F32(start) => lines_of(start.wrapping_add(at), count, lines),
            Start::F16(start) => lines_of(start.wrapping_add(at), count, lines),
        }
    }

    /// Stores `values` from element `at` on.
    ///
    /// # Safety
    ///
    /// No other thread writes these elements.
    #[inline(always)]
    pub unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.length);
        match self.start {
            Start::F32(start) => {
                // SAFETY: the elements lie inside the result, and no one else writes them.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), values.len()) };
                copy(values, target);
            }
            Start::F16(start) => {
                // SAFETY: as above.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), values.len()) };
                narrow(values, target);
            }
        }
    }
}
