//! The kernels of `kernels/`: their names, sources and parameters, and the compiled programs.

#[macro_use]
mod source;

mod cache;
mod catalogue;
mod disk;
mod space;
mod tiles;

pub use cache::{ProgramCache, ProgramStats};
pub use catalogue::KERNELS;
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
