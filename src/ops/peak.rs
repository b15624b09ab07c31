//! Kernels that measure what a device can do: arithmetic, memory, and what a launch costs.

use std::sync::Arc;

use super::elementwise::Spread;
use crate::device::{Call, Device, arguments};
use crate::kernel::Configuration;
use crate::memory::Lifetime;
use crate::tensor::Tensor;
use crate::tune::Class;
use crate::{DType, Error, Result};

/// What [`peak_memory`] does.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Sums what each work-item reads.
    Read(&'a Tensor),
    /// Writes a value to as many elements.
    Write(usize, f32),
    /// Copies each element.
    Copy(&'a Tensor),
}

/// `scale` and `shift` of [`peak_fma`]: chains settle at 0.5.
const CHAIN: (f32, f32) = (0.75, 0.125);

/// What [`peak_int8`] adds to its words in every turn: odd in each byte.
const INCREMENT: u32 = 0x0b07_0503;

/// Follows chains of `turns` multiply-adds from each element, `v = 0.75 v + 0.125`, and sums them.
///
/// # Shapes
///
/// - `x`: any, in one block
/// - result: the shape of `x`
///
/// # Errors
///
/// [`Error::Argument`] if `turns` is 0; [`Error::Build`] if `arithmetic` is f16 and the device has
/// none; [`Error::OutOfMemory`].
///
/// # Precision
///
/// That of `arithmetic`: a chain contracts, so its error is that of its last few roundings.
pub fn peak_fma(x: &Tensor, turns: usize, arithmetic: DType) -> Result<Tensor> {
    let (device, elements) = (x.device(), x.shape().iter().product::<usize>());
    let turns = positive("turns", turns)?;
    let wide = device.info().prefers_register_tiles();
    let (items, vector, accumulators) = match device.info().vector_width {
        // 12 chains, the factor and the term take 14 registers of 16 or 32.
        16.. if wide => (1, 16, 12),
        8.. if wide => (1, 8, 12),
        _ if wide => (1, 4, 8),
        _ => (64, 4, 4),
    };
    let half = u32::from(arithmetic == DType::F16);
    let suggested =
        [("WG_SIZE", items), ("VECTOR", vector), ("ACCUMULATORS", accumulators), ("HALF", half)];
    let class = [("half", half as usize), ("elements", elements)];
    let configuration = choose(device, "peak_fma", x.dtype(), &class, &suggested);
    let [items, vector, accumulators] =
        ["WG_SIZE", "VECTOR", "ACCUMULATORS"].map(|name| configuration.size(name));
    let y = Tensor::empty(device, x.shape(), x.dtype())?;
    let x_band = x.buffer();
    device.run(&Call {
        kernel: "peak_fma",
        dtype: x.dtype(),
        configuration: &configuration,
        arguments: &arguments! {
            x: x_band,
            y: Output(y.buffer()),
            elements: elements as u32,
            turns: turns,
            scale: CHAIN.0,
            shift: CHAIN.1,
        },
        groups: [elements.div_ceil(items * vector), 1, 1],
        local: [items, 1, 1],
        flop: (2 * elements * accumulators) as u64 * u64::from(turns),
        bytes: (2 * elements * x.dtype().size()) as u64,
    })?;
    Ok(y)
}

/// Sums dot products of four signed bytes, `turns` of them for each accumulator of a word, and
/// gives the low 16 bits. `dot` asks for the device's own dot product.
///
/// Work is counted as two operations for each product.
///
/// # Shapes
///
/// - result: `[words]`, f32
///
/// # Errors
///
/// [`Error::Argument`] if `words` or `turns` is 0; [`Error::Build`] if the device has no dot
/// product that is asked for; [`Error::OutOfMemory`].
pub fn peak_int8(device: &Device, words: usize, turns: usize, dot: bool) -> Result<Tensor> {
    let (count, turns) = (positive("words", words)?, positive("turns", turns)?);
    let (items, vector) = match device.info().prefers_register_tiles() {
        true if dot => (1, 1),
        true => (1, 8),
        false => (64, 1),
    };
    let suggested = [("WG_SIZE", items), ("VECTOR", vector), ("DOT", u32::from(dot))];
    let class = [("dot", usize::from(dot)), ("elements", words)];
    let configuration = choose(device, "peak_int8", DType::F32, &class, &suggested);
    let [items, vector, accumulators] =
        ["WG_SIZE", "VECTOR", "ACCUMULATORS"].map(|name| configuration.size(name));
    let x = device.upload(4 * words, Lifetime::Transient, || {
        // Every byte differs from word to word.
        let word = |index: u32| index.wrapping_mul(0x9e37_79b9).wrapping_add(0x7f4a_7c15);
        Ok((0..count).flat_map(|index| word(index).to_ne_bytes()).collect())
    })?;
    let y = Tensor::empty(device, &[words], DType::F32)?;
    device.run(&Call {
        kernel: "peak_int8",
        dtype: DType::F32,
        configuration: &configuration,
        arguments: &arguments! {
            x: x.buffer(),
            y: Output(y.buffer()),
            elements: count,
            turns: turns,
            increment: INCREMENT,
        },
        groups: [words.div_ceil(items * vector), 1, 1],
        local: [items, 1, 1],
        flop: (8 * words * accumulators) as u64 * u64::from(turns),
        bytes: 8 * words as u64,
    })?;
    Ok(y)
}

/// Writes one value: the least that a launch can do.
///
/// # Shapes
///
/// - result: `[1]`, f32
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub fn peak_launch(device: &Device, value: f32) -> Result<Tensor> {
    let configuration = choose(device, "peak_launch", DType::F32, &[], &[]);
    let y = Tensor::empty(device, &[1], DType::F32)?;
    device.run(&Call {
        kernel: "peak_launch",
        dtype: DType::F32,
        configuration: &configuration,
        arguments: &arguments! { y: Output(y.buffer()), value: value },
        groups: [1; 3],
        local: [1; 3],
        flop: 0,
        bytes: 4,
    })?;
    Ok(y)
}

/// Floats of [`peak_local`]'s tile.
const TILE: usize = 4096;

/// Sums vectors of a tile in local memory, each work-item from its own place on, eight in a turn.
/// Work is counted as what is read of local memory.
///
/// # Shapes
///
/// - `x`: `[4096]`, f32
/// - result: `[work-items]`, f32
///
/// # Errors
///
/// [`Error::Shape`] if `x` is not as above; [`Error::Argument`] if `groups` or `turns` is 0;
/// [`Error::OutOfMemory`].
///
/// # Precision
///
/// Sums are f32, in eight parts.
pub fn peak_local(x: &Tensor, groups: usize, turns: usize) -> Result<Tensor> {
    if (x.shape(), x.dtype()) != (&[TILE], DType::F32) {
        let detail = format!("x must be [{TILE}] of f32, got {:?} of {}", x.shape(), x.dtype());
        return Err(Error::shape("peak_local", detail));
    }
    let (device, turns) = (x.device(), positive("turns", turns)?);
    positive("groups", groups)?;
    let info = device.info();
    let wide = info.prefers_register_tiles();
    let vector = if wide { info.vector_width.clamp(4, 16).next_power_of_two().min(16) } else { 4 };
    let suggested = [("WG_SIZE", if wide { 1 } else { 64 }), ("VECTOR", vector)];
    let configuration = choose(device, "peak_local", DType::F32, &[("groups", groups)], &suggested);
    let [items, vector] = ["WG_SIZE", "VECTOR"].map(|name| configuration.size(name));
    let y = Tensor::empty(device, &[groups * items], DType::F32)?;
    let loaded = (groups * items * vector * 8) as u64 * u64::from(turns);
    device.run(&Call {
        kernel: "peak_local",
        dtype: DType::F32,
        configuration: &configuration,
        arguments: &arguments! {
            x: x.buffer(),
            y: Output(y.buffer()),
            items: (groups * items) as u32,
            turns: turns,
        },
        groups: [groups, 1, 1],
        local: [items, 1, 1],
        flop: loaded,
        bytes: 4 * loaded,
    })?;
    Ok(y)
}

/// Reads, writes or copies each element once.
///
/// # Shapes
///
/// - the tensor of `action`: any, f32, in one block
/// - result: `[work-items]` when reading, `[elements]` when writing, else the tensor's shape; f32
///
/// # Errors
///
/// [`Error::Shape`] if the tensor is not f32; [`Error::Argument`] if there is no element to write;
/// [`Error::OutOfMemory`].
///
/// # Precision
///
/// Sums are f32, in as many parts as a vector has lanes.
pub fn peak_memory(device: &Device, action: Action) -> Result<Tensor> {
    let (x, number, value) = match action {
        Action::Read(x) => (Some(x), 0, 0.0),
        Action::Write(_, value) => (None, 1, value),
        Action::Copy(x) => (Some(x), 2, 0.0),
    };
    if let Some(x) = x.filter(|x| x.dtype() != DType::F32) {
        let detail = format!("x must be of f32, got {}", x.dtype());
        return Err(Error::shape("peak_memory", detail));
    }
    let shape: Vec<usize> = match action {
        Action::Write(elements, _) => vec![elements],
        Action::Read(x) | Action::Copy(x) => x.shape().to_vec(),
    };
    let elements: usize = shape.iter().product();
    let count = positive("elements", elements)?;
    let class = Class(vec![("action", number as usize), ("elements", elements)]);
    let mut given = vec![("ACTION", number)];
    if device.info().prefers_register_tiles() {
        // Long runs: a work-group of one work-item costs as much as some KiB of memory.
        given.push(("ROUNDS", 1024));
    }
    let spread = Spread::new(device, "peak_memory", DType::F32, &class, &given);
    let groups = spread.groups(elements);
    let shape = if number == 0 { vec![groups * spread.items] } else { shape };
    let y = Tensor::empty(device, &shape, DType::F32)?;
    let touched = if number == 2 { 2 * elements } else { elements };
    device.run(&Call {
        kernel: "peak_memory",
        dtype: DType::F32,
        configuration: &spread.configuration,
        arguments: &arguments! {
            x: x.map(Tensor::buffer),
            y: Output(y.buffer()),
            elements: count,
            value: value,
        },
        groups: [groups, 1, 1],
        local: spread.local(),
        flop: 0,
        bytes: 4 * touched as u64,
    })?;
    Ok(y)
}

fn choose(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &[(&'static str, usize)],
    suggested: &[(&'static str, u32)],
) -> Arc<Configuration> {
    device.configuration(kernel, dtype, &Class(class.to_vec()), suggested)
}

fn positive(name: &str, value: usize) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| Error::argument(name, format!("expected 1 to {}, got {value}", u32::MAX)))
}
