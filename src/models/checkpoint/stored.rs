//! One tensor of a file, and the ways to read it.

use std::ops::Range;

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use crate::io::tensors::StoredType;
use crate::{Format, quant};

/// One tensor in a file: its data as it is stored, and the ways to read it.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    name: &'a str,
    stored_type: StoredType,
    shape: Vec<usize>,
    bytes: &'a [u8],
    /// The inputs and the pixels of a convolution that is stored as `[O, kH, kW, I]`.
    channels_last: Option<[usize; 2]>,
    /// What numbers are multiplied by: one for each output, one for all, or none.
    scales: Vec<f32>,
}

/// How many values of a convolution are decoded at a time, before their order is changed.
const GROUP: usize = 1 << 18;

impl<'a> StoredTensor<'a> {
    pub(super) fn new(
        name: &'a str,
        stored_type: StoredType,
        shape: &[usize],
        bytes: &'a [u8],
        channels_last: Option<[usize; 2]>,
    ) -> Self {
        Self { name, stored_type, shape: shape.to_vec(), bytes, channels_last, scales: Vec::new() }
    }

    pub(super) fn scaled_by(self, scales: Vec<f32>) -> Self {
        Self { scales, ..self }
    }

    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The name in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// How it is stored in the file.
    pub fn stored_type(&self) -> StoredType {
        self.stored_type
    }

    /// The shape that was asked for.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn element_count(&self) -> usize {
        self.bytes.len() / self.stored_type.block_bytes() * self.stored_type.block_values()
    }

    /// The data as it is in the file, little-endian; it may start at any address.
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

    /// The elements of `range` as f32, in the order of [`StoredTensor::shape`].
    ///
    /// # Panics
    ///
    /// If `range` is not inside the tensor or `target` is not as long as it.
    pub fn read_f32(&self, range: Range<usize>, target: &mut [f32]) {
        assert_eq!(range.len(), target.len(), "the target is as long as the range");
        self.read_numbers(range.clone(), target);
        if self.scales.is_empty() || target.is_empty() {
            return;
        }
        let row = self.element_count() / self.scales.len();
        for (at, value) in range.zip(target) {
            *value *= self.scales[at / row];
        }
    }

    /// The same before it is scaled.
    fn read_numbers(&self, range: Range<usize>, target: &mut [f32]) {
        let Some([inputs, pixels]) = self.channels_last else {
            return self.read_stored(range, target);
        };
        let size = inputs * pixels;
        if target.is_empty() {
            return;
        }
        let outputs = range.start / size..range.end.div_ceil(size);
        let mut stored = Vec::new();
        for first in outputs.clone().step_by((GROUP / size).max(1)) {
            let group = first * size..((first + (GROUP / size).max(1)).min(outputs.end)) * size;
            stored.resize(group.len(), 0.0);
            self.read_stored(group.clone(), &mut stored);
            let wanted = group.start.max(range.start)..group.end.min(range.end);
            let target = &mut target[wanted.start - range.start..wanted.end - range.start];
            for (value, at) in target.iter_mut().zip(wanted.start - group.start..) {
                let (output, within) = (at / size, at % size);
                *value = stored[output * size + within % pixels * inputs + within / pixels];
            }
        }
    }

    /// The elements of `range` as f16, as [`StoredTensor::to_f16`].
    ///
    /// # Panics
    ///
    /// If `range` is not inside the tensor or `target` is not as long as it.
    pub fn read_f16(&self, range: Range<usize>, target: &mut [f16]) {
        assert_eq!(range.len(), target.len(), "the target is as long as the range");
        if (self.stored_type, self.channels_last) == (StoredType::F16, None) {
            let bytes = &self.bytes[range.start * 2..range.end * 2];
            for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                *value = f16::from_le_bytes(*bytes);
            }
            return;
        }
        let mut wide = vec![0.0; range.len()];
        self.read_f32(range, &mut wide);
        target.convert_from_f32_slice(&wide);
    }

    /// The elements of `range` as they follow each other in the file.
    fn read_stored(&self, range: Range<usize>, target: &mut [f32]) {
        if let StoredType::Blocks(format) = self.stored_type {
            return self.read_blocks(format, range, target);
        }
        let size = self.stored_type.block_bytes();
        let bytes = &self.bytes[range.start * size..range.end * size];
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
            StoredType::F8E4M3 => of_bytes(bytes, target, quant::f8_e4m3),
            StoredType::F8E5M2 => of_bytes(bytes, target, quant::f8_e5m2),
            StoredType::I8 => of_bytes(bytes, target, |byte| f32::from(byte as i8)),
            StoredType::Blocks(_) => unreachable!("blocks are read above"),
        }
    }

    fn read_blocks(&self, format: Format, range: Range<usize>, target: &mut [f32]) {
        let block = format.block_values();
        let blocks = range.start / block..range.end.div_ceil(block);
        let size = format.block_bytes();
        let bytes = &self.bytes[blocks.start * size..blocks.end * size];
        let decode = |values: &mut [f32]| {
            quant::decode(format, bytes, values).expect("whole blocks");
        };
        if target.len() == blocks.len() * block {
            return decode(target);
        }
        let mut values = vec![0.0; blocks.len() * block];
        decode(&mut values);
        let start = range.start - blocks.start * block;
        target.copy_from_slice(&values[start..start + target.len()]);
    }
}

/// Each byte as the number that it is.
fn of_bytes(bytes: &[u8], target: &mut [f32], number: impl Fn(u8) -> f32) {
    for (value, byte) in target.iter_mut().zip(bytes) {
        *value = number(*byte);
    }
}

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
