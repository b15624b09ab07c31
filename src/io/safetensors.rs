//! Safetensors: named tensors in a file, by a reader that trusts nothing.
//!
//! A file is eight bytes (the header's length, little-endian), the header (JSON: a name, an
//! element type, a shape and two offsets for each tensor) and the data. The `safetensors` crate
//! writes files here; reading is done again because its reader names neither the tensor nor what
//! was expected, and takes the last of two tensors of one name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::tensors::Tensors;
pub use super::tensors::{StoredType, TensorInfo};
use super::{atomic, mmap::FileBytes, one_line};
use crate::{Error, Result};

/// The longest header that is read: what the `safetensors` crate allows.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// The most axes that a tensor may have; convolutions over video have five.
const MOST_AXES: usize = 8;

/// The header's length field.
const LENGTH_BYTES: usize = 8;

/// Every element type that the format knows, with its width in bits.
const ELEMENTS: [(&str, usize); 20] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("C64", 64),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

/// A safetensors file whose header has been read and checked.
#[derive(Debug)]
pub struct SafeTensors {
    tensors: Tensors,
}

impl SafeTensors {
    /// Maps a file and checks its header; the data is not touched.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be mapped or its header is not as the format wants it,
    /// [`Error::Tensor`] for what the header says about one tensor.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, FileBytes::map(path)?)
    }

    /// The same for bytes that are at hand; `path` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`SafeTensors::open`].
    pub fn read(path: &Path, bytes: FileBytes) -> Result<Self> {
        let header = header_of(path, &bytes)?;
        let data_start = LENGTH_BYTES + header.len();
        let header: Header = serde_json::from_slice(header).map_err(|error| {
            Error::file(path, format!("the header is not readable: {}", one_line(error)))
        })?;
        let tensors = check(path, header, bytes.len() - data_start)?;
        Ok(SafeTensors {
            tensors: Tensors { path: path.to_path_buf(), bytes, data_start, tensors },
        })
    }
}

impl Deref for SafeTensors {
    type Target = Tensors;

    fn deref(&self) -> &Tensors {
        &self.tensors
    }
}

/// The header's bytes, if the file is as long as it says.
fn header_of<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let refuse = |detail: String| Err(Error::file(path, detail));
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return refuse(format!("expected a safetensors file, got {} B", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT_BYTES {
        return refuse(format!(
            "expected a safetensors header of at most {HEADER_LIMIT_BYTES} B, got {length} B"
        ));
    }
    if length > rest.len() as u64 {
        return refuse(format!(
            "truncated: the header should be {length} B, the file has {} B after its length",
            rest.len()
        ));
    }
    Ok(&rest[..length as usize])
}

/// Checks every entry by itself and all together: the data must be covered exactly once.
fn check(path: &Path, header: Header, data_bytes: usize) -> Result<BTreeMap<String, TensorInfo>> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.0 {
        let refuse = |detail: String| refuse_tensor(path, &name, detail);
        let info = entry.check().map_err(refuse)?;
        if info.data.end > data_bytes {
            return Err(refuse_tensor(
                path,
                &name,
                format!("truncated: its data ends at {} B of {data_bytes} B", info.data.end),
            ));
        }
        if tensors.contains_key(&name) {
            return Err(refuse_tensor(path, &name, "is there twice".to_string()));
        }
        tensors.insert(name, info);
    }
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| (info.data.start, info.data.end));
    let mut end = 0;
    for (name, info) in in_order {
        let start = info.data.start;
        if start != end {
            let what =
                if start < end { "overlaps the one before" } else { "leaves a gap before it" };
            let detail = format!("{what}: expected its data at {end} B, got {start} B");
            return Err(refuse_tensor(path, name, detail));
        }
        end = info.data.end;
    }
    if end != data_bytes {
        let detail =
            format!("expected {end} B of tensor data after the header, got {data_bytes} B");
        return Err(Error::file(path, detail));
    }
    Ok(tensors)
}

fn refuse_tensor(path: &Path, name: &str, detail: String) -> Error {
    Error::Tensor { path: path.to_path_buf(), tensor: one_line(name), detail }
}

/// The header as it is written: in order, with every repeated name.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value().map_err(|error| {
                        M::Error::custom(format_args!("tensor {}: {error}", one_line(&name)))
                    })?;
                    entries.push((name, entry));
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// One tensor as the header has it.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A shape of at most [`MOST_AXES`] sizes: a list of millions is refused before it is kept.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Sizes;

    impl<'de> Visitor<'de> for Sizes {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a shape of at most {MOST_AXES} axes")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Vec<u64>, S::Error> {
            let mut sizes = Vec::new();
            while let Some(size) = list.next_element()? {
                if sizes.len() == MOST_AXES {
                    return Err(S::Error::invalid_length(MOST_AXES + 1, &self));
                }
                sizes.push(size);
            }
            Ok(sizes)
        }
    }

    deserializer.deserialize_seq(Sizes)
}

impl Entry {
    /// The entry with its own numbers checked, or what is wrong with it.
    fn check(self) -> Result<TensorInfo, String> {
        let Some(element) = ELEMENTS.iter().position(|(name, _)| *name == self.dtype) else {
            return Err(format!("expected a known element type, got {}", one_line(&self.dtype)));
        };
        let [start, end] = self.data_offsets;
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
            return Err(format!("expected offsets in the file, got {start} B to {end} B"));
        };
        if end < start {
            return Err(format!(
                "expected its data to end after it starts, got {start} B to {end} B"
            ));
        }
        let shape: Option<Vec<usize>> =
            self.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let sized = shape.and_then(|shape| {
            let count =
                shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size))?;
            let bits = count.checked_mul(ELEMENTS[element].1)?;
            Some((shape, bits))
        });
        let Some((shape, bits)) = sized else {
            let sizes = one_line(format_args!("{:?}", self.shape));
            return Err(format!("expected a shape that fits in memory, got {sizes}"));
        };
        let sizes = || one_line(format_args!("{} {shape:?}", self.dtype));
        if !bits.is_multiple_of(8) {
            return Err(format!("expected whole bytes, got {}: {bits} bits", sizes()));
        }
        if bits / 8 != end - start {
            let given = end - start;
            return Err(format!("{} is {} B, its offsets give {given} B", sizes(), bits / 8));
        }
        let stored = match self.dtype.as_str() {
            "F32" => Some(StoredType::F32),
            "F16" => Some(StoredType::F16),
            "BF16" => Some(StoredType::BF16),
            "F8_E4M3" => Some(StoredType::F8E4M3),
            "F8_E5M2" => Some(StoredType::F8E5M2),
            "I8" => Some(StoredType::I8),
            _ => None,
        };
        Ok(TensorInfo { element: ELEMENTS[element].0, stored, shape, data: start..end })
    }
}

/// A tensor to be written: name, element type, shape and little-endian data.
pub type NewTensor<'a> = (&'a str, StoredType, &'a [usize], &'a [u8]);

/// Writes a safetensors file, whole or not at all.
///
/// # Errors
///
/// [`Error::File`] if it cannot be written, [`Error::Tensor`] if the data is not as long as
/// element type and shape say, or a name comes twice.
pub fn write<'a>(path: &Path, tensors: impl IntoIterator<Item = NewTensor<'a>>) -> Result<()> {
    let mut views = BTreeMap::new();
    for (name, stored, shape, data) in tensors {
        let element = match stored {
            StoredType::F32 => safetensors::Dtype::F32,
            StoredType::F16 => safetensors::Dtype::F16,
            StoredType::BF16 => safetensors::Dtype::BF16,
            StoredType::F8E4M3 => safetensors::Dtype::F8_E4M3,
            StoredType::F8E5M2 => safetensors::Dtype::F8_E5M2,
            StoredType::I8 => safetensors::Dtype::I8,
            StoredType::Blocks(format) => {
                let detail = format!("{format} cannot be written: safetensors has no blocks");
                return Err(refuse_tensor(path, name, detail));
            }
        };
        let view = safetensors::tensor::TensorView::new(element, shape.to_vec(), data);
        let view = view.map_err(|_| {
            let detail = format!("expected the data of {stored} {shape:?}, got {} B", data.len());
            refuse_tensor(path, name, detail)
        })?;
        if views.insert(name, view).is_some() {
            return Err(refuse_tensor(path, name, "is there twice".to_string()));
        }
    }
    let bytes = safetensors::serialize(views, None).map_err(|error| {
        Error::file(path, format!("cannot be written: {}", one_line(format_args!("{error}"))))
    })?;
    atomic::write(path, |file| std::io::Write::write_all(file, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), data].concat()
    }

    fn message(bytes: Vec<u8>) -> String {
        SafeTensors::read(Path::new("a.safetensors"), bytes.into()).unwrap_err().to_string()
    }

    #[test]
    fn each_defect_of_a_header_is_named() {
        let cases = [
            (
                "tensor x",
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#,
                "F32 [1] is 4 B, its offsets give 8 B",
            ),
            (
                "a file of another format",
                "[1]",
                "the header is not readable: invalid type: sequence, expected an object of tensors by name at line 1 column 0",
            ),
            (
                "no shape",
                r#"{"x":{"dtype":"F32","data_offsets":[0,8]}}"#,
                "tensor x: missing field `shape`",
            ),
            (
                "a negative size",
                r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#,
                "tensor x: invalid value: integer `-1`, expected u64",
            ),
            (
                "an element type of tomorrow",
                r#"{"x":{"dtype":"F2","shape":[8],"data_offsets":[0,8]}}"#,
                "tensor x: expected a known element type, got F2",
            ),
            (
                "past the end",
                r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
                "tensor x: truncated: its data ends at 16 B of 8 B",
            ),
            (
                "backwards",
                r#"{"x":{"dtype":"F32","shape":[0],"data_offsets":[8,0]}}"#,
                "expected its data to end after it starts, got 8 B to 0 B",
            ),
            (
                "overflow",
                r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                "expected a shape that fits in memory, got [4294967296, 4294967296]",
            ),
            (
                "a name twice",
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                "tensor x: is there twice",
            ),
            (
                "overlap",
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                "tensor y: overlaps the one before: expected its data at 8 B, got 4 B",
            ),
            (
                "a gap",
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                "tensor x: leaves a gap before it: expected its data at 0 B, got 4 B",
            ),
            (
                "bytes left over",
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                "expected 4 B of tensor data after the header, got 8 B",
            ),
            (
                "half a byte",
                r#"{"x":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}}"#,
                "expected whole bytes, got F4 [15]: 60 bits",
            ),
        ];
        for (why, header, expected) in cases {
            let message = message(file(header, &[0; 8]));
            assert!(message.contains(expected), "{why}: {message}");
            assert!(message.starts_with("a.safetensors: "), "{why}: {message}");
        }
    }

    #[test]
    fn a_shape_without_end_is_refused() {
        let axes = "1,".repeat(1_000_000);
        let header = format!(r#"{{"x":{{"dtype":"F32","shape":[{axes}1],"data_offsets":[0,4]}}}}"#);
        let message = message(file(&header, &[0; 4]));
        let expected = "tensor x: invalid length 9, expected a shape of at most 8 axes";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_file_that_ends_early_or_claims_too_much_is_refused() {
        let cases = [
            (vec![], "expected a safetensors file, got 0 B"),
            (vec![0; 7], "expected a safetensors file, got 7 B"),
            (vec![0; 8], "the header is not readable: EOF while parsing a value"),
            (vec![1, 0, 0, 0, 0, 0, 0, 0], "the header should be 1 B, the file has 0 B"),
            (vec![0xff; 16], "header of at most 100000000 B, got 18446744073709551615 B"),
            (file(&"[".repeat(100_000), &[]), "the header is not readable"),
        ];
        for (bytes, expected) in cases {
            let message = message(bytes);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn other_element_types_are_carried_but_are_not_weights() {
        let header = r#"{"__metadata__":{"format":"pt"},"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let bytes = file(header, &[0; 8]);
        let read = SafeTensors::read(Path::new("a"), bytes.into()).unwrap();
        let info = read.info("ids").unwrap();
        assert_eq!((info.element(), info.stored_type(), info.shape()), ("I64", None, &[1][..]));
        assert_eq!(read.data("ids"), Some(&[0; 8][..]));
    }
}
