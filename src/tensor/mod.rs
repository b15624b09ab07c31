//! Arrays on a device.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use crate::backend::{Buffer, CopyRegion};
use crate::device::Device;
use crate::memory::{Block, Lifetime};
use crate::{DType, Error, Result};

mod bytes;
mod columns;
mod place;

pub(crate) use bytes::{from_bytes, to_bytes, write_bytes};
use place::Place;
pub(crate) use place::{BandBuffer, BandOutput};

/// An array of f32 or f16 on a device: contiguous, row-major, channels last.
///
/// A tensor that would be over the device's largest allocation lies in several blocks, split along
/// its second axis (rows of an image, tokens of a sequence); ops loop over its [`Band`]s. Under
/// [`Device::tile`] a picture lies in bands on the host, each on the device only while it is used.
/// Cloning shares the memory, which nothing changes once an op has written it.
#[derive(Clone, Debug)]
pub struct Tensor {
    device: Device,
    shape: Vec<usize>,
    dtype: DType,
    places: Arc<Vec<Place>>,
    /// Rows of one sample in a block; all of them where there is one block.
    rows_per_band: usize,
    /// What its norm will ask for, taken of its bands before they were parked.
    statistics: Option<Arc<Block>>,
    /// Whether a parked band is given up as it is read.
    is_read_once: bool,
}

/// A part of a tensor: rows of samples. Either every sample whole, or some rows of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Along the first axis.
    pub samples: Range<usize>,
    /// Along the second axis.
    pub rows: Range<usize>,
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
            let output = tensor.output(&band)?;
            device.backend().write(&output, 0, &bytes[start..start + length])?;
            output.keep()?;
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
            places: Arc::new(vec![Place::Device(block)]),
            rows_per_band: *shape.get(1).unwrap_or(&1),
            statistics: None,
            is_read_once: false,
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
            self.places[self.index(&band)].read(&self.device, target)?;
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
        let parked_rows = device.parked_rows(shape);
        let mut rows_per_band = rows;
        let mut places = Vec::new();
        if bytes as u64 <= max_bytes && least_bands.is_none() && parked_rows.is_none() {
            places.push(Place::Device(allocate(bytes)?));
        } else {
            // A quarter is left for the rows that a convolution reads beside its own.
            let row_bytes = bytes / (samples * rows);
            let most_rows = (max_bytes as usize / 4 * 3 / row_bytes).max(1);
            let least_bands = least_bands.unwrap_or(1);
            let wanted_rows = match parked_rows {
                Some(parked) if rows.div_ceil(parked) >= least_bands => parked,
                _ => rows.div_ceil(least_bands),
            };
            rows_per_band = wanted_rows.min(most_rows);
            for _ in 0..samples {
                for start in (0..rows).step_by(rows_per_band) {
                    let band_rows = rows_per_band.min(rows - start);
                    let bytes = row_bytes * band_rows;
                    places.push(match parked_rows {
                        Some(_) => Place::Parked(device.memory().parked_block(bytes as u64)),
                        None => Place::Device(allocate(bytes)?),
                    });
                }
            }
        }
        let (device, shape) = (device.clone(), shape.to_vec());
        let places = Arc::new(places);
        let (statistics, is_read_once) = (None, false);
        Ok(Self { device, shape, dtype, places, rows_per_band, statistics, is_read_once })
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
        if shape == self.shape {
            return Ok(self.clone());
        }
        let (mut result, rows) = (self.clone(), *shape.get(1).unwrap_or(&1));
        (result.shape, result.rows_per_band) = (shape.to_vec(), rows);
        // They are those of channels and rows as they were.
        result.statistics = None;
        if self.places.len() == 1 {
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
            let output = result.output(&band)?;
            self.copy_elements(band.samples.start, elements, &output, 0)?;
            output.keep()?;
        }
        Ok(result)
    }

    /// The same values in one block on the device; as they are where they fit none.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn joined(&self) -> Result<Self> {
        let rows = *self.shape.get(1).unwrap_or(&1);
        let whole = Band { samples: 0..self.shape[0], rows: 0..rows };
        let bytes = (self.elements(&whole) * self.dtype.size()) as u64;
        let mut result = self.clone();
        if self.places.len() > 1
            && bytes <= self.device.memory().max_allocation_bytes()
            && let BandBuffer::Gathered(block) = self.band(&whole)?
        {
            result.places = Arc::new(vec![Place::Device(block)]);
            result.rows_per_band = rows;
            result.statistics = None;
        }
        Ok(result)
    }

    /// The same values on the host, for when the device needs the room. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the host has no room; [`Error::Device`].
    pub(crate) fn parked(&self) -> Result<Self> {
        let park = |band: Band| {
            let bytes = (self.elements(&band) * self.dtype.size()) as u64;
            let home = self.device.memory().parked_block(bytes);
            self.device.park(&*self.band(&band)?, &home)?;
            Ok(Place::Parked(home))
        };
        let places = self.bands().into_iter().map(park);
        Ok(Self { places: Arc::new(places.collect::<Result<_>>()?), ..self.clone() })
    }

    /// What was [`Tensor::parked`], on the device again.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub(crate) fn unparked(&self) -> Result<Self> {
        let unpark = |(band, place): (Band, &Place)| {
            let bytes = self.elements(&band) * self.dtype.size();
            let block = self.device.memory().allocate(bytes as u64, Lifetime::Transient)?;
            match place {
                Place::Parked(home) => self.device.unpark(home, 0..bytes, block.buffer(), 0)?,
                Place::Device(_) => unreachable!("every band of a parked tensor is parked"),
            }
            Ok(Place::Device(block))
        };
        let places = self.bands().into_iter().zip(self.places.iter()).map(unpark);
        Ok(Self { places: Arc::new(places.collect::<Result<_>>()?), ..self.clone() })
    }

    /// For an op that reads each of its bands once and is the last to do so: what is parked of it
    /// leaves its place to what the op parks. Where others hold the tensor as well, it stays.
    pub(crate) fn read_once(self) -> Self {
        Self { is_read_once: Arc::strong_count(&self.places) == 1, ..self }
    }

    /// With statistics of its bands.
    pub(crate) fn with_statistics(self, statistics: Block) -> Self {
        Self { statistics: Some(Arc::new(statistics)), ..self }
    }

    /// What it was given of [`Tensor::with_statistics`].
    pub(crate) fn statistics(&self) -> Option<&Block> {
        self.statistics.as_deref()
    }

    /// Whether its bands wait on the host.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.places.first(), Some(Place::Parked(_)))
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
        match self.places.len() {
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
        if self.places.len() == 1 {
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

    /// The memory for one of this tensor's own bands, which an op writes and then
    /// [keeps](BandOutput::keep).
    ///
    /// # Panics
    ///
    /// If the band is none of [`Tensor::bands`]: a bug of this crate.
    pub(crate) fn output(&self, band: &Band) -> Result<BandOutput<'_>> {
        self.places[self.index(band)].output(&self.device)
    }

    /// Which of this tensor's own bands it is.
    fn index(&self, band: &Band) -> usize {
        let index = self.bands().iter().position(|own| own == band);
        index.expect("an op writes the bands of its output")
    }

    /// The memory of a tensor in one block.
    ///
    /// # Panics
    ///
    /// If the tensor lies in several: ops check the sizes of what must not.
    pub(crate) fn buffer(&self) -> &Buffer {
        match &self.places[..] {
            [Place::Device(block)] => block.buffer(),
            _ => panic!("{:?} lies in several blocks", self.shape),
        }
    }

    /// The values of any band: its own memory where the tensor is cut the same way and on the
    /// device, else a copy.
    pub(crate) fn band(&self, band: &Band) -> Result<BandBuffer<'_>> {
        let own = self.bands();
        let place = own.iter().position(|own| own == band).map(|index| &self.places[index]);
        if let Some(Place::Device(block)) = place {
            return Ok(BandBuffer::Own(block.buffer()));
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
        if let Some(Place::Parked(home)) = place.filter(|_| self.is_read_once) {
            home.release();
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
        for (band, place) in self.bands().iter().zip(self.places.iter()) {
            let held = band.rows.start * row..band.rows.end * row;
            let wanted = held.start.max(elements.start)..held.end.min(elements.end);
            if !band.samples.contains(&sample) || wanted.is_empty() {
                continue;
            }
            let before = (sample - band.samples.start) * held.len() + wanted.start - held.start;
            let [start, bytes] = [before, wanted.len()].map(|count| count * self.dtype.size());
            match place {
                Place::Device(block) => self.device.backend().copy(&CopyRegion {
                    source: block.buffer(),
                    source_offset: start as u64,
                    target,
                    target_offset: offset,
                    bytes: bytes as u64,
                    rows: 1,
                    source_pitch: 0,
                    target_pitch: 0,
                })?,
                Place::Parked(home) => {
                    self.device.unpark(home, start..start + bytes, target, offset)?;
                }
            }
            offset += bytes as u64;
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
