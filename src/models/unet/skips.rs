//! What the way down leaves for the way up.

use crate::Result;
use crate::tensor::Tensor;

/// Results of the way down, the last on top, on the device or parked on the host.
#[derive(Debug)]
pub(super) struct Skips {
    tensors: Vec<Tensor>,
    parks: bool,
}

impl Skips {
    pub fn on_device() -> Self {
        Self { tensors: Vec::new(), parks: false }
    }

    pub fn parked() -> Self {
        Self { tensors: Vec::new(), parks: true }
    }

    pub fn push(&mut self, x: &Tensor) -> Result<()> {
        self.tensors.push(if self.parks { x.parked()? } else { x.clone() });
        Ok(())
    }

    pub fn pop(&mut self) -> Result<Tensor> {
        let skip = self.tensors.pop().expect("the up path has a layer for each skip");
        if self.parks { skip.unparked() } else { Ok(skip) }
    }

    /// Height and width of the next one.
    pub fn next_size(&self) -> Option<[usize; 2]> {
        self.tensors.last().map(|skip| [skip.shape()[1], skip.shape()[2]])
    }
}
