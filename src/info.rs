//! What a device says of itself: the facts that algorithms are chosen by.

use serde::Serialize;

/// What kind of processor a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A graphics card, or anything else with fast local memory and many work-items in flight.
    Gpu,
    /// The host's own processor, through a driver or directly.
    Cpu,
}

/// A device as its driver describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// The backend that drives it: `opencl`, `hip` or `cpu`.
    pub backend: &'static str,
    /// The device's name; the board's name where the driver tells it.
    pub name: String,
    /// Who made it.
    pub vendor: String,
    /// The platform or driver stack, with its version.
    pub platform: String,
    /// The driver's version: part of every cache key and tuning key.
    pub driver: String,
    /// GPU or CPU.
    pub kind: DeviceKind,
    /// Compute units, or cores.
    pub compute_units: u32,
    /// All of the device's memory in bytes.
    pub memory_bytes: u64,
    /// The largest single allocation in bytes.
    pub max_allocation_bytes: u64,
    /// Local memory of a work-group in bytes.
    pub local_memory_bytes: u64,
    /// Whether local memory is a memory of its own, not the cache under another name.
    pub local_memory_is_fast: bool,
    /// The most work-items in a work-group.
    pub max_work_group: usize,
    /// f32 lanes of one vector instruction; 1 where work-items are the lanes.
    pub vector_width: u32,
    /// Whether its compiler multiplies fragments of f16 by matrix units, as
    /// [`Words`](crate::backend::words::Words) found when the device was opened; false before.
    pub matrix_units: bool,
    /// Whether it is a host whose tile registers (AMX) multiply bf16, and whose driver lets
    /// kernels use them.
    pub amx: bool,
    /// Work-items that run in step, where the driver tells without compiling a kernel.
    pub sub_group: Option<u32>,
    /// The instruction set with its feature flags, such as `gfx906:sramecc+:xnack-`, where the
    /// driver tells.
    pub architecture: Option<String>,
    /// The PCI address where known, by which one card seen through two drivers is told.
    pub pci_address: Option<String>,
}

impl DeviceInfo {
    /// Whether a work-item should hold a large register tile in wide vectors (a CPU), instead
    /// of a work-group sharing tiles in local memory (a GPU).
    pub fn prefers_register_tiles(&self) -> bool {
        self.kind == DeviceKind::Cpu && self.vector_width >= 4
    }
}
