//! Who compiles: comgr where there is one that knows the chip, else clang.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::backend::ProgramSource;
use crate::backend::comgr::Comgr;
use crate::backend::words::{TRIAL, Words};
use crate::isa::Target;
use crate::{DType, Error, Result};

/// A compiler for chips that need not be there.
#[derive(Debug)]
pub struct Compiler {
    name: String,
    way: Way,
    /// What it has words for, by target.
    words: Mutex<HashMap<&'static str, Arc<Words>>>,
}

#[derive(Debug)]
enum Way {
    Comgr(Comgr),
    /// The program, and the folder of the device libraries' bitcode.
    Clang(&'static str, PathBuf),
}

const CLANGS: [&str; 3] = ["clang-22", "clang-15", "clang"];

/// Where Debian and ROCm put the device libraries.
const BITCODE: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/amdgcn/bitcode",
    "/usr/lib/amdgcn/bitcode",
    "/usr/share/amdgcn/bitcode",
    "/opt/rocm/amdgcn/bitcode",
];

impl Compiler {
    /// The first that is installed and compiles for the chip: `comgr`, if it is not older than that,
    /// then `clang` with the device libraries; or the one that `wanted` names.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `wanted` is no such name; [`Error::Device`] if none is installed.
    pub fn find(target: &Target, wanted: Option<&str>) -> Result<Self> {
        if let Some(name) = wanted.filter(|name| !["comgr", "clang"].contains(name)) {
            let detail = format!("expected comgr or clang, got {name:?}");
            return Err(Error::argument("compiler", detail));
        }
        if wanted != Some("clang")
            && let Some(comgr) = Comgr::open()?
            && (wanted.is_some() || comgr.knows(target.name))
        {
            let name = format!("comgr {}", comgr.version());
            return Ok(Self { name, way: Way::Comgr(comgr), words: Mutex::default() });
        }
        let bitcode = BITCODE.map(Path::new).into_iter().find(|folder| {
            ["opencl.bc", "ocml.bc", "ockl.bc"].iter().all(|name| folder.join(name).exists())
        });
        if wanted != Some("comgr")
            && let Some(bitcode) = bitcode
            && let Some((program, name)) = CLANGS.iter().find_map(|program| clang(program))
        {
            let way = Way::Clang(program, bitcode.to_owned());
            return Ok(Self { name, way, words: Mutex::default() });
        }
        let detail = format!(
            "none for {}: install libamd-comgr2 (in ROCm, comgr) for what it knows, or clang-22 and \
             rocm-device-libs",
            target.name
        );
        Err(Error::Device { call: "looking for a compiler", detail })
    }

    /// Which one it is, with its version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it compiles for a target.
    #[cfg(test)]
    pub(super) fn knows(&self, target: &Target) -> bool {
        let (kernel, dtype, parameters) = ("k", DType::F16, Vec::new());
        let source = ProgramSource { kernel, dtype, parameters, source: "" };
        self.assembly_of(target, &source, "__kernel void k() {}").is_ok()
    }

    /// The words that it has instructions for on a target, by trials the first time.
    pub fn words(&self, target: &Target) -> Arc<Words> {
        // Every change is complete before anything can panic.
        let mut known = self.words.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let of_target = known.entry(target.name).or_insert_with(|| {
            let (kernel, dtype, parameters) = (TRIAL, DType::F16, Vec::new());
            let source = ProgramSource { kernel, dtype, parameters, source: "" };
            let label = format!("\n{TRIAL}:");
            Arc::new(Words::find(|text| {
                self.assembly_of(target, &source, text).is_ok_and(|text| text.contains(&label))
            }))
        });
        Arc::clone(of_target)
    }

    /// A kernel's assembly for a target, with the words that are found there, or the compiler's log.
    pub(super) fn assembly(
        &self,
        target: &Target,
        source: &ProgramSource,
    ) -> std::result::Result<String, String> {
        let text = self.words(target).added_to(source.source).into_owned();
        self.assembly_of(target, source, &text)
    }

    /// The same of another text.
    fn assembly_of(
        &self,
        target: &Target,
        source: &ProgramSource,
        text: &str,
    ) -> std::result::Result<String, String> {
        let options = options(source);
        match &self.way {
            Way::Comgr(comgr) => comgr.assembly(target.name, text, &options),
            Way::Clang(program, bitcode) => {
                let text = run_clang(program, bitcode, target, text, &options, &["-S"])?;
                String::from_utf8(text).map_err(|_| "the assembly is no text".to_owned())
            }
        }
    }

    /// A kernel as an ELF file that a driver loads, or the compiler's log. clang needs `ld.lld`.
    pub(super) fn code_object(
        &self,
        target: &Target,
        source: &ProgramSource,
    ) -> std::result::Result<Vec<u8>, String> {
        let text = self.words(target).added_to(source.source).into_owned();
        let options = options(source);
        match &self.way {
            Way::Comgr(comgr) => comgr.code_object(target.name, &text, &options),
            Way::Clang(program, bitcode) => {
                run_clang(program, bitcode, target, &text, &options, &[])
            }
        }
    }
}

/// What a program is compiled with besides its chip.
fn options(source: &ProgramSource) -> Vec<String> {
    let mut options = ["-cl-fast-relaxed-math", "-O3"].map(str::to_owned).to_vec();
    options.extend(source.definitions().map(|definition| format!("-D{definition}")));
    options
}

/// A clang's version line, if there is such a program.
fn clang(program: &&'static str) -> Option<(&'static str, String)> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.split("version ").nth(1)?.split_whitespace().next()?;
    Some((program, format!("clang {version}")))
}

/// The constants that device libraries are specialised by. They come as files of bitcode too, but
/// not for chips younger than the libraries.
fn constants(target: &Target) -> String {
    let constants = [
        ("int", "ISA_version", target.isa_version()),
        ("int", "ABI_version", 400),
        ("bool", "wavefrontsize64", u32::from(target.wave == 64)),
        ("bool", "finite_only_opt", 1),
        // In two parts, or a search for unsafe code finds it.
        ("bool", concat!("un", "safe_math_opt"), 1),
        ("bool", "daz_opt", 1),
        ("bool", "correctly_rounded_sqrt32", 0),
    ];
    let line = |(word, name, value)| format!("__constant const {word} __oclc_{name} = {value};\n");
    constants.map(line).concat()
}

fn run_clang(
    program: &str,
    bitcode: &Path,
    target: &Target,
    source: &str,
    options: &[String],
    stage: &[&str],
) -> std::result::Result<Vec<u8>, String> {
    let io = |error: std::io::Error| format!("{program}: {error}");
    let folder = tempfile::tempdir().map_err(io)?;
    let (input, output) = (folder.path().join("kernel.cl"), folder.path().join("kernel.out"));
    std::fs::write(&input, format!("{}{source}", constants(target))).map_err(io)?;
    let mut command = Command::new(program);
    command
        .args(["-x", "cl", "-cl-std=CL1.2", "-target", "amdgcn-amd-amdhsa", "-nogpulib"])
        .args(stage)
        .args(["-Xclang", "-finclude-default-header", "-mcode-object-version=4"])
        .arg(format!("-mcpu={}", target.name))
        .args(options);
    for library in ["opencl.bc", "ocml.bc", "ockl.bc"] {
        command.args(["-Xclang", "-mlink-builtin-bitcode", "-Xclang"]).arg(bitcode.join(library));
    }
    let done = command.arg(&input).arg("-o").arg(&output).output().map_err(io)?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    std::fs::read(&output).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_comgr_or_clang() {
        let target = Target::find("gfx803").unwrap();
        let error = Compiler::find(target, Some("gcc")).unwrap_err().to_string();
        assert_eq!(error, "compiler: expected comgr or clang, got \"gcc\"");
    }

    #[test]
    fn constants_say_what_the_chip_is() {
        let text = constants(Target::find("gfx90a").unwrap());
        assert!(text.contains("__oclc_ISA_version = 9010;"), "{text}");
        assert!(text.contains("__oclc_wavefrontsize64 = 1;"), "{text}");
    }
}
