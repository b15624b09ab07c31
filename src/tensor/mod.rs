//! Arrays on a device.

use std::ops::{Deref, Range};
use std::sync::Arc;

use half::f16;
use ndarray::{ArrayD, ArrayViewD, IxDyn};

use crate::backend::{Buffer, CopyRegion};
use crate::device::Device;
use crate::memory::{Block, Lifetime};
use crate::{DType, Error, Result};

/// An array of f32 or f16 on a device: contiguous, row-major, channels last.
///
/// A tensor that would be over the device's largest allocation lies in several blocks, split along
/// its second axis (rows of an image, tokens of a sequence); ops loop over its [`Band`]s.
/// Cloning shares the memory, which nothing changes once an op has written it.
#[derive(Clone, Debug)]
pub struct Tensor {
    device: Device,
    shape: Vec<usize>,
    dtype: DType,
    blocks: Arc<Vec<Block>>,
    /// Rows of one sample in a block; all of them where there is one block.
    rows_per_band: usize,
}

/// A part of a tensor: rows of samples. Either every sample whole, or some rows of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Along the first axis.
    pub samples: Range<usize>,
    /// Along the second axis.
    pub rows: Range<usize>,
}

/// The memory of a band: the tensor's own block, or a copy of the rows that were asked for.
pub(crate) enum BandBuffer<'a> {
    Own(&'a Buffer),
    Gathered(Block),
}

impl Deref for BandBuffer<'_> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            BandBuffer::Own(buffer) => buffer,
            BandBuffer::Gathered(block) => block.buffer(),
        }
    }
}

impl Tensor {
    /// A tensor on `device` with the values of `array`, stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for an empty array; [`Error::OutOfMemory`].
    pub fn from_array(device: &Device, array: ArrayViewD<f32>, dtype: DType) -> Result<Self> {
        match array.as_slice() {
            Some(values) => Self::from_slice(device, array.shape(), dtype, values),
            None => {
                let values: Vec<f32> = array.iter().copied().collect();
                Self::from_slice(device, array.shape(), dtype, &values)
            }
        }
    }

    /// A tensor on `device` with the row-major `values`, stored as `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `shape` is empty or does not hold as many elements as `values`;
    /// [`Error::OutOfMemory`].
    pub fn from_slice(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        values: &[f32],
    ) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            let count = values.len();
            return Err(Error::shape("tensor", format!("{shape:?} does not hold {count} values")));
        }
        let tensor = Self::empty(device, shape, dtype)?;
        let bytes = to_bytes(values, dtype);
        let mut start = 0;
        for band in tensor.bands() {
            let length = tensor.elements(&band) * dtype.size();
            device.backend().write(tensor.output(&band), 0, &bytes[start..start + length])?;
            start += length;
        }
        Ok(tensor)
    }

    /// A tensor that stays for as long as a model is loaded, in one block of exactly its size.
    /// `read` gives its row-major values; on a dry run it is not called.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::Shape`] if `shape` is empty or `read` gives another number of
    /// values; [`Error::OutOfMemory`].
    pub fn resident(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let count: usize = shape.iter().product();
        let block = device.upload(count * dtype.size(), Lifetime::Resident, || {
            let values = read()?;
            if values.len() != count || count == 0 {
                let got = values.len();
                return Err(Error::shape(
                    "tensor",
                    format!("{shape:?} does not hold {got} values"),
                ));
            }
            Ok(to_bytes(&values, dtype))
        })?;
        Ok(Self {
            device: device.clone(),
            shape: shape.to_vec(),
            dtype,
            blocks: Arc::new(vec![block]),
            rows_per_band: *shape.get(1).unwrap_or(&1),
        })
    }

    /// The values as an array on the host. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if the driver fails.
    pub fn to_array(&self) -> Result<ArrayD<f32>> {
        let values = self.to_vec()?;
        Ok(ArrayD::from_shape_vec(IxDyn(&self.shape), values)
            .expect("a tensor has as many values as its shape says"))
    }

    /// The row-major values on the host. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if the driver fails.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.shape.iter().product::<usize>() * self.dtype.size()];
        let mut start = 0;
        for band in self.bands() {
            let length = self.elements(&band) * self.dtype.size();
            let target = &mut bytes[start..start + length];
            self.device.backend().read(self.output(&band), 0, target)?;
            start += length;
        }
        Ok(from_bytes(&bytes, self.dtype))
    }

    /// A tensor whose values an op is about to write.
    pub(crate) fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::empty_in_bands(device, shape, dtype, 1)
    }

    /// As [`Tensor::empty`], in at least as many bands as `like` has, and the very same ones
    /// where both have as many rows.
    pub(crate) fn empty_like(like: &Tensor, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::empty_in_bands(&like.device, shape, dtype, like.bands_per_sample())
    }

    fn empty_in_bands(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        least_bands: usize,
    ) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bytes = elements.and_then(|elements| elements.checked_mul(dtype.size()));
        let Some(bytes @ 1..) = bytes else {
            return Err(Error::shape(
                "tensor",
                format!("expected sizes of at least 1, got {shape:?}"),
            ));
        };
        let (samples, rows) = match *shape {
            [samples, rows, ..] => (samples, rows),
            _ => (1, 1),
        };
        let max_bytes = device.memory().max_allocation_bytes();
        let allocate = |bytes| device.memory().allocate(bytes as u64, Lifetime::Transient);
        let mut rows_per_band = rows;
        if bytes as u64 > max_bytes || least_bands > 1 {
            // A quarter is left for the rows that a convolution reads beside its own.
            let row_bytes = bytes / (samples * rows);
            let most_rows = (max_bytes as usize / 4 * 3 / row_bytes).max(1);
            rows_per_band = rows.div_ceil(least_bands).min(most_rows);
        }
        let mut blocks = Vec::new();
        if rows_per_band == rows && bytes as u64 <= max_bytes {
            blocks.push(allocate(bytes)?);
        } else {
            for _ in 0..samples {
                for start in (0..rows).step_by(rows_per_band) {
                    let band_rows = rows_per_band.min(rows - start);
                    blocks.push(allocate(bytes / (samples * rows) * band_rows)?);
                }
            }
        }
        let (device, shape) = (device.clone(), shape.to_vec());
        Ok(Self { device, shape, dtype, blocks: Arc::new(blocks), rows_per_band })
    }

    /// The same values under another shape.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the shapes do not hold as many elements, or if the tensor lies in
    /// several blocks and the new rows do not end where they do.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let error = |detail| Err(Error::shape("reshape", detail));
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return error(format!("{shape:?} does not hold the elements of {:?}", self.shape));
        }
        let rows_of = |shape: &[usize]| *shape.get(1).unwrap_or(&1);
        let mut rows_per_band = rows_of(shape);
        if self.blocks.len() > 1 {
            let band_elements = self.rows_per_band * self.shape[2..].iter().product::<usize>();
            let row_elements = shape[2.min(shape.len())..].iter().product::<usize>();
            if shape[0] != self.shape[0] || !band_elements.is_multiple_of(row_elements) {
                return error(format!("{:?} lies in bands that {shape:?} cuts", self.shape));
            }
            rows_per_band = band_elements / row_elements;
        }
        Ok(Self { shape: shape.to_vec(), rows_per_band, ..self.clone() })
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sizes, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How elements are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn bands_per_sample(&self) -> usize {
        match self.blocks.len() {
            1 => 1,
            count => count / self.shape[0],
        }
    }

    /// The parts that one launch can write, in the order of the elements.
    pub(crate) fn bands(&self) -> Vec<Band> {
        let (samples, rows) = (self.shape[0], *self.shape.get(1).unwrap_or(&1));
        if self.blocks.len() == 1 {
            return vec![Band { samples: 0..samples, rows: 0..rows }];
        }
        let of_sample = |sample| {
            (0..rows).step_by(self.rows_per_band).map(move |start| Band {
                samples: sample..sample + 1,
                rows: start..rows.min(start + self.rows_per_band),
            })
        };
        (0..samples).flat_map(of_sample).collect()
    }

    /// The memory of one of this tensor's own bands.
    ///
    /// # Panics
    ///
    /// If the band is none of [`Tensor::bands`]: a bug of this crate.
    pub(crate) fn output(&self, band: &Band) -> &Buffer {
        let index = self.bands().iter().position(|own| own == band);
        self.blocks[index.expect("an op writes the bands of its output")].buffer()
    }

    /// The memory of a tensor in one block.
    ///
    /// # Panics
    ///
    /// If the tensor lies in several: ops check the sizes of what must not.
    pub(crate) fn buffer(&self) -> &Buffer {
        assert_eq!(self.blocks.len(), 1, "{:?} lies in several blocks", self.shape);
        self.blocks[0].buffer()
    }

    /// The values of any band: its own memory where the tensor is cut the same way, else a copy.
    pub(crate) fn band(&self, band: &Band) -> Result<BandBuffer<'_>> {
        let own = self.bands();
        if let Some(index) = own.iter().position(|own| own == band) {
            return Ok(BandBuffer::Own(self.blocks[index].buffer()));
        }
        let row_bytes =
            self.shape.get(2..).unwrap_or(&[]).iter().product::<usize>() * self.dtype.size();
        let bytes = band.samples.len() * band.rows.len() * row_bytes;
        let target = self.device.memory().allocate(bytes as u64, Lifetime::Transient)?;
        let mut target_offset = 0;
        for sample in band.samples.clone() {
            for (part, block) in own.iter().zip(self.blocks.iter()) {
                let rows = part.rows.start.max(band.rows.start)..part.rows.end.min(band.rows.end);
                if !part.samples.contains(&sample) || rows.is_empty() {
                    continue;
                }
                let skipped =
                    (sample - part.samples.start) * part.rows.len() + rows.start - part.rows.start;
                let bytes = (rows.len() * row_bytes) as u64;
                self.device.backend().copy(&CopyRegion {
                    source: block.buffer(),
                    source_offset: (skipped * row_bytes) as u64,
                    target: target.buffer(),
                    target_offset,
                    bytes,
                })?;
                target_offset += bytes;
            }
        }
        Ok(BandBuffer::Gathered(target))
    }

    /// How many elements a band has.
    pub(crate) fn elements(&self, band: &Band) -> usize {
        let rest: usize = self.shape.get(2..).unwrap_or(&[]).iter().product();
        band.samples.len() * band.rows.len() * rest
    }
}

impl Band {
    /// Rows of all its samples together.
    pub(crate) fn row_count(&self) -> usize {
        self.samples.len() * self.rows.len()
    }
}

/// `values` as they are stored.
pub(crate) fn to_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes()).collect(),
    }
}

fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|chunk| f32::from_ne_bytes(*chunk)).collect(),
        DType::F16 => {
            let halves = bytes.as_chunks().0.iter();
            halves.map(|chunk| f16::from_ne_bytes(*chunk).to_f32()).collect()
        }
    }
}
