//! The parameters and constraints that several kernels share.

use super::{Configuration, Constraint, Parameter};

/// How weights are stored: 0 as activations are, else by [`Format::number`](crate::Format::number).
pub(super) const FORMAT: Parameter = given("FORMAT", 0);

/// Outputs of a Winograd tile each way, which `plan` decides.
pub(super) const TILE: Parameter = given("TILE", 4);

/// Channels at a time where these must divide what the problem has.
pub(super) const VECTOR: Parameter = given("VECTOR", 16);

/// Of kernels that read weights as vectors.
pub(super) const VECTORS_OF_FORMATS: Constraint = Constraint {
    text: "weights in blocks are read 4 or 16 at a time",
    holds: |values, _| values.get("FORMAT") == 0 || [4, 16].contains(&values.get("VECTOR")),
};

/// Work-items in a work-group, of kernels that spread over elements.
pub(super) const WORK_GROUPS: &[u32] = &[1, 64, 128, 256];

/// Of products by tiles in local memory.
pub(super) const LOCAL_TILES: &[Parameter] = &[
    FORMAT,
    tuned("TILE_M", 64, &[16, 32, 64, 128]),
    tuned("TILE_N", 64, &[32, 64, 128]),
    tuned("TILE_K", 8, &[8, 16, 32]),
    tuned("ITEM_M", 8, &[4, 8, 16]),
    tuned("ITEM_N", 4, &[4, 8]),
    tuned("BUFFERS", 1, &[1, 2]),
];

pub(super) const LOCAL_CONSTRAINTS: &[Constraint] = &[
    Constraint {
        text: "the work-group fits the device",
        holds: |values, info| (1..=info.max_work_group.min(256)).contains(&local_items(values)),
    },
    Constraint {
        text: "the work-group divides the loads",
        holds: |values, _| {
            let quads = values.size("TILE_K") / 4;
            (values.size("TILE_M") * quads).is_multiple_of(local_items(values))
                && (quads * values.size("TILE_N")).is_multiple_of(local_items(values))
        },
    },
    Constraint {
        text: "the tiles fit local memory",
        holds: |values, info| {
            let rows = values.size("TILE_M");
            let tile = values.size("TILE_K") * (rows + 4 + values.size("TILE_N"));
            // A convolution keeps three numbers of each row beside them.
            let floats = values.size("BUFFERS") * tile + 3 * rows;
            4 * floats as u64 <= info.local_memory_bytes.min(32 << 10)
        },
    },
];

pub(super) fn local_items(values: &Configuration) -> usize {
    (values.size("TILE_M") / values.size("ITEM_M"))
        * (values.size("TILE_N") / values.size("ITEM_N"))
}

/// Of products by fragments.
pub(super) const MATRIX_TILES: &[Parameter] = &[
    FORMAT,
    tuned("TILE_M", 64, &[32, 64, 128]),
    tuned("TILE_N", 128, &[32, 64, 128]),
    tuned("TILE_K", 32, &[16, 32, 64]),
    tuned("TEAM_N", 64, &[32, 64]),
    tuned("WG_SIZE", 128, &[64, 128, 256]),
];

/// Whatever a team of work-items is, 32 or 64.
pub(super) const MATRIX_CONSTRAINTS: &[Constraint] = &[
    Constraint {
        text: "the work-group fits the device",
        holds: |values, info| values.size("WG_SIZE") <= info.max_work_group.min(256),
    },
    Constraint {
        text: "teams of 32 and of 64 divide the tile and hold whole fragments",
        holds: |values, _| {
            let teams_n = values.size("TILE_N") / values.size("TEAM_N");
            [32, 64].into_iter().all(|team| {
                let teams_m = values.size("WG_SIZE") / (team * teams_n.max(1));
                teams_m > 0
                    && values.size("WG_SIZE") == team * teams_n * teams_m
                    && values.size("TILE_N").is_multiple_of(values.size("TEAM_N"))
                    && values.size("TILE_M").is_multiple_of(teams_m * 16)
            })
        },
    },
    Constraint {
        text: "the work-group divides the loads",
        holds: |values, _| {
            let (depth, items) = (values.size("TILE_K"), values.size("WG_SIZE"));
            (values.size("TILE_M") * depth / 8).is_multiple_of(items)
                && (values.size("TILE_N") * depth / 16).is_multiple_of(items)
        },
    },
    Constraint {
        text: "a work-item has registers for its sums",
        holds: |values, _| {
            values.size("TILE_M") * values.size("TILE_N") <= 64 * values.size("WG_SIZE")
        },
    },
    Constraint {
        text: "the tiles fit local memory",
        holds: |values, info| {
            let halves =
                (values.size("TILE_M") + values.size("TILE_N")) * (values.size("TILE_K") + 8);
            2 * halves as u64 <= info.local_memory_bytes.min(32 << 10)
        },
    },
];

/// Of products by tiles in registers.
pub(super) const REGISTER_TILES: &[Parameter] = &[
    tuned("VECTOR", 16, &[4, 8, 16]),
    tuned("TILE_M", 12, &[4, 6, 8, 12, 13, 14]),
    count("TILES", 8, &[1, 2, 4, 6, 8, 12, 16]),
    count("PANELS", 8, &[1, 2, 4, 8, 16, 32]),
    tuned("TILE_K", 256, &[64, 128, 256, 384, 512, 640]),
];

/// As those, of weights in any format.
pub(super) const REGISTER_TILES_OF_FORMATS: &[Parameter] = &[
    FORMAT,
    REGISTER_TILES[0],
    REGISTER_TILES[1],
    REGISTER_TILES[2],
    REGISTER_TILES[3],
    REGISTER_TILES[4],
];

pub(super) const REGISTER_CONSTRAINTS: &[Constraint] = &[Constraint {
    // A work-item's stack is a thread's, 8 MiB at most with all that it holds.
    text: "the block fits 2 MiB of private memory",
    holds: |values, _| {
        let (rows, depth) = (values.size("TILES") * values.size("TILE_M"), values.size("TILE_K"));
        let floats = rows * (depth + 16) + values.size("PANELS") * 32 * rows + depth * 32;
        4 * floats <= 2 << 20
    },
}];

/// A parameter that is tuned: what a tuner tries.
pub(super) const fn tuned(name: &'static str, default: u32, values: &'static [u32]) -> Parameter {
    Parameter { name, default, values, counts: false }
}

/// As [`tuned`], of a parameter that counts things.
pub(super) const fn count(name: &'static str, default: u32, values: &'static [u32]) -> Parameter {
    Parameter { name, default, values, counts: true }
}

/// A parameter that the problem decides.
pub(super) const fn given(name: &'static str, default: u32) -> Parameter {
    Parameter { name, default, values: &[], counts: false }
}
