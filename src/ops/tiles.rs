//! How the two shapes of a product kernel cut their result into work-groups.

use std::sync::Arc;

use crate::DType;
use crate::device::Device;
use crate::info::DeviceInfo;
use crate::kernel::Configuration;
use crate::ops::PANEL;
use crate::tune::Class;

/// A kernel's configuration, and the launch that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    pub configuration: Arc<Configuration>,
    pub groups: [usize; 3],
    pub local: [usize; 3],
}

/// How a kernel of one shape is launched for a product of so many rows and outputs, which are
/// `class.0[0]` and `class.0[1]`.
pub(super) type Tile = fn(&Device, &'static str, DType, &Class) -> Tiling;

/// One work-item for a block of `TILES` register tiles by `PANELS` panels: for CPU devices.
pub(super) fn register_tiling(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
) -> Tiling {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let suggested = suggested_register_tiles(device.info(), rows, outputs);
    register_tiling_of(device, kernel, dtype, class, &suggested)
}

/// As [`register_tiling`] with other values suggested.
pub(super) fn register_tiling_of(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
    suggested: &[(&'static str, u32)],
) -> Tiling {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let configuration = device.configuration(kernel, dtype, class, suggested);
    let block_rows = configuration.size("TILES") * configuration.size("TILE_M");
    let block_outputs = configuration.size("PANELS") * PANEL;
    let groups = [rows.div_ceil(block_rows), outputs.div_ceil(block_outputs), 1];
    Tiling { configuration, groups, local: [1, 1, 1] }
}

/// A tile is `TILE_M` rows by two vectors. It takes 24 of 32 registers where vectors have 16
/// lanes (AVX-512), and 12 of 16 where they have fewer (AVX2, SSE).
fn suggested_register_tiles(
    info: &DeviceInfo,
    rows: usize,
    outputs: usize,
) -> [(&'static str, u32); 3] {
    let (vector, tile_rows) = match info.vector_width {
        16.. => (16, 12),
        8..16 => (8, 6),
        _ => (4, 6),
    };
    let row_blocks = rows.div_ceil(tile_rows as usize * 8);
    let panels = outputs.div_ceil(PANEL);
    // Few blocks leave cores without work: then each takes fewer panels.
    let mut block_panels = 8;
    let wanted_blocks = 4 * info.compute_units as usize;
    while block_panels > 1 && row_blocks * panels.div_ceil(block_panels) < wanted_blocks {
        block_panels /= 2;
    }
    [("VECTOR", vector), ("TILE_M", tile_rows), ("PANELS", block_panels as u32)]
}

/// A work-group for a tile of `TILE_M` rows by `TILE_N` outputs in local memory: for GPUs.
pub(super) fn local_tiling(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
) -> Tiling {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let suggested = suggested_local_tiles(device.info(), rows, outputs);
    let configuration = device.configuration(kernel, dtype, class, &suggested);
    let (tile_rows, tile_outputs) = (configuration.size("TILE_M"), configuration.size("TILE_N"));
    let items =
        (tile_rows / configuration.size("ITEM_M")) * (tile_outputs / configuration.size("ITEM_N"));
    let groups = [rows.div_ceil(tile_rows), outputs.div_ceil(tile_outputs), 1];
    Tiling { configuration, groups, local: [items, 1, 1] }
}

/// `TILE_M`, `TILE_N`, `TILE_K`, `ITEM_M` and `ITEM_N`, the largest tile first, each with the share
/// of peak to which the static report bounds its loop on gfx803, in percent.
const LOCAL_TILES: [([u32; 5], usize); 4] = [
    ([64, 128, 16, 4, 8], 96),
    ([64, 64, 8, 8, 4], 93),
    ([32, 64, 16, 4, 4], 91),
    ([32, 32, 16, 4, 4], 88),
];

/// Every configuration of `gemm_local` and `conv2d_local` that is suggested where nothing was
/// measured, the largest tile first.
pub fn local_configurations() -> impl Iterator<Item = [(&'static str, u32); 5]> {
    LOCAL_TILES.iter().map(|(tile, _)| named(tile))
}

fn named(tile: &[u32; 5]) -> [(&'static str, u32); 5] {
    let names = ["TILE_M", "TILE_N", "TILE_K", "ITEM_M", "ITEM_N"];
    std::array::from_fn(|at| (names[at], tile[at]))
}

/// The largest tile with which the compute unit that gets most of the work is done not much later
/// than with any other: a large one loads less for each product, but leaves compute units without
/// work where there is little, and multiplies more zeros at the edges.
fn suggested_local_tiles(
    info: &DeviceInfo,
    rows: usize,
    outputs: usize,
) -> [(&'static str, u32); 5] {
    let time = |(tile, percent): &([u32; 5], usize)| {
        let (tile_rows, tile_outputs) = (tile[0] as usize, tile[1] as usize);
        let groups = rows.div_ceil(tile_rows) * outputs.div_ceil(tile_outputs);
        let most = groups.div_ceil(info.compute_units.max(1) as usize);
        most * tile_rows * tile_outputs * 100 / percent
    };
    let fits = |(tile, _): &&([u32; 5], usize)| {
        (tile[0] / tile[3] * (tile[1] / tile[4])) as usize <= info.max_work_group
    };
    let least = LOCAL_TILES.iter().filter(fits).map(time).min().unwrap_or(0);
    let good = |candidate: &&([u32; 5], usize)| 10 * time(candidate) <= 11 * least;
    let best = LOCAL_TILES.iter().filter(fits).find(good);
    let (tile, _) = best.unwrap_or(&LOCAL_TILES[LOCAL_TILES.len() - 1]);
    named(tile)
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

    fn class(rows: usize, outputs: usize) -> Class {
        Class(vec![("rows", rows), ("outputs", outputs)])
    }

    #[test]
    fn register_tiles_fit_the_registers_and_leave_no_core_without_work() {
        for (vector_width, rows, outputs, [vector, tile_rows, panels], groups) in [
            (16, 4096, 320, [16, 12, 8], [43, 2, 1]),
            (8, 64, 1280, [8, 6, 8], [2, 5, 1]),
            (4, 1, 4, [4, 6, 1], [1, 1, 1]),
        ] {
            let device = Device::definitions(Some(cpu(vector_width)));
            let class = class(rows, outputs);
            let tiling = register_tiling(&device, "gemm_register", DType::F32, &class);
            let values = ["VECTOR", "TILE_M", "PANELS"].map(|name| tiling.configuration.get(name));
            assert_eq!((values, tiling.groups), ([vector, tile_rows, panels], groups));
        }
    }

    #[test]
    fn local_tiles_cover_the_edges_and_are_smaller_where_work_is_little() {
        let device = Device::definitions(Some(gpu()));
        for (why, rows, outputs, tile, groups, items) in [
            ("vae 3x3, 512 to 512 at 64x64", 4096, 512, [64, 128], [64, 4, 1], 256),
            ("unet, 320 at 64x64: no multiple of 128", 4096, 320, [64, 64], [64, 5, 1], 128),
            ("unet, 1280 at 16x16", 256, 1280, [32, 64], [8, 20, 1], 128),
            ("unet, 1280 at 8x8", 64, 1280, [32, 32], [2, 40, 1], 64),
            ("a text encoder's layer", 77, 768, [32, 64], [3, 12, 1], 128),
            ("a row", 1, 1280, [32, 64], [1, 20, 1], 128),
        ] {
            let tiling = local_tiling(&device, "gemm_local", DType::F32, &class(rows, outputs));
            let got = ["TILE_M", "TILE_N"].map(|name| tiling.configuration.get(name));
            assert_eq!((got, tiling.groups, tiling.local), (tile, groups, [items, 1, 1]), "{why}");
        }
    }
}
