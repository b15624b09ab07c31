//! Where layers get their weights.

use std::fmt::{self, Display};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::KeptWeights;
use crate::device::{Again, Source};
use crate::memory::Lifetime;
use crate::ops::{Products, SplitWeights, Storage, Vocabulary};
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

    /// What reads a part of a tensor's values for as long as anyone wants to, if this source lasts so
    /// long: values that are not on the device can then stay where they are.
    ///
    /// # Errors
    ///
    /// As [`TensorSource::check`].
    fn reader(&self, _name: &str, _shape: &[usize]) -> Result<Option<Reader>> {
        Ok(None)
    }

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

    /// The format in which the device holds a table, such as a vocabulary: the
    /// [stored](TensorSource::stored) one, if it is one of blocks. `None` if it holds values.
    fn table_format(&self, name: &str) -> Option<Format> {
        self.stored(name).map(|(format, _)| format)
    }

    /// How weights in blocks are to be multiplied.
    fn products(&self) -> Products {
        Products::default()
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
        encoded(self.read(name, shape)?, shape, format)
    }

    /// What gives the [blocks](TensorSource::blocks) of a tensor for as long as anyone wants to, if
    /// this source lasts so long and has them in a file as they are wanted.
    ///
    /// # Errors
    ///
    /// As [`TensorSource::check`].
    fn blocks_again(
        &self,
        _name: &str,
        _shape: &[usize],
        _format: Format,
    ) -> Result<Option<BlocksReader>> {
        Ok(None)
    }

    /// Where weights that were loaded of this source are kept for the next model of it, if it wants
    /// them kept.
    fn kept(&self) -> Option<&KeptWeights> {
        None
    }
}

/// Reads a range of a tensor's row-major values: see [`TensorSource::reader`].
#[derive(Clone)]
pub struct Reader(Arc<dyn Fn(Range<usize>) -> Result<Vec<f32>> + Send + Sync>);

impl Reader {
    /// A reader of what `read` gives.
    pub fn new(read: impl Fn(Range<usize>) -> Result<Vec<f32>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The values of a range.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file has changed since it was opened, or is gone.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<f32>> {
        (self.0)(range)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// Reads all blocks of a tensor: see [`TensorSource::blocks_again`].
pub type BlocksReader = Again<u8>;

/// The values of a weight `[O, I, ..]` as O rows of blocks, each over (row, column, channel).
pub(crate) fn encoded(values: Vec<f32>, shape: &[usize], format: Format) -> Result<Vec<u8>> {
    let taps: usize = shape.iter().skip(2).product();
    let rows = transposed(values, shape[1], taps);
    let mut blocks = vec![0; quant::bytes(format, rows.len())?];
    quant::encode_rows(format, shape[1] * taps, &rows, &mut blocks)?;
    Ok(blocks)
}

/// What the blocks of [`encoded`] stand for, in the order of the values.
pub(crate) fn decoded(blocks: &[u8], shape: &[usize], format: Format) -> Result<Vec<f32>> {
    let taps: usize = shape.iter().skip(2).product();
    let mut rows = vec![0.0; shape.iter().product()];
    quant::decode(format, blocks, &mut rows)?;
    Ok(transposed(rows, taps, shape[1]))
}

/// Matrices `[rows, columns]`, each as `[columns, rows]`.
fn transposed(values: Vec<f32>, rows: usize, columns: usize) -> Vec<f32> {
    if rows == 1 || columns == 1 {
        return values;
    }
    let turned = |matrix: &[f32]| -> Vec<f32> {
        (0..rows * columns).map(|at| matrix[at % rows * columns + at / rows]).collect()
    };
    values.par_chunks(rows * columns).flat_map_iter(turned).collect()
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

    /// How a table of these rows is stored: in a format if the source says so, else in the model's
    /// element type.
    pub(super) fn table_storage(&self, name: &str) -> Storage {
        let format = self.source.table_format(&format!("{}{name}", self.prefix));
        format.map_or(Storage::Values(self.dtype), Storage::Blocks)
    }

    /// A table on the device.
    pub(super) fn vocabulary(&self, name: &str, shape: [usize; 2]) -> Result<Vocabulary> {
        let (device, kept) = (self.device, Lifetime::Resident);
        let read = self.checked(&[name], &shape)?;
        let table = match self.table_storage(name) {
            Storage::Values(dtype) => {
                Vocabulary::values(device, kept, dtype, shape, || Ok(read()?.concat()))
            }
            Storage::Blocks(format) => {
                let blocks = self.blocks(&[name], &shape, format)?;
                Vocabulary::blocks(device, kept, format, shape, || blocks.read())
            }
        };
        table.map_err(|error| self.named(name, error))
    }

    /// The rows of a table on the host, in the model's element type or in blocks; none on a dry run.
    pub(super) fn stored(&self, name: &str, shape: [usize; 2]) -> Result<Vec<u8>> {
        let read = self.checked(&[name], &shape)?;
        match (self.device.executes(), self.table_storage(name)) {
            (false, _) => Ok(Vec::new()),
            (true, Storage::Values(dtype)) => Ok(to_bytes(&read()?.concat(), dtype)),
            (true, Storage::Blocks(format)) => self.blocks(&[name], &shape, format)?.read(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        self.device
    }

    /// Matrices of `[outputs, inputs]` each, stacked so that one product gives the outputs of all
    /// one after the other.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn matrices(&self, names: &[&str], [outputs, inputs]: [usize; 2]) -> Result<SplitWeights> {
        let shape = [outputs, inputs];
        let source = self.source(names, &shape)?;
        let all_outputs = names.len() * outputs;
        self.kept(names, || match self.format(names, &shape) {
            None => {
                let stacked = [all_outputs, inputs, 1, 1];
                SplitWeights::conv2d_of(self.device, self.dtype, stacked, source)
            }
            Some(format) => {
                let blocks = self.blocks(names, &shape, format)?;
                SplitWeights::blocks_of(self.device, format, [all_outputs, inputs, 1], blocks)
            }
        })
    }

    /// The weight of a convolution, `[O, I, kH, kW]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn convolution(&self, name: &str, shape: [usize; 4]) -> Result<SplitWeights> {
        let source = self.source(&[name], &shape)?;
        self.kept(&[name], || match self.format(&[name], &shape) {
            None => SplitWeights::conv2d_of(self.device, self.dtype, shape, source),
            Some(format) => {
                let [outputs, channels, height, width] = shape;
                let blocks = self.blocks(&[name], &shape, format)?;
                let shape = [outputs, channels, height * width];
                SplitWeights::blocks_of(self.device, format, shape, blocks)
            }
        })
    }

    /// The weight of these tensors that the source keeps, or else what `load` gives.
    fn kept(
        &self,
        names: &[&str],
        load: impl FnOnce() -> Result<SplitWeights>,
    ) -> Result<SplitWeights> {
        let weights = match self.source.kept() {
            None => load(),
            Some(kept) => {
                let full = names.iter().map(|name| format!("{}{name}", self.prefix)).collect();
                kept.get(self.device, self.dtype, full, load)
            }
        };
        let weights = weights.map(|weights| weights.multiplied_in(self.source.products()));
        weights.map_err(|error| self.named(names[0], error))
    }

    /// The format that all of these have.
    fn format(&self, names: &[&str], shape: &[usize]) -> Option<Format> {
        let of = |name: &&str| self.source.format(&format!("{}{name}", self.prefix), shape);
        let first = of(&names[0])?;
        names.iter().all(|name| of(name) == Some(first)).then_some(first)
    }

    /// Where the blocks of several tensors come from, one after the other.
    fn blocks(&self, names: &[&str], shape: &[usize], format: Format) -> Result<Source<'a, u8>> {
        let names: Vec<String> =
            names.iter().map(|name| format!("{}{name}", self.prefix)).collect();
        let readers: Vec<BlocksReader> = names
            .iter()
            .filter_map(|name| self.source.blocks_again(name, shape, format).transpose())
            .collect::<Result<_>>()?;
        let (source, shape, count) = (self.source, shape.to_vec(), names.len());
        let read = move || names.iter().map(|name| source.blocks(name, &shape, format)).collect();
        Ok(joined(read, readers, count))
    }

    /// Where the values of several tensors come from, one after the other.
    fn source(&self, names: &[&str], shape: &[usize]) -> Result<Source<'a, f32>> {
        let read = self.checked(names, shape)?;
        let count = shape.iter().product();
        let again = |reader: Reader| Arc::new(move || reader.read(0..count)) as Again<f32>;
        let readers = names
            .iter()
            .filter_map(|name| Some(self.reader(name, shape).transpose()?.map(again)))
            .collect::<Result<_>>()?;
        Ok(joined(read, readers, names.len()))
    }

    /// What reads a tensor for as long as anyone wants to.
    pub(super) fn reader(&self, name: &str, shape: &[usize]) -> Result<Option<Reader>> {
        self.source.reader(&format!("{}{name}", self.prefix), shape)
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

/// What `once` gives of so many tensors, one after the other; later what `readers` give, if each of them
/// has one.
fn joined<'a, T: Clone + 'static>(
    once: impl FnOnce() -> Result<Vec<Vec<T>>> + 'a,
    readers: Vec<Again<T>>,
    count: usize,
) -> Source<'a, T> {
    let source = Source::once(move || Ok(once()?.concat()));
    if readers.len() < count {
        return source;
    }
    source.or_again(Arc::new(move || {
        let all: Vec<Vec<T>> = readers.iter().map(|read| read()).collect::<Result<_>>()?;
        Ok(all.concat())
    }))
}
