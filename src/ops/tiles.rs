//! How the two shapes of a product kernel cut their result into work-groups.

use std::sync::Arc;

use crate::device::{Device, Grid};
use crate::info::DeviceInfo;
use crate::kernel::Configuration;
use crate::ops::PANEL;
use crate::tune::Class;
use crate::{DType, Format};

/// A kernel's configuration, and the launch that it leads to.
#[derive(Clone, Debug)]
pub(super) struct Tiling {
    pub configuration: Arc<Configuration>,
    pub groups: [usize; 3],
    pub local: [usize; 3],
    /// The launch that a configuration leads to.
    pub grid: GridOf,
}

/// The launch that a configuration of a kernel leads to, for a problem on a device.
type GridOf = fn(&DeviceInfo, &Class, &Configuration) -> Grid;

impl Tiling {
    /// A configuration with its launch.
    pub fn new(
        device: &Device,
        class: &Class,
        configuration: Arc<Configuration>,
        grid: GridOf,
    ) -> Self {
        let Grid { groups, local } = grid(device.info(), class, &configuration);
        Self { configuration, groups, local, grid }
    }
}

/// How a kernel of one shape is launched for a product of so many rows and outputs, which are
/// `class.0[0]` and `class.0[1]`.
pub(super) type Tile = fn(&Device, &'static str, DType, &Class) -> Tiling;

/// One work-item for a block of at most `TILES` register tiles by `PANELS` panels, which the
/// kernel shares out evenly over the launch: for CPU devices.
pub(super) fn register_tiling(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
) -> Tiling {
    register_tiling_of(device, kernel, dtype, class, &[])
}

/// As [`register_tiling`] with values of `given` instead of those that suit any product.
pub(super) fn register_tiling_of(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
    given: &[(&'static str, u32)],
) -> Tiling {
    let mut suggested = suggested_register_tiles(device.info(), class.0[0].1).to_vec();
    suggested.extend(given);
    suggested.push(format_value(class));
    let configuration = device.configuration(kernel, dtype, class, &suggested);
    Tiling::new(device, class, configuration, register_grid)
}

/// What tells weights in blocks from others in a problem's class.
pub(super) fn format_class(format: Option<Format>) -> Option<(&'static str, usize)> {
    format.map(|format| ("format", format.number() as usize))
}

/// `FORMAT` for a class.
pub(super) fn format_value(class: &Class) -> (&'static str, u32) {
    let format = class.0.iter().find(|(name, _)| *name == "format");
    ("FORMAT", format.map_or(0, |(_, number)| *number as u32))
}

fn register_grid(info: &DeviceInfo, class: &Class, configuration: &Configuration) -> Grid {
    let (rows, outputs, batch) = (class.0[0].1, class.0[1].1, batch(class));
    let tiles = rows.div_ceil(configuration.size("TILE_M"));
    let panels = outputs.div_ceil(PANEL);
    let least = [
        tiles.div_ceil(configuration.size("TILES")),
        panels.div_ceil(configuration.size("PANELS")),
    ];
    // The products of a batch are work for several cores by themselves.
    let cores = (info.compute_units as usize).div_ceil(batch);
    let [row_blocks, panel_blocks] = register_blocks(tiles, panels, least, cores);
    Grid { groups: [row_blocks, panel_blocks, batch], local: [1, 1, 1] }
}

/// Products in the batch that a class describes, or slices of one.
pub(super) fn batch(class: &Class) -> usize {
    let batch = class.0.iter().find(|(name, _)| ["batch", "slices"].contains(name));
    batch.map_or(1, |&(_, batch)| batch)
}

/// Blocks of rows and blocks of panels, at least so many each: as many for every core, and several,
/// so that the last ones end together; but packing a block's rows should stay small beside using
/// them.
fn register_blocks(tiles: usize, panels: usize, least: [usize; 2], cores: usize) -> [usize; 2] {
    let row_blocks = match least[0] {
        1 => 1,
        several => several.next_multiple_of(cores).min(tiles),
    };
    let wanted = (4 * cores).div_ceil(row_blocks).min(panels.div_ceil(2));
    [row_blocks, least[1].max(wanted)]
}

/// A tile is `TILE_M` rows by two vectors. It takes 24 of 32 registers where vectors have 16
/// lanes (AVX-512), and 12 of 16 where they have fewer (AVX2, SSE). A block's packed rows and its
/// sums take less than a third of a second cache of 1 MiB each, whatever the problem: one program
/// for all, but where a row more to a tile leaves few rows empty, as of 64 rows or 77. Of two blocks
/// that take as much, the one of few rows by many panels packs its rows less often; panels are
/// fetched ahead and may come from further.
pub(super) fn suggested_register_tiles(info: &DeviceInfo, rows: usize) -> [(&'static str, u32); 5] {
    let (vector, tile_rows, tiles) = match info.vector_width {
        16.. => (16, if fills(13, rows, 12) { 13 } else { 12 }, 6),
        8..16 => (8, 6, 12),
        _ => (4, 6, 12),
    };
    [("VECTOR", vector), ("TILE_M", tile_rows), ("TILES", tiles), ("PANELS", 32), ("TILE_K", 640)]
}

/// Whether tiles of `tile` rows compute 5 % less than those of `usual`.
fn fills(tile: usize, rows: usize, usual: usize) -> bool {
    105 * rows.next_multiple_of(tile) <= 100 * rows.next_multiple_of(usual)
}

/// A work-group for a panel of a product of few rows: one work-item on CPU devices, the lanes of a
/// GPU over outputs and over K.
pub(super) fn panel_tiling(device: &Device, dtype: DType, class: &Class) -> Tiling {
    let (rows, info) = (class.0[0].1, device.info());
    let format = format_value(class);
    let [vector, item_outputs, slices] = match (info.prefers_register_tiles(), format.1) {
        (true, 0) => [info.vector_width.min(16).next_power_of_two(), PANEL as u32, 1],
        (true, _) => [16, PANEL as u32, 1],
        // Loads of 16 bytes, where there are registers for their sums.
        (false, 1..) if rows <= 2 => [16, 16, 32],
        (false, _) => [4, 4, 8],
    };
    let suggested = [
        format,
        ("ROWS", rows.next_power_of_two() as u32),
        ("VECTOR", vector),
        ("ITEM_N", item_outputs),
        ("SLICES", slices),
    ];
    let configuration = device.configuration("gemv", dtype, class, &suggested);
    Tiling::new(device, class, configuration, |_, class, configuration| {
        let items = PANEL / configuration.size("ITEM_N") * configuration.size("SLICES");
        Grid { groups: [class.0[1].1.div_ceil(PANEL), 1, batch(class)], local: [items, 1, 1] }
    })
}

/// A work-group for a tile of `TILE_M` rows by `TILE_N` outputs in local memory: for GPUs.
pub(super) fn local_tiling(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    class: &Class,
) -> Tiling {
    let mut suggested = suggested_local_tiles(device.info(), class).to_vec();
    suggested.push(format_value(class));
    let configuration = device.configuration(kernel, dtype, class, &suggested);
    Tiling::new(device, class, configuration, local_grid)
}

/// As [`local_tiling`], of a product in slices: it has so few tiles that they are the smallest.
pub(super) fn split_tiling(device: &Device, dtype: DType, class: &Class) -> Tiling {
    let mut suggested = named(&SMALLEST_TILE).to_vec();
    suggested.push(format_value(class));
    let configuration = device.configuration("gemm_split", dtype, class, &suggested);
    Tiling::new(device, class, configuration, local_grid)
}

/// Work-groups for a product by the smallest tiles: each is 64 work-items.
pub(super) fn most_local_groups(rows: usize, outputs: usize) -> usize {
    rows.div_ceil(SMALLEST_TILE[0] as usize) * outputs.div_ceil(SMALLEST_TILE[1] as usize)
}

fn local_grid(_info: &DeviceInfo, class: &Class, configuration: &Configuration) -> Grid {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let (tile_rows, tile_outputs) = (configuration.size("TILE_M"), configuration.size("TILE_N"));
    let items =
        (tile_rows / configuration.size("ITEM_M")) * (tile_outputs / configuration.size("ITEM_N"));
    let groups = [rows.div_ceil(tile_rows), outputs.div_ceil(tile_outputs), batch(class)];
    Grid { groups, local: [items, 1, 1] }
}

/// `TILE_M`, `TILE_N`, `TILE_K`, `ITEM_M` and `ITEM_N`, the largest tile first, each with the share
/// of peak to which the static report bounds its loop on gfx803, in percent.
const LOCAL_TILES: [([u32; 5], usize); 4] = [
    ([64, 128, 16, 4, 8], 96),
    ([64, 64, 8, 8, 4], 93),
    ([32, 64, 16, 4, 4], 91),
    ([32, 32, 16, 4, 4], 88),
];

const SMALLEST_TILE: [u32; 5] = LOCAL_TILES[LOCAL_TILES.len() - 1].0;

/// Every configuration of `gemm_local` and `conv2d_local` that is suggested where nothing was
/// measured, the largest tile first; the last is that of `gemm_split`.
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
fn suggested_local_tiles(info: &DeviceInfo, class: &Class) -> [(&'static str, u32); 5] {
    let items = |tile: &[u32; 5]| tile[0] / tile[3] * (tile[1] / tile[4]);
    named(suggested_tile(&LOCAL_TILES, items, info, class).unwrap_or(&SMALLEST_TILE))
}

/// As above, among `tiles`, each of which begins with its rows and outputs, takes so many work-items
/// and comes with the share of peak that its loop can reach, in percent.
pub(super) fn suggested_tile<'a, const N: usize>(
    tiles: &'a [([u32; N], usize)],
    items: impl Fn(&[u32; N]) -> u32,
    info: &DeviceInfo,
    class: &Class,
) -> Option<&'a [u32; N]> {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let time = |(tile, percent): &([u32; N], usize)| {
        let (tile_rows, tile_outputs) = (tile[0] as usize, tile[1] as usize);
        let groups = rows.div_ceil(tile_rows) * outputs.div_ceil(tile_outputs) * batch(class);
        let most = groups.div_ceil(info.compute_units.max(1) as usize);
        most * tile_rows * tile_outputs * 100 / percent
    };
    let fits = |(tile, _): &&([u32; N], usize)| items(tile) as usize <= info.max_work_group;
    let least = tiles.iter().filter(fits).map(time).min().unwrap_or(0);
    let good = |candidate: &&([u32; N], usize)| 10 * time(candidate) <= 11 * least;
    tiles.iter().filter(fits).find(good).map(|(tile, _)| tile)
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
            matrix_units: false,
            amx: false,
            sub_group: None,
            architecture: None,
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
        for (vector_width, rows, outputs, [vector, tile_rows, tiles], groups) in [
            // 342 tiles of 12 rows and 10 panels: 58 blocks of 5 or 6 tiles.
            (16, 4096, 320, [16, 12, 6], [58, 1, 1]),
            // 22 tiles and 320 panels.
            (16, 256, 10240, [16, 12, 6], [4, 10, 1]),
            // 6 tiles of 13 rows, where 12 would take 7.
            (16, 77, 768, [16, 13, 6], [1, 8, 1]),
            (16, 1, 768, [16, 12, 6], [1, 8, 1]),
            (8, 64, 1280, [8, 6, 12], [1, 8, 1]),
            (4, 1, 4, [4, 6, 12], [1, 1, 1]),
        ] {
            let device = Device::definitions(Some(cpu(vector_width)));
            let class = class(rows, outputs);
            let tiling = register_tiling(&device, "conv2d_register", DType::F32, &class);
            let values = ["VECTOR", "TILE_M", "TILES"].map(|name| tiling.configuration.get(name));
            assert_eq!((values, tiling.groups), ([vector, tile_rows, tiles], groups));
        }
    }

    #[test]
    fn few_rows_have_a_work_group_for_each_panel() {
        for (info, rows, local) in [(cpu(16), 1, 1), (cpu(8), 3, 1), (gpu(), 2, 64)] {
            let device = Device::definitions(Some(info));
            let tiling = panel_tiling(&device, DType::F32, &class(rows, 1290));
            assert_eq!((tiling.groups, tiling.local), ([41, 1, 1], [local, 1, 1]));
            assert_eq!(tiling.configuration.size("ROWS"), rows.next_power_of_two());
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
