//! Parts of a tensor along its last axis.

use std::ops::Range;

use super::{Band, BandBuffer, Tensor};
use crate::Result;
use crate::backend::{Buffer, CopyRegion};
use crate::memory::Lifetime;

/// Some columns of rows of bytes: where they start, how many they are, and how long a row is.
struct Columns {
    start: usize,
    length: usize,
    pitch: usize,
}

impl Tensor {
    /// A copy of some columns, of the tensor's last axis.
    pub(crate) fn columns(&self, columns: Range<usize>) -> Result<Self> {
        let with_rows = self.with_rows()?;
        let (mut shape, last) = (with_rows.shape.clone(), with_rows.shape.len() - 1);
        let (width, length) = (shape[last], columns.len());
        shape[last] = length;
        let part = Self::empty_like(&with_rows, &shape, self.dtype)?;
        for band in part.bands() {
            let output = part.output(&band)?;
            let source = Columns { start: columns.start, length, pitch: width };
            let target = Columns { start: 0, length, pitch: length };
            let rows = part.elements(&band) / length;
            part.copy_columns(rows, [&*with_rows.band(&band)?, &*output], [source, target])?;
            output.keep()?;
        }
        let mut shape = self.shape.clone();
        shape[self.shape.len() - 1] = length;
        part.reshape(&shape)
    }

    /// The columns of all `parts`, one after the other, which differ in their last axis alone. It
    /// lies as [`Tensor::empty_like`] has it.
    pub(crate) fn of_columns(parts: &[Tensor], like: &Tensor) -> Result<Self> {
        let [first, ..] = parts else { unreachable!("something is put together") };
        let mut shape = first.shape.clone();
        let last = shape.len() - 1;
        let widths: Vec<usize> = parts.iter().map(|part| part.shape[last]).collect();
        shape[last] = widths.iter().sum();
        let (parts, like): (Vec<Self>, Self) =
            (parts.iter().map(Self::with_rows).collect::<Result<_>>()?, like.with_rows()?);
        let mut rows_shape = parts[0].shape.clone();
        let (axis, pitch) = (rows_shape.len() - 1, shape[last]);
        rows_shape[axis] = pitch;
        let whole = Self::empty_like(&like, &rows_shape, first.dtype)?;
        for band in whole.bands() {
            let output = whole.output(&band)?;
            let rows = whole.elements(&band) / pitch;
            let mut start = 0;
            for (part, &length) in parts.iter().zip(&widths) {
                let source = Columns { start: 0, length, pitch: length };
                let target = Columns { start, length, pitch };
                whole.copy_columns(rows, [&*part.band(&band)?, &*output], [source, target])?;
                start += length;
            }
            output.keep()?;
        }
        whole.reshape(&shape)
    }

    /// A copy in one block of some columns of all rows of samples of a `[N, L, width]` tensor.
    pub(crate) fn columns_of_samples(
        &self,
        samples: Range<usize>,
        columns: Range<usize>,
    ) -> Result<BandBuffer<'_>> {
        let (all_rows, pitch, length) = (self.shape[1], self.shape[2], columns.len());
        let bytes = (samples.len() * all_rows * length * self.dtype.size()) as u64;
        let block = self.device.memory().allocate(bytes, Lifetime::Transient)?;
        for band in self.bands() {
            let from = band.samples.start.max(samples.start);
            let until = band.samples.end.min(samples.end);
            if from >= until {
                continue;
            }
            let rows = band.rows.len();
            let held = self.band(&band)?;
            for sample in from..until {
                let row = (sample - band.samples.start) * rows;
                let source = Columns { start: row * pitch + columns.start, length, pitch };
                let row = (sample - samples.start) * all_rows + band.rows.start;
                let target = Columns { start: row * length, length, pitch: length };
                self.copy_columns(rows, [&*held, block.buffer()], [source, target])?;
            }
        }
        Ok(BandBuffer::Gathered(block))
    }

    /// Copies `part`, rows of some columns, to where these are in one of the tensor's bands.
    pub(crate) fn put_columns(
        &self,
        part: &Buffer,
        columns: Range<usize>,
        band: &Band,
        output: &Buffer,
    ) -> Result<()> {
        let (pitch, length) = (self.shape[2], columns.len());
        let source = Columns { start: 0, length, pitch: length };
        let target = Columns { start: columns.start, length, pitch };
        self.copy_columns(band.row_count(), [part, output], [source, target])
    }

    /// With at least three axes, so that the last one is columns and bands lie along another.
    fn with_rows(&self) -> Result<Self> {
        match self.shape[..] {
            [columns] => self.reshape(&[1, 1, columns]),
            [rows, columns] => self.reshape(&[1, rows, columns]),
            _ => Ok(self.clone()),
        }
    }

    fn copy_columns(
        &self,
        rows: usize,
        [source, target]: [&Buffer; 2],
        [from, to]: [Columns; 2],
    ) -> Result<()> {
        let bytes = |elements: usize| (elements * self.dtype.size()) as u64;
        self.device.backend().copy(&CopyRegion {
            source,
            source_offset: bytes(from.start),
            target,
            target_offset: bytes(to.start),
            bytes: bytes(from.length),
            rows: rows as u64,
            source_pitch: bytes(from.pitch),
            target_pitch: bytes(to.pitch),
        })
    }
}
