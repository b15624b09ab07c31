//! How the two shapes of a product kernel cut their result into work-groups.

use crate::info::DeviceInfo;
use crate::kernel::Kernel;
use crate::ops::PANEL;

/// A kernel's parameters, and the launch that they lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    pub parameters: Vec<(&'static str, u32)>,
    pub groups: [usize; 3],
    pub local: [usize; 3],
}

/// One work-item for a block of `TILES` register tiles by `PANELS` panels: for CPU devices.
///
/// A tile is `TILE_M` rows by two vectors. It takes 24 of 32 registers where vectors have 16
/// lanes (AVX-512), and 12 of 16 where they have fewer (AVX2, SSE).
pub(super) fn register_tiling(
    kernel: &'static str,
    info: &DeviceInfo,
    rows: usize,
    outputs: usize,
) -> Tiling {
    let (vector, tile_rows) = match info.vector_width {
        16.. => (16, 12),
        8..16 => (8, 6),
        _ => (4, 6),
    };
    let mut parameters = vec![("VECTOR", vector), ("TILE_M", tile_rows)];
    let value = |name| parameter(kernel, &parameters, name);
    let block_rows = tile_rows as usize * value("TILES");
    let row_blocks = rows.div_ceil(block_rows);
    let panels = outputs.div_ceil(PANEL);
    // Few blocks leave cores without work: then each takes fewer panels.
    let mut block_panels = value("PANELS");
    let wanted_blocks = 4 * info.compute_units as usize;
    while block_panels > 1 && row_blocks * panels.div_ceil(block_panels) < wanted_blocks {
        block_panels /= 2;
    }
    parameters.push(("PANELS", block_panels as u32));
    let groups = [row_blocks, panels.div_ceil(block_panels), 1];
    Tiling { parameters, groups, local: [1, 1, 1] }
}

/// A work-group for a tile of `TILE_M` rows by `TILE_N` outputs in local memory: for GPUs.
pub(super) fn local_tiling(
    kernel: &'static str,
    _info: &DeviceInfo,
    rows: usize,
    outputs: usize,
) -> Tiling {
    let value = |name| parameter(kernel, &[], name);
    let (tile_rows, tile_outputs) = (value("TILE_M"), value("TILE_N"));
    let items = (tile_rows / value("ITEM_M")) * (tile_outputs / value("ITEM_N"));
    let groups = [rows.div_ceil(tile_rows), outputs.div_ceil(tile_outputs), 1];
    Tiling { parameters: Vec::new(), groups, local: [items, 1, 1] }
}

/// The value among `given`, or the kernel's own.
fn parameter(kernel: &str, given: &[(&'static str, u32)], name: &str) -> usize {
    let own = Kernel::find(kernel).expect("ops call kernels of the catalogue").parameters;
    let found = given.iter().chain(own).find(|(parameter, _)| *parameter == name);
    found.unwrap_or_else(|| panic!("{kernel} has no parameter {name}")).1 as usize
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::info::DeviceKind;

    /// A GPU like those that the crate is for.
    pub fn gpu() -> DeviceInfo {
        DeviceInfo {
            backend: "opencl",
            name: "Ellesmere".to_owned(),
            vendor: "AMD".to_owned(),
            platform: String::new(),
            driver: String::new(),
            kind: DeviceKind::Gpu,
            compute_units: 36,
            memory_bytes: 8 << 30,
            max_allocation_bytes: 3 << 30,
            local_memory_bytes: 32 << 10,
            local_memory_is_fast: true,
            max_work_group: 256,
            vector_width: 1,
            pci_address: None,
        }
    }

    /// Two cores with vectors of so many lanes.
    pub fn cpu(vector_width: u32) -> DeviceInfo {
        DeviceInfo { kind: DeviceKind::Cpu, compute_units: 2, vector_width, ..gpu() }
    }

    #[test]
    fn register_tiles_fit_the_registers_and_leave_no_core_without_work() {
        let tiling = register_tiling("gemm_register", &cpu(16), 4096, 320);
        assert_eq!(tiling.parameters, [("VECTOR", 16), ("TILE_M", 12), ("PANELS", 8)]);
        assert_eq!(tiling.groups, [43, 2, 1]);
        let tiling = register_tiling("gemm_register", &cpu(8), 64, 1280);
        assert_eq!(tiling.parameters, [("VECTOR", 8), ("TILE_M", 6), ("PANELS", 8)]);
        assert_eq!(tiling.groups, [2, 5, 1]);
        let tiling = register_tiling("gemm_register", &cpu(4), 1, 4);
        assert_eq!(tiling.parameters, [("VECTOR", 4), ("TILE_M", 6), ("PANELS", 1)]);
        assert_eq!(tiling.groups, [1, 1, 1]);
    }

    #[test]
    fn local_tiles_cover_the_edges() {
        let tiling = local_tiling("gemm_local", &gpu(), 65, 320);
        assert_eq!((tiling.groups, tiling.local), ([2, 5, 1], [128, 1, 1]));
    }
}
