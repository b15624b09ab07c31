//! Files, tensor by tensor.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::{ALIGNMENT, ALIGNMENT_KEY, ELEMENTS, MAGIC, MOST_AXES, VERSION, Value};
use crate::io::tensors::StoredType;
use crate::io::{atomic, one_line};
use crate::{Error, Result};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// The name, of any length.
    pub name: String,
    /// How its values are stored; blocks lie along the last axis.
    pub stored: StoredType,
    /// The shape, slowest axis first: four axes at most.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// The size of its data, if the shape is whole blocks.
    pub fn size_bytes(&self) -> Option<usize> {
        let inner = self.shape.last().copied().unwrap_or(1);
        let count = self.shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size))?;
        inner.is_multiple_of(self.stored.block_values()).then(|| self.stored.bytes(count))?
    }
}

/// Takes a tensor's data, in as many pieces as it comes.
pub struct TensorData<'a> {
    path: &'a Path,
    file: &'a mut dyn Write,
    written: usize,
}

impl TensorData<'_> {
    /// The next bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        let failed = |error| Error::file(self.path, format!("cannot be written: {error}"));
        self.file.write_all(bytes).map_err(failed)
    }
}

/// Writes a file, whole or not at all: `data` is asked for each tensor's, by its index and in order.
///
/// # Errors
///
/// [`Error::File`] if it cannot be written, or a key comes twice; [`Error::Tensor`] for a tensor whose
/// shape is not whole blocks, that has data of another size, or whose name comes twice; and whatever
/// `data` returns. Nothing is left behind then.
pub fn write(
    path: &Path,
    values: &[(String, Value)],
    tensors: &[NewTensor],
    mut data: impl FnMut(usize, &mut TensorData<'_>) -> Result<()>,
) -> Result<()> {
    let (header, sizes) = header(path, values, tensors)?;
    let mut failure = None;
    let written = atomic::write(path, |file| {
        file.write_all(&header)?;
        for (index, (tensor, size)) in tensors.iter().zip(&sizes).enumerate() {
            let mut target = TensorData { path, file, written: 0 };
            let mut result = data(index, &mut target);
            let got = target.written;
            if result.is_ok() && got != *size {
                let detail = format!("expected {size} B of data, got {got} B");
                result = Err(refuse(path, tensor, detail));
            }
            if let Err(error) = result {
                failure = Some(error);
                return Err(io::Error::other("no data"));
            }
            file.write_all(&vec![0; padding(*size)])?;
        }
        Ok(())
    });
    failure.map_or(written, Err)
}

/// Everything before the data, and the size of each tensor's.
fn header(
    path: &Path,
    values: &[(String, Value)],
    tensors: &[NewTensor],
) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    let mut keys = BTreeSet::new();
    for (key, value) in values {
        if !keys.insert(key) || key == ALIGNMENT_KEY {
            let detail = format!("key {}: expected once, and no alignment", one_line(key));
            return Err(Error::file(path, detail));
        }
        put_text(&mut bytes, key);
        put_value(&mut bytes, value);
    }
    let mut names = BTreeSet::new();
    let mut sizes = Vec::new();
    let mut offset = 0_usize;
    for tensor in tensors {
        let shape = &tensor.shape;
        let element = ELEMENTS.iter().find(|element| element.stored == Ok(tensor.stored));
        let (Some(element), Some(size)) = (element, tensor.size_bytes()) else {
            let detail = format!("{} {shape:?} cannot be written: not whole blocks", tensor.stored);
            return Err(refuse(path, tensor, detail));
        };
        if !names.insert(&tensor.name) {
            return Err(refuse(path, tensor, "is there twice".to_string()));
        }
        if shape.len() > MOST_AXES {
            let detail = format!("expected at most {MOST_AXES} axes, got {shape:?}");
            return Err(refuse(path, tensor, detail));
        }
        put_text(&mut bytes, &tensor.name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        bytes.extend(shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        bytes.extend(element.id.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset = offset.checked_add(size + padding(size)).expect("a file of fewer than 2^64 B");
        sizes.push(size);
    }
    bytes.resize(bytes.len() + padding(bytes.len()), 0);
    Ok((bytes, sizes))
}

fn refuse(path: &Path, tensor: &NewTensor, detail: String) -> Error {
    Error::Tensor { path: path.to_path_buf(), tensor: one_line(&tensor.name), detail }
}

/// What follows `size` bytes, up to the next place where data may start.
fn padding(size: usize) -> usize {
    size.next_multiple_of(ALIGNMENT as usize) - size
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, value: &[u8]| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    };
    match value {
        Value::U8(value) => put(0, &value.to_le_bytes()),
        Value::I8(value) => put(1, &value.to_le_bytes()),
        Value::U16(value) => put(2, &value.to_le_bytes()),
        Value::I16(value) => put(3, &value.to_le_bytes()),
        Value::U32(value) => put(4, &value.to_le_bytes()),
        Value::I32(value) => put(5, &value.to_le_bytes()),
        Value::F32(value) => put(6, &value.to_le_bytes()),
        Value::Bool(value) => put(7, &[u8::from(*value)]),
        Value::Text(text) => {
            put(8, &[]);
            put_text(bytes, text);
        }
        Value::Array { element, count, bytes: values } => {
            put(9, &element.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(values);
        }
        Value::U64(value) => put(10, &value.to_le_bytes()),
        Value::I64(value) => put(11, &value.to_le_bytes()),
        Value::F64(value) => put(12, &value.to_le_bytes()),
    }
}
