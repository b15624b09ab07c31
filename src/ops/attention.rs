//! Attention: every query's mean of the values, weighted by how well their keys match.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::Buffer;
use crate::device::{Call, Device, Grid, Tunable, arguments};
use crate::dtype::DType;
use crate::info::DeviceInfo;
use crate::kernel::Configuration;
use crate::memory::Lifetime;
use crate::tensor::{Band, BandBuffer, Tensor};
use crate::tune::Class;
use crate::{Error, Result};

/// The widest head that the kernels hold in registers and local memory.
const MAX_HEAD_WIDTH: usize = 512;

/// Columns of a `[N, L, width]` tensor, from `start` on: a part of a fused q|k|v product.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The whole product.
    pub tensor: &'a Tensor,
    /// The first column.
    pub start: usize,
}

impl<'a> From<&'a Tensor> for Columns<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { tensor, start: 0 }
    }
}

/// How [`attention`] splits and weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads, side by side in the columns.
    pub heads: usize,
    /// Columns of one head.
    pub head_width: usize,
    /// Multiplies every score, usually 1 / sqrt(head_width).
    pub scale: f32,
    /// Whether a query sees the keys up to its own position only.
    pub causal: bool,
}

/// What decides how attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Columns of one head.
    pub head_width: usize,
    /// Queries of one head and sample.
    pub queries: usize,
    /// Heads of all samples.
    pub heads: usize,
    /// How queries, keys and values are stored.
    pub dtype: DType,
}

/// How attention is computed, with the values of the kernel's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One work-item multiplies blocks of 32 queries by the tile registers of AMX.
    Amx {
        /// Keys in a tile.
        keys: u32,
        /// Blocks of a work-item.
        blocks: u32,
    },
    /// One work-item holds blocks of queries in wide vectors.
    Register {
        /// Lanes of a vector; a block is two.
        vector: u32,
        /// Rows of a register tile.
        tile: u32,
        /// Keys in a tile.
        keys: u32,
        /// Blocks of a work-item.
        blocks: u32,
    },
    /// A work-group shares tiles of keys and values in local memory.
    Local {
        /// Queries of a work-group.
        queries: u32,
    },
    /// The same by fragments of f16, on a device that has matrix units for them.
    Matrix {
        /// Queries of a work-group.
        queries: u32,
        /// Keys in a tile.
        keys: u32,
    },
}

/// Work-items in a work-group of `attention_local`.
const LOCAL_ITEMS: usize = 256;
/// The widest head that `attention_matrix` is given. Twice as wide ones fit its registers, but came out
/// wrong in an emulator of one chip.
const MAX_MATRIX_WIDTH: usize = 80;
/// What a work-item's queries and sums are to take at most: half of a core's second cache.
const CACHED_BYTES: usize = 512 << 10;
/// The same of `attention_amx`: every core with AMX has a second cache of 2 MiB.
const AMX_CACHED_BYTES: usize = 1280 << 10;
/// The narrowest heads of f32 that `attention_amx` is given: six products of parts for one, and
/// columns up to the next 32, cost narrower ones more than tiles save.
const AMX_WIDTH_OF_F32: usize = 64;

/// The algorithm for this device.
///
/// Tiles are as large as leaves them in the caches or in registers: fewer keys, or fewer queries,
/// where heads are wide.
pub fn plan(problem: &Problem, info: &DeviceInfo) -> Algorithm {
    let &Problem { head_width, dtype, .. } = problem;
    if info.matrix_units && dtype == DType::F16 && head_width <= MAX_MATRIX_WIDTH {
        // 64 keys would fit local memory beside narrow heads, but nothing has shown yet that they come
        // out right in teams of 64 work-items.
        return Algorithm::Matrix { queries: 64, keys: 32 };
    }
    if !info.prefers_register_tiles() {
        return Algorithm::Local { queries: if head_width <= 160 { 64 } else { 32 } };
    }
    if info.amx && (dtype == DType::F16 || head_width >= AMX_WIDTH_OF_F32) {
        // Parts of bf16, with a sum.
        let parts = if dtype == DType::F16 { 2 } else { 3 };
        let bytes = 32 * head_width.next_multiple_of(32) * (2 * parts + size_of::<f32>());
        return Algorithm::Amx {
            keys: 64,
            blocks: blocks(problem, info, 32, AMX_CACHED_BYTES / bytes),
        };
    }
    // A tile takes 28 of 32 registers where vectors have 16 lanes (AVX-512), and 12 of 16 where
    // they have fewer (AVX2, SSE).
    let (vector, tile) = match info.vector_width {
        16.. => (16, 14),
        8..16 => (8, 6),
        _ => (4, 6),
    };
    let block = 2 * vector as usize;
    let width = head_width.next_multiple_of(16);
    Algorithm::Register {
        vector,
        tile,
        keys: if head_width <= 160 { 128 } else { 64 },
        blocks: blocks(problem, info, block, CACHED_BYTES / (block * width * 2 * size_of::<f32>())),
    }
}

/// Blocks of so many queries for a work-item, of at most `cached`.
fn blocks(problem: &Problem, info: &DeviceInfo, block: usize, cached: usize) -> u32 {
    let of_head = problem.queries.div_ceil(block);
    // Enough work-items for all cores to end together.
    let even = of_head * problem.heads / (4 * info.compute_units as usize);
    // A power of two: layers of a model then share programs.
    1 << cached.min(even).min(of_head).clamp(1, 32).ilog2()
}

/// softmax(scale * q k^T) v for every head; no matrix of scores is stored.
///
/// # Shapes
///
/// - `q`: `[N, Lq, ..]`, of which `heads * head_width` columns are read from `start` on
/// - `k`, `v`: `[N, Lk, ..]`, likewise
/// - result: `[N, Lq, heads * head_width]`
///
/// `head_width` is at most 512. Element types are the same.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not agree as above, or if keys or values lie in several blocks
/// and those of one head do not fit one; [`Error::OutOfMemory`], [`Error::Device`].
///
/// # Precision
///
/// Scores and sums are f32 for every element type; each score's maximum so far is subtracted
/// before its exponential, so that no score is too large. Matrix units, where [`plan`] chooses them,
/// multiply values by weights that are rounded to f16 once. Tiles of AMX multiply parts of numbers that
/// are bf16 and whose products are exact: two parts of an f16, which are all of it, and of a weight,
/// of which they are 16 bits; three of an f32 and its weights, without the products that come to 2^-24
/// of the whole. They take what is below 2^-126 for zero.
pub fn attention(q: Columns, k: Columns, v: Columns, params: &Attention) -> Result<Tensor> {
    let [samples, queries, keys] = check(&q, &k, &v, params)?;
    let &Attention { heads, head_width, .. } = params;
    let (device, dtype) = (q.tensor.device(), q.tensor.dtype());
    let y = Tensor::empty_like(q.tensor, &[samples, queries, heads * head_width], dtype)?;
    let at_once = heads_at_once(&q, &k, &v, params);
    let mut gathered = None;
    for band in y.bands() {
        let q_band = q.tensor.band(&band)?;
        let y_band = y.output(&band)?;
        for first in (0..heads).step_by(at_once) {
            let some = Attention { heads: at_once.min(heads - first), ..*params };
            let columns = first * head_width..(first + some.heads) * head_width;
            let context = Context::of(&k, &v, &band, &columns, &mut gathered)?;
            let source = Source { buffer: &q_band, stride: q.width(), start: q.start };
            let source = source.from(&columns);
            if some.heads == heads {
                attend(&y, &band, source, &context, keys, &y_band, &some)?;
                continue;
            }
            let bytes = (band.row_count() * columns.len() * dtype.size()) as u64;
            let apart = device.memory().allocate(bytes, Lifetime::Transient)?;
            attend(&y, &band, source, &context, keys, apart.buffer(), &some)?;
            y.put_columns(apart.buffer(), columns, &band, &y_band)?;
        }
        y_band.keep()?;
    }
    Ok(y)
}

/// Launches some heads of a band of `y`.
fn attend(
    y: &Tensor,
    band: &Band,
    q: Source,
    context: &Context,
    keys: usize,
    target: &Buffer,
    params: &Attention,
) -> Result<()> {
    let (device, dtype) = (y.device(), y.dtype());
    let &Attention { heads, head_width, scale, causal } = params;
    let (samples, rows) = (band.samples.len(), band.rows.len());
    let scores = samples * heads * rows * keys;
    let class = Class(vec![
        ("queries", rows),
        ("keys", keys),
        ("head_width", head_width),
        ("heads", heads),
    ]);
    let problem = Problem { head_width, queries: rows, heads: heads * samples, dtype };
    let (kernel, configuration) = choose(&problem, device, dtype, &class);
    let grid = |configuration: &Configuration| {
        let (queries, items) = queries_and_items(kernel, configuration);
        Grid { groups: [rows.div_ceil(queries), heads, samples], local: [items, 1, 1] }
    };
    let Grid { groups, local } = grid(&configuration);
    device.run_tuned(
        &Call {
            kernel,
            dtype,
            configuration: &configuration,
            arguments: &arguments! {
                q: q.buffer,
                k: context.k.buffer,
                v: context.v.buffer,
                y: Output(target),
                queries: rows as u32,
                keys: keys as u32,
                heads: heads as u32,
                q_stride: q.stride as u32,
                q_start: q.start as u32,
                k_stride: context.k.stride as u32,
                k_start: context.k.start as u32,
                v_stride: context.v.stride as u32,
                v_start: context.v.start as u32,
                first_sample: context.first_sample as u32,
                samples: samples as u32,
                first_query: band.rows.start as u32,
                causal: u32::from(causal),
                scale: scale,
            },
            groups,
            local,
            flop: 4 * (scores * head_width) as u64,
            bytes: (samples * heads * head_width * 2 * (rows + keys) * dtype.size()) as u64,
        },
        &Tunable { class: &class, output: dtype, grid: &grid },
    )
}

/// The kernel that is planned, and its configuration.
fn choose(
    problem: &Problem,
    device: &Device,
    dtype: DType,
    class: &Class,
) -> (&'static str, Arc<Configuration>) {
    let mut suggested = vec![("HEAD_WIDTH", problem.head_width as u32)];
    let kernel = match plan(problem, device.info()) {
        Algorithm::Amx { keys, blocks } => {
            suggested.extend([("KEYS", keys), ("BLOCKS", blocks)]);
            "attention_amx"
        }
        Algorithm::Register { vector, tile, keys, blocks } => {
            suggested.extend([("VECTOR", vector), ("TILE", tile), ("KEYS", keys)]);
            suggested.push(("BLOCKS", blocks));
            "attention_register"
        }
        Algorithm::Matrix { queries, keys } => {
            suggested.extend([("QUERIES", queries), ("KEYS", keys)]);
            "attention_matrix"
        }
        Algorithm::Local { queries } => {
            suggested.push(("QUERIES", queries));
            "attention_local"
        }
    };
    (kernel, device.configuration(kernel, dtype, class, &suggested))
}

/// Queries of a work-group, and its work-items.
fn queries_and_items(kernel: &str, configuration: &Configuration) -> (usize, usize) {
    match kernel {
        "attention_amx" => (32 * configuration.size("BLOCKS"), 1),
        "attention_register" => {
            (2 * configuration.size("VECTOR") * configuration.size("BLOCKS"), 1)
        }
        "attention_matrix" => (configuration.size("QUERIES"), 2 * configuration.size("QUERIES")),
        _ => (configuration.size("QUERIES"), LOCAL_ITEMS),
    }
}

impl Columns<'_> {
    fn width(&self) -> usize {
        self.tensor.shape()[2]
    }

    /// Whether what a band of so many samples sees lies in several blocks and has to be copied
    /// together.
    fn is_gathered(&self, samples: usize) -> bool {
        let blocks = self.tensor.bands().len();
        blocks > self.tensor.shape()[0] || (blocks > 1 && samples > 1)
    }
}

/// The most heads whose keys, and values, fit one allocation where they are copied together; evenly
/// many each time. At least one: [`check`] has seen to that.
fn heads_at_once(q: &Columns, k: &Columns, v: &Columns, params: &Attention) -> usize {
    let samples = samples_at_once(q);
    if ![k, v].iter().any(|columns| columns.is_gathered(samples)) {
        return params.heads;
    }
    let most_bytes = q.tensor.device().memory().max_allocation_bytes();
    let most = most_bytes / head_bytes(k, samples, params);
    let most = most.clamp(1, params.heads as u64) as usize;
    params.heads.div_ceil(params.heads.div_ceil(most))
}

/// The most samples of a band of queries.
fn samples_at_once(q: &Columns) -> usize {
    q.tensor.bands()[0].samples.len()
}

/// Bytes of the keys, or of the values, of one head.
fn head_bytes(columns: &Columns, samples: usize, params: &Attention) -> u64 {
    let rows = samples * columns.tensor.shape()[1];
    (rows * params.head_width * columns.tensor.dtype().size()) as u64
}

/// N, Lq and Lk, if everything agrees.
fn check(q: &Columns, k: &Columns, v: &Columns, params: &Attention) -> Result<[usize; 3]> {
    let error = |detail: String| Err(Error::shape("attention", detail));
    let &Attention { heads, head_width, scale, .. } = params;
    if heads == 0 || head_width == 0 || head_width > MAX_HEAD_WIDTH {
        return error(format!(
            "expected at least one head of 1 to {MAX_HEAD_WIDTH} columns, \
             got {heads} of {head_width}"
        ));
    }
    if !scale.is_finite() {
        return error(format!("scale must be finite, got {scale}"));
    }
    let dtype = q.tensor.dtype();
    let &[samples, queries, _] = q.tensor.shape() else {
        return error(format!("q must be [N, L, width], got {:?}", q.tensor.shape()));
    };
    let keys = *k.tensor.shape().get(1).unwrap_or(&0);
    let width = heads * head_width;
    for (name, columns, rows) in [("q", q, queries), ("k", k, keys), ("v", v, keys)] {
        let (shape, start) = (columns.tensor.shape(), columns.start);
        if shape.len() != 3 || shape[..2] != [samples, rows] || shape[2] < start + width {
            return error(format!(
                "{name} must be [{samples}, {}, at least {}], got {shape:?} from column {start}",
                if rows == 0 { "L".to_owned() } else { rows.to_string() },
                start + width,
            ));
        }
        if columns.tensor.dtype() != dtype {
            let got = columns.tensor.dtype();
            return error(format!("{name} must be {dtype} as q is, got {got}"));
        }
        let most_bytes = columns.tensor.device().memory().max_allocation_bytes();
        let at_once = samples_at_once(q);
        let bytes = head_bytes(columns, at_once, params);
        if name != "q" && columns.is_gathered(at_once) && bytes > most_bytes {
            return error(format!(
                "a head of {name} must fit one allocation of {most_bytes} B, got {bytes} B"
            ));
        }
    }
    Ok([samples, queries, keys])
}

/// Where columns are: in a buffer whose rows are so long, from the first of some columns on.
#[derive(Clone, Copy)]
struct Source<'a> {
    buffer: &'a Buffer,
    stride: usize,
    start: usize,
}

impl Source<'_> {
    /// From some of its columns on.
    fn from(self, columns: &Range<usize>) -> Self {
        Self { start: self.start + columns.start, ..self }
    }
}

/// The keys and values that some heads of a band of queries see.
struct Context<'a> {
    k: Source<'a>,
    v: Source<'a>,
    /// The sample of `k` and `v` that the band's first is.
    first_sample: usize,
}

/// Rows of a tensor that was in several blocks, in one.
struct Held<'a> {
    rows: BandBuffer<'a>,
    stride: usize,
    start: usize,
}

/// The keys and values of some samples and columns, and which these are.
struct Gathered<'a> {
    sample: usize,
    columns: Range<usize>,
    k: Held<'a>,
    v: Held<'a>,
}

impl<'a> Context<'a> {
    /// The whole tensors where each is one block; else what `columns` of the samples of `band` are,
    /// copied together and kept in `gathered` for the bands that follow.
    fn of<'t: 'a>(
        k: &Columns<'t>,
        v: &Columns<'t>,
        band: &Band,
        columns: &Range<usize>,
        gathered: &'a mut Option<Gathered<'t>>,
    ) -> Result<Self> {
        let sample = band.samples.start;
        if k.tensor.bands().len() == 1 && v.tensor.bands().len() == 1 {
            let whole = |part: &Columns<'t>| {
                let (buffer, stride) = (part.tensor.buffer(), part.width());
                Source { buffer, stride, start: part.start }.from(columns)
            };
            return Ok(Self { k: whole(k), v: whole(v), first_sample: sample });
        }
        let same = |known: &Gathered| known.sample == sample && known.columns == *columns;
        if !gathered.as_ref().is_some_and(same) {
            // What was needed before goes back to the pool first.
            *gathered = None;
            let held = |part| Held::of(part, &band.samples, columns);
            let columns = columns.clone();
            *gathered = Some(Gathered { sample, columns, k: held(k)?, v: held(v)? });
        }
        let known = gathered.as_ref().expect("it was gathered just now");
        Ok(Self { k: known.k.source(), v: known.v.source(), first_sample: 0 })
    }
}

impl<'a> Held<'a> {
    fn of(part: &Columns<'a>, samples: &Range<usize>, columns: &Range<usize>) -> Result<Self> {
        let start = part.start + columns.start;
        if part.is_gathered(samples.len()) {
            let of_tensor = start..start + columns.len();
            let rows = part.tensor.columns_of_samples(samples.clone(), of_tensor)?;
            return Ok(Self { rows, stride: columns.len(), start: 0 });
        }
        let band = Band { samples: samples.clone(), rows: 0..part.tensor.shape()[1] };
        Ok(Self { rows: part.tensor.band(&band)?, stride: part.width(), start })
    }

    fn source(&self) -> Source<'_> {
        Source { buffer: &self.rows, stride: self.stride, start: self.start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::DeviceKind;

    #[test]
    fn plans_the_shape_that_the_device_wants() {
        let cpu = DeviceInfo {
            kind: DeviceKind::Cpu,
            vector_width: 16,
            compute_units: 2,
            ..Device::definitions(None).info().clone()
        };
        let avx2 = DeviceInfo { vector_width: 8, ..cpu.clone() };
        let many = DeviceInfo { compute_units: 64, ..cpu.clone() };
        let gpu = DeviceInfo { kind: DeviceKind::Gpu, vector_width: 1, ..cpu.clone() };
        let scalar = DeviceInfo { vector_width: 1, ..cpu.clone() };
        let units = DeviceInfo { matrix_units: true, ..gpu.clone() };
        let amx = DeviceInfo { amx: true, ..cpu.clone() };
        let tiles = |blocks| Algorithm::Amx { keys: 64, blocks };
        let matrix = |queries, keys| Algorithm::Matrix { queries, keys };
        let wide = |keys, blocks| Algorithm::Register { vector: 16, tile: 14, keys, blocks };
        let narrow = |keys, blocks| Algorithm::Register { vector: 8, tile: 6, keys, blocks };
        let dtype = DType::F16;
        let first = Problem { head_width: 40, queries: 4096, heads: 8, dtype };
        let deepest = Problem { head_width: 160, queries: 64, heads: 8, dtype };
        let vae = Problem { head_width: 512, queries: 4096, heads: 1, dtype };
        let text = Problem { head_width: 64, queries: 77, heads: 12, dtype };
        let table = [
            ("a UNet's first layer on a CPU", &cpu, first, wide(128, 32)),
            ("on one with shorter vectors", &avx2, first, narrow(128, 32)),
            ("on one with many cores", &many, first, wide(128, 4)),
            ("its deepest, of few queries", &cpu, deepest, wide(128, 2)),
            ("the VAE's one head", &cpu, vae, wide(64, 4)),
            ("a text encoder's", &cpu, text, wide(128, 2)),
            ("a UNet's first layer by tiles of AMX", &amx, first, tiles(32)),
            ("the VAE's one head by them", &amx, vae, tiles(8)),
            ("narrow heads of f32", &amx, Problem { dtype: DType::F32, ..first }, wide(128, 32)),
            ("a wide one", &amx, Problem { dtype: DType::F32, ..vae }, tiles(8)),
            ("a UNet's first layer on a GPU", &gpu, first, Algorithm::Local { queries: 64 }),
            ("its deepest", &gpu, deepest, Algorithm::Local { queries: 64 }),
            ("the VAE's one head", &gpu, vae, Algorithm::Local { queries: 32 }),
            ("its first layer by matrix units", &units, first, matrix(64, 32)),
            ("its deepest", &units, deepest, Algorithm::Local { queries: 64 }),
            ("too wide a head for them", &units, vae, Algorithm::Local { queries: 32 }),
            (
                "what they do not multiply",
                &units,
                Problem { dtype: DType::F32, ..first },
                Algorithm::Local { queries: 64 },
            ),
            ("a CPU without vectors", &scalar, text, Algorithm::Local { queries: 64 }),
        ];
        for (why, info, problem, expected) in table {
            assert_eq!(plan(&problem, info), expected, "{why}");
        }
    }
}
