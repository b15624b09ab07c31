//! The kernels of `kernels/`: their names, sources and parameters, and the compiled programs.

mod cache;
mod disk;

pub use cache::{ProgramCache, ProgramStats};

/// A kernel of `kernels/`, before it is specialised.
#[derive(Debug)]
pub struct Kernel {
    /// The entry point, the file's name and the definition's.
    pub name: &'static str,
    /// What it computes, in one line.
    pub summary: &'static str,
    /// Parameters with the values that hold where nobody gives another.
    pub parameters: &'static [(&'static str, u32)],
    /// The whole OpenCL C, prelude first.
    pub source: &'static str,
}

/// A kernel's source behind the prelude and the headers it needs, each with its own line numbers
/// in the compiler's messages.
macro_rules! source {
    ($name:literal $(, $header:literal)*) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            $(
                "#line 1 \"",
                $header,
                ".h\"\n",
                include_str!(concat!("../../kernels/prelude/", $header, ".h")),
            )*
            "#line 1 \"",
            $name,
            ".cl\"\n",
            include_str!(concat!("../../kernels/", $name, ".cl"))
        )
    };
}

/// Every kernel, in alphabetical order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "attention_local",
        summary: "attention with tiles of keys and values in local memory",
        parameters: &[("HEAD_WIDTH", 64), ("QUERIES", 64)],
        source: source!("attention_local"),
    },
    Kernel {
        name: "attention_register",
        summary: "attention with a block of queries in wide vectors",
        parameters: &[("HEAD_WIDTH", 64), ("KEYS", 64)],
        source: source!("attention_register"),
    },
    Kernel {
        name: "cast",
        summary: "changes the element type",
        parameters: &[("TARGET_F16", 0), ("WG_SIZE", 64), ("VECTOR", 4), ("ROUNDS", 4)],
        source: source!("cast"),
    },
    Kernel {
        name: "conv2d_local",
        summary: "convolves images, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        source: source!("conv2d_local", "local_tile"),
    },
    Kernel {
        name: "conv2d_register",
        summary: "convolves images, a work-item holding a tile in registers",
        parameters: REGISTER_TILES,
        source: source!("conv2d_register", "register_tile"),
    },
    Kernel {
        name: "gaussian_sample",
        summary: "draws a sample from means and logarithms of variances",
        parameters: &[("WG_SIZE", 64)],
        source: source!("gaussian_sample"),
    },
    Kernel {
        name: "geglu",
        summary: "multiplies one half of each row by the GELU of the other",
        parameters: &[("WG_SIZE", 64), ("VECTOR", 4), ("ROUNDS", 4)],
        source: source!("geglu"),
    },
    Kernel {
        name: "gemm_local",
        summary: "multiplies matrices, a work-group sharing tiles in local memory",
        parameters: LOCAL_TILES,
        source: source!("gemm_local", "local_tile"),
    },
    Kernel {
        name: "gemm_register",
        summary: "multiplies matrices, a work-item holding a tile in registers",
        parameters: REGISTER_TILES,
        source: source!("gemm_register", "register_tile"),
    },
    Kernel {
        name: "group_norm_apply",
        summary: "scales, shifts and activates each channel",
        parameters: &[("WG_SIZE", 64), ("VECTOR", 4)],
        source: source!("group_norm_apply"),
    },
    Kernel {
        name: "group_norm_merge",
        summary: "merges the statistics of chunks into each channel's scale and shift",
        parameters: &[("WG_SIZE", 64)],
        source: source!("group_norm_merge"),
    },
    Kernel {
        name: "group_norm_statistics",
        summary: "takes the mean and squared distances of each channel of a chunk",
        parameters: &[("WG_SIZE", 64), ("VECTOR", 4)],
        source: source!("group_norm_statistics"),
    },
    Kernel {
        name: "layer_norm",
        summary: "normalizes each row, then scales and shifts",
        parameters: &[("WG_SIZE", 64)],
        source: source!("layer_norm"),
    },
    Kernel {
        name: "timestep_embedding",
        summary: "turns timesteps into sines and cosines",
        parameters: &[("WG_SIZE", 64)],
        source: source!("timestep_embedding"),
    },
    Kernel {
        name: "token_embedding",
        summary: "adds each token's vector and its position's",
        parameters: &[("WG_SIZE", 64)],
        source: source!("token_embedding"),
    },
];

/// Of products by tiles in local memory.
const LOCAL_TILES: &[(&str, u32)] =
    &[("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 16), ("ITEM_M", 8), ("ITEM_N", 4)];

/// Of products by tiles in registers.
const REGISTER_TILES: &[(&str, u32)] =
    &[("VECTOR", 16), ("TILE_M", 12), ("TILES", 8), ("PANELS", 8), ("TILE_K", 256)];

impl Kernel {
    /// The kernel of that name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }
}
