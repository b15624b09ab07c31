//! Arrays on a device.

use std::ops::{Deref, Range};
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
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
        let bytes = match device.executes() {
            true => to_bytes(values, dtype),
            false => vec![0; values.len() * dtype.size()],
        };
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
        Self::empty_in_bands(device, shape, dtype, None)
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
        least_bands: Option<usize>,
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
        let mut blocks = Vec::new();
        if bytes as u64 <= max_bytes && least_bands.is_none() {
            blocks.push(allocate(bytes)?);
        } else {
            // A quarter is left for the rows that a convolution reads beside its own.
            let row_bytes = bytes / (samples * rows);
            let most_rows = (max_bytes as usize / 4 * 3 / row_bytes).max(1);
            rows_per_band = rows.div_ceil(least_bands.unwrap_or(1)).min(most_rows);
            for _ in 0..samples {
                for start in (0..rows).step_by(rows_per_band) {
                    let band_rows = rows_per_band.min(rows - start);
                    blocks.push(allocate(row_bytes * band_rows)?);
                }
            }
        }
        let (device, shape) = (device.clone(), shape.to_vec());
        Ok(Self { device, shape, dtype, blocks: Arc::new(blocks), rows_per_band })
    }

    /// The same values under another shape: the same memory, unless the tensor lies in several
    /// blocks that cut the new rows.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the shapes do not hold as many elements, or if the tensor lies in
    /// several blocks and the number of samples changes; [`Error::OutOfMemory`].
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let error = |detail| Err(Error::shape("reshape", detail));
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return error(format!("{shape:?} does not hold the elements of {:?}", self.shape));
        }
        let (mut result, rows) = (self.clone(), *shape.get(1).unwrap_or(&1));
        (result.shape, result.rows_per_band) = (shape.to_vec(), rows);
        if self.blocks.len() == 1 {
            return Ok(result);
        }
        if shape[0] != self.shape[0] {
            return error(format!("{:?} lies in blocks that {shape:?} joins", self.shape));
        }
        let band_elements = self.rows_per_band * self.row_elements();
        if band_elements.is_multiple_of(result.row_elements()) {
            result.rows_per_band = band_elements / result.row_elements();
            return Ok(result);
        }
        let result =
            Self::empty_in_bands(&self.device, shape, self.dtype, self.bands_per_sample())?;
        for band in result.bands() {
            let row = result.row_elements();
            let elements = band.rows.start * row..band.rows.end * row;
            self.copy_elements(band.samples.start, elements, result.output(&band), 0)?;
        }
        Ok(result)
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

    /// `None` where one block holds all samples.
    fn bands_per_sample(&self) -> Option<usize> {
        match self.blocks.len() {
            1 => None,
            count => Some(count / self.shape[0]),
        }
    }

    /// Elements of one row of one sample.
    fn row_elements(&self) -> usize {
        self.shape.get(2..).unwrap_or(&[]).iter().product()
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
        let row = self.row_elements();
        let sample_bytes = (band.rows.len() * row * self.dtype.size()) as u64;
        let bytes = band.samples.len() as u64 * sample_bytes;
        let target = self.device.memory().allocate(bytes, Lifetime::Transient)?;
        for (index, sample) in band.samples.clone().enumerate() {
            let elements = band.rows.start * row..band.rows.end * row;
            let offset = index as u64 * sample_bytes;
            self.copy_elements(sample, elements, target.buffer(), offset)?;
        }
        Ok(BandBuffer::Gathered(target))
    }

    /// Copies elements of one sample to `target`, from the byte `offset` on.
    fn copy_elements(
        &self,
        sample: usize,
        elements: Range<usize>,
        target: &Buffer,
        mut offset: u64,
    ) -> Result<()> {
        let row = self.row_elements();
        for (band, block) in self.bands().iter().zip(self.blocks.iter()) {
            let held = band.rows.start * row..band.rows.end * row;
            let wanted = held.start.max(elements.start)..held.end.min(elements.end);
            if !band.samples.contains(&sample) || wanted.is_empty() {
                continue;
            }
            let before = (sample - band.samples.start) * held.len() + wanted.start - held.start;
            let bytes = (wanted.len() * self.dtype.size()) as u64;
            self.device.backend().copy(&CopyRegion {
                source: block.buffer(),
                source_offset: (before * self.dtype.size()) as u64,
                target,
                target_offset: offset,
                bytes,
            })?;
            offset += bytes;
        }
        Ok(())
    }

    /// How many elements a band has.
    pub(crate) fn elements(&self, band: &Band) -> usize {
        band.row_count() * self.row_elements()
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
    let mut bytes = vec![0; values.len() * dtype.size()];
    write_bytes(values, dtype, &mut bytes);
    bytes
}

/// Writes `values` to `bytes` as they are stored.
pub(crate) fn write_bytes(values: &[f32], dtype: DType, bytes: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = value.to_ne_bytes();
            }
        }
        DType::F16 => {
            // In runs that stay in the first cache: rounding many at once is several times faster.
            let mut halves = [f16::ZERO; 256];
            for (values, bytes) in values.chunks(256).zip(bytes.chunks_mut(512)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
                    *bytes = half.to_ne_bytes();
                }
            }
        }
    }
}

/// Values from how they are stored.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|chunk| f32::from_ne_bytes(*chunk)).collect(),
        DType::F16 => {
            let halves = bytes.as_chunks().0.iter();
            halves.map(|chunk| f16::from_ne_bytes(*chunk).to_f32()).collect()
        }
    }
}
