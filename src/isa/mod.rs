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
mod code_object;
mod compiler;
mod loops;
pub mod model;
mod target;

pub use code_object::{CodeObject, KernelArgument};
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
            .filter(|hot| hot.matrix > 0 || hot.fma > 0)
            // Of equals the last, which a tail after the main loop never is by its size.
            .max_by_key(|hot| (hot.matrix, hot.fma));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of a kernel for f16, its defaults but for these values.
    fn report(
        compiler: &Compiler,
        target: &Target,
        kernel: &str,
        values: &[(&'static str, u32)],
    ) -> (Report, Configuration) {
        let kernel = Kernel::find(kernel).unwrap();
        let mut configuration = Configuration::defaults(kernel.parameters);
        assert!(values.iter().all(|(name, value)| configuration.set(name, *value)));
        let report = Report::new(compiler, target, kernel, DType::F16, &configuration).unwrap();
        let why = format!("{}: {report:?}", target.name);
        assert_eq!((report.vgpr_spills, report.scratch_bytes), (0, 0), "{why}");
        assert!(report.local_bytes <= 32 << 10 && report.waves > 0, "{why}");
        (report, configuration)
    }

    #[test]
    fn kernels_for_matrix_units_have_their_instructions_in_the_hottest_loop() {
        // Debian's comgr knows but two of the chips.
        let Ok(compiler) = Compiler::find(&TARGETS[0], Some("clang")) else {
            return eprintln!(
                "no clang for AMD's chips: kernels for matrix units are not looked at"
            );
        };
        for target in TARGETS.iter().filter(|target| target.matrix_rate > 0) {
            let name = target.name;
            if !compiler.knows(target) {
                eprintln!("{name} is not looked at: {} does not know it", compiler.name());
                continue;
            }
            assert!(compiler.words(target).matrix_units(), "{name}");
            for values in [
                &[("TILE_M", 128), ("TILE_N", 128), ("WG_SIZE", 256)][..],
                &[("TILE_M", 32), ("TILE_N", 32), ("TEAM_N", 32), ("WG_SIZE", 64)],
                // q4_k: decoded on the way.
                &[("FORMAT", 12)],
            ] {
                let (report, configuration) = report(&compiler, target, "gemm_matrix", values);
                let [rows, outputs, terms, items] =
                    ["TILE_M", "TILE_N", "TILE_K", "WG_SIZE"].map(|name| configuration.get(name));
                let products = rows * outputs * terms / (items / target.wave);
                let hottest = report.hottest.as_ref().expect("it has a loop");
                assert_eq!(hottest.matrix, products / 4096, "{name}: {report:?}");
            }
            for values in [&[][..], &[("HEAD_WIDTH", 160), ("QUERIES", 32), ("KEYS", 32)]] {
                let (report, configuration) = report(&compiler, target, "attention_matrix", values);
                let [width, queries, keys] =
                    ["HEAD_WIDTH", "QUERIES", "KEYS"].map(|name| configuration.get(name));
                // Of keys, then of values.
                let products = 2 * width * queries * keys / (2 * queries / target.wave);
                let hottest = report.hottest.as_ref().expect("it has a loop");
                assert_eq!(hottest.matrix, products / 4096, "{name}: {report:?}");
            }
        }
    }
}
