//! The gated perceptron of a transformer block.

use super::{Linear, Loader};
use crate::Result;
use crate::ops;
use crate::tensor::Tensor;

/// y = (h · gelu(g)) W₂^T + bias + residual, where h and g are the halves of x W₁^T + bias.
///
/// Reference: `FeedForward` with `GEGLU` in diffusers' `models/attention.py`.
#[derive(Debug)]
pub struct FeedForward {
    widen: Linear,
    narrow: Linear,
}

impl FeedForward {
    /// Four times as wide within as `channels`; names as diffusers has them.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn load(loader: &Loader, channels: usize) -> Result<Self> {
        let inner = 4 * channels;
        Ok(Self {
            widen: Linear::load(&loader.at("net.0.proj"), channels, 2 * inner)?,
            narrow: Linear::load(&loader.at("net.2"), inner, channels)?,
        })
    }

    /// `x` `[.., channels]`; the result is added to `residual` of the same shape.
    ///
    /// # Errors
    ///
    /// Those of [`ops::gemm()`] and [`ops::geglu`].
    pub fn forward(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        let wide = self.widen.forward(&x)?;
        drop(x);
        let gated = ops::geglu(&wide)?;
        drop(wide);
        let narrow = self.narrow.added_to(&gated, residual)?;
        drop(gated);
        // Where what is wide lies in bands, so does what is made of it, and all that follows, in
        // as many launches.
        narrow.joined()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::TensorSource;
    use crate::{DType, Device, DeviceOptions};

    /// Values in -0.5..0.5 that differ from their neighbours.
    struct Sawtooth;

    impl TensorSource for Sawtooth {
        fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
            Ok(())
        }

        fn read(&self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            let value = |index: usize| (index * 37 % 101) as f32 / 101.0 - 0.5;
            Ok((0..shape.iter().product()).map(value).collect())
        }
    }

    #[test]
    fn what_is_wide_may_lie_in_bands_without_those_that_follow() {
        let shape = [2, 40, 32];
        let forward = |device: &Device| {
            let loader = Loader::new(device, DType::F32, &Sawtooth);
            let layer = FeedForward::load(&loader, 32).unwrap();
            let x = Sawtooth.read("x", &shape).unwrap();
            let x = Tensor::from_slice(device, &shape, DType::F32, &x).unwrap();
            layer.forward(x.clone(), &x).unwrap()
        };
        // The widest tensor takes 80 KiB, what it is made of and made into 10 KiB.
        let max_allocation_bytes = Some(33 << 10);
        let options = DeviceOptions { max_allocation_bytes, ..DeviceOptions::default() };
        let [whole, banded] = [Device::cpu(), Device::cpu_with(&options)].map(|d| forward(&d));
        assert_eq!(banded.bands().len(), 1);
        assert!(banded.to_vec().unwrap() == whole.to_vec().unwrap());
    }
}
