//! Weights in the form that kernels read.

use std::ops::Deref;

use rayon::prelude::*;

use crate::backend::Buffer;
use crate::device::Device;
use crate::memory::{Block, HostBlock, Lifetime, zeros};
use crate::tensor::write_bytes;
use crate::{DType, Error, Result};

/// The number of outputs in a panel, `PANEL` in the kernels.
///
/// A multiple of every vector width and a whole cache line of f16.
pub const PANEL: usize = 32;

/// A linear layer's or convolution's weight, repacked once for the device.
///
/// Panels of [`PANEL`] outputs: `[ceil(N / PANEL)][K][PANEL]`, zero where N ends. K runs over
/// (row, column, channel) of a convolution's window, channels contiguous. A register tile reads
/// one panel from front to back; a work-group reads its rows as whole cache lines.
///
/// It is on the device for as long as it lives, or, if it was made while
/// [`Device::offload_weights`] was in force, on the host, and copied to the device just before each
/// use.
#[derive(Debug)]
pub struct Weights {
    place: Place,
    dtype: DType,
    outputs: usize,
    inputs: usize,
}

#[derive(Debug)]
enum Place {
    Resident(Block),
    Offloaded(Device, HostBlock),
}

/// What ops check of a weight, whole or in pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub outputs: usize,
    pub inputs: usize,
    pub dtype: DType,
}

/// A weight on the device: its own block, or a copy until this is dropped.
#[derive(Debug)]
pub(crate) enum OnDevice<'a> {
    Resident(&'a Block),
    Copied(Block),
}

impl Deref for OnDevice<'_> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            OnDevice::Resident(block) => block.buffer(),
            OnDevice::Copied(block) => block.buffer(),
        }
    }
}

impl Weights {
    /// The weight of a linear layer, `[N, K]` row-major as in files. `read` is not called on a
    /// dry run.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::Shape`] if it gives another number of values;
    /// [`Error::OutOfMemory`].
    pub fn linear(
        device: &Device,
        dtype: DType,
        [outputs, inputs]: [usize; 2],
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        Self::conv2d(device, dtype, [outputs, inputs, 1, 1], read)
    }

    /// The weight of a convolution, `[O, I, kH, kW]` row-major as in files. `read` is not called
    /// on a dry run.
    ///
    /// # Errors
    ///
    /// As [`Weights::linear`].
    pub fn conv2d(
        device: &Device,
        dtype: DType,
        [outputs, channels, height, width]: [usize; 4],
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let taps = height * width;
        let inputs = taps * channels;
        let bytes = outputs.next_multiple_of(PANEL) * inputs * dtype.size();
        let produce = || {
            let values = counted(read()?, outputs * inputs)?;
            pack(&values, dtype, outputs, channels, taps)
        };
        let place = match device.offloads(bytes as u64) {
            false => Place::Resident(device.upload(bytes, Lifetime::Resident, produce)?),
            true => {
                let packed = if device.executes() { produce()? } else { Vec::new() };
                let held = device.memory().hold_on_host(packed, bytes as u64);
                Place::Offloaded(device.clone(), held)
            }
        };
        Ok(Self { place, dtype, outputs, inputs })
    }

    /// N, or O.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: input channels times the size of the window.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How the values are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { outputs: self.outputs, inputs: self.inputs, dtype: self.dtype }
    }

    /// The panels on the device, copied there if they are not.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub(crate) fn on_device(&self) -> Result<OnDevice<'_>> {
        match &self.place {
            Place::Resident(block) => Ok(OnDevice::Resident(block)),
            Place::Offloaded(device, held) => Ok(OnDevice::Copied(device.bring(held)?)),
        }
    }
}

/// Values that are as many as expected.
pub(super) fn counted(values: Vec<f32>, expected: usize) -> Result<Vec<f32>> {
    match values.len() {
        got if got == expected => Ok(values),
        got => Err(Error::shape("weights", format!("expected {expected} values, got {got}"))),
    }
}

/// `[O, I, taps]` to panels.
fn pack(
    values: &[f32],
    dtype: DType,
    outputs: usize,
    channels: usize,
    taps: usize,
) -> Result<Vec<u8>> {
    let inputs = channels * taps;
    let panel_bytes = inputs * PANEL * dtype.size();
    let mut packed = zeros(outputs.div_ceil(PANEL) * panel_bytes)?;
    packed.par_chunks_mut(panel_bytes).enumerate().for_each(|(index, bytes)| {
        let first = index * PANEL;
        let mut panel = vec![0.0; inputs * PANEL];
        for output in first..outputs.min(first + PANEL) {
            let row = &values[output * inputs..][..inputs];
            for channel in 0..channels {
                for tap in 0..taps {
                    let k = tap * channels + channel;
                    panel[k * PANEL + output - first] = row[channel * taps + tap];
                }
            }
        }
        write_bytes(&panel, dtype, bytes);
    });
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_holds_the_window_row_by_row_with_channels_contiguous() {
        // Two outputs, two channels, a window of 1 x 3.
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let packed = pack(&values, DType::F32, 2, 2, 3).unwrap();
        let value = |k: usize, output: usize| {
            let start = (k * PANEL + output) * 4;
            f32::from_ne_bytes(packed[start..start + 4].try_into().unwrap())
        };
        assert_eq!((0..6).map(|k| value(k, 0)).collect::<Vec<_>>(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!((0..6).map(|k| value(k, 1)).collect::<Vec<_>>(), [6., 9., 7., 10., 8., 11.]);
        assert_eq!(value(0, 2), 0.0);
    }
}
