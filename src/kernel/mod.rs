//! The kernels of `kernels/`: their names, sources and parameters, and the compiled programs.

mod cache;
mod disk;
mod space;

pub use cache::{ProgramCache, ProgramStats};
pub use space::{Configuration, Constraint, Parameter};

use crate::DType;
use crate::info::DeviceInfo;

/// A kernel of `kernels/`, before it is specialised.
#[derive(Debug)]
pub struct Kernel {
    /// The entry point, the file's name and the definition's.
    pub name: &'static str,
    /// What it computes, in one line.
    pub summary: &'static str,
    /// What it is specialised by.
    pub parameters: &'static [Parameter],
    /// What must hold between the parameters: a configuration that violates one is never built.
    pub constraints: &'static [Constraint],
    /// The whole OpenCL C, prelude first.
    pub source: &'static str,
}

/// A file of `kernels/`, with its own line numbers in the compiler's messages.
macro_rules! file {
    ($folder:literal, $name:literal) => {
        concat!(
            "#line 1 \"",
            $name,
            "\"\n",
            include_str!(concat!("../../kernels/", $folder, $name))
        )
    };
}

/// The formats of `kernels/quant/`, for so many outputs at a time.
macro_rules! formats {
    ($lanes:literal) => {
        concat!(
            "#define LANES ",
            $lanes,
            "\n",
            file!("quant/", "q8_0.h"),
            file!("quant/", "q4_0.h"),
            file!("quant/", "q4_1.h"),
            file!("quant/", "q5_0.h"),
            file!("quant/", "q5_1.h"),
            file!("quant/", "q4_k.h"),
            file!("quant/", "q5_k.h"),
            file!("quant/", "q6_k.h"),
            "#undef LANES\n"
        )
    };
}

/// A kernel's source behind the prelude and the headers it needs. One that reads `weights` has
/// them in any format.
macro_rules! source {
    ($name:literal $(, $header:literal)*) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            $(file!("prelude/", $header),)*
            file!("", $name)
        )
    };
    (weights, $name:literal $(, $header:literal)*) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            file!("quant/", "blocks.h"),
            formats!(4),
            formats!(16),
            file!("prelude/", "weights.h"),
            $(file!("prelude/", $header),)*
            file!("", $name)
        )
    };
}

/// Every kernel, in alphabetical order.
pub const KERNELS: &[Kernel] = &[
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
        source: source!("attention_matrix.cl", "matrix.h"),
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
        source: source!("attention_register.cl"),
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
            given("DECODED", 1),
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
        source: source!(weights, "conv2d_local.cl", "local_tile.h"),
    },
    Kernel {
        name: "conv2d_register",
        summary: "convolves images, a work-item holding a tile in registers",
        parameters: REGISTER_TILES_OF_WINDOWS,
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
        source: source!(weights, "gemm_local.cl", "local_tile.h"),
    },
    Kernel {
        name: "gemm_matrix",
        summary: "multiplies matrices of f16, teams of work-items sharing fragments",
        parameters: MATRIX_TILES,
        constraints: MATRIX_CONSTRAINTS,
        source: source!(weights, "gemm_matrix.cl", "matrix.h", "matrix_tile.h"),
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
        parameters: REGISTER_TILES_OF_ROWS,
        constraints: REGISTER_CONSTRAINTS,
        source: source!(weights, "gemm_register.cl", "register_tile.h", "activation.h"),
    },
    Kernel {
        name: "gemm_split",
        summary: "multiplies slices of matrices, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        constraints: LOCAL_CONSTRAINTS,
        source: source!(weights, "gemm_split.cl", "local_tile.h"),
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
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS), tuned("VECTOR", 4, &[4, 8, 16])],
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
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS), tuned("VECTOR", 4, &[4, 8, 16])],
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
        source: source!("peak_int8.cl"),
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
        parameters: &[tuned("WG_SIZE", 64, WORK_GROUPS)],
        constraints: &[],
        source: source!("token_embedding.cl"),
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

/// How weights are stored: 0 as activations are, else by [`Format::number`](crate::Format::number).
const FORMAT: Parameter = given("FORMAT", 0);

/// Outputs of a Winograd tile each way, which `plan` decides.
const TILE: Parameter = given("TILE", 4);

/// Channels at a time where these must divide what the problem has.
const VECTOR: Parameter = given("VECTOR", 16);

/// Of kernels that read weights as vectors.
const VECTORS_OF_FORMATS: Constraint = Constraint {
    text: "weights in blocks are read 4 or 16 at a time",
    holds: |values, _| values.get("FORMAT") == 0 || [4, 16].contains(&values.get("VECTOR")),
};

/// Work-items in a work-group, of kernels that spread over elements.
const WORK_GROUPS: &[u32] = &[1, 64, 128, 256];

/// Of products by tiles in local memory.
const LOCAL_TILES: &[Parameter] = &[
    FORMAT,
    tuned("TILE_M", 64, &[16, 32, 64, 128]),
    tuned("TILE_N", 64, &[32, 64, 128]),
    tuned("TILE_K", 8, &[8, 16, 32]),
    tuned("ITEM_M", 8, &[4, 8, 16]),
    tuned("ITEM_N", 4, &[4, 8]),
    tuned("BUFFERS", 1, &[1, 2]),
];

const LOCAL_CONSTRAINTS: &[Constraint] = &[
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

fn local_items(values: &Configuration) -> usize {
    (values.size("TILE_M") / values.size("ITEM_M"))
        * (values.size("TILE_N") / values.size("ITEM_N"))
}

/// Of products by fragments.
const MATRIX_TILES: &[Parameter] = &[
    FORMAT,
    tuned("TILE_M", 64, &[32, 64, 128]),
    tuned("TILE_N", 128, &[32, 64, 128]),
    tuned("TILE_K", 32, &[16, 32, 64]),
    tuned("TEAM_N", 64, &[32, 64]),
    tuned("WG_SIZE", 128, &[64, 128, 256]),
];

/// Whatever a team of work-items is, 32 or 64.
const MATRIX_CONSTRAINTS: &[Constraint] = &[
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
const REGISTER_TILES: &[Parameter] = &[
    tuned("VECTOR", 16, &[4, 8, 16]),
    tuned("TILE_M", 12, &[4, 6, 8, 12, 13, 14]),
    count("TILES", 8, &[1, 2, 4, 8, 12, 16]),
    count("PANELS", 8, &[1, 2, 4, 8, 16]),
    tuned("TILE_K", 256, &[64, 128, 256, 384, 512]),
];

/// Of products of matrices, whose rows may be read in place.
const REGISTER_TILES_OF_ROWS: &[Parameter] = &[
    FORMAT,
    given("IN_PLACE", 0),
    REGISTER_TILES[0],
    REGISTER_TILES[1],
    REGISTER_TILES[2],
    REGISTER_TILES[3],
    REGISTER_TILES[4],
];

/// As those, of convolutions.
const REGISTER_TILES_OF_WINDOWS: &[Parameter] = &[
    FORMAT,
    REGISTER_TILES[0],
    REGISTER_TILES[1],
    REGISTER_TILES[2],
    REGISTER_TILES[3],
    REGISTER_TILES[4],
];

const REGISTER_CONSTRAINTS: &[Constraint] = &[Constraint {
    // A work-item's stack is a thread's, 8 MiB at most with all that it holds.
    text: "the block fits 2 MiB of private memory",
    holds: |values, _| {
        let (rows, depth) = (values.size("TILES") * values.size("TILE_M"), values.size("TILE_K"));
        let floats = rows * (depth + 16) + values.size("PANELS") * 32 * rows + depth * 32;
        4 * floats <= 2 << 20
    },
}];

/// A parameter that is tuned: what a tuner tries.
const fn tuned(name: &'static str, default: u32, values: &'static [u32]) -> Parameter {
    Parameter { name, default, values, counts: false }
}

/// As [`tuned`], of a parameter that counts things.
const fn count(name: &'static str, default: u32, values: &'static [u32]) -> Parameter {
    Parameter { name, default, values, counts: true }
}

/// A parameter that the problem decides.
const fn given(name: &'static str, default: u32) -> Parameter {
    Parameter { name, default, values: &[], counts: false }
}

impl Kernel {
    /// The kernel of that name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// Whether it is for elements that are stored so: fragments are of f16.
    pub fn takes(&self, dtype: DType) -> bool {
        dtype == DType::F16 || !self.name.ends_with("_matrix")
    }

    /// The whole OpenCL C of a kernel of the same name and arguments whose file is `text`: behind
    /// the prelude and the headers that this kernel has.
    pub fn stand_in(&self, text: &str) -> String {
        let own = format!("#line 1 \"{}.cl\"\n", self.name);
        let at = self.source.rfind(&own).expect("a kernel's own file comes last");
        format!("{}{text}", &self.source[..at + own.len()])
    }

    /// The first constraint that a configuration does not meet on a device.
    pub fn violated(&self, values: &Configuration, info: &DeviceInfo) -> Option<&Constraint> {
        self.constraints.iter().find(|constraint| !(constraint.holds)(values, info))
    }
}
