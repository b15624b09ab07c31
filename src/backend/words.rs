//! Words that a compiler has instructions for, and `kernels/prelude/portable.h` or a kernel's own
//! headers have a body for that every compiler takes.
//!
//! Which ones it has is found by compiling a small program with each: no name of a device or driver
//! decides. A program for a device is the kernel's source with what was found behind the prelude;
//! where nothing was, it is the kernel's source.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

const PORTABLE: &str = include_str!("../../kernels/prelude/portable.h");

/// The words of a vendor's compilers, each section behind a name of its own.
const AMD: &str = concat!("#line 1 \"amd.h\"\n", include_str!("../../kernels/prelude/amd.h"));

/// A section of a vendor's words.
struct Section {
    /// What must be defined for it.
    name: &'static str,
    /// One of its builtins: a compiler that never heard of it is not asked more, for some say on the
    /// standard error what they refuse.
    builtin: &'static str,
    /// A kernel that uses all of it.
    trial: &'static str,
    kind: Kind,
}

/// What a section's words compute. A device takes one section of each kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sums,
    DotProducts,
    Fragments,
}

/// The first is of every device that has any of the others: where it is refused, none of them is
/// tried.
const SECTIONS: [Section; 6] = [
    Section {
        name: "HAS_DPP",
        builtin: "__builtin_amdgcn_update_dpp",
        trial: SUM,
        kind: Kind::Sums,
    },
    Section {
        name: "HAS_SUDOT4",
        builtin: "__builtin_amdgcn_sudot4",
        trial: DOT_PRODUCT,
        kind: Kind::DotProducts,
    },
    Section {
        name: "HAS_SDOT4",
        builtin: "__builtin_amdgcn_sdot4",
        trial: DOT_PRODUCT,
        kind: Kind::DotProducts,
    },
    Section {
        name: "HAS_WMMA_GFX12",
        builtin: "__builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12",
        trial: PRODUCT,
        kind: Kind::Fragments,
    },
    Section {
        name: "HAS_WMMA_GFX11",
        builtin: "__builtin_amdgcn_wmma_f32_16x16x16_f16_w32",
        trial: PRODUCT,
        kind: Kind::Fragments,
    },
    Section {
        name: "HAS_MFMA",
        builtin: "__builtin_amdgcn_mfma_f32_16x16x16f16",
        trial: PRODUCT,
        kind: Kind::Fragments,
    },
];

/// The kernel of a trial.
pub const TRIAL: &str = "trial";

impl Section {
    /// A program that has the kernel [`TRIAL`] where the compiler knows the builtin.
    fn program(&self) -> String {
        let Self { name, builtin, trial, .. } = self;
        let words = text([*name]);
        format!(
            "{PORTABLE}\
             #ifdef __has_builtin\n\
             #if __has_builtin({builtin})\n\
             #define HAS_BUILTIN\n\
             #endif\n\
             #endif\n\
             #ifdef HAS_BUILTIN\n\
             {words}{trial}\
             #else\n\
             __kernel void refused(__global float *y) {{ y[0] = 0.0f; }}\n\
             #endif\n"
        )
    }
}

const SUM: &str = "
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void trial(__global float *y)
{
    __local float scratch[64];
    y[get_global_id(0)] = group_sum(y[get_global_id(0)], scratch, 64);
}
";

const DOT_PRODUCT: &str = "
__kernel void trial(__global int *y)
{
    const uint i = 3 * get_global_id(0);
    y[i] = dot4_i8(y[i], y[i + 1], y[i + 2]);
}
";

const PRODUCT: &str = "
__kernel __attribute__((reqd_work_group_size(TEAM, 1, 1)))
void trial(__global const ushort *x, __global float *y)
{
    __local ushort tile[256] __attribute__((aligned(16)));
    const uint lane = get_local_id(0);
    for (uint i = lane; i < 256; i += TEAM)
        tile[i] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    const FRAGMENT w = weights_fragment(tile, 16, lane);
    const WORD(float, TEAM_SUMS) sum = multiply_fragments(w, rows_fragment(tile, 16, lane), 16, 0.0f);
    WORD(vstore, TEAM_SUMS)(sum, lane, y);
}
";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What a program gets behind the prelude.
    text: String,
    names: Vec<&'static str>,
    matrix_units: bool,
}

impl Words {
    /// The words that a compiler takes: `takes` compiles a program and says whether a kernel
    /// [`TRIAL`] has come of it.
    pub fn find(mut takes: impl FnMut(&str) -> bool) -> Self {
        let mut found = Self::default();
        let mut kinds = Vec::new();
        for (index, section) in SECTIONS.iter().enumerate() {
            if kinds.contains(&section.kind) {
                continue;
            }
            if takes(&section.program()) {
                found.names.push(section.name);
                kinds.push(section.kind);
            } else if index == 0 {
                break;
            }
        }
        found.matrix_units = kinds.contains(&Kind::Fragments);
        if !found.names.is_empty() {
            found.text = text(found.names.iter().copied());
        }
        found
    }

    /// The names of the sections that compile, `HAS_DPP` and the like.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Whether fragments of f16 are multiplied by matrix units.
    pub fn matrix_units(&self) -> bool {
        self.matrix_units
    }

    /// A kernel's source with these words in it.
    pub fn added_to<'a>(&self, source: &'a str) -> Cow<'a, str> {
        match source.strip_prefix(PORTABLE) {
            Some(rest) if !self.names.is_empty() => {
                Cow::Owned([PORTABLE, &self.text, rest].concat())
            }
            _ => Cow::Borrowed(source),
        }
    }

    /// An option that tells a program with these words from any other; nothing where there are none.
    pub fn option(&self) -> String {
        if self.names.is_empty() {
            return String::new();
        }
        let hash = Sha256::digest(self.text.as_bytes());
        let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!(" -D WORDS_{digits}")
    }
}

fn text<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let define = |name| format!("#define {name}\n");
    let defines: String = names.into_iter().map(define).collect();
    [&defines, AMD].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sections that a program defines.
    fn defined(program: &str) -> Vec<&str> {
        program.lines().filter_map(|line| line.strip_prefix("#define HAS_")).collect()
    }

    #[test]
    fn what_compiles_is_added_and_nothing_else_is() {
        for (why, compiles, expected, matrix_units) in [
            ("no such compiler", &[][..], &[][..], false),
            ("no matrix units", &["DPP"], &["HAS_DPP"], false),
            ("matrix units", &["DPP", "MFMA"], &["HAS_DPP", "HAS_MFMA"], true),
            (
                "of two kinds the first",
                &["DPP", "WMMA_GFX11", "MFMA"],
                &["HAS_DPP", "HAS_WMMA_GFX11"],
                true,
            ),
            ("dot products", &["DPP", "SDOT4"], &["HAS_DPP", "HAS_SDOT4"], false),
            (
                "of two dot products the first",
                &["DPP", "SDOT4", "SUDOT4", "MFMA"],
                &["HAS_DPP", "HAS_SUDOT4", "HAS_MFMA"],
                true,
            ),
            ("none without the first", &["WMMA_GFX11"], &[], false),
        ] {
            let own = |name: &&str| !["MATRIX_UNITS", "BUILTIN"].contains(name);
            let words = Words::find(|program| {
                defined(program).iter().filter(|name| own(name)).all(|name| compiles.contains(name))
            });
            assert_eq!((words.names(), words.matrix_units()), (expected, matrix_units), "{why}");
            let source = [PORTABLE, "__kernel void k() {}"].concat();
            let added = words.added_to(&source);
            let count = added
                .lines()
                .filter(|line| expected.contains(&line.trim_start_matches("#define ")))
                .count();
            assert_eq!(count, expected.len(), "{why}");
            assert!(
                added.starts_with(PORTABLE) && added.ends_with("__kernel void k() {}"),
                "{why}"
            );
            assert_eq!(words.option().is_empty(), expected.is_empty(), "{why}");
            if expected.is_empty() {
                assert_eq!(added, source, "{why}");
            }
        }
    }

    #[test]
    fn a_program_of_ones_own_is_left_alone() {
        let words = Words::find(|_| true);
        assert_eq!(words.added_to("__kernel void k() {}"), "__kernel void k() {}");
        assert_ne!(
            words.option(),
            Words::find(|program| !program.contains("#define HAS_WMMA_GFX12\n")).option()
        );
    }
}
