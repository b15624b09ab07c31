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

/// A kernel's source behind the prelude, with its own line numbers in the compiler's messages.
macro_rules! source {
    ($name:literal) => {
        concat!(
            include_str!("../../kernels/prelude/portable.h"),
            "#line 1 \"",
            $name,
            ".cl\"\n",
            include_str!(concat!("../../kernels/", $name, ".cl"))
        )
    };
}

/// Every kernel, in alphabetical order.
pub const KERNELS: &[Kernel] = &[Kernel {
    name: "layer_norm",
    summary: "normalizes each row, then scales and shifts",
    parameters: &[("WG_SIZE", 64)],
    source: source!("layer_norm"),
}];

impl Kernel {
    /// The kernel of that name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }
}
