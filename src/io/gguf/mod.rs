//! GGUF, version 3: named tensors and typed values in a file, by a reader that trusts nothing.
//!
//! A file is the magic `GGUF`, the version, the numbers of tensors and of values, the values (a key, a
//! type, the value), the tensors (a name, sizes from the fastest axis, a type, an offset) and the data,
//! each tensor's at a multiple of `general.alignment`. All numbers are little-endian. Version 2 is the
//! same.
//!
//! ```
//! use ellesmere::io::gguf::{self, Gguf, NewTensor, Value};
//! use ellesmere::io::tensors::StoredType;
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("a.gguf");
//! let values = [("general.name".to_string(), Value::Text("a".to_string()))];
//! let tensor = NewTensor { name: "x".to_string(), stored: StoredType::F16, shape: vec![2, 3] };
//! gguf::write(&path, &values, &[tensor], |_, data| data.write(&[0; 12]))?;
//! let file = Gguf::open(&path)?;
//! assert_eq!(file.text("general.name"), Some("a"));
//! assert_eq!(file.info("x").unwrap().shape(), [2, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;

use super::mmap::FileBytes;
use super::tensors::{StoredType, Tensors};
use crate::{Format, Result};

mod read;
mod write;

pub use write::{NewTensor, TensorData, write};

/// The first bytes of a file.
pub const MAGIC: &[u8] = b"GGUF";

/// The version that is written.
const VERSION: u32 = 3;

/// The value that says what offsets of data are multiples of.
const ALIGNMENT_KEY: &str = "general.alignment";

/// What they are multiples of where nothing is said.
const ALIGNMENT: u32 = 32;

/// The most axes that a tensor may have.
const MOST_AXES: usize = 4;

/// A type of tensor: its number, its name, and what weights of it are stored as, or the size of an
/// element where weights are not read from it.
struct Element {
    id: u32,
    name: &'static str,
    stored: Result<StoredType, usize>,
}

/// Every type that is read. Others are refused by their number: their sizes are not known.
const ELEMENTS: [Element; 16] = {
    const fn element(id: u32, name: &'static str, stored: Result<StoredType, usize>) -> Element {
        Element { id, name, stored }
    }
    use StoredType::{BF16, Blocks, F16, F32};
    [
        element(0, "F32", Ok(F32)),
        element(1, "F16", Ok(F16)),
        element(2, "Q4_0", Ok(Blocks(Format::Q4_0))),
        element(3, "Q4_1", Ok(Blocks(Format::Q4_1))),
        element(6, "Q5_0", Ok(Blocks(Format::Q5_0))),
        element(7, "Q5_1", Ok(Blocks(Format::Q5_1))),
        element(8, "Q8_0", Ok(Blocks(Format::Q8_0))),
        element(12, "Q4_K", Ok(Blocks(Format::Q4K))),
        element(13, "Q5_K", Ok(Blocks(Format::Q5K))),
        element(14, "Q6_K", Ok(Blocks(Format::Q6K))),
        element(24, "I8", Err(1)),
        element(25, "I16", Err(2)),
        element(26, "I32", Err(4)),
        element(27, "I64", Err(8)),
        element(28, "F64", Err(8)),
        element(30, "BF16", Ok(BF16)),
    ]
};

/// Whether a file can have weights of this type.
pub fn has(stored: StoredType) -> bool {
    ELEMENTS.iter().any(|element| element.stored == Ok(stored))
}

/// A value beside the tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of 8 bits.
    U8(u8),
    /// A number of 8 bits with a sign.
    I8(i8),
    /// A number of 16 bits.
    U16(u16),
    /// A number of 16 bits with a sign.
    I16(i16),
    /// A number of 32 bits.
    U32(u32),
    /// A number of 32 bits with a sign.
    I32(i32),
    /// An IEEE binary32.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Values of one type, as they lie in the file: checked, but not kept as values.
    Array {
        /// The number of their type, as in the file: 8 for texts.
        element: u32,
        /// How many.
        count: u64,
        /// Little-endian, texts each after their length.
        bytes: Vec<u8>,
    },
    /// A number of 64 bits.
    U64(u64),
    /// A number of 64 bits with a sign.
    I64(i64),
    /// An IEEE binary64.
    F64(f64),
}

/// A GGUF file whose header has been read and checked.
#[derive(Debug)]
pub struct Gguf {
    values: BTreeMap<String, Value>,
    tensors: Tensors,
}

impl Gguf {
    /// Maps a file and checks its header; the data is not touched.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) if the file cannot be mapped or is not as the format wants
    /// it, [`Error::Tensor`](crate::Error::Tensor) for what it says about one tensor.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, FileBytes::map(path)?)
    }

    /// The same for bytes that are at hand; `path` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`Gguf::open`].
    pub fn read(path: &Path, bytes: FileBytes) -> Result<Self> {
        let header = read::header(path, &bytes)?;
        let read::Header { values, tensors, data_start } = header;
        let tensors = Tensors { path: path.to_path_buf(), bytes, data_start, tensors };
        Ok(Gguf { values, tensors })
    }

    /// A value by its key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A value that is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Every value, by key.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }
}

impl Deref for Gguf {
    type Target = Tensors;

    fn deref(&self) -> &Tensors {
        &self.tensors
    }
}
