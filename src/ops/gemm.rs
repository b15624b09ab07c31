//! Linear layers.

use crate::device::{Call, arguments};
use crate::info::DeviceInfo;
use crate::ops::epilogue::is_output_bias;
use crate::ops::tiles::{Tile, local_tiling, register_tiling};
use crate::ops::{Epilogue, PANEL, Weights};
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{Error, Result};

const _: () = assert!(PANEL == crate::backend::cpu::PANEL);

/// The sizes that decide how a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// M: rows of x and of the result.
    pub rows: usize,
    /// N: outputs of the weight.
    pub outputs: usize,
    /// K: inputs of the weight.
    pub inputs: usize,
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `gemm_register`: a work-item holds a large tile in wide vectors.
    RegisterTiles,
    /// `gemm_local`: a work-group shares tiles in local memory.
    LocalTiles,
}

/// The algorithm for a product on a device.
pub fn plan(_problem: &Problem, info: &DeviceInfo) -> Algorithm {
    if info.prefers_register_tiles() { Algorithm::RegisterTiles } else { Algorithm::LocalTiles }
}

/// A linear layer: `activation(x W^T + bias) + residual`.
///
/// With `x2`, x is `x ++ x2` along the last axis: a concatenation that is never stored.
///
/// # Shapes
///
/// - `x`: `[.., K]`; with `x2`, `[.., K1]` and `[.., K2]` with `K1 + K2 = K`
/// - `weights`: N outputs, K inputs; stored as `x` is
/// - bias: `[N]`, f32
/// - residual: the result's shape and element type
/// - result: `[.., N]`, of the element type of `x`
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above; [`Error::OutOfMemory`], [`Error::Build`],
/// [`Error::Device`].
///
/// # Precision
///
/// Sums and the epilogue are f32 for every element type; the result is rounded once.
pub fn gemm(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let shape = check(x, x2, weights, &epilogue)?;
    if let [.., _, _, _] = *shape {
        return run(x, x2, weights, epilogue);
    }
    // Bands lie along the second axis, which must be one of rows.
    let rows = |tensor: &Tensor| {
        let columns = tensor.shape()[tensor.shape().len() - 1];
        tensor.reshape(&[1, tensor.shape().iter().product::<usize>() / columns, columns])
    };
    let x2 = x2.map(rows).transpose()?;
    let residual = epilogue.residual.map(rows).transpose()?;
    let epilogue = Epilogue { residual: residual.as_ref(), ..epilogue };
    run(&rows(x)?, x2.as_ref(), weights, epilogue)?.reshape(&shape)
}

/// The result's shape.
fn check(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    epilogue: &Epilogue,
) -> Result<Vec<usize>> {
    let shape_error = |detail| Err(Error::shape("gemm", detail));
    let [leading @ .., columns] = x.shape() else {
        return shape_error("x must be [.., K], got no axes".to_owned());
    };
    let (inputs, outputs) = (weights.inputs(), weights.outputs());
    match x2.map(|x2| (x2, x2.shape())) {
        None if *columns != inputs => {
            return shape_error(format!("x must be [.., {inputs}], got {:?}", x.shape()));
        }
        Some((x2, [leading2 @ .., columns2]))
            if leading2 != leading || columns + columns2 != inputs || x2.dtype() != x.dtype() =>
        {
            let (first, second) = (x.shape(), x2.shape());
            return shape_error(format!(
                "x and x2 must be [.., K1] and [.., K2] of one type with K1 + K2 = {inputs}, got \
                 {first:?} {} and {second:?} {}",
                x.dtype(),
                x2.dtype(),
            ));
        }
        Some((_, [])) => return shape_error("x2 must be [.., K2], got no axes".to_owned()),
        _ => (),
    }
    if let Some(bias) = epilogue.bias.filter(|bias| !is_output_bias(bias, outputs)) {
        let (shape, dtype) = (bias.shape(), bias.dtype());
        return shape_error(format!("bias must be [{outputs}] f32, got {shape:?} {dtype}"));
    }
    let shape: Vec<usize> = leading.iter().copied().chain([outputs]).collect();
    epilogue.check("gemm", x, weights, &shape)?;
    Ok(shape)
}

/// As [`gemm`], of checked tensors with at least three axes.
fn run(x: &Tensor, x2: Option<&Tensor>, weights: &Weights, epilogue: Epilogue) -> Result<Tensor> {
    let device = x.device();
    let (columns, inputs, outputs) =
        (x.shape()[x.shape().len() - 1], weights.inputs(), weights.outputs());
    let mut shape = x.shape().to_vec();
    shape[x.shape().len() - 1] = outputs;
    let y = Tensor::empty_like(x, &shape, x.dtype())?;
    for band in y.bands() {
        let rows = y.elements(&band) / outputs;
        let (kernel, tile): (_, Tile) =
            match plan(&Problem { rows, outputs, inputs }, device.info()) {
                Algorithm::RegisterTiles => ("gemm_register", register_tiling),
                Algorithm::LocalTiles => ("gemm_local", local_tiling),
            };
        let class = Class(vec![("rows", rows), ("outputs", outputs), ("inputs", inputs)]);
        let tiling = tile(device, kernel, x.dtype(), &class);
        let x_band = x.band(&band)?;
        let x2_band = x2.map(|x2| x2.band(&band)).transpose()?;
        let residual_band = epilogue.residual.map(|tensor| tensor.band(&band)).transpose()?;
        device.run(&Call {
            kernel,
            dtype: x.dtype(),
            configuration: &tiling.configuration,
            arguments: &arguments! {
                x: &*x_band,
                x2: x2_band.as_deref(),
                weights: weights.buffer(),
                bias: epilogue.bias.map(Tensor::buffer),
                residual: residual_band.as_deref(),
                y: Output(y.output(&band)),
                rows: rows as u32,
                outputs: outputs as u32,
                inputs: inputs as u32,
                columns: columns as u32,
                batch: 1u32,
                activation: epilogue.activation as u32,
            },
            groups: tiling.groups,
            local: tiling.local,
            flop: 2 * (rows * outputs) as u64 * inputs as u64,
            bytes: ((rows * (inputs + outputs) + outputs * inputs) * x.dtype().size()) as u64,
        })?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::DeviceKind;
    use crate::ops::tiles::tests::{cpu, gpu};

    #[test]
    fn a_cpu_takes_register_tiles_and_a_gpu_takes_local_ones() {
        let layers = [
            ("unet attention, 64x64", Problem { rows: 4096, outputs: 320, inputs: 320 }),
            ("unet feed-forward, 16x16", Problem { rows: 256, outputs: 10240, inputs: 1280 }),
            ("time embedding", Problem { rows: 1, outputs: 1280, inputs: 320 }),
            ("text encoder", Problem { rows: 77, outputs: 768, inputs: 768 }),
        ];
        for (layer, problem) in layers {
            assert_eq!(plan(&problem, &cpu(16)), Algorithm::RegisterTiles, "{layer}");
            assert_eq!(plan(&problem, &gpu()), Algorithm::LocalTiles, "{layer}");
        }
        let scalar = DeviceInfo { kind: DeviceKind::Cpu, ..gpu() };
        assert_eq!(plan(&layers[0].1, &scalar), Algorithm::LocalTiles, "work-items are lanes");
    }
}
