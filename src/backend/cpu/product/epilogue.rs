//! From sums to the result.

use std::marker::PhantomData;
use std::ops::Range;

use half::f16;

use crate::backend::cpu::vector_math::{activate, narrow};
use crate::backend::cpu::{PANEL, Reals, RealsMut, rows};

/// What becomes of a product's sums: `activation(sum + bias + sample_bias) + residual`.
pub struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    /// `[samples, outputs]`
    pub sample_bias: Option<Reals<'a>>,
    /// Rows of each sample.
    pub sample_rows: usize,
    pub activation: u32,
    pub residual: Option<Reals<'a>>,
}

impl Epilogue<'_> {
    /// Has the rows of a panel come to the cache while the product that [`Epilogue::store`] will
    /// put there is computed: a store to a line elsewhere waits for it.
    #[inline(always)]
    pub fn fetch(&self, rows: Range<usize>, panel: usize, outputs: usize, y: &Output) {
        for row in rows {
            let start = row * outputs + panel * PANEL;
            y.fetch(start);
            if let Some(Reals::F32(values)) = self.residual {
                fetch(&raw const values[start]);
            }
        }
    }

    /// Takes the `sums` of a tile, rows from `first_row` on of a panel, to `y`.
    #[inline(always)]
    pub fn store(&self, sums: &[f32], first_row: usize, panel: usize, outputs: usize, y: &Output) {
        let first = panel * PANEL;
        let columns = PANEL.min(outputs - first);
        let mut bias = [0.0; PANEL];
        if let Some(all) = self.bias {
            bias[..columns].copy_from_slice(&all[first..first + columns]);
        }
        for (index, sums) in sums.as_chunks::<PANEL>().0.iter().enumerate() {
            let row = first_row + index;
            let start = row * outputs + first;
            let mut values = *sums;
            add(&mut values, &bias);
            if let Some(all) = self.sample_bias {
                add_reals(&mut values, all, row / self.sample_rows * outputs + first, columns);
            }
            activate(&mut values, self.activation);
            if let Some(residual) = self.residual {
                add_reals(&mut values, residual, start, columns);
            }
            // SAFETY: tasks are disjoint in rows or in panels, so these elements are written by
            // this call alone.
            unsafe { y.store(start, &values, columns) };
        }
    }
}

#[inline(always)]
fn add(values: &mut [f32; PANEL], others: &[f32; PANEL]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value += other;
    }
}

/// Adds `columns` elements from `start` on.
#[inline(always)]
fn add_reals(values: &mut [f32; PANEL], source: Reals, start: usize, columns: usize) {
    let mut others = [0.0; PANEL];
    if columns == PANEL {
        rows::read(&source, start, &mut others);
    } else {
        rows::read(&source, start, &mut others[..columns]);
    }
    add(values, &others);
}

/// Has a panel's row of values from `start` on come to the cache; a hint, of any address.
#[inline(always)]
fn fetch<T>(start: *const T) {
    for byte in (0..PANEL * size_of::<T>()).step_by(64) {
        rows::fetch_line(start.cast::<u8>().wrapping_add(byte));
    }
}

/// A result that several threads write different elements of.
pub struct Output<'a> {
    start: Start,
    length: usize,
    result: PhantomData<&'a mut [f32]>,
}

#[derive(Clone, Copy)]
enum Start {
    F32(*mut f32),
    F16(*mut f16),
}

// SAFETY: elements are written through `Output::store` alone, whose callers see to it that no two
// write the same.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// The first `length` elements of `y`.
    pub fn new(y: RealsMut<'a>, length: usize) -> Self {
        let start = match y {
            RealsMut::F32(values) => Start::F32(values[..length].as_mut_ptr()),
            RealsMut::F16(values) => Start::F16(values[..length].as_mut_ptr()),
        };
        Self { start, length, result: PhantomData }
    }

    /// Has the line or two of a panel's row from the element `at` on come to the cache.
    #[inline(always)]
    fn fetch(&self, at: usize) {
        match self.start {
            Start::F32(start) => fetch(start.wrapping_add(at).cast_const()),
            Start::F16(start) => fetch(start.wrapping_add(at).cast_const()),
        }
    }

    /// Rounds and stores the first `columns` of `values` from the element `at` on.
    ///
    /// # Safety
    ///
    /// No other thread stores to these elements at the same time.
    #[inline(always)]
    unsafe fn store(&self, at: usize, values: &[f32; PANEL], columns: usize) {
        assert!(columns <= PANEL && at + columns <= self.length);
        match self.start {
            Start::F32(start) => {
                // SAFETY: the elements lie inside the result, and no one else writes them.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), columns) };
                // Of a known length, a copy is two instructions and not a call.
                match <&mut [f32; PANEL]>::try_from(&mut *target) {
                    Ok(target) => *target = *values,
                    Err(_) => target.copy_from_slice(&values[..columns]),
                }
            }
            Start::F16(start) => {
                // SAFETY: as above.
                let target = unsafe { std::slice::from_raw_parts_mut(start.add(at), columns) };
                narrow(&values[..columns], target);
            }
        }
    }
}
