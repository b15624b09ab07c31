//! Where layers get their weights.

use std::fmt::Display;

use crate::ops::SplitWeights;
use crate::tensor::{Tensor, to_bytes};
use crate::{DType, Device, Error, Result};

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
        let read = self.checked(names, &[outputs, inputs])?;
        let stacked = [names.len() * outputs, inputs];
        let read = || Ok(read()?.concat());
        SplitWeights::linear(self.device, self.dtype, stacked, read)
            .map_err(|error| self.named(names[0], error))
    }

    /// The weight of a convolution, `[O, I, kH, kW]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn convolution(&self, name: &str, shape: [usize; 4]) -> Result<SplitWeights> {
        let read = self.checked(&[name], &shape)?;
        SplitWeights::conv2d(self.device, self.dtype, shape, || Ok(read()?.concat()))
            .map_err(|error| self.named(name, error))
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
