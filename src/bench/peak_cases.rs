//! The kernels that measure peaks, as cases: see [`peak`](super::peak) for the peaks themselves.

use super::{Case, Inputs, Run};
use crate::ops::{self, Action};
use crate::{DType, Result};

/// Chains of multiply-adds.
pub const FMA: Case = Case {
    op: "peak_fma",
    kernels: &["peak_fma"],
    sizes: &[("elements", 1024), ("turns", 256)],
    prepare: fma,
};

/// Dot products of bytes.
pub const INT8: Case = Case {
    op: "peak_int8",
    kernels: &["peak_int8"],
    sizes: &[("elements", 1024), ("turns", 256)],
    prepare: int8,
};

/// An almost empty launch.
pub const LAUNCH: Case =
    Case { op: "peak_launch", kernels: &["peak_launch"], sizes: &[("value", 1)], prepare: launch };

/// Reads of local memory.
pub const LOCAL: Case = Case {
    op: "peak_local",
    kernels: &["peak_local"],
    sizes: &[("groups", 16), ("turns", 16)],
    prepare: local,
};

/// A copy, then a read, then a write.
pub const MEMORY: Case = Case {
    op: "peak_memory",
    kernels: &["peak_memory"],
    sizes: &[("elements", 1 << 20)],
    prepare: memory,
};

fn fma(inputs: &Inputs) -> Result<Run> {
    let (x, turns) = (inputs.tensor(&[inputs.size("elements")])?, inputs.size("turns"));
    Ok(Box::new(move || ops::peak_fma(&x, turns, DType::F32)))
}

fn int8(inputs: &Inputs) -> Result<Run> {
    let (device, elements) = (inputs.device().clone(), inputs.size("elements"));
    let turns = inputs.size("turns");
    Ok(Box::new(move || ops::peak_int8(&device, elements, turns, false)))
}

fn launch(inputs: &Inputs) -> Result<Run> {
    let (device, value) = (inputs.device().clone(), inputs.size("value") as f32);
    Ok(Box::new(move || ops::peak_launch(&device, value)))
}

fn local(inputs: &Inputs) -> Result<Run> {
    let (x, groups, turns) = (inputs.floats(&[4096])?, inputs.size("groups"), inputs.size("turns"));
    Ok(Box::new(move || ops::peak_local(&x, groups, turns)))
}

fn memory(inputs: &Inputs) -> Result<Run> {
    let (device, elements) = (inputs.device().clone(), inputs.size("elements"));
    let x = inputs.floats(&[elements])?;
    Ok(Box::new(move || {
        let y = ops::peak_memory(&device, Action::Copy(&x))?;
        let sums = ops::peak_memory(&device, Action::Read(&y))?;
        ops::peak_memory(&device, Action::Write(elements, 1.0))?;
        Ok(sums)
    }))
}
