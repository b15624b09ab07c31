//! Weights that may be over the device's largest allocation.

use std::ops::Range;
use std::sync::Arc;

use super::group_norm::Normed;
use super::weights::{Extent, counted, counted_blocks};
use super::{Conv2d, Epilogue, PANEL, Products, Storage, Weights, conv2d, gemm};
use crate::device::{Device, Source};
use crate::tensor::Tensor;
use crate::{DType, Format, Result, quant};

/// A linear layer's or convolution's weight in as few blocks as the device's largest allocation
/// allows: one, or pieces of its outputs, each of whole panels.
///
/// Ops run once for each piece, by the algorithm that they would choose for all outputs, and what
/// they give is put together: the result is that of one block, to the bit. Cloning shares it.
#[derive(Clone, Debug)]
pub struct SplitWeights {
    /// At least one.
    pieces: Vec<Weights>,
}

impl SplitWeights {
    /// As [`Weights::linear`].
    ///
    /// # Errors
    ///
    /// As [`Weights::linear`]; [`Error::Allocation`](crate::Error::Allocation) if not even one panel
    /// fits one allocation.
    pub fn linear(
        device: &Device,
        dtype: DType,
        [outputs, inputs]: [usize; 2],
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        Self::conv2d(device, dtype, [outputs, inputs, 1, 1], read)
    }

    /// As [`Weights::conv2d`].
    ///
    /// # Errors
    ///
    /// As [`SplitWeights::linear`].
    pub fn conv2d(
        device: &Device,
        dtype: DType,
        [outputs, channels, height, width]: [usize; 4],
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let shape = [outputs, channels, height, width];
        Self::conv2d_of(device, dtype, shape, Source::once(read))
    }

    /// As [`SplitWeights::conv2d`], of what may be read again.
    pub(crate) fn conv2d_of(
        device: &Device,
        dtype: DType,
        [outputs, channels, height, width]: [usize; 4],
        source: Source<f32>,
    ) -> Result<Self> {
        let inputs = channels * height * width;
        let storage = Storage::Values(dtype);
        let Some(length) = length(device, storage, outputs, inputs) else {
            let shape = [outputs, channels, height, width];
            let whole = Weights::conv2d_of(device, dtype, shape, source)?;
            return Ok(Self { pieces: vec![whole] });
        };
        let source = source.then(move |values| counted(values, outputs * inputs));
        Self::split(device, outputs, length, inputs, source, |outputs, source| {
            Weights::conv2d_of(device, dtype, [outputs, channels, height, width], source)
        })
    }

    /// As [`Weights::blocks`].
    ///
    /// # Errors
    ///
    /// As [`Weights::blocks`]; [`Error::Allocation`](crate::Error::Allocation) if not even one panel
    /// fits one allocation.
    pub fn blocks(
        device: &Device,
        format: Format,
        [outputs, channels, taps]: [usize; 3],
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        Self::blocks_of(device, format, [outputs, channels, taps], Source::once(read))
    }

    /// As [`SplitWeights::blocks`], of what may be read again.
    pub(crate) fn blocks_of(
        device: &Device,
        format: Format,
        [outputs, channels, taps]: [usize; 3],
        source: Source<u8>,
    ) -> Result<Self> {
        let inputs = channels * taps;
        let Some(length) = length(device, Storage::Blocks(format), outputs, inputs) else {
            let whole = Weights::blocks_of(device, format, [outputs, channels, taps], source)?;
            return Ok(Self { pieces: vec![whole] });
        };
        let row_bytes = quant::bytes(format, inputs)?;
        let source = source.then(move |blocks| counted_blocks(blocks, format, outputs * inputs));
        Self::split(device, outputs, length, row_bytes, source, |outputs, source| {
            Weights::blocks_of(device, format, [outputs, channels, taps], source)
        })
    }

    /// Pieces of `length` outputs each, whose content is rows of `row` elements; `piece` makes one of
    /// so many outputs. All are read at once, and each again by itself.
    fn split<T: Clone + Send + Sync + 'static>(
        device: &Device,
        outputs: usize,
        length: usize,
        row: usize,
        source: Source<T>,
        piece: impl Fn(usize, Source<T>) -> Result<Weights>,
    ) -> Result<Self> {
        let again = source.again();
        let all = match device.executes() {
            true => source.read()?,
            false => Vec::new(),
        };
        let pieces = (0..outputs).step_by(length).map(|start| {
            let end = outputs.min(start + length);
            let range = start * row..end * row;
            let part = |all: &[T], range: Range<usize>| all[range].to_vec();
            let source = Source::once({
                let (all, range) = (&all, range.clone());
                move || Ok(part(all, range))
            });
            let source = match again.clone() {
                None => source,
                Some(read) => source.or_again(Arc::new(move || Ok(part(&read()?, range.clone())))),
            };
            piece(end - start, source)
        });
        Ok(Self { pieces: pieces.collect::<Result<_>>()? })
    }

    /// The same, multiplied in another way.
    pub fn multiplied_in(mut self, products: Products) -> Self {
        self.pieces = self.pieces.into_iter().map(|piece| piece.multiplied_in(products)).collect();
        self
    }

    /// N, or O, of all pieces.
    pub fn outputs(&self) -> usize {
        self.pieces.iter().map(Weights::outputs).sum()
    }

    /// K: input channels times the size of the window.
    pub fn inputs(&self) -> usize {
        self.pieces[0].inputs()
    }

    /// How it is stored on the device.
    pub fn storage(&self) -> Storage {
        self.pieces[0].storage()
    }

    /// The blocks, in the order of the outputs.
    pub fn pieces(&self) -> &[Weights] {
        &self.pieces
    }

    /// A linear layer: see [`gemm()`].
    ///
    /// # Errors
    ///
    /// As [`gemm()`].
    pub fn multiply(&self, x: &Tensor, x2: Option<&Tensor>, epilogue: Epilogue) -> Result<Tensor> {
        if let [whole] = &self.pieces[..] {
            return gemm(x, x2, whole, epilogue);
        }
        gemm::check(x, x2, self.extent(), &epilogue)?;
        let (outputs, info) = (self.outputs(), x.device().info());
        let products = self.pieces[0].products();
        let choose = |problem: &gemm::Problem| {
            gemm::plan(&gemm::Problem { outputs, ..*problem }, products, info)
        };
        self.by_piece(x, epilogue, |piece, epilogue| gemm::compute(x, x2, piece, epilogue, &choose))
    }

    /// A convolution: see [`conv2d()`].
    ///
    /// # Errors
    ///
    /// As [`conv2d()`].
    pub fn convolve(&self, x: &Tensor, params: &Conv2d, epilogue: Epilogue) -> Result<Tensor> {
        let problem = conv2d::check(x, self.extent(), params, &epilogue)?;
        match conv2d::plan_on(&problem, self.storage(), x.device()) {
            conv2d::Algorithm::Pointwise => self.multiply(x, None, epilogue),
            algorithm => self.compute(x, None, problem, epilogue, algorithm),
        }
    }

    /// As [`SplitWeights::convolve`] of what is normalized where it is read.
    pub(crate) fn convolve_normed(
        &self,
        normed: &Normed,
        params: &Conv2d,
        epilogue: Epilogue,
    ) -> Result<Tensor> {
        let x = normed.input();
        let problem = conv2d::check(x, self.extent(), params, &epilogue)?;
        let algorithm = conv2d::plan_on(&problem, self.storage(), x.device());
        self.compute(x, Some(normed), problem, epilogue, algorithm)
    }

    fn compute(
        &self,
        x: &Tensor,
        normed: Option<&Normed>,
        problem: conv2d::Problem,
        epilogue: Epilogue,
        algorithm: conv2d::Algorithm,
    ) -> Result<Tensor> {
        if let [whole] = &self.pieces[..] {
            return conv2d::compute(x, normed, whole, problem, epilogue, algorithm);
        }
        self.by_piece(x, epilogue, |piece, epilogue| {
            let problem = conv2d::Problem { outputs: piece.outputs(), ..problem };
            conv2d::compute(x, normed, piece, problem, epilogue, algorithm)
        })
    }

    fn extent(&self) -> Extent {
        Extent { outputs: self.outputs(), inputs: self.inputs(), storage: self.storage() }
    }

    /// The results of `op` for every piece, whose columns are put beside each other. Each is given
    /// its columns of the bias and of the residual.
    fn by_piece(
        &self,
        x: &Tensor,
        epilogue: Epilogue,
        op: impl Fn(&Weights, Epilogue) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut results = Vec::with_capacity(self.pieces.len());
        let mut start = 0;
        for piece in &self.pieces {
            let outputs: Range<usize> = start..start + piece.outputs();
            let columns =
                |of: Option<&Tensor>| of.map(|tensor| tensor.columns(outputs.clone())).transpose();
            let (bias, residual) = (columns(epilogue.bias)?, columns(epilogue.residual)?);
            let epilogue = Epilogue {
                bias: bias.as_ref(),
                residual: residual.as_ref(),
                activation: epilogue.activation,
            };
            results.push(op(piece, epilogue)?);
            start = outputs.end;
        }
        Tensor::of_columns(&results, x)
    }
}

/// The outputs of a piece, in whole panels; `None` where one block takes all of them.
fn length(device: &Device, storage: Storage, outputs: usize, inputs: usize) -> Option<usize> {
    let panel_bytes = storage.panel_bytes(inputs) as u64;
    let most_panels = device.memory().max_allocation_bytes() / panel_bytes.max(1);
    let panels = outputs.div_ceil(PANEL);
    let count = panels.div_ceil((most_panels as usize).max(1));
    (count > 1).then(|| panels.div_ceil(count) * PANEL)
}
