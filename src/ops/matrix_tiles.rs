//! How products by matrix units cut their result into work-groups.

use crate::DType;
use crate::device::{Device, Grid};
use crate::info::DeviceInfo;
use crate::kernel::Configuration;
use crate::ops::tiles::{Tiling, batch, format_value, suggested_tile};
use crate::tune::Class;

/// `TILE_M`, `TILE_N`, `TILE_K`, `TEAM_N` and `WG_SIZE`, the largest tile first, each with the share
/// of a matrix unit's peak to which the static report bounds its loop on gfx1100, in percent.
const MATRIX_TILES: [([u32; 5], usize); 5] = [
    ([128, 128, 32, 64, 256], 96),
    ([64, 128, 32, 64, 128], 93),
    ([64, 64, 32, 64, 64], 92),
    ([32, 64, 32, 64, 64], 88),
    ([32, 32, 32, 32, 64], 85),
];

/// Every configuration of `gemm_matrix` that is suggested where nothing was measured, the largest
/// tile first.
pub fn matrix_configurations() -> impl Iterator<Item = [(&'static str, u32); 5]> {
    MATRIX_TILES.iter().map(|(tile, _)| named(tile))
}

fn named(tile: &[u32; 5]) -> [(&'static str, u32); 5] {
    let names = ["TILE_M", "TILE_N", "TILE_K", "TEAM_N", "WG_SIZE"];
    std::array::from_fn(|at| (names[at], tile[at]))
}

/// A work-group for a tile of `TILE_M` rows by `TILE_N` outputs.
pub(super) fn matrix_tiling(device: &Device, dtype: DType, class: &Class) -> Tiling {
    let tile = suggested_tile(&MATRIX_TILES, |tile| tile[4], device.info(), class);
    let mut suggested = named(tile.unwrap_or(&MATRIX_TILES[MATRIX_TILES.len() - 1].0)).to_vec();
    suggested.push(format_value(class));
    let configuration = device.configuration("gemm_matrix", dtype, class, &suggested);
    Tiling::new(device, class, configuration, matrix_grid)
}

fn matrix_grid(_info: &DeviceInfo, class: &Class, configuration: &Configuration) -> Grid {
    let (rows, outputs) = (class.0[0].1, class.0[1].1);
    let groups = [
        rows.div_ceil(configuration.size("TILE_M")),
        outputs.div_ceil(configuration.size("TILE_N")),
        batch(class),
    ];
    Grid { groups, local: [configuration.size("WG_SIZE"), 1, 1] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::ops::tiles::tests::gpu;

    #[test]
    fn tiles_cover_the_edges_and_are_smaller_where_work_is_little() {
        let device = Device::definitions(Some(DeviceInfo { matrix_units: true, ..gpu() }));
        for (why, rows, outputs, tile, groups, items) in [
            ("unet feed-forward, 64x64", 4096, 2560, [128, 128], [32, 20, 1], 256),
            ("unet, 1280 at 16x16", 256, 1280, [32, 64], [8, 20, 1], 64),
            ("a text encoder's layer", 77, 768, [32, 64], [3, 12, 1], 64),
            ("a row more than are few", 9, 320, [32, 32], [1, 10, 1], 64),
        ] {
            let class = Class(vec![("rows", rows), ("outputs", outputs)]);
            let tiling = matrix_tiling(&device, DType::F16, &class);
            let got = ["TILE_M", "TILE_N"].map(|name| tiling.configuration.get(name));
            assert_eq!((got, tiling.groups, tiling.local), (tile, groups, [items, 1, 1]), "{why}");
        }
    }

    #[test]
    fn what_is_suggested_meets_the_constraints() {
        let kernel = Kernel::find("gemm_matrix").unwrap();
        for values in matrix_configurations() {
            let mut one = Configuration::defaults(kernel.parameters);
            assert!(values.iter().all(|(name, value)| one.set(name, *value)));
            assert!(
                kernel.violated(&one, &gpu()).is_none(),
                "{one}: {:?}",
                kernel.violated(&one, &gpu())
            );
        }
    }
}
