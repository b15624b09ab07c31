//! What a case runs on.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::device::Device;
use crate::memory::Lifetime;
use crate::nn::encoded;
use crate::ops::{Vocabulary, Weights};
use crate::tensor::Tensor;
use crate::{DType, Error, Format, Result};

/// Sizes by name.
pub type Sizes = BTreeMap<&'static str, usize>;

/// Draws a case's inputs, the same ones on every device.
#[derive(Debug)]
pub struct Inputs<'a> {
    device: &'a Device,
    dtype: DType,
    sizes: &'a Sizes,
    state: Cell<u64>,
}

impl<'a> Inputs<'a> {
    /// Inputs on `device`, stored as `dtype`.
    pub fn new(device: &'a Device, dtype: DType, sizes: &'a Sizes) -> Self {
        Self { device, dtype, sizes, state: Cell::new(1) }
    }

    /// The device that the case runs on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// How the case stores its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The value of one of the case's sizes.
    ///
    /// # Panics
    ///
    /// If the case does not list it: a bug of the case.
    pub fn size(&self, name: &str) -> usize {
        *self.sizes.get(name).unwrap_or_else(|| panic!("the case lists no size {name}"))
    }

    /// Values in -1..1; zeros on a dry run, which looks at none.
    pub fn values(&self, count: usize) -> Vec<f32> {
        if !self.device.executes() {
            return vec![0.0; count];
        }
        let mut state = self.state.get();
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let values = (0..count).map(|_| next()).collect();
        self.state.set(state);
        values
    }

    /// A tensor of values in -1..1, stored as the case's elements are.
    ///
    /// # Errors
    ///
    /// As [`Tensor::from_slice`].
    pub fn tensor(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor_of(shape, self.dtype)
    }

    /// A tensor of values in -1..1, stored as f32: a bias, or what a norm scales by.
    ///
    /// # Errors
    ///
    /// As [`Tensor::from_slice`].
    pub fn floats(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor_of(shape, DType::F32)
    }

    fn tensor_of(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::from_slice(self.device, shape, dtype, &self.values(shape.iter().product()))
    }

    /// The weight of a convolution, `[O, I, kH, kW]`, or with a window of 1 x 1 of a linear layer,
    /// so scaled that the result is about as large as the input; in blocks, if the case lists a
    /// `format` that is the number of one.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for another number; as [`Weights::conv2d`] and [`Weights::blocks`].
    pub fn weights(&self, shape: [usize; 4]) -> Result<Weights> {
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs as f32).sqrt();
        let values = || {
            let values = self.values(shape[0] * inputs);
            Ok(values.into_iter().map(|value| value * scale).collect())
        };
        let Some(format) = self.format()? else {
            return Weights::conv2d(self.device, self.dtype, shape, values);
        };
        Weights::blocks(self.device, format, [shape[0], shape[1], shape[2] * shape[3]], || {
            encoded(values()?, &[shape[0], inputs], format)
        })
    }

    /// A table of tokens' vectors; in blocks, if the case lists a `format` that is the number of one.
    ///
    /// # Errors
    ///
    /// As [`Inputs::weights`].
    pub fn vocabulary(&self, shape: [usize; 2]) -> Result<Vocabulary> {
        let values = || self.values(shape[0] * shape[1]);
        match self.format()? {
            None => {
                let (device, dtype) = (self.device, self.dtype);
                Vocabulary::values(device, Lifetime::Resident, dtype, shape, || Ok(values()))
            }
            Some(format) => {
                Vocabulary::blocks(self.device, Lifetime::Resident, format, shape, || {
                    encoded(values(), &shape, format)
                })
            }
        }
    }

    /// The format that the case lists by its number; `None` for 0.
    fn format(&self) -> Result<Option<Format>> {
        let number = self.sizes.get("format").copied().unwrap_or(0);
        let format = u32::try_from(number).ok().and_then(Format::from_number);
        if number > 0 && format.is_none() {
            let all = Format::ALL.map(|format| format!("{} ({format})", format.number()));
            let detail = format!("expected 0, {}, got {number}", all.join(", "));
            return Err(Error::argument("format", detail));
        }
        Ok(format)
    }
}
