//! Every kernel: what it computes, by what it is specialised, and from which files it is made.

use super::tiles::{
    FORMAT, LOCAL_CONSTRAINTS, LOCAL_TILES, MATRIX_CONSTRAINTS, MATRIX_TILES, REGISTER_CONSTRAINTS,
    REGISTER_TILES, REGISTER_TILES_OF_FORMATS, TILE, VECTOR, VECTORS_OF_FORMATS, WORK_GROUPS,
    given, local_items, tuned,
};
use super::{Constraint, Kernel};

/// Every kernel, in alphabetical order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "attention_amx",
        summary: "attention with blocks of queries in the tile registers of AMX",
        parameters: &[
            given("HEAD_WIDTH", 64),
            tuned("KEYS", 64, &[32, 64, 128, 256]),
            tuned("BLOCKS", 8, &[1, 2, 4, 8, 16, 32]),
        ],
        constraints: &[Constraint {
            text: "the blocks and the tile fit 2 MiB of private memory",
            holds: |values, _| {
                let width = values.size("HEAD_WIDTH").next_multiple_of(32);
                let (blocks, keys) = (values.size("BLOCKS"), values.size("KEYS"));
                // Three parts of 2 bytes where elements are f32.
                let parts = 2 * 3;
                let queries = 32 * blocks * width * (parts + 4);
                let tiles = 2 * keys * width * parts + 32 * keys * (parts + 4);
                let lines = 8 * (2 * keys + 64) * (width / 16 + 2);
                queries + tiles + 32 * width * 4 + lines <= 2 << 20
            },
        }],
        source: source!("attention_amx.cl", "attention.h", "amx.h"),
    },
    Kernel {
        name: "attention_local",
        summary: "attention with tiles of keys and values in local memory",
        parameters: &[given("HEAD_WIDTH", 64), tuned("QUERIES", 64, &[32, 64])],
        constraints: &[],
        source: source!("attention_local.cl"),
    },
    Kernel {
        name: "attention_matrix",
        summary: "attention by fragments of f16 that teams of work-items share",
        parameters: &[
            given("HEAD_WIDTH", 64),
            tuned("QUERIES", 64, &[32, 64]),
            tuned("KEYS", 64, &[32, 64]),
        ],
        constraints: &[
            Constraint {
                text: "the work-group fits the device",
                holds: |values, info| 2 * values.size("QUERIES") <= info.max_work_group.min(256),
            },
            Constraint {
                text: "the tiles fit local memory",
                holds: |values, info| {
                    let width = values.size("HEAD_WIDTH").next_multiple_of(16);
                    let (queries, keys) = (values.size("QUERIES"), values.size("KEYS"));
                    let tile = (keys * (width + 8)).max(width * (keys + 8));
                    let halves = queries * (width + 8) + tile + queries * (keys + 8);
                    // Two floats of each work-item at most.
                    let bytes = 2 * halves + 4 * 2 * 2 * queries;
                    bytes as u64 <= info.local_memory_bytes.min(32 << 10)
                },
            },
        ],
        source: source!("attention_matrix.cl", "quad.h", "matrix.h"),
    },
    Kernel {
        name: "attention_register",
        summary: "attention with blocks of queries in wide vectors",
        parameters: &[
            given("HEAD_WIDTH", 64),
            tuned("VECTOR", 16, &[4, 8, 16]),
            tuned("TILE", 14, &[4, 6, 8, 10, 12, 14]),
            tuned("KEYS", 128, &[16, 32, 64, 96, 128, 192, 256]),
            tuned("BLOCKS", 8, &[1, 2, 4, 8, 16, 32]),
        ],
        constraints: &[Constraint {
            // A work-item's stack is a thread's, 8 MiB at most with all that it holds.
            text: "the blocks and the tile fit 2 MiB of private memory",
            holds: |values, _| {
                let width = values.size("HEAD_WIDTH").next_multiple_of(16);
                let (block, keys) = (2 * values.size("VECTOR"), values.size("KEYS"));
                let blocks = 2 * values.size("BLOCKS") * block * width + block * width;
                let lines = (2 * keys + 2 * block) * (width / 16 + 2);
                4 * (blocks + keys * (block + 2 * width + 16)) + 8 * lines <= 2 << 20
            },
        }],
        source: source!("attention_register.cl", "attention.h"),
    },
    Kernel {
        name: "cast",
        summary: "changes the element type",
        parameters: &[
            given("TARGET_F16", 0),
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 4, &[1, 4, 16, 64]),
        ],
        constraints: &[],
        source: source!("cast.cl"),
    },
    Kernel {
        name: "conv2d_few_inputs",
        summary: "convolves images of few channels, reading windows where they overlap",
        parameters: &[
            given("CHANNELS", 4),
            // Its depth is a constant, so compilers would load several terms at once.
            given("UNROLL", 1),
            REGISTER_TILES[0],
            REGISTER_TILES[1],
            REGISTER_TILES[2],
        ],
        constraints: &[],
        source: source!(weights, "conv2d_few_inputs.cl", "register_tile.h", "activation.h"),
    },
    Kernel {
        name: "conv2d_few_outputs",
        summary: "convolves images to few outputs, all taps of a window at once",
        parameters: &[
            given("CHANNELS", 128),
            given("OUTPUTS", 3),
            given("ROWS_STAY", 1),
            REGISTER_TILES[0],
            REGISTER_TILES[1],
            REGISTER_TILES[2],
        ],
        constraints: &[],
        source: source!(weights, "conv2d_few_outputs.cl", "register_tile.h", "activation.h"),
    },
    Kernel {
        name: "conv2d_local",
        summary: "convolves images, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        constraints: LOCAL_CONSTRAINTS,
        source: source!(weights, "conv2d_local.cl", "quad.h", "local_tile.h"),
    },
    Kernel {
        name: "conv2d_register",
        summary: "convolves images, a work-item holding a tile in registers",
        parameters: REGISTER_TILES_OF_FORMATS,
        constraints: REGISTER_CONSTRAINTS,
        source: source!(weights, "conv2d_register.cl", "register_tile.h", "activation.h"),
    },
    Kernel {
        name: "gaussian_sample",
        summary: "draws a sample from means and logarithms of variances",
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("gaussian_sample.cl"),
    },
    Kernel {
        name: "geglu",
        summary: "multiplies one half of each row by the GELU of the other",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 4, &[1, 4, 16, 64]),
        ],
        constraints: &[],
        source: source!("geglu.cl", "activation.h"),
    },
    Kernel {
        name: "gemm_local",
        summary: "multiplies matrices, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        constraints: LOCAL_CONSTRAINTS,
        source: source!(weights, "gemm_local.cl", "quad.h", "local_tile.h"),
    },
    Kernel {
        name: "gemm_matrix",
        summary: "multiplies matrices of f16, teams of work-items sharing fragments",
        parameters: MATRIX_TILES,
        constraints: MATRIX_CONSTRAINTS,
        source: source!(weights, "gemm_matrix.cl", "quad.h", "matrix.h", "matrix_tile.h"),
    },
    Kernel {
        name: "gemm_merge",
        summary: "adds up the slices of a product of matrices",
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("gemm_merge.cl"),
    },
    Kernel {
        name: "gemm_register",
        summary: "multiplies matrices, a work-item holding a tile in registers",
        parameters: REGISTER_TILES_OF_FORMATS,
        constraints: REGISTER_CONSTRAINTS,
        source: source!(weights, "gemm_register.cl", "register_tile.h", "activation.h"),
    },
    Kernel {
        name: "gemm_split",
        summary: "multiplies slices of matrices, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        constraints: LOCAL_CONSTRAINTS,
        source: source!(weights, "gemm_split.cl", "quad.h", "local_tile.h"),
    },
    Kernel {
        name: "gemv",
        summary: "multiplies few rows by a matrix that is read once",
        parameters: &[
            FORMAT,
            given("ROWS", 1),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ITEM_N", 4, &[4, 8, 16, 32]),
            tuned("SLICES", 8, &[1, 2, 4, 8, 16, 32]),
        ],
        constraints: &[
            VECTORS_OF_FORMATS,
            Constraint {
                text: "a work-item's outputs are whole vectors",
                holds: |values, _| values.size("ITEM_N").is_multiple_of(values.size("VECTOR")),
            },
            Constraint {
                text: "the work-group fits the device",
                holds: |values, info| {
                    32 / values.size("ITEM_N") * values.size("SLICES")
                        <= info.max_work_group.min(256)
                },
            },
        ],
        source: source!(weights, "gemv.cl"),
    },
    Kernel {
        name: "group_norm_apply",
        summary: "scales, shifts and activates each channel",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 1, &[1, 4, 16, 64]),
        ],
        constraints: &[],
        source: source!("group_norm_apply.cl", "activation.h"),
    },
    Kernel {
        name: "group_norm_merge",
        summary: "merges the statistics of chunks into each channel's scale and shift",
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("group_norm_merge.cl"),
    },
    Kernel {
        name: "group_norm_statistics",
        summary: "takes the mean and squared distances of each channel of a chunk",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 1, &[1, 4, 16, 64]),
        ],
        constraints: &[],
        source: source!("group_norm_statistics.cl"),
    },
    Kernel {
        name: "layer_norm",
        summary: "normalizes each row, then scales and shifts",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 1, &[1, 4, 16, 64]),
        ],
        constraints: &[],
        source: source!("layer_norm.cl"),
    },
    Kernel {
        name: "peak_fma",
        summary: "measures multiply-adds: chains that do not wait for each other",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ACCUMULATORS", 8, &[4, 8, 12, 16]),
            given("HALF", 0),
        ],
        constraints: &[],
        source: source!("peak_fma.cl"),
    },
    Kernel {
        name: "peak_int8",
        summary: "measures dot products of bytes",
        parameters: &[
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 1, &[1, 8]),
            tuned("ACCUMULATORS", 8, &[4, 8, 12]),
            given("DOT", 0),
        ],
        constraints: &[],
        source: source!("peak_int8.cl", "dot4.h"),
    },
    Kernel {
        name: "peak_launch",
        summary: "measures what a launch costs",
        parameters: &[],
        constraints: &[],
        source: source!("peak_launch.cl"),
    },
    Kernel {
        name: "peak_local",
        summary: "measures reads of local memory",
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS), tuned("VECTOR", 4, &[4, 8, 16])],
        constraints: &[],
        source: source!("peak_local.cl"),
    },
    Kernel {
        name: "peak_memory",
        summary: "measures memory: reads, writes or copies each element once",
        parameters: &[
            given("ACTION", 2),
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("VECTOR", 4, &[4, 8, 16]),
            tuned("ROUNDS", 4, &[1, 4, 16, 64, 1024]),
        ],
        constraints: &[],
        source: source!("peak_memory.cl"),
    },
    Kernel {
        name: "qgemm_i8",
        summary: "multiplies quantised rows by weights in blocks, byte by byte",
        parameters: &[
            given("FORMAT", 8),
            tuned("TILE_M", 64, &[16, 32, 64, 128]),
            tuned("TILE_N", 64, &[32, 64, 128]),
            tuned("ITEM_M", 4, &[4, 8]),
            tuned("ITEM_N", 4, &[4, 8]),
            tuned("DOT", 0, &[0, 1]),
        ],
        constraints: &[Constraint {
            text: "the work-group fits the device",
            holds: |values, info| (1..=info.max_work_group.min(256)).contains(&local_items(values)),
        }],
        source: source!(weights, "qgemm_i8.cl", "dot4.h"),
    },
    Kernel {
        name: "quantize_rows",
        summary: "rounds rows to bytes with a scale for each block",
        parameters: &[given("WG_SIZE", 64)],
        constraints: &[],
        source: source!("quantize_rows.cl"),
    },
    Kernel {
        name: "timestep_embedding",
        summary: "turns timesteps into sines and cosines",
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("timestep_embedding.cl"),
    },
    Kernel {
        name: "token_embedding",
        summary: "adds each token's vector and its position's",
        parameters: &[FORMAT, tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!(weights, "token_embedding.cl"),
    },
    Kernel {
        name: "winograd_input",
        summary: "transforms the windows of a convolution for a batch of products",
        parameters: &[TILE, VECTOR, tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("winograd_input.cl", "winograd.h"),
    },
    Kernel {
        name: "winograd_local",
        summary: "convolves images by fewer products, a work-group sharing tiles in local memory",
        parameters: &[tuned("TILES", 16, &[16, 32]), tuned("CHANNELS", 8, &[4, 8])],
        constraints: &[
            Constraint {
                text: "the device has work-groups of 256",
                holds: |_, info| info.max_work_group >= 256,
            },
            Constraint {
                text: "the tiles fit local memory",
                holds: |values, info| {
                    let channels = values.size("CHANNELS");
                    let floats = 16 * (channels * (values.size("TILES") + 32) + 32);
                    4 * floats as u64 <= info.local_memory_bytes.min(32 << 10)
                },
            },
        ],
        source: source!("winograd_local.cl"),
    },
    Kernel {
        name: "winograd_output",
        summary: "transforms a batch of products to the outputs of a convolution",
        parameters: &[TILE, VECTOR, tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("winograd_output.cl", "winograd.h"),
    },
    Kernel {
        name: "winograd_weights",
        summary: "transforms the weights of a convolution for a batch of products",
        parameters: &[
            FORMAT,
            TILE,
            tuned("VECTOR", 16, &[1, 4, 8, 16]),
            tuned("WG_SIZE", 64, WORK_GROUPS),
            tuned("ROUNDS", 4, &[1, 4, 16, 64]),
        ],
        constraints: &[VECTORS_OF_FORMATS],
        source: source!(weights, "winograd_weights.cl", "winograd.h"),
    },
];
