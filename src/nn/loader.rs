//! Where layers get their weights.

use std::fmt::Display;

use rayon::prelude::*;

use crate::ops::SplitWeights;
use crate::quant;
use crate::tensor::{Tensor, to_bytes};
use crate::{DType, Device, Error, Format, Result};

/// Tensors by name: a checkpoint, or anything else that has them.
pub trait TensorSource {
    /// Checks that the tensor is there, has this shape and an element type that can be read.
    /// `[O, I, 1, 1]` and `[O, I]` are the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor), naming the file, the tensor, what was expected and
    /// what is there.
    fn check(&self, name: &str, shape: &[usize]) -> Result<()>;

    /// The row-major values of a tensor.
    ///
    /// # Errors
    ///
    /// As [`TensorSource::check`].
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// The blocks of a weight that is stored in blocks along its inputs, so that it can be used
    /// without another rounding: rows of `[O, I]`, or of `[O, kH, kW, I]` for a convolution.
    fn stored(&self, _name: &str) -> Option<(Format, &[u8])> {
        None
    }

    /// The format in which the device holds a matrix `[O, I]` or the weight of a convolution
    /// `[O, I, kH, kW]`: the [stored](TensorSource::stored) one, if a source has no other. `None` if
    /// it holds values.
    fn format(&self, name: &str, _shape: &[usize]) -> Option<Format> {
        self.stored(name).map(|(format, _)| format)
    }

    /// A tensor in a format: O rows of blocks, each over (row, column, channel). What is not stored
    /// in that format is read and encoded.
    ///
    /// # Errors
    ///
    /// As [`TensorSource::check`].
    fn blocks(&self, name: &str, shape: &[usize], format: Format) -> Result<Vec<u8>> {
        if let Some((stored, blocks)) = self.stored(name)
            && stored == format
        {
            return Ok(blocks.to_vec());
        }
        let rows = channels_last(self.read(name, shape)?, shape);
        let mut blocks = vec![0; quant::bytes(format, rows.len())?];
        quant::encode(format, &rows, &mut blocks)?;
        Ok(blocks)
    }
}

/// `[O, I, kH, kW]` as `[O, kH, kW, I]`.
fn channels_last(values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
    let taps: usize = shape.iter().skip(2).product();
    if taps == 1 {
        return values;
    }
    let channels = shape[1];
    let row = |row: &[f32]| -> Vec<f32> {
        (0..taps * channels).map(|at| row[at % channels * taps + at / channels]).collect()
    };
    values.par_chunks(taps * channels).flat_map_iter(row).collect()
}

/// What a layer is loaded with: a source of tensors, a place in its names, a device, and how
/// matrices are stored there.
#[derive(Clone)]
pub struct Loader<'a> {
    device: &'a Device,
    dtype: DType,
    source: &'a dyn TensorSource,
    prefix: String,
}

impl<'a> Loader<'a> {
    /// A loader of the names as they are.
    pub fn new(device: &'a Device, dtype: DType, source: &'a dyn TensorSource) -> Self {
        Self { device, dtype, source, prefix: String::new() }
    }

    /// A loader of the names that go on with `part`: `at("down_blocks").at(0)`.
    pub fn at(&self, part: impl Display) -> Self {
        Self { prefix: format!("{}{part}.", self.prefix), ..self.clone() }
    }

    /// A vector of `length` values, stored as f32.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`](crate::Error::Tensor) if it is missing or of another shape;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn vector(&self, name: &str, length: usize) -> Result<Tensor> {
        self.vectors(&[name], length)
    }

    /// Vectors of `length` values each, one after the other.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn vectors(&self, names: &[&str], length: usize) -> Result<Tensor> {
        let read = self.checked(names, &[length])?;
        let shape = [names.len() * length];
        Tensor::resident(self.device, &shape, DType::F32, || Ok(read()?.concat()))
            .map_err(|error| self.named(names[0], error))
    }

    /// The sum of two vectors of `length` values, stored as f32.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn sum_of_vectors(&self, names: [&str; 2], length: usize) -> Result<Tensor> {
        let read = self.checked(&names, &[length])?;
        Tensor::resident(self.device, &[length], DType::F32, || {
            let values = read()?;
            Ok(values[0].iter().zip(&values[1]).map(|(a, b)| a + b).collect())
        })
    }

    /// A table of `[rows, columns]`, stored in the model's element type.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn table(&self, name: &str, shape: [usize; 2]) -> Result<Tensor> {
        let read = self.checked(&[name], &shape)?;
        Tensor::resident(self.device, &shape, self.dtype, || Ok(read()?.concat()))
            .map_err(|error| self.named(name, error))
    }

    /// As [`Loader::table`], as bytes on the host; none on a dry run.
    pub(super) fn stored(&self, name: &str, shape: [usize; 2]) -> Result<Vec<u8>> {
        let read = self.checked(&[name], &shape)?;
        match self.device.executes() {
            true => Ok(to_bytes(&read()?.concat(), self.dtype)),
            false => Ok(Vec::new()),
        }
    }

    pub(super) fn device(&self) -> &Device {
        self.device
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Matrices of `[outputs, inputs]` each, stacked so that one product gives the outputs of all
    /// one after the other.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn matrices(&self, names: &[&str], [outputs, inputs]: [usize; 2]) -> Result<SplitWeights> {
        let shape = [outputs, inputs];
        let read = self.checked(names, &shape)?;
        let all_outputs = names.len() * outputs;
        let weights = match self.format(names, &shape) {
            None => {
                let read = || Ok(read()?.concat());
                SplitWeights::linear(self.device, self.dtype, [all_outputs, inputs], read)
            }
            Some(format) => {
                let read = || self.blocks(names, &shape, format);
                SplitWeights::blocks(self.device, format, [all_outputs, inputs, 1], read)
            }
        };
        weights.map_err(|error| self.named(names[0], error))
    }

    /// The weight of a convolution, `[O, I, kH, kW]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn convolution(&self, name: &str, shape: [usize; 4]) -> Result<SplitWeights> {
        let read = self.checked(&[name], &shape)?;
        let weights = match self.format(&[name], &shape) {
            None => SplitWeights::conv2d(self.device, self.dtype, shape, || Ok(read()?.concat())),
            Some(format) => {
                let [outputs, channels, height, width] = shape;
                let read = || self.blocks(&[name], &shape, format);
                SplitWeights::blocks(self.device, format, [outputs, channels, height * width], read)
            }
        };
        weights.map_err(|error| self.named(name, error))
    }

    /// The format that all of these have.
    fn format(&self, names: &[&str], shape: &[usize]) -> Option<Format> {
        let of = |name: &&str| self.source.format(&format!("{}{name}", self.prefix), shape);
        let first = of(&names[0])?;
        names.iter().all(|name| of(name) == Some(first)).then_some(first)
    }

    fn blocks(&self, names: &[&str], shape: &[usize], format: Format) -> Result<Vec<u8>> {
        let of = |name: &&str| self.source.blocks(&format!("{}{name}", self.prefix), shape, format);
        Ok(names.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Says which tensor it is that the device cannot hold.
    fn named(&self, name: &str, mut error: Error) -> Error {
        if let Error::Allocation { what, .. } = &mut error {
            *what = format!("{}{name}", self.prefix);
        }
        error
    }

    /// Checks the tensors now; the answer reads them.
    fn checked(
        &self,
        names: &[&str],
        shape: &[usize],
    ) -> Result<impl FnOnce() -> Result<Vec<Vec<f32>>> + use<'a>> {
        let names: Vec<String> =
            names.iter().map(|name| format!("{}{name}", self.prefix)).collect();
        for name in &names {
            self.source.check(name, shape)?;
        }
        let (source, shape) = (self.source, shape.to_vec());
        Ok(move || names.iter().map(|name| source.read(name, &shape)).collect())
    }
}
