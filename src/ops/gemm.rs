//! Linear layers.

use crate::backend::Buffer;
use crate::device::{Call, Device, Grid, Tunable, arguments};
use crate::info::{DeviceInfo, DeviceKind};
use crate::kernel::Configuration;
use crate::memory::{Block, Lifetime};
use crate::ops::epilogue::is_output_bias;
use crate::ops::matrix_tiles::matrix_tiling;
use crate::ops::tiles::{
    Tiling, format_class, local_tiling, most_local_groups, panel_tiling, register_tiling,
    split_tiling,
};
use crate::ops::weights::Extent;
use crate::ops::{Epilogue, PANEL, Products, Weights};
use crate::tensor::{BandBuffer, Tensor};
use crate::tune::Class;
use crate::{DType, Error, Format, Result};

mod int8;

const _: () = assert!(PANEL == crate::backend::cpu::PANEL);

/// What decides how a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// M: rows of x and of the result.
    pub rows: usize,
    /// N: outputs of the weight.
    pub outputs: usize,
    /// K: inputs of the weight.
    pub inputs: usize,
    /// How x and the result are stored.
    pub dtype: DType,
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `gemv`: so few rows that reading the weight is the work.
    FewRows,
    /// `gemm_register`: a work-item holds a large tile in wide vectors.
    RegisterTiles,
    /// `gemm_local`: a work-group shares tiles in local memory.
    LocalTiles,
    /// `gemm_matrix`: fragments of f16, by a device that has matrix units for them.
    MatrixTiles,
    /// `quantize_rows` and `qgemm_i8`: in bytes, as the weight's [`Products`] ask for.
    Int8,
    /// `gemm_split` and `gemm_merge`: the same of slices of K, whose sums are then added up.
    SplitK {
        /// How many.
        slices: usize,
    },
}

/// The rows up to which a product takes about as long as reading its weight.
pub(crate) const FEW_ROWS: usize = 8;

/// Slices that a product is cut into, the most first.
const SLICES: [usize; 3] = [8, 4, 2];

/// Work-groups of 64 work-items that a GPU's compute unit keeps at work at once: three waves on
/// each of four SIMDs, as many as the smallest tiles leave room for on gfx803 by the static report.
const GROUPS_PER_UNIT: usize = 12;

/// The least terms of a slice. Its sums are written and read once, 8 bytes each, which take as long
/// as 140 terms at 5.2 TFLOP/s and 150 GB/s, a target for Polaris cards: a quarter of this, where
/// the work-groups are at least doubled. It is reckoned, not measured.
const LEAST_TERMS: usize = 512;

/// Slices end where every tile's terms do, whatever a configuration's.
const SLICE_STEP: usize = 32;

/// The algorithm for a product on a device.
///
/// Matrix units multiply f16: what is stored as f32 would lose by it. They are so much faster than
/// the rest of a GPU that tiles for them need not be many.
///
/// K is split where the smallest tiles leave a GPU without work, and there are terms enough to pay
/// for adding up: into as many slices as are at work at once, so that none waits for a second turn.
/// A CPU device has few cores, and tiles for each. `products` is how the weight is to be multiplied:
/// what changes the result is asked for and not chosen. Few rows take no longer than reading the
/// weight however they are multiplied, and so stay as they are.
pub fn plan(problem: &Problem, products: Products, info: &DeviceInfo) -> Algorithm {
    if problem.rows <= FEW_ROWS {
        Algorithm::FewRows
    } else if products == Products::Int8 {
        Algorithm::Int8
    } else if info.prefers_register_tiles() {
        Algorithm::RegisterTiles
    } else if info.matrix_units && problem.dtype == DType::F16 {
        Algorithm::MatrixTiles
    } else if let Some(slices) = slices(problem, info) {
        Algorithm::SplitK { slices }
    } else {
        Algorithm::LocalTiles
    }
}

fn slices(problem: &Problem, info: &DeviceInfo) -> Option<usize> {
    let room = GROUPS_PER_UNIT * info.compute_units as usize;
    let groups = most_local_groups(problem.rows, problem.outputs);
    let pays = |slices: usize| groups * slices <= room && problem.inputs / slices >= LEAST_TERMS;
    SLICES.into_iter().find(|&slices| info.kind == DeviceKind::Gpu && pays(slices))
}

/// A linear layer: `activation(x W^T + bias) + residual`.
///
/// With `x2`, x is `x ++ x2` along the last axis: a concatenation that is never stored.
///
/// # Shapes
///
/// - `x`: `[.., K]`; with `x2`, `[.., K1]` and `[.., K2]` with `K1 + K2 = K`
/// - `weights`: N outputs, K inputs; stored as `x` is, or in blocks
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
/// Sums and the epilogue are f32 for every element type; the result is rounded once. Matrix units,
/// where [`plan`] chooses them, read weights in blocks as f16, and may take subnormals for zeros.
/// With [`Products::Int8`] more than 8 rows are rounded first, each value by at most a 254th of the
/// largest of its block of 32.
pub fn gemm(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    epilogue: Epilogue,
) -> Result<Tensor> {
    check(x, x2, weights.extent(), &epilogue)?;
    let (products, info) = (weights.products(), x.device().info());
    compute(x, x2, weights, epilogue, &|problem| plan(problem, products, info))
}

/// As [`gemm`], in so many slices of K (2, 4 or 8) whatever [`plan`] would choose.
///
/// # Errors
///
/// As [`gemm`]; [`Error::Shape`] for another number of slices.
///
/// # Precision
///
/// The sums of the slices and the epilogue are f32 for every element type; the result is rounded
/// once.
pub fn gemm_split(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    slices: usize,
    epilogue: Epilogue,
) -> Result<Tensor> {
    if !SLICES.contains(&slices) {
        let detail = format!("slices must be 2, 4 or 8, got {slices}");
        return Err(Error::shape("gemm_split", detail));
    }
    check(x, x2, weights.extent(), &epilogue)?;
    compute(x, x2, weights, epilogue, &|_| Algorithm::SplitK { slices })
}

/// Of checked tensors, by the algorithm that `choose` names for a band of the result.
pub(super) fn compute(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    epilogue: Epilogue,
    choose: &dyn Fn(&Problem) -> Algorithm,
) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    shape[x.shape().len() - 1] = weights.outputs();
    if let [.., _, _, _] = *shape {
        return run(x, x2, weights, epilogue, choose);
    }
    // Bands lie along the second axis, which must be one of rows.
    let rows = |tensor: &Tensor| {
        let columns = tensor.shape()[tensor.shape().len() - 1];
        tensor.reshape(&[1, tensor.shape().iter().product::<usize>() / columns, columns])
    };
    let x2 = x2.map(rows).transpose()?;
    let residual = epilogue.residual.map(rows).transpose()?;
    let epilogue = Epilogue { residual: residual.as_ref(), ..epilogue };
    run(&rows(x)?, x2.as_ref(), weights, epilogue, choose)?.reshape(&shape)
}

/// The result's shape.
pub(super) fn check(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: Extent,
    epilogue: &Epilogue,
) -> Result<Vec<usize>> {
    let shape_error = |detail| Err(Error::shape("gemm", detail));
    let [leading @ .., columns] = x.shape() else {
        return shape_error("x must be [.., K], got no axes".to_owned());
    };
    let Extent { inputs, outputs, storage } = weights;
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
    epilogue.check("gemm", x, storage, &shape)?;
    Ok(shape)
}

/// As [`compute`], of tensors with at least three axes.
fn run(
    x: &Tensor,
    x2: Option<&Tensor>,
    weights: &Weights,
    epilogue: Epilogue,
    choose: &dyn Fn(&Problem) -> Algorithm,
) -> Result<Tensor> {
    let (columns, inputs, outputs) =
        (x.shape()[x.shape().len() - 1], weights.inputs(), weights.outputs());
    let mut shape = x.shape().to_vec();
    shape[x.shape().len() - 1] = outputs;
    let y = Tensor::empty_like(x, &shape, x.dtype())?;
    let panels = weights.on_device()?;
    for band in y.bands() {
        let rows = y.elements(&band) / outputs;
        let problem = Problem { rows, outputs, inputs, dtype: x.dtype() };
        let y_band = y.output(&band)?;
        let product = Product {
            device: x.device(),
            problem,
            columns,
            x: x.band(&band)?,
            x2: x2.map(|x2| x2.band(&band)).transpose()?,
            weights: &panels,
            format: weights.storage().format(),
            weight_bytes: weights.bytes(),
            residual: epilogue.residual.map(|tensor| tensor.band(&band)).transpose()?,
            epilogue,
            y: &y_band,
        };
        product.run(choose(&problem))?;
        drop(product);
        y_band.keep()?;
    }
    Ok(y)
}

/// One band of the result.
struct Product<'a> {
    device: &'a Device,
    problem: Problem,
    columns: usize,
    x: BandBuffer<'a>,
    x2: Option<BandBuffer<'a>>,
    weights: &'a Buffer,
    format: Option<Format>,
    weight_bytes: usize,
    /// Of this band, as `epilogue` has it whole.
    residual: Option<BandBuffer<'a>>,
    epilogue: Epilogue<'a>,
    y: &'a Buffer,
}

impl Product<'_> {
    fn class(&self) -> Class {
        let Problem { rows, outputs, inputs, .. } = self.problem;
        let mut class = Class(vec![("rows", rows), ("outputs", outputs), ("inputs", inputs)]);
        if self.x2.is_some() {
            class.0.push(("columns", self.columns));
        }
        class.0.extend(format_class(self.format));
        class
    }

    fn run(&self, algorithm: Algorithm) -> Result<()> {
        let (device, dtype, class) = (self.device, self.problem.dtype, self.class());
        let (kernel, tiling) = match algorithm {
            Algorithm::FewRows => ("gemv", panel_tiling(device, dtype, &class)),
            Algorithm::RegisterTiles => {
                ("gemm_register", register_tiling(device, "gemm_register", dtype, &class))
            }
            Algorithm::LocalTiles => {
                ("gemm_local", local_tiling(device, "gemm_local", dtype, &class))
            }
            Algorithm::MatrixTiles => ("gemm_matrix", matrix_tiling(device, dtype, &class)),
            Algorithm::Int8 => return self.in_bytes(),
            Algorithm::SplitK { slices } => return self.split(slices),
        };
        self.whole(kernel, &class, &tiling)
    }

    /// All terms in one launch.
    fn whole(&self, kernel: &'static str, class: &Class, tiling: &Tiling) -> Result<()> {
        let Problem { rows, outputs, inputs, dtype } = self.problem;
        let device = self.device;
        device.run_tuned(
            &Call {
                kernel,
                dtype,
                configuration: &tiling.configuration,
                arguments: &arguments! {
                    x: &*self.x,
                    x2: self.x2.as_deref(),
                    weights: self.weights,
                    bias: self.epilogue.bias.map(Tensor::buffer),
                    residual: self.residual.as_deref(),
                    y: Output(self.y),
                    rows: rows as u32,
                    outputs: outputs as u32,
                    inputs: inputs as u32,
                    columns: self.columns as u32,
                    batch: 1u32,
                    activation: self.epilogue.activation as u32,
                },
                groups: tiling.groups,
                local: tiling.local,
                flop: 2 * (rows * outputs) as u64 * inputs as u64,
                bytes: (rows * (inputs + outputs) * dtype.size() + self.weight_bytes) as u64,
            },
            &Tunable {
                class,
                output: dtype,
                grid: &|configuration| (tiling.grid)(device.info(), class, configuration),
            },
        )
    }

    /// The sums of each slice, then of all.
    fn split(&self, slices: usize) -> Result<()> {
        let Problem { rows, outputs, inputs, dtype } = self.problem;
        let (device, mut class) = (self.device, self.class());
        class.0.push(("slices", slices));
        let sums_bytes = (slices * rows * outputs * size_of::<f32>()) as u64;
        let sums = device.memory().allocate(sums_bytes, Lifetime::Transient)?;
        let tiling = split_tiling(device, dtype, &class);
        device.run_tuned(
            &Call {
                kernel: "gemm_split",
                dtype,
                configuration: &tiling.configuration,
                arguments: &arguments! {
                    x: &*self.x,
                    x2: self.x2.as_deref(),
                    weights: self.weights,
                    sums: Output(sums.buffer()),
                    rows: rows as u32,
                    outputs: outputs as u32,
                    inputs: inputs as u32,
                    columns: self.columns as u32,
                    slices: slices as u32,
                    slice_terms: inputs.div_ceil(slices).next_multiple_of(SLICE_STEP) as u32,
                },
                groups: tiling.groups,
                local: tiling.local,
                flop: 2 * (rows * outputs) as u64 * inputs as u64,
                bytes: sums_bytes + (rows * inputs * dtype.size() + self.weight_bytes) as u64,
            },
            &Tunable {
                class: &class,
                output: DType::F32,
                grid: &|configuration| (tiling.grid)(device.info(), &class, configuration),
            },
        )?;
        self.merge(slices, &sums)
    }

    fn merge(&self, slices: usize, sums: &Block) -> Result<()> {
        let Problem { rows, outputs, dtype, .. } = self.problem;
        let (device, elements) = (self.device, rows * outputs);
        let class = Class(vec![("rows", rows), ("outputs", outputs), ("slices", slices)]);
        let configuration = device.configuration("gemm_merge", dtype, &class, &[]);
        let grid = |configuration: &Configuration| {
            let items = configuration.size("WG_SIZE");
            Grid { groups: [elements.div_ceil(items), 1, 1], local: [items, 1, 1] }
        };
        let Grid { groups, local } = grid(&configuration);
        device.run_tuned(
            &Call {
                kernel: "gemm_merge",
                dtype,
                configuration: &configuration,
                arguments: &arguments! {
                    sums: sums.buffer(),
                    bias: self.epilogue.bias.map(Tensor::buffer),
                    residual: self.residual.as_deref(),
                    y: Output(self.y),
                    rows: rows as u32,
                    outputs: outputs as u32,
                    slices: slices as u32,
                    activation: self.epilogue.activation as u32,
                },
                groups,
                local,
                flop: (slices * elements) as u64,
                bytes: (elements * (slices * size_of::<f32>() + dtype.size())) as u64,
            },
            &Tunable { class: &class, output: dtype, grid: &grid },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tiles::tests::{cpu, gpu};

    fn half(rows: usize, outputs: usize, inputs: usize) -> Problem {
        Problem { rows, outputs, inputs, dtype: DType::F16 }
    }

    #[test]
    fn a_cpu_takes_register_tiles_and_a_gpu_takes_local_ones() {
        let layers = [
            ("unet attention, 64x64", half(4096, 320, 320)),
            ("unet feed-forward, 16x16", half(256, 10240, 1280)),
            ("text encoder", half(77, 768, 768)),
        ];
        for (layer, problem) in layers {
            assert_eq!(
                plan(&problem, Products::F32, &cpu(16)),
                Algorithm::RegisterTiles,
                "{layer}"
            );
            assert_eq!(plan(&problem, Products::F32, &gpu()), Algorithm::LocalTiles, "{layer}");
        }
        for (layer, rows, expected) in [
            ("time embedding", 1, [Algorithm::FewRows; 2]),
            ("time embedding of both halves of guidance", 2, [Algorithm::FewRows; 2]),
            ("as many rows as a tile", 9, [Algorithm::RegisterTiles, Algorithm::LocalTiles]),
        ] {
            let problem = half(rows, 1280, 320);
            assert_eq!(
                [plan(&problem, Products::F32, &cpu(16)), plan(&problem, Products::F32, &gpu())],
                expected,
                "{layer}"
            );
        }
        let scalar = DeviceInfo { kind: DeviceKind::Cpu, ..gpu() };
        assert_eq!(
            plan(&layers[0].1, Products::F32, &scalar),
            Algorithm::LocalTiles,
            "work-items are lanes"
        );
    }

    #[test]
    fn a_gpu_short_of_work_splits_k_into_what_is_at_work_at_once() {
        let split = |slices| Algorithm::SplitK { slices };
        // 36 compute units have room for 432 work-groups of the smallest tiles.
        for (layer, [rows, outputs, inputs], expected) in [
            ("unet feed-forward, 8x8: 80 groups", [64, 1280, 5120], split(4)),
            ("unet shortcut, 8x8", [64, 1280, 2560], split(4)),
            ("unet attention, 8x8: 640 terms a slice", [64, 1280, 1280], split(2)),
            ("unet feed-forward, 8x8, both halves: 160", [128, 1280, 5120], split(2)),
            ("text encoder, 72 groups", [77, 768, 3072], split(4)),
            ("text encoder's attention: too few terms", [77, 768, 768], Algorithm::LocalTiles),
            ("unet feed-forward, 8x8: 640 groups", [64, 10240, 1280], Algorithm::LocalTiles),
            ("unet feed-forward, 16x16: 320 groups", [256, 1280, 5120], Algorithm::LocalTiles),
            ("a row of tiles of many terms: 40 groups", [32, 1280, 5120], split(8)),
            ("few rows", [8, 1280, 5120], Algorithm::FewRows),
        ] {
            let problem = half(rows, outputs, inputs);
            assert_eq!(plan(&problem, Products::F32, &gpu()), expected, "{layer}");
            let scalar = DeviceInfo { kind: DeviceKind::Cpu, ..gpu() };
            for cpu in [cpu(16), scalar] {
                assert!(
                    !matches!(plan(&problem, Products::F32, &cpu), Algorithm::SplitK { .. }),
                    "{layer}"
                );
            }
        }
        let small = DeviceInfo { compute_units: 8, ..gpu() };
        let problem = half(64, 1280, 5120);
        assert_eq!(
            plan(&problem, Products::F32, &small),
            Algorithm::LocalTiles,
            "80 groups of 96 at work"
        );
    }

    #[test]
    fn products_in_bytes_are_made_where_they_are_asked_for_and_rows_are_several() {
        for (rows, expected) in [(2, Algorithm::FewRows), (77, Algorithm::Int8)] {
            let problem = half(rows, 768, 768);
            for info in [gpu(), cpu(16), cpu(4)] {
                assert_eq!(plan(&problem, Products::Int8, &info), expected, "{rows} rows");
            }
        }
    }

    #[test]
    fn matrix_units_are_given_what_is_stored_as_they_read_it() {
        let units = DeviceInfo { matrix_units: true, ..gpu() };
        let whole = half(4096, 320, 320);
        for (why, problem, expected) in [
            ("unet attention, 64x64", whole, Algorithm::MatrixTiles),
            ("few tiles of many terms", half(64, 1280, 5120), Algorithm::MatrixTiles),
            ("f32", Problem { dtype: DType::F32, ..whole }, Algorithm::LocalTiles),
            ("as many rows as are few", half(8, 1280, 320), Algorithm::FewRows),
        ] {
            assert_eq!(plan(&problem, Products::F32, &units), expected, "{why}");
        }
    }
}
