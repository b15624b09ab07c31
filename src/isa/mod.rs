//! The static report: what a compiler makes of a kernel for a chip that need not be there.
//!
//! A GPU's compiler runs without the GPU, so it can bear witness: how many registers a kernel
//! takes, whether it spills, how much local memory, and what its hottest loop is made of. From
//! these facts [`model`] derives a bound: the share of the chip's peak that the loop could reach.
//! It is an upper bound under the assumptions written there, never a measurement.

use serde::Serialize;

use crate::backend::ProgramSource;
use crate::kernel::{Configuration, Kernel};
use crate::{DType, Error, Result};

mod assembly;
mod compiler;
mod loops;
pub mod model;
mod target;

pub use compiler::Compiler;
pub use model::HotLoop;
pub use target::{TARGETS, Target};

/// What a compiler made of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The kernel's name.
    pub kernel: &'static str,
    /// How elements are stored.
    pub dtype: &'static str,
    /// What it is specialised by.
    pub configuration: String,
    /// Vector registers of a work-item.
    pub vgprs: u32,
    /// Scalar registers of a wave.
    pub sgprs: u32,
    /// Vector registers that did not fit and went to memory.
    pub vgpr_spills: u32,
    /// Scalar registers that did not fit and went into lanes of vector registers.
    pub sgpr_spills: u32,
    /// Private memory of a work-item that is not in registers.
    pub scratch_bytes: u32,
    /// Local memory of a work-group.
    pub local_bytes: u32,
    /// The most work-items of a work-group.
    pub work_group: u32,
    /// Waves that fit a SIMD at once.
    pub waves: u32,
    /// The innermost loop with the most multiply-adds; none if no loop has any.
    pub hottest: Option<HotLoop>,
}

impl Report {
    /// Compiles a kernel for a target and reads the assembly.
    ///
    /// # Errors
    ///
    /// [`Error::Build`] if the compiler refuses the kernel, or gives what is no assembly.
    pub fn new(
        compiler: &Compiler,
        target: &Target,
        kernel: &'static Kernel,
        dtype: DType,
        configuration: &Configuration,
    ) -> Result<Self> {
        let source = ProgramSource {
            kernel: kernel.name,
            dtype,
            parameters: configuration.values().to_vec(),
            source: kernel.source,
        };
        let built = |log: String| Error::Build {
            kernel: kernel.name.to_owned(),
            device: target.name.to_owned(),
            log,
        };
        let text = compiler.assembly(target, &source).map_err(built)?;
        let assembly = assembly::Assembly::parse(&text, kernel.name).map_err(built)?;
        if assembly.facts.wave != target.wave {
            let (wave, expected) = (assembly.facts.wave, target.wave);
            return Err(built(format!("compiled for waves of {wave}, expected {expected}")));
        }
        let waves = target.waves(&assembly.facts);
        let loops = loops::innermost(&assembly.blocks);
        let hottest = loops
            .iter()
            .map(|blocks| model::HotLoop::new(target, &assembly, blocks, waves))
            .filter(|hot| hot.fma > 0)
            // Of equals the last, which a tail after the main loop never is by its size.
            .max_by_key(|hot| hot.fma);
        let facts = assembly.facts;
        Ok(Self {
            kernel: kernel.name,
            dtype: dtype.name(),
            configuration: configuration.to_string(),
            vgprs: facts.vgprs,
            sgprs: facts.sgprs,
            vgpr_spills: facts.vgpr_spills,
            sgpr_spills: facts.sgpr_spills,
            scratch_bytes: facts.scratch_bytes,
            local_bytes: facts.local_bytes,
            work_group: facts.work_group,
            waves,
            hottest,
        })
    }
}
