//! f8_e5m2: numbers of 8 bits, with a sign, 5 bits of exponent and 2 of fraction: the upper half of
//! an f16.

use half::f16;

use super::f8::Fields;

const FIELDS: Fields = Fields { fraction_bits: 2, bias: 15, largest: 57344.0 };

/// The number that a byte stands for.
pub(crate) fn number(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    values.iter_mut().zip(block).for_each(|(value, byte)| *value = number(*byte));
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    block.iter_mut().zip(values).for_each(|(byte, value)| *byte = FIELDS.nearest(*value));
}
