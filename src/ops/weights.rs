//! Weights in the form that kernels read.

use std::sync::Arc;

use crate::device::{Device, Home, OnDevice, Source};
use crate::ops::panels;
use crate::{DType, Error, Format, Result, quant};

/// The number of outputs in a panel, `PANEL` in the kernels.
///
/// A multiple of every vector width and a whole cache line of f16.
pub const PANEL: usize = 32;

/// A linear layer's or convolution's weight, repacked once for the device.
///
/// Panels of [`PANEL`] outputs: `[ceil(N / PANEL)][K][PANEL]`, zero where N ends. K runs over
/// (row, column, channel) of a convolution's window, channels contiguous. A register tile reads
/// one panel from front to back; a work-group reads its rows as whole cache lines. Or, of weights in
/// few bits, panels of blocks, which kernels decode as they read them: see `kernels/quant/`.
///
/// It is on the device, or, if it was made while [`Device::offload_weights`] was in force, on the
/// host or in its file, and copied to the device just before each use. A pipeline that runs out of
/// memory may move it to the host later. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Weights {
    home: Arc<Home>,
    storage: Storage,
    products: Products,
    outputs: usize,
    inputs: usize,
}

/// How a weight is stored on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Values, each by itself: as the activations that it is multiplied with.
    Values(DType),
    /// Blocks of few bits, for activations of any type.
    Blocks(Format),
}

/// How a weight in blocks is multiplied with more than a few rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// As numbers: blocks are decoded, sums are f32.
    #[default]
    F32,
    /// In bytes: rows are rounded to signed bytes with a scale for each 32 of them, as ggml's q8_0
    /// has it, half to even; products of bytes are added up as integers, exactly, and scaled once a
    /// block. All devices round alike. Quicker where a device multiplies bytes quicker than floats: on a
    /// CPU with AVX-512 VNNI about twice. With AVX2 alone it takes a quarter longer, and through PoCL ten
    /// times as long.
    ///
    /// It is asked for and not chosen, for it is another picture: of q8_0's 52.9 dB to pictures of f32 it
    /// leaves 49.7 (120 pictures of the demo model), of q4_0's 31.7 nothing is lost. A call of SD 1.5's
    /// UNet in q8_0 at 512x512 takes 5.8 s instead of 7.1 on two cores of Zen 4. Convolutions of more
    /// than a pixel stay as they are: by Winograd's algorithm those of 3x3 are as quick in floats as
    /// directly in bytes.
    Int8,
}

impl Storage {
    /// The bytes of a panel of so many inputs.
    pub(super) fn panel_bytes(self, inputs: usize) -> usize {
        match self {
            Storage::Values(dtype) => inputs * PANEL * dtype.size(),
            Storage::Blocks(format) => inputs / format.block_values() * format.held_bytes() * PANEL,
        }
    }

    /// What a kernel that reads it is specialised by.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Storage::Values(_) => None,
            Storage::Blocks(format) => Some(format),
        }
    }
}

/// What ops check of a weight, whole or in pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub outputs: usize,
    pub inputs: usize,
    pub storage: Storage,
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
        let shape = [outputs, channels, height, width];
        Self::conv2d_of(device, dtype, shape, Source::once(read))
    }

    /// As [`Weights::conv2d`], of what may be read again.
    pub(super) fn conv2d_of(
        device: &Device,
        dtype: DType,
        [outputs, channels, height, width]: [usize; 4],
        source: Source<f32>,
    ) -> Result<Self> {
        let taps = height * width;
        let (inputs, storage) = (taps * channels, Storage::Values(dtype));
        let packed = source.then(move |values| {
            let values = counted(values, outputs * inputs)?;
            panels::of_values(&values, dtype, outputs, channels, taps)
        });
        Self::pack(device, storage, [outputs, inputs], packed)
    }

    /// The weight of a linear layer, or of a convolution with a window of `taps` pixels, in blocks:
    /// O rows of blocks as files have them, each over (row, column, channel) of the window. `read`
    /// is not called on a dry run.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::Shape`] if it gives another number of bytes, or if `channels` are no
    /// whole number of blocks; [`Error::OutOfMemory`].
    pub fn blocks(
        device: &Device,
        format: Format,
        [outputs, channels, taps]: [usize; 3],
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        Self::blocks_of(device, format, [outputs, channels, taps], Source::once(read))
    }

    /// As [`Weights::blocks`], of what may be read again.
    pub(super) fn blocks_of(
        device: &Device,
        format: Format,
        [outputs, channels, taps]: [usize; 3],
        source: Source<u8>,
    ) -> Result<Self> {
        whole_blocks("weights", format, channels)?;
        let inputs = taps * channels;
        let packed = source.then(move |rows| {
            let rows = counted_blocks(rows, format, outputs * inputs)?;
            panels::of_blocks(&rows, format, outputs, inputs)
        });
        Self::pack(device, Storage::Blocks(format), [outputs, inputs], packed)
    }

    fn pack(
        device: &Device,
        storage: Storage,
        [outputs, inputs]: [usize; 2],
        packed: Source<u8>,
    ) -> Result<Self> {
        let bytes = outputs.div_ceil(PANEL) * storage.panel_bytes(inputs);
        let home = Home::new(device, bytes, packed)?;
        let products = Products::default();
        Ok(Self { home, storage, products, outputs, inputs })
    }

    /// The same, multiplied in another way. What is stored as values, or in a format of numbers that
    /// are no integers times a scale, is multiplied as such all the same.
    pub fn multiplied_in(mut self, products: Products) -> Self {
        if self.storage.format().is_some_and(Format::has_integer_levels) {
            self.products = products;
        }
        self
    }

    /// How it is multiplied.
    pub fn products(&self) -> Products {
        self.products
    }

    /// N, or O.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: input channels times the size of the window.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How it is stored on the device.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The size of its panels.
    pub fn bytes(&self) -> usize {
        self.outputs.div_ceil(PANEL) * self.storage.panel_bytes(self.inputs)
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { outputs: self.outputs, inputs: self.inputs, storage: self.storage }
    }

    /// The panels on the device, copied there if they are not.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub(crate) fn on_device(&self) -> Result<OnDevice> {
        self.home.on_device()
    }
}

/// Checks that channels are a whole number of blocks.
pub(super) fn whole_blocks(op: &'static str, format: Format, channels: usize) -> Result<()> {
    let values = format.block_values();
    if channels.is_multiple_of(values) {
        return Ok(());
    }
    let detail = format!("{format} takes a multiple of {values} channels, got {channels}");
    Err(Error::shape(op, detail))
}

/// Values that are as many as expected.
pub(super) fn counted(values: Vec<f32>, expected: usize) -> Result<Vec<f32>> {
    match values.len() {
        got if got == expected => Ok(values),
        got => Err(Error::shape("weights", format!("expected {expected} values, got {got}"))),
    }
}

/// Blocks of so many values.
pub(super) fn counted_blocks(blocks: Vec<u8>, format: Format, values: usize) -> Result<Vec<u8>> {
    match (blocks.len(), quant::bytes(format, values)?) {
        (got, expected) if got == expected => Ok(blocks),
        (got, expected) => {
            Err(Error::shape("weights", format!("expected {expected} B of {format}, got {got} B")))
        }
    }
}
