//! Values as they are stored.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::DType;

/// `values` as they are stored.
pub(crate) fn to_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    write_bytes(values, dtype, &mut bytes);
    bytes
}

/// Writes `values` to `bytes` as they are stored.
pub(crate) fn write_bytes(values: &[f32], dtype: DType, bytes: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = value.to_ne_bytes();
            }
        }
        DType::F16 => {
            // In runs that stay in the first cache: rounding many at once is several times faster.
            let mut halves = [f16::ZERO; 256];
            for (values, bytes) in values.chunks(256).zip(bytes.chunks_mut(512)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
                    *bytes = half.to_ne_bytes();
                }
            }
        }
    }
}

/// The values of `bytes`.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|chunk| f32::from_ne_bytes(*chunk)).collect(),
        DType::F16 => {
            let halves = bytes.as_chunks().0.iter();
            halves.map(|chunk| f16::from_ne_bytes(*chunk).to_f32()).collect()
        }
    }
}
