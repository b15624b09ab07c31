//! Arrays as NumPy stores them.

use std::path::Path;

use ellesmere::{Error, Result};

/// What an element is, as NumPy spells it, by its type in OpenCL C: `<f4` for `float*`.
pub fn element(type_name: &str) -> &'static str {
    match type_name.trim_end_matches('*').trim_end_matches(|c: char| c.is_ascii_digit()) {
        "float" => "<f4",
        "half" => "<f2",
        "int" => "<i4",
        "uint" => "<u4",
        "short" => "<i2",
        "ushort" => "<u2",
        "char" => "|i1",
        _ => "|u1",
    }
}

/// Bytes of an element.
pub fn element_bytes(element: &str) -> usize {
    element[2..].parse().expect("a digit")
}

/// Writes a vector of elements.
pub fn write(path: &Path, element: &str, data: &[u8]) -> Result<()> {
    let count = data.len() / element_bytes(element);
    let header = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': ({count},), }}");
    // Magic, version and length are ten bytes; the whole is a multiple of 64 and ends a line.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(length).expect("a short header").to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    bytes.extend_from_slice(&data[..count * element_bytes(element)]);
    std::fs::write(path, bytes).map_err(|error| Error::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_a_multiple_of_64_bytes_and_names_the_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        write(&path, element("float4*"), &[0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 64, 8);
        let header = String::from_utf8_lossy(&bytes[10..bytes.len() - 8]).into_owned();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"));
        assert!(header.ends_with('\n'));
    }
}
