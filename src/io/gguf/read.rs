//! The header, checked number by number.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ALIGNMENT, ALIGNMENT_KEY, ELEMENTS, MAGIC, MOST_AXES, Value};
use crate::io::one_line;
use crate::io::tensors::TensorInfo;
use crate::{Error, Result};

/// The longest header that is read: whole vocabularies take a tenth of it.
const HEADER_LIMIT_BYTES: usize = 100_000_000;

/// The most bytes of a key or a name: what the format allows a key.
const NAME_LIMIT_BYTES: usize = 65_535;

pub(super) struct Header {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) data_start: usize,
}

pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let refuse = |detail: String| Error::file(path, detail);
    let mut cursor = Cursor { bytes: &bytes[..bytes.len().min(HEADER_LIMIT_BYTES)], at: 0 };
    if !bytes.starts_with(MAGIC) {
        return Err(refuse("expected a GGUF file, got another".to_string()));
    }
    cursor.at = MAGIC.len();
    let version = cursor.u32().map_err(refuse)?;
    if !(2..=3).contains(&version) {
        let detail = format!("expected version 2 or 3 of GGUF, got {version}");
        return Err(refuse(detail));
    }
    let tensor_count = cursor.u64().map_err(refuse)?;
    let value_count = cursor.u64().map_err(refuse)?;

    let mut values = BTreeMap::new();
    for index in 0..value_count {
        let key = cursor.name().map_err(|detail| refuse(format!("key {index}: {detail}")))?;
        let refuse = |detail: String| refuse(format!("key {}: {detail}", one_line(key)));
        let value = cursor.value().map_err(refuse)?;
        if values.insert(key.to_string(), value).is_some() {
            return Err(refuse("is there twice".to_string()));
        }
    }
    let alignment = match values.get(ALIGNMENT_KEY) {
        None => ALIGNMENT,
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => *alignment,
        Some(other) => {
            let other = one_line(format_args!("{other:?}"));
            let detail =
                format!("key {ALIGNMENT_KEY}: expected a power of two as u32, got {other}");
            return Err(refuse(detail));
        }
    };

    let mut tensors = BTreeMap::new();
    for index in 0..tensor_count {
        let name = cursor.name().map_err(|detail| refuse(format!("tensor {index}: {detail}")))?;
        let refuse = |detail| {
            Err(Error::Tensor { path: path.to_path_buf(), tensor: one_line(name), detail })
        };
        let info = match cursor.tensor(alignment as usize) {
            Ok(info) => info,
            Err(detail) => return refuse(detail),
        };
        if tensors.insert(name.to_string(), info).is_some() {
            return refuse("is there twice".to_string());
        }
    }

    // A file without data may end before the padding that would lead to it.
    let data_start = cursor.at.next_multiple_of(alignment as usize).min(bytes.len());
    let data_bytes = bytes.len() - data_start;
    for (name, info) in &tensors {
        let end = info.data.end;
        if end > data_bytes {
            let detail = format!("truncated: its data ends at {end} B of {data_bytes} B");
            let tensor = one_line(name);
            return Err(Error::Tensor { path: path.to_path_buf(), tensor, detail });
        }
    }
    Ok(Header { values, tensors, data_start })
}

/// A place in the header, and what comes from there on, or what is wrong with it.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.at..];
        let Some(taken) = usize::try_from(length).ok().and_then(|length| left.get(..length)) else {
            let at = self.at;
            return Err(if self.bytes.len() == HEADER_LIMIT_BYTES {
                format!("expected a header of at most {HEADER_LIMIT_BYTES} B, got more at {at} B")
            } else {
                format!("truncated: expected {length} B at {at} B, got {} B", left.len())
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N as u64).map(|bytes| bytes.try_into().expect("as long as was asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            format!("expected UTF-8 text, got another byte at {} of it", error.valid_up_to())
        })
    }

    /// A key, or a tensor's name.
    fn name(&mut self) -> Result<&'a str, String> {
        let name = self.text()?;
        if name.len() > NAME_LIMIT_BYTES {
            let length = name.len();
            return Err(format!("expected a name of at most {NAME_LIMIT_BYTES} B, got {length} B"));
        }
        Ok(name)
    }

    fn value(&mut self) -> Result<Value, String> {
        Ok(match self.u32()? {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [byte @ (0 | 1)] => Value::Bool(byte == 1),
                [byte] => return Err(format!("expected 0 or 1, got {byte}")),
            },
            8 => Value::Text(self.text()?.to_string()),
            9 => self.values()?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("expected a type of 0 to 12, got {other}")),
        })
    }

    /// An array: every element checked, none kept apart.
    fn values(&mut self) -> Result<Value, String> {
        let element = self.u32()?;
        let count = self.u64()?;
        let start = self.at;
        let size = match element {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    self.text()?;
                }
                0
            }
            9 => return Err("expected an array of numbers or texts, got one of arrays".to_string()),
            other => return Err(format!("expected an array of type 0 to 12, got {other}")),
        };
        let size = size_of_all(count, size)?;
        self.take(size)?;
        Ok(Value::Array { element, count, bytes: self.bytes[start..self.at].to_vec() })
    }

    /// What follows a tensor's name.
    fn tensor(&mut self, alignment: usize) -> Result<TensorInfo, String> {
        let axes = self.u32()? as usize;
        if axes > MOST_AXES {
            return Err(format!("expected at most {MOST_AXES} axes, got {axes}"));
        }
        let mut shape = Vec::with_capacity(axes);
        for _ in 0..axes {
            shape.push(self.u64()?);
        }
        let id = self.u32()?;
        let offset = self.u64()?;
        shape.reverse();
        let Some(element) = ELEMENTS.iter().find(|element| element.id == id) else {
            return Err(format!("expected a known type, got number {id}"));
        };
        let (values, bytes) = match element.stored {
            Ok(stored) => (stored.block_values(), stored.block_bytes()),
            Err(bytes) => (1, bytes),
        };
        let inner = shape.last().copied().unwrap_or(1);
        if !inner.is_multiple_of(values as u64) {
            let name = element.name;
            return Err(format!("expected rows of a multiple of {values} for {name}, got {inner}"));
        }
        let sized = || {
            let sizes = shape.iter().map(|&size| usize::try_from(size).ok());
            let sizes: Vec<usize> = sizes.collect::<Option<_>>()?;
            let count = sizes.iter().try_fold(1, |count: usize, &size| count.checked_mul(size))?;
            let size = (count / values).checked_mul(bytes)?;
            let start = usize::try_from(offset).ok()?;
            Some((sizes, start..start.checked_add(size)?))
        };
        let Some((sizes, data)) = sized() else {
            return Err(format!("expected sizes that fit in memory, got {shape:?} at {offset} B"));
        };
        if !data.start.is_multiple_of(alignment) {
            return Err(format!("expected data at a multiple of {alignment} B, got {offset} B"));
        }
        Ok(TensorInfo { element: element.name, stored: element.stored.ok(), shape: sizes, data })
    }
}

fn size_of_all(count: u64, size: u64) -> Result<u64, String> {
    let bytes = count.checked_mul(size);
    bytes.ok_or_else(|| format!("expected an array that fits in memory, got {count} values"))
}

#[cfg(test)]
mod tests {
    use super::super::Gguf;
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A file with these values and tensors, and 64 bytes of data.
    fn file(values: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
        let counts = [tensors.len() as u64, values.len() as u64].map(u64::to_le_bytes).concat();
        let mut bytes = [b"GGUF", &3u32.to_le_bytes()[..], &counts].concat();
        bytes.extend(values.concat());
        bytes.extend(tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + 64, 0);
        bytes
    }

    fn value(key: &str, kind: u32, bytes: &[u8]) -> Vec<u8> {
        [text(key), kind.to_le_bytes().to_vec(), bytes.to_vec()].concat()
    }

    fn tensor(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let mut bytes = text(name);
        bytes.extend((sizes.len() as u32).to_le_bytes());
        bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::read(Path::new("a.gguf"), bytes.into())
    }

    #[test]
    fn each_defect_is_named() {
        let one = |tensor: Vec<u8>| file(&[], &[tensor]);
        let with = |value: Vec<u8>| file(&[value], &[]);
        let mut version = file(&[], &[]);
        version[4] = 1;
        let mut many = file(&[], &[]);
        many[8..16].fill(0xff);
        many.truncate(24);
        let most = u64::MAX.to_le_bytes();
        let array = |kind: u32, count: [u8; 8]| [&kind.to_le_bytes()[..], &count].concat();
        let cases = [
            ("another format", b"GGML....".to_vec(), "expected a GGUF file, got another"),
            (
                "nothing after the magic",
                b"GGUF".to_vec(),
                "truncated: expected 4 B at 4 B, got 0 B",
            ),
            ("the first version", version, "expected version 2 or 3 of GGUF, got 1"),
            ("counts", many, "tensor 0: truncated: expected 8 B at 24 B, got 0 B"),
            (
                "a type of tomorrow",
                one(tensor("x", &[32], 77, 0)),
                "tensor x: expected a known type, got number 77",
            ),
            ("axes", one(tensor("x", &[1; 5], 0, 0)), "tensor x: expected at most 4 axes, got 5"),
            (
                "sizes that overflow",
                one(tensor("x", &[1 << 33, 1 << 33], 0, 0)),
                "tensor x: expected sizes that fit in memory, got [8589934592, 8589934592] at 0 B",
            ),
            (
                "part of a block",
                one(tensor("x", &[48, 2], 8, 0)),
                "tensor x: expected rows of a multiple of 32 for Q8_0, got 48",
            ),
            (
                "not aligned",
                one(tensor("x", &[4], 0, 16)),
                "tensor x: expected data at a multiple of 32 B, got 16 B",
            ),
            (
                "past the end",
                one(tensor("x", &[9], 0, 32)),
                "tensor x: truncated: its data ends at 68 B of 64 B",
            ),
            (
                "an offset that overflows",
                one(tensor("x", &[8], 0, u64::MAX - 31)),
                "tensor x: expected sizes that fit",
            ),
            (
                "twice",
                file(&[], &[tensor("x", &[4], 0, 0), tensor("x", &[4], 0, 32)]),
                "tensor x: is there twice",
            ),
            (
                "a key twice",
                file(&[value("k", 0, &[1]), value("k", 0, &[1])], &[]),
                "key k: is there twice",
            ),
            ("a value", with(value("k", 13, &[])), "key k: expected a type of 0 to 12, got 13"),
            ("a truth", with(value("k", 7, &[2])), "key k: expected 0 or 1, got 2"),
            (
                "text",
                with(value("k", 8, &most)),
                "key k: truncated: expected 18446744073709551615 B",
            ),
            (
                "no text",
                with(value("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])),
                "key k: expected UTF-8 text, got another byte at 0 of it",
            ),
            ("arrays", with(value("k", 9, &array(9, most))), "key k: expected an array of numbers"),
            (
                "an array",
                with(value("k", 9, &array(10, most))),
                "key k: expected an array that fits in memory, got 18446744073709551615 values",
            ),
            (
                "alignment",
                with(value("general.alignment", 4, &[48, 0, 0, 0])),
                "key general.alignment: expected a power of two as u32, got U32(48)",
            ),
        ];
        for (why, bytes, expected) in cases {
            let message = read(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{why}: {message}");
            assert!(message.starts_with("a.gguf: ") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn alignment_moves_the_data() {
        let alignment = value("general.alignment", 4, &64u32.to_le_bytes());
        let mut bytes = file(&[alignment], &[tensor("x", &[2], 26, 0)]);
        // The header ends at 90 B: at a multiple of 32 the data would begin at 96.
        bytes.resize(192, 0);
        bytes[128..].fill(7);
        let read = read(bytes).unwrap();
        assert_eq!(read.info("x").unwrap().stored_type(), None);
        assert_eq!((read.tensors.data_start, read.data("x").unwrap()), (128, &[7; 8][..]));
    }
}
