//! What a case runs on.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::device::Device;
use crate::ops::Weights;
use crate::tensor::Tensor;
use crate::{DType, Result};

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
    /// so scaled that the result is about as large as the input.
    ///
    /// # Errors
    ///
    /// As [`Weights::conv2d`].
    pub fn weights(&self, shape: [usize; 4]) -> Result<Weights> {
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs as f32).sqrt();
        Weights::conv2d(self.device, self.dtype, shape, || {
            let values = self.values(shape[0] * inputs);
            Ok(values.into_iter().map(|value| value * scale).collect())
        })
    }
}
