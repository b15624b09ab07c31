//! What a driver loads, and what a launch of it must pass: as the compiler's metadata has it.

use serde::Serialize;

use super::assembly::Assembly;
use super::{Compiler, Target};
use crate::backend::ProgramSource;
use crate::{Error, Result};

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeObject {
    /// An ELF file, which `hipModuleLoadData` takes.
    pub elf: Vec<u8>,
    /// What is passed to it, in order of offset.
    pub arguments: Vec<KernelArgument>,
    /// Bytes of all arguments.
    pub argument_bytes: u32,
    /// Local memory of a work-group.
    pub local_bytes: u32,
    /// Private memory of a work-item that is not in registers.
    pub scratch_bytes: u32,
    /// Work-items of a wave.
    pub wave: u32,
}

/// One argument, explicit or hidden, as the metadata of a code object has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelArgument {
    /// `global_buffer`, `by_value`, or of one that the driver fills in `hidden_…`.
    pub kind: String,
    /// Where it lies among the arguments, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
    /// Its type in OpenCL C, such as `float*`; none for hidden ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
}

impl CodeObject {
    /// Compiles a program for a target.
    ///
    /// # Errors
    ///
    /// [`Error::Build`] if the compiler or its linker refuses, or gives what cannot be read.
    pub fn new(compiler: &Compiler, target: &Target, source: &ProgramSource) -> Result<Self> {
        let built = |log: String| Error::Build {
            kernel: source.kernel.to_owned(),
            device: target.name.to_owned(),
            log,
        };
        let text = compiler.assembly(target, source).map_err(built)?;
        let facts = Assembly::parse(&text, source.kernel).map_err(built)?.facts;
        let (arguments, argument_bytes) = arguments(&text).map_err(built)?;
        let elf = compiler.code_object(target, source).map_err(built)?;
        Ok(Self {
            elf,
            arguments,
            argument_bytes,
            local_bytes: facts.local_bytes,
            scratch_bytes: facts.scratch_bytes,
            wave: facts.wave,
        })
    }
}

/// The arguments of the one kernel in an assembly, and their bytes in all.
fn arguments(text: &str) -> std::result::Result<(Vec<KernelArgument>, u32), String> {
    let lines =
        text.lines().skip_while(|line| line.trim() != "- .args:" && line.trim() != ".args:");
    let mut arguments: Vec<KernelArgument> = Vec::new();
    let mut bytes = None;
    let mut inside = true;
    for line in lines.skip(1) {
        let (entry, line) = match line.trim().strip_prefix("- ") {
            Some(rest) => (true, rest),
            None => (false, line.trim()),
        };
        let Some((key, value)) = line.split_once(':') else {
            // The end of the metadata, or an item of a list that is no argument.
            if line == "..." {
                break;
            }
            continue;
        };
        let value = value.trim();
        let number = || value.parse::<u32>().map_err(|_| format!("{key} is {value:?}"));
        if key == ".kernarg_segment_size" {
            bytes = Some(number()?);
        }
        // The kernel's own keys follow its arguments, and have other names.
        inside &= key != ".group_segment_fixed_size";
        if !inside {
            continue;
        }
        if entry {
            arguments.push(KernelArgument::default());
        }
        let Some(argument) = arguments.last_mut() else {
            return Err(format!("{key} before the first argument"));
        };
        match key {
            ".offset" => argument.offset = number()?,
            ".size" => argument.size = number()?,
            ".value_kind" => argument.kind = value.to_owned(),
            ".type_name" => argument.type_name = Some(value.trim_matches('\'').to_owned()),
            _ => {}
        }
    }
    let bytes = bytes.ok_or("no .kernarg_segment_size in metadata")?;
    if let Some(odd) = arguments.iter().find(|one| {
        one.kind.is_empty() || one.offset.checked_add(one.size).is_none_or(|end| end > bytes)
    }) {
        return Err(format!("no argument of {bytes} B in all: {odd:?}"));
    }
    Ok((arguments, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clang 22 writes for a small kernel, shortened.
    const SMALL: &str = "\
\t.amdgpu_metadata
---
amdhsa.kernels:
  - .args:
      - .address_space:  global
        .is_const:       true
        .name:           x
        .offset:         0
        .size:           8
        .type_name:      'float*'
        .value_kind:     global_buffer
      - .offset:         8
        .size:           4
        .type_name:      uint
        .value_kind:     by_value
      - .offset:         16
        .size:           8
        .value_kind:     hidden_global_offset_x
    .group_segment_fixed_size: 0
    .kernarg_segment_align: 8
    .kernarg_segment_size: 24
    .language_version:
      - 1
      - 2
    .name:           small
...
\t.end_amdgpu_metadata
";

    #[test]
    fn arguments_are_read_with_their_places() {
        let one = |kind: &str, offset, size, type_name: Option<&str>| KernelArgument {
            kind: kind.to_owned(),
            offset,
            size,
            type_name: type_name.map(str::to_owned),
        };
        let expected = vec![
            one("global_buffer", 0, 8, Some("float*")),
            one("by_value", 8, 4, Some("uint")),
            one("hidden_global_offset_x", 16, 8, None),
        ];
        assert_eq!(arguments(SMALL), Ok((expected, 24)));
    }

    #[test]
    fn what_is_no_such_metadata_is_refused_in_a_line() {
        let refused = |text: &str| arguments(text).unwrap_err();
        assert_eq!(refused(""), "no .kernarg_segment_size in metadata");
        let odd = SMALL.replace(".offset:         8", ".offset: -8");
        assert_eq!(refused(&odd), ".offset is \"-8\"");
        let outside = SMALL.replace(".offset:         16", ".offset: 4294967295");
        assert!(refused(&outside).starts_with("no argument of 24 B in all: "));
        // Any prefix is refused or read, without a panic.
        for end in 0..SMALL.len() {
            let _ = arguments(&SMALL[..end]);
        }
    }
}
