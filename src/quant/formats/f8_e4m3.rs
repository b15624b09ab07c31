//! f8_e4m3: numbers of 8 bits, with a sign, 4 bits of exponent and 3 of fraction; the last of each
//! sign is no number, and none is infinite.

use super::f8::Fields;

const FIELDS: Fields = Fields { fraction_bits: 3, bias: 7, largest: 448.0 };

/// The number that a byte stands for.
pub(crate) fn number(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let value = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

pub(in crate::quant) fn decode(block: &[u8], values: &mut [f32]) {
    values.iter_mut().zip(block).for_each(|(value, byte)| *value = number(*byte));
}

pub(in crate::quant) fn encode(values: &[f32], block: &mut [u8]) {
    block.iter_mut().zip(values).for_each(|(byte, value)| *byte = FIELDS.nearest(*value));
}
