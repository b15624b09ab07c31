//! Element types as they are stored. Arithmetic is f32 whatever the storage.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How an element is stored on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16: storage only, read and written by `vload_half` and `vstore_half_rte`.
    F16,
}

impl DType {
    /// Every type that kernels take, in the order that tests and `clbench list` use.
    pub const ALL: [DType; 2] = [DType::F32, DType::F16];

    /// The size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
        }
    }

    /// The name in files, flags and cache keys.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
        }
    }

    /// Half the distance between 1 and the next value: the relative error of one rounding.
    pub fn rounding(self) -> f32 {
        match self {
            DType::F32 => f32::EPSILON / 2.0,
            DType::F16 => 1.0 / 2048.0,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        DType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| Error::argument("dtype", format!("expected f32 or f16, got {text:?}")))
    }
}
