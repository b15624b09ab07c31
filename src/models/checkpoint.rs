//! The weights of one component, by the names that diffusers and transformers use today.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::one_line;
use crate::io::tensors::{StoredType, TensorFile};
use crate::nn::{BlocksReader, KeptWeights, Reader, TensorSource};
use crate::ops::Products;
use crate::{Error, Format, Result};

mod held;
mod kept;
mod scales;
mod stored;

pub use stored::StoredTensor;

/// A weight of fewer outputs is not worth fewer bits: they are a panel of a device all the same.
const LEAST_OUTPUTS: usize = 32;

/// The value of a GGUF file that says in which order its convolutions' weights are.
pub const CONVOLUTIONS_KEY: &str = "ellesmere.convolutions";

/// What it says where they are `[O, kH, kW, I]`, so that blocks lie along the channels.
pub const CHANNELS_LAST: &str = "channels_last";

/// One component's tensors, over one or several mapped files.
///
/// Nothing is read until it is asked for, and what nobody asks for costs nothing. Cloning shares the files.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    origin: PathBuf,
    files: Vec<Arc<TensorFile>>,
    tensors: BTreeMap<String, Slot>,
    /// What matrices and convolutions are to be held in.
    format: Option<Format>,
    /// What single tensors are to be held as.
    held: BTreeMap<String, StoredType>,
    kept: Option<KeptWeights>,
    /// How those in blocks are to be multiplied.
    products: Products,
}

/// Where a tensor is: all of a stored one, or one of several equal parts of its rows.
#[derive(Clone, Debug)]
struct Slot {
    file: usize,
    stored_name: String,
    part: Option<Part>,
}

/// One of `count` equal parts along the slowest axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) index: usize,
    pub(super) count: usize,
}

/// A name that a stored tensor is known by, and which part of it that is.
pub(super) type Known = (String, Option<Part>);

impl Checkpoint {
    /// The tensors of `files` under the names that `known_as` gives for each stored one.
    ///
    /// `origin` is the file or folder that messages about a missing tensor name.
    pub(super) fn new(
        origin: &Path,
        files: Vec<Arc<TensorFile>>,
        mut known_as: impl FnMut(&str) -> Vec<Known>,
    ) -> Result<Self> {
        let mut tensors: BTreeMap<String, Slot> = BTreeMap::new();
        for (file, content) in files.iter().enumerate() {
            for (stored_name, _) in content.iter() {
                let Some(weight_name) = scales::weight_name(stored_name) else { continue };
                for (name, part) in known_as(weight_name) {
                    let slot = Slot { file, stored_name: stored_name.to_string(), part };
                    if let Some(other) = tensors.insert(name, slot) {
                        let first = &files[other.file];
                        let name = one_line(&other.stored_name);
                        let detail = format!("is also in {}", first.path().display());
                        let path = content.path().to_path_buf();
                        return Err(Error::Tensor { path, tensor: name, detail });
                    }
                }
            }
        }
        Ok(Checkpoint {
            origin: origin.to_path_buf(),
            files,
            tensors,
            format: None,
            held: BTreeMap::new(),
            kept: None,
            products: Products::default(),
        })
    }

    /// Every tensor of a file, by the name that it has there; scales of others are not by themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if it has a weight twice, as numbers and as bytes with a scale.
    pub fn of_file(file: Arc<TensorFile>) -> Result<Self> {
        let path = file.path().to_path_buf();
        Self::new(&path, vec![file], |stored| vec![(stored.to_string(), None)])
    }

    /// A tensor by its canonical name.
    ///
    /// `[O, I, 1, 1]` and `[O, I]` count as the same shape: a 1×1 convolution is a linear layer.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if it is missing, has another shape or an element type that weights are
    /// not read from.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>> {
        let Some(slot) = self.tensors.get(name) else {
            let detail = format!("expected {shape:?}, but it is missing");
            let path = self.origin.clone();
            return Err(Error::Tensor { path, tensor: name.to_string(), detail });
        };
        let file = &self.files[slot.file];
        let refuse = |detail: String| {
            let tensor = one_line(&slot.stored_name);
            Err(Error::Tensor { path: file.path().to_path_buf(), tensor, detail })
        };
        let (Some(info), Some(data)) = (file.info(&slot.stored_name), file.data(&slot.stored_name))
        else {
            return refuse("is missing".to_string());
        };
        let Some((stored_shape, bytes)) = self.part_of(slot, data) else {
            let parts = slot.part.map_or(1, |part| part.count);
            let stored = one_line(format_args!("{} {:?}", info.element(), info.shape()));
            return refuse(format!("expected rows that divide by {parts}, got {stored}"));
        };
        if without_unit_axes(&stored_shape) != without_unit_axes(shape) {
            let stored = one_line(format_args!("{stored_shape:?}"));
            return refuse(format!("expected {shape:?}, got {stored}"));
        }
        let Some(stored_type) = info.stored_type() else {
            return refuse(format!("expected floats or blocks of them, got {}", info.element()));
        };
        let scales = match self.scales(slot, stored_type) {
            Ok(scales) => scales,
            Err(detail) => return refuse(detail),
        };
        let name = slot.stored_name.as_str();
        let channels = match stored_shape.as_slice() {
            &[_, inputs, rows, columns] if self.channels_last(slot) => {
                Some([inputs, rows * columns])
            }
            _ => None,
        };
        Ok(StoredTensor::new(name, stored_type, shape, bytes, channels).scaled_by(scales))
    }

    /// Whether a tensor is a convolution's weight whose channels are its fastest axis.
    fn channels_last(&self, slot: &Slot) -> bool {
        let file = &self.files[slot.file];
        let axes = file.info(&slot.stored_name).map(|info| info.shape().len());
        axes == Some(4) && file.text(CONVOLUTIONS_KEY) == Some(CHANNELS_LAST)
    }

    /// Shape, as `[O, I, kH, kW]` where there are four axes, and data of all or a part of a stored
    /// tensor, if its rows divide.
    fn part_of<'a>(&self, slot: &Slot, data: &'a [u8]) -> Option<(Vec<usize>, &'a [u8])> {
        let info = self.files[slot.file].info(&slot.stored_name)?;
        let mut shape = info.shape().to_vec();
        if self.channels_last(slot) {
            shape[1..].rotate_right(1);
        }
        let Some(Part { index, count }) = slot.part else { return Some((shape, data)) };
        let rows = shape.first_mut()?;
        let block_bytes = info.stored_type().map_or(1, StoredType::block_bytes);
        if !rows.is_multiple_of(count) || !data.len().is_multiple_of(count * block_bytes) {
            return None;
        }
        *rows /= count;
        let size = data.len() / count;
        Some((shape, &data[index * size..(index + 1) * size]))
    }

    /// How a tensor is stored, if it is there and weights are read from what it is: old files have
    /// positions as integers beside them.
    pub fn stored_type(&self, name: &str) -> Option<StoredType> {
        let slot = self.tensors.get(name)?;
        self.files[slot.file].info(&slot.stored_name)?.stored_type()
    }

    /// The name that a tensor has in its file.
    pub fn stored_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|slot| slot.stored_name.as_str())
    }

    /// Whether there is a tensor of this canonical name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape that the files have for a tensor, if they have it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let slot = self.tensors.get(name)?;
        let data = self.files[slot.file].data(&slot.stored_name)?;
        self.part_of(slot, data).map(|(shape, _)| shape)
    }

    /// Has devices hold matrices and convolutions of at least 32 outputs in blocks: of
    /// this format, or of the one that [takes its place](Format::for_inputs) where inputs are no
    /// whole blocks. What is no blocks of 32 stays as it is, and so do vectors and tables. So does what the
    /// files have in blocks, or in a [format](StoredType::format) of numbers that takes no more bytes.
    /// With `None`, only what the files have in a format is held in it.
    pub fn quantize(&mut self, format: Option<Format>) {
        self.format = format;
        self.kept = self.kept.take().map(|_| KeptWeights::default());
    }

    /// What [`Checkpoint::quantize`] was given.
    pub fn quantized(&self) -> Option<Format> {
        self.format
    }

    /// Has devices multiply matrices in blocks in this way.
    pub fn multiply_in(&mut self, products: Products) {
        self.products = products;
    }

    /// What is held in blocks, by name.
    pub fn formats(&self) -> BTreeMap<String, Format> {
        let format = |name: &String| Some((name.clone(), self.format(name, &self.shape(name)?)?));
        self.tensors.keys().filter_map(format).collect()
    }

    /// The size of all tensors as they are stored.
    pub fn bytes(&self) -> u64 {
        let size = |slot: &Slot| {
            let info = self.files[slot.file].info(&slot.stored_name);
            let parts = slot.part.map_or(1, |part| part.count as u64);
            info.map_or(0, |info| info.size_bytes() as u64) / parts
        };
        self.tensors.values().map(size).sum()
    }

    /// The file or folder that it comes from, for messages.
    pub fn path(&self) -> &Path {
        &self.origin
    }
}

impl TensorSource for Checkpoint {
    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.tensor(name, shape).map(drop)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.held_values(name, shape)
    }

    fn reader(&self, name: &str, shape: &[usize]) -> Result<Option<Reader>> {
        let tensor = self.tensor(name, shape)?;
        let (stored_type, length) = (tensor.stored_type(), tensor.bytes().len());
        let slot = &self.tensors[name];
        // What lies in another order than it is asked for, in blocks, is scaled or rounded, is no range
        // of a file.
        let held = self.held.get(name).is_some_and(|held| *held != stored_type);
        let scaled = !tensor.scales().is_empty();
        if stored_type.block_values() > 1 || self.channels_last(slot) || held || scaled {
            return Ok(None);
        }
        let (file, stored_name) = (Arc::clone(&self.files[slot.file]), slot.stored_name.clone());
        let first = slot.part.map_or(0, |part| part.index * length);
        Ok(Some(Reader::new(move |range| {
            let size = stored_type.block_bytes();
            let part = first + range.start * size..first + range.end * size;
            let bytes = file.read_again(&stored_name, part).expect("a tensor is in its file")?;
            let (name, shape) = (stored_name.as_str(), vec![range.len()]);
            Ok(StoredTensor::new(name, stored_type, &shape, &bytes, None).to_f32())
        })))
    }

    fn format(&self, name: &str, shape: &[usize]) -> Option<Format> {
        let outputs = match *without_unit_axes(shape) {
            [outputs, _] | [outputs, _, _, _] => outputs,
            _ => return None,
        };
        if outputs < LEAST_OUTPUTS {
            return None;
        }
        match (self.held.get(name), self.kept_format(name)) {
            (Some(held), _) => held.format()?.for_inputs(shape[1]),
            (None, None) => self.format?.for_inputs(shape[1]),
            (None, Some(stored)) => {
                let bits = |format: Format| format.block_bytes() * 256 / format.block_values();
                let asked = self.format.and_then(|format| format.for_inputs(shape[1]));
                let numbers = StoredType::from(stored).block_values() == 1;
                Some(asked.filter(|asked| numbers && bits(*asked) < bits(stored)).unwrap_or(stored))
            }
        }
    }

    fn table_format(&self, name: &str) -> Option<Format> {
        match self.held.get(name) {
            Some(&StoredType::Blocks(format)) => Some(format),
            Some(_) => None,
            // Numbers are widened: of a table, few are read.
            None => {
                self.kept_format(name).filter(|format| StoredType::from(*format).block_values() > 1)
            }
        }
    }

    fn blocks(&self, name: &str, shape: &[usize], format: Format) -> Result<Vec<u8>> {
        match self.kept_format(name) == Some(format) {
            true => self.kept_blocks(name, shape),
            false => self.held_blocks(name, shape, format),
        }
    }

    fn blocks_again(
        &self,
        name: &str,
        shape: &[usize],
        format: Format,
    ) -> Result<Option<BlocksReader>> {
        match self.kept_format(name) == Some(format) {
            true => self.kept_again(name, shape).map(Some),
            false => Ok(None),
        }
    }

    fn kept(&self) -> Option<&KeptWeights> {
        self.kept.as_ref()
    }

    fn products(&self) -> Products {
        self.products
    }

    fn stored(&self, name: &str) -> Option<(Format, &[u8])> {
        let slot = self.tensors.get(name)?;
        // Scales of bytes are elsewhere.
        let format = self.kept_format(name).filter(|format| *format != Format::I8)?;
        let (shape, bytes) = self.part_of(slot, self.files[slot.file].data(&slot.stored_name)?)?;
        (shape.len() == 2 || self.channels_last(slot)).then_some((format, bytes))
    }
}

/// A shape of more than two axes without the ones at its end.
fn without_unit_axes(mut shape: &[usize]) -> &[usize] {
    while let [rest @ .., 1] = shape
        && rest.len() >= 2
    {
        shape = rest;
    }
    shape
}
