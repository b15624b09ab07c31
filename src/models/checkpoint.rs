//! The weights of one component, by the names that diffusers and transformers use today.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use crate::io::one_line;
use crate::io::safetensors::{SafeTensors, StoredType, TensorInfo};
use crate::nn::TensorSource;
use crate::{Error, Format, Result};

/// One component's tensors, over one or several mapped files.
///
/// Nothing is read until it is asked for, and what nobody asks for costs nothing.
#[derive(Debug)]
pub struct Checkpoint {
    origin: PathBuf,
    files: Vec<Arc<SafeTensors>>,
    tensors: BTreeMap<String, Slot>,
    /// What matrices and convolutions are to be held in.
    format: Option<Format>,
}

/// Where a tensor is: all of a stored one, or one of several equal parts of its rows.
#[derive(Debug)]
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
        files: Vec<Arc<SafeTensors>>,
        mut known_as: impl FnMut(&str) -> Vec<Known>,
    ) -> Result<Self> {
        let mut tensors: BTreeMap<String, Slot> = BTreeMap::new();
        for (file, content) in files.iter().enumerate() {
            for (stored_name, _) in content.iter() {
                for (name, part) in known_as(stored_name) {
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
        Ok(Checkpoint { origin: origin.to_path_buf(), files, tensors, format: None })
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
        let refuse = |detail| {
            let tensor = one_line(&slot.stored_name);
            Err(Error::Tensor { path: file.path().to_path_buf(), tensor, detail })
        };
        let (Some(info), Some(data)) = (file.info(&slot.stored_name), file.data(&slot.stored_name))
        else {
            return refuse("is missing".to_string());
        };
        let Some((stored_shape, bytes)) = part_of(info, data, slot.part) else {
            let parts = slot.part.map_or(1, |part| part.count);
            let stored = one_line(format_args!("{:?}", info.shape()));
            return refuse(format!("expected rows that divide by {parts}, got {stored}"));
        };
        if without_unit_axes(&stored_shape) != without_unit_axes(shape) {
            let stored = one_line(format_args!("{stored_shape:?}"));
            return refuse(format!("expected {shape:?}, got {stored}"));
        }
        let Some(stored_type) = info.stored_type() else {
            return refuse(format!("expected F32, F16 or BF16, got {}", info.element()));
        };
        let name = slot.stored_name.as_str();
        Ok(StoredTensor { name, stored_type, shape: shape.to_vec(), bytes })
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
        let file = &self.files[slot.file];
        let info = file.info(&slot.stored_name)?;
        part_of(info, file.data(&slot.stored_name)?, slot.part).map(|(shape, _)| shape)
    }

    /// Has devices hold matrices and convolutions of at least 32 outputs in blocks: of
    /// this format, or of the one that [takes its place](Format::for_inputs) where inputs are no
    /// whole blocks. What is no blocks of 32 stays as it is, and so do vectors and tables.
    pub fn quantize(&mut self, format: Format) {
        self.format = Some(format);
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
        Ok(self.tensor(name, shape)?.to_f32())
    }

    fn format(&self, name: &str, shape: &[usize]) -> Option<Format> {
        let wanted = || match *without_unit_axes(shape) {
            [outputs, channels] | [outputs, channels, _, _] if outputs >= LEAST_OUTPUTS => {
                self.format?.for_inputs(channels)
            }
            _ => None,
        };
        self.stored(name).map(|(format, _)| format).or_else(wanted)
    }
}

/// Shape and data of a part, if the rows divide.
fn part_of<'a>(
    info: &TensorInfo,
    data: &'a [u8],
    part: Option<Part>,
) -> Option<(Vec<usize>, &'a [u8])> {
    let mut shape = info.shape().to_vec();
    let Some(Part { index, count }) = part else { return Some((shape, data)) };
    let rows = shape.first_mut()?;
    if !rows.is_multiple_of(count) || !data.len().is_multiple_of(count) {
        return None;
    }
    *rows /= count;
    let size = data.len() / count;
    Some((shape, &data[index * size..(index + 1) * size]))
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

/// One tensor in a file: its data as it is stored, and the ways to read it.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    name: &'a str,
    stored_type: StoredType,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    /// The name in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The element type in the file.
    pub fn stored_type(&self) -> StoredType {
        self.stored_type
    }

    /// The shape that was asked for.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn element_count(&self) -> usize {
        self.bytes.len() / self.stored_type.size()
    }

    /// The data, little-endian; it may start at any address.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.element_count()];
        self.read_f32(0..values.len(), &mut values);
        values
    }

    /// All elements as f16, rounded to nearest where they are stored wider. What is beyond 65504
    /// becomes infinite.
    pub fn to_f16(&self) -> Vec<f16> {
        let mut values = vec![f16::ZERO; self.element_count()];
        self.read_f16(0..values.len(), &mut values);
        values
    }

    /// The elements of `range` as f32.
    ///
    /// # Panics
    ///
    /// If `range` is not inside the tensor or `target` is not as long as it.
    pub fn read_f32(&self, range: Range<usize>, target: &mut [f32]) {
        let bytes = self.bytes_of(range, target.len());
        match self.stored_type {
            StoredType::F32 => {
                for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            StoredType::F16 => in_pieces(bytes, |start, piece| {
                let piece = piece.reinterpret_cast::<f16>();
                piece.convert_to_f32_slice(&mut target[start..start + piece.len()]);
            }),
            StoredType::BF16 => {
                for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
        }
    }

    /// The elements of `range` as f16, as [`StoredTensor::to_f16`].
    ///
    /// # Panics
    ///
    /// If `range` is not inside the tensor or `target` is not as long as it.
    pub fn read_f16(&self, range: Range<usize>, target: &mut [f16]) {
        if self.stored_type == StoredType::F16 {
            let bytes = self.bytes_of(range, target.len());
            for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                *value = f16::from_le_bytes(*bytes);
            }
            return;
        }
        let mut wide = [0.0; PIECE];
        for (index, piece) in target.chunks_mut(PIECE).enumerate() {
            let start = range.start + index * PIECE;
            let wide = &mut wide[..piece.len()];
            self.read_f32(start..start + piece.len(), wide);
            piece.convert_from_f32_slice(wide);
        }
    }

    fn bytes_of(&self, range: Range<usize>, length: usize) -> &'a [u8] {
        assert_eq!(range.len(), length, "the target is as long as the range");
        let size = self.stored_type.size();
        &self.bytes[range.start * size..range.end * size]
    }
}

/// A weight of fewer outputs is not worth fewer bits: they are a panel of a device all the same.
const LEAST_OUTPUTS: usize = 32;

/// How many elements are converted at a time.
const PIECE: usize = 1024;

/// Calls `take` with aligned pieces of `bytes` as 16-bit words, and where in elements they start.
fn in_pieces(bytes: &[u8], mut take: impl FnMut(usize, &[u16])) {
    let mut words = [0; PIECE];
    for (index, piece) in bytes.as_chunks().0.chunks(PIECE).enumerate() {
        for (word, bytes) in words.iter_mut().zip(piece) {
            *word = u16::from_le_bytes(*bytes);
        }
        take(index * PIECE, &words[..piece.len()]);
    }
}
