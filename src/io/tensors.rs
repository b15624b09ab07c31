//! Named tensors in a file, of whichever kind it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use super::gguf::{self, Gguf};
use super::mmap::FileBytes;
use super::safetensors::SafeTensors;
use crate::{Error, Format, Result};

/// How weights are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoredType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 4 bits of exponent, 3 of fraction, no infinity: `float8_e4m3fn` of PyTorch.
    F8E4M3,
    /// 5 bits of exponent, 2 of fraction: the upper half of a binary16.
    F8E5M2,
    /// Bytes with a sign, which stand for something only with a scale that is beside them.
    I8,
    /// Blocks of few bits, along the fastest axis.
    Blocks(Format),
}

impl StoredType {
    /// The values that are stored together: 1, or a block's.
    pub fn block_values(self) -> usize {
        match self {
            StoredType::Blocks(format) => format.block_values(),
            _ => 1,
        }
    }

    /// The bytes that [`StoredType::block_values`] take.
    pub fn block_bytes(self) -> usize {
        match self {
            StoredType::F32 => 4,
            StoredType::F16 | StoredType::BF16 => 2,
            StoredType::F8E4M3 | StoredType::F8E5M2 | StoredType::I8 => 1,
            StoredType::Blocks(format) => format.block_bytes(),
        }
    }

    /// The bytes of so many values, if they are whole blocks and fit in memory.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let whole = values.is_multiple_of(self.block_values());
        whole.then(|| (values / self.block_values()).checked_mul(self.block_bytes()))?
    }

    /// The format in which devices can hold such values as they are, if there is one.
    pub fn format(self) -> Option<Format> {
        match self {
            StoredType::F32 | StoredType::F16 => None,
            StoredType::BF16 => Some(Format::BF16),
            StoredType::F8E4M3 => Some(Format::F8E4M3),
            StoredType::F8E5M2 => Some(Format::F8E5M2),
            StoredType::I8 => Some(Format::I8),
            StoredType::Blocks(format) => Some(format),
        }
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            StoredType::F32 => "f32",
            StoredType::F16 => "f16",
            StoredType::BF16 => "bf16",
            StoredType::F8E4M3 => "f8_e4m3",
            StoredType::F8E5M2 => "f8_e5m2",
            StoredType::I8 => "i8",
            StoredType::Blocks(format) => format.name(),
        }
    }
}

impl From<Format> for StoredType {
    /// What a file has for it: numbers by themselves, or its blocks.
    fn from(format: Format) -> Self {
        match format {
            Format::BF16 => StoredType::BF16,
            Format::F8E4M3 => StoredType::F8E4M3,
            Format::F8E5M2 => StoredType::F8E5M2,
            Format::I8 => StoredType::I8,
            blocks => StoredType::Blocks(blocks),
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a file says about one tensor, after every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) element: &'static str,
    pub(super) stored: Option<StoredType>,
    pub(super) shape: Vec<usize>,
    pub(super) data: Range<usize>,
}

impl TensorInfo {
    /// The element type as the file's format spells it, such as `F16` or `I64`.
    pub fn element(&self) -> &'static str {
        self.element
    }

    /// The element type, if it is one that weights are read from.
    pub fn stored_type(&self) -> Option<StoredType> {
        self.stored
    }

    /// The shape, slowest axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The size of the data.
    pub fn size_bytes(&self) -> usize {
        self.data.len()
    }
}

/// The tensors of a file whose header has been read and checked: what every kind of file has.
#[derive(Debug)]
pub struct Tensors {
    pub(super) path: PathBuf,
    pub(super) bytes: FileBytes,
    pub(super) data_start: usize,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Tensors {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the header says about a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The data of a tensor, if the file has it.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        let info = self.tensors.get(name)?;
        self.bytes[self.data_start..].get(info.data.clone())
    }

    /// A part of the data of a tensor, read from the file as it is now; `None` if the file does not
    /// have the tensor, or not so much of it.
    ///
    /// # Errors
    ///
    /// As [`FileBytes::read_again`].
    pub fn read_again(&self, name: &str, part: Range<usize>) -> Option<Result<Cow<'_, [u8]>>> {
        let start = self.data_start + self.tensors.get(name)?.data.start;
        self.data(name)?.get(part.clone())?;
        Some(self.bytes.read_again(&self.path, start + part.start..start + part.end))
    }

    /// Every tensor, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }
}

/// A file of tensors whose header has been read and checked.
#[derive(Debug)]
pub enum TensorFile {
    /// `.safetensors`.
    SafeTensors(SafeTensors),
    /// `.gguf`.
    Gguf(Gguf),
}

impl TensorFile {
    /// Maps a file and checks its header; its first bytes tell which kind it is.
    ///
    /// # Errors
    ///
    /// As [`SafeTensors::open`] and [`Gguf::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, FileBytes::map(path)?)
    }

    /// The same for bytes that are at hand; `path` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`TensorFile::open`].
    pub fn read(path: &Path, bytes: FileBytes) -> Result<Self> {
        if bytes.starts_with(gguf::MAGIC) {
            return Gguf::read(path, bytes).map(TensorFile::Gguf);
        }
        if path.extension().is_some_and(|extension| extension == "gguf") {
            return Err(Error::file(path, "expected a GGUF file, got another"));
        }
        SafeTensors::read(path, bytes).map(TensorFile::SafeTensors)
    }

    /// A text beside the tensors, which only GGUF has.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self {
            TensorFile::SafeTensors(_) => None,
            TensorFile::Gguf(file) => file.text(key),
        }
    }
}

impl Deref for TensorFile {
    type Target = Tensors;

    fn deref(&self) -> &Tensors {
        match self {
            TensorFile::SafeTensors(file) => file,
            TensorFile::Gguf(file) => file,
        }
    }
}
