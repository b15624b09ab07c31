//! Weights of few bits: blocks with scales, as ggml has them, and numbers of 8 and 16 bits.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How a row of weights is stored in blocks: bit for bit as in ggml's `ggml-common.h`, or numbers
/// narrower than a device's own, 32 of which are a block.
///
/// A block covers so many values that follow each other along K. What a device holds is the same
/// numbers in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Bytes, times a scale: 32 values in 34 bytes.
    Q8_0,
    /// 4 bits less 8, times a scale: 32 values in 18 bytes.
    Q4_0,
    /// 4 bits, times a scale, plus a least value: 32 values in 20 bytes.
    Q4_1,
    /// 5 bits less 16, times a scale: 32 values in 22 bytes.
    Q5_0,
    /// 5 bits, times a scale, plus a least value: 32 values in 24 bytes.
    Q5_1,
    /// 4 bits with scales and least values of 6 bits each 32: 256 values in 144 bytes.
    Q4K,
    /// 5 bits with scales and least values of 6 bits each 32: 256 values in 176 bytes.
    Q5K,
    /// 6 bits less 32, with scales of 8 bits each 16: 256 values in 210 bytes.
    Q6K,
    /// The upper half of an f32: 32 values in 64 bytes.
    BF16,
    /// 4 bits of exponent, 3 of fraction, no infinity, `float8_e4m3fn` of PyTorch: 32 values in 32
    /// bytes. No number, `0x7f`, is 480 on devices; nothing that is none gets there.
    F8E4M3,
    /// 5 bits of exponent, 2 of fraction, the upper half of an f16: 32 values in 32 bytes.
    F8E5M2,
    /// Bytes from -127 to 127, times an f32 that all of an output's weights share and that each of their
    /// blocks repeats: 32 values in 36 bytes.
    I8,
}

impl Format {
    /// Every format, in the order that tests and lists use.
    pub const ALL: [Format; 12] = [
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::BF16,
        Format::F8E4M3,
        Format::F8E5M2,
        Format::I8,
    ];

    /// The name in flags, rules and messages.
    pub fn name(self) -> &'static str {
        match self {
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
            Format::Q6K => "q6_k",
            Format::BF16 => "bf16",
            Format::F8E4M3 => "f8_e4m3",
            Format::F8E5M2 => "f8_e5m2",
            Format::I8 => "i8",
        }
    }

    /// Whether its levels are integers, which can be multiplied as bytes.
    pub fn has_integer_levels(self) -> bool {
        !matches!(self, Format::BF16 | Format::F8E4M3 | Format::F8E5M2)
    }

    /// The format for rows of so many inputs: this one if they are whole blocks, else what ggml's
    /// programs take in its place, whose blocks are shorter and have a bit or two more; `None` if
    /// they are no blocks of 32.
    pub fn for_inputs(self, inputs: usize) -> Option<Self> {
        let shorter = match self {
            _ if inputs.is_multiple_of(self.block_values()) => self,
            Format::Q4K => Format::Q5_0,
            Format::Q5K => Format::Q5_1,
            Format::Q6K => Format::Q8_0,
            other => other,
        };
        inputs.is_multiple_of(shorter.block_values()).then_some(shorter)
    }

    /// The values in a block.
    pub fn block_values(self) -> usize {
        match self {
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
            _ => 32,
        }
    }

    /// `FORMAT` in kernels: the number that ggml has for it, in files too, or one over a thousand
    /// where it has none.
    pub fn number(self) -> u32 {
        match self {
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q5_0 => 6,
            Format::Q5_1 => 7,
            Format::Q8_0 => 8,
            Format::Q4K => 12,
            Format::Q5K => 13,
            Format::Q6K => 14,
            Format::BF16 => 30,
            Format::F8E4M3 => 1001,
            Format::F8E5M2 => 1002,
            Format::I8 => 1003,
        }
    }

    /// The format of that [number](Format::number).
    pub fn from_number(number: u32) -> Option<Self> {
        Format::ALL.into_iter().find(|format| format.number() == number)
    }

    /// The bytes that a device holds of a block, whose parts are aligned there: up to 4 more than
    /// a file has.
    pub fn held_bytes(self) -> usize {
        match self {
            Format::Q4K => 148,
            Format::Q5K => 180,
            other => other.block_bytes(),
        }
    }

    /// The bytes of a block, in files that have such blocks.
    pub fn block_bytes(self) -> usize {
        match self {
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
            Format::BF16 => 64,
            Format::F8E4M3 | Format::F8E5M2 => 32,
            Format::I8 => 36,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Format::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            Error::argument("format", format!("expected one of {names}, got {text:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_name_and_gives_way_to_shorter_blocks() {
        for format in Format::ALL {
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        assert_eq!(Format::Q4K.for_inputs(1280), Some(Format::Q4K));
        assert_eq!(Format::Q4K.for_inputs(320), Some(Format::Q5_0));
        assert_eq!(Format::Q8_0.for_inputs(40), None);
        let message = "q3_k".parse::<Format>().unwrap_err().to_string();
        assert!(message.ends_with("f8_e4m3, f8_e5m2, i8, got \"q3_k\""), "{message}");
    }
}
