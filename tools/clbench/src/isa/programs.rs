//! Which programs are looked at: what devices with a chip are given, or one kernel.

use std::collections::HashSet;

use ellesmere::bench;
use ellesmere::isa::{TARGETS, Target};
use ellesmere::kernel::{Configuration, KERNELS, Kernel};
use ellesmere::ops::attention::{self, Algorithm, Problem};
use ellesmere::tune::Database;
use ellesmere::tune::database::DeviceKey;
use ellesmere::{DType, Error, Format, Result};

/// A kernel as it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// By name: see [`Program::kernel`].
    name: &'static str,
    pub dtype: DType,
    pub configuration: Configuration,
}

impl Program {
    fn new(kernel: &'static Kernel, dtype: DType, configuration: Configuration) -> Self {
        Self { name: kernel.name, dtype, configuration }
    }

    pub fn kernel(&self) -> &'static Kernel {
        Kernel::find(self.name).expect("it came from the catalogue")
    }
}

/// All that devices with a chip are given, each once: what ops suggest for any problem, and what is
/// shipped for that chip.
///
/// The oldest target has every tile with every format. The others have every tile with weights as
/// activations are, and every format in the largest with activations in f16: all of it would take
/// over five minutes, and what differs between tiles and activations is no format.
pub fn given(target: &Target, dtypes: &[DType]) -> Vec<Program> {
    // A work-item that holds a large tile in wide vectors is for CPUs, and so are the kernels for
    // few channels. Fragments are for matrix units.
    let for_cpus = |name: &str| {
        ["_register", "_amx"].iter().any(|end| name.ends_with(end))
            || name.starts_with("conv2d_few_")
    };
    let kernels = KERNELS.iter().filter(|kernel| {
        let multiplied = target.matrix_rate > 0 || !kernel.name.ends_with("_matrix");
        multiplied && !for_cpus(kernel.name)
    });
    let every_format = target.name == TARGETS[0].name;
    let mut programs = Vec::new();
    for kernel in kernels {
        for configuration in configurations(kernel, every_format) {
            let in_blocks = format_of(&configuration) != 0;
            let wanted = |dtype: &&DType| every_format || !in_blocks || **dtype == DType::F16;
            let program = |&dtype: &DType| Program::new(kernel, dtype, configuration.clone());
            let wanted = dtypes.iter().filter(wanted).filter(|dtype| kernel.takes(**dtype));
            programs.extend(wanted.map(program));
        }
    }
    programs.extend(shipped(target).into_iter().filter(|one| dtypes.contains(&one.dtype)));
    let mut seen = HashSet::new();
    programs.retain(|program| seen.insert(program.clone()));
    programs
}

/// Those of one kernel: with these values, or those of [`given`] where there are none.
///
/// # Errors
///
/// [`Error::Argument`] if there is no such kernel or parameter.
pub fn named(
    target: &Target,
    name: &str,
    parameters: &[(String, u32)],
    dtypes: &[DType],
) -> Result<Vec<Program>> {
    let kernel = Kernel::find(name).ok_or_else(|| {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        Error::argument("kernel", format!("expected one of {}, got {name:?}", names.join(", ")))
    })?;
    let mut chosen = configurations(kernel, true);
    if parameters.is_empty() {
        let mut given = given(target, dtypes);
        given.retain(|program| program.name == name);
        if !given.is_empty() {
            return Ok(given);
        }
    } else {
        let mut configuration = Configuration::defaults(kernel.parameters);
        for (name, value) in parameters {
            if !configuration.set(name, *value) {
                let names: Vec<&str> = kernel.parameters.iter().map(|known| known.name).collect();
                let detail = format!("{} has {}, got {name}", kernel.name, names.join(", "));
                return Err(Error::argument("parameters", detail));
            }
        }
        chosen = vec![configuration];
    }
    let program = |configuration: &Configuration| {
        let configuration = configuration.clone();
        let dtypes = dtypes.iter().filter(|dtype| kernel.takes(**dtype));
        dtypes.map(move |&dtype| Program::new(kernel, dtype, configuration.clone()))
    };
    Ok(chosen.iter().flat_map(program).collect())
}

/// What the shipped database answers on a card with the chip.
fn shipped(target: &Target) -> Vec<Program> {
    let card = target.card();
    let key = DeviceKey::of(&card);
    let entries = Database::shipped().entries();
    let own = entries.into_iter().map(|(_, entry)| entry).filter(|entry| entry.device == key);
    own.filter(|entry| !entry.configuration.is_empty())
        .filter_map(|entry| {
            let problem = bench::Problem::of_entry(&entry, &card).ok()?;
            let values = entry.apply(&problem.default, &card).ok()?;
            Some(Program::new(problem.kernel, problem.dtype, values))
        })
        .collect()
}

/// The number of the format that a configuration has weights in; 0 where as activations are.
pub fn format_of(configuration: &Configuration) -> u32 {
    let values = configuration.values();
    values.iter().find(|(name, _)| *name == "FORMAT").map_or(0, |(_, number)| *number)
}

/// The configurations of a kernel that are looked at.
fn configurations(kernel: &Kernel, every_format: bool) -> Vec<Configuration> {
    let mut all = vec![Configuration::defaults(kernel.parameters)];
    let suggested = |values: [(&str, u32); 5]| {
        let mut one = Configuration::defaults(kernel.parameters);
        values.iter().for_each(|(name, value)| assert!(one.set(name, *value)));
        one
    };
    if kernel.name == "gemm_matrix" {
        all = ellesmere::ops::matrix_configurations().map(suggested).collect();
    }
    if ["conv2d_local", "gemm_local", "gemm_split"].contains(&kernel.name) {
        all = ellesmere::ops::local_configurations().map(suggested).collect();
        if kernel.name == "gemm_split" {
            all.drain(..all.len() - 1);
        }
    }
    // The largest tile comes first.
    let mut with_formats = if every_format { all.clone() } else { all[..1].to_vec() };
    // What problems and devices decide: the heads of the models, both directions of a cast, both
    // tiles of Winograd's; work-items of a GPU are its lanes.
    let mut given = vec![
        ("HEAD_WIDTH", &[40, 64, 80, 160, 512][..]),
        ("TARGET_F16", &[0, 1]),
        ("TILE", &[2, 4]),
    ];
    if kernel.name.starts_with("winograd") {
        given.push(("VECTOR", &[1]));
    }
    for (name, values) in given {
        if kernel.parameters.iter().any(|parameter| parameter.name == name) {
            let given = |one: &Configuration| {
                let one = one.clone();
                values.iter().map(move |&value| {
                    let mut one = one.clone();
                    one.set(name, value);
                    one
                })
            };
            all = all.iter().flat_map(given).collect();
            with_formats = with_formats.iter().flat_map(given).collect();
        }
    }
    if kernel.name == "attention_matrix" {
        all = all.into_iter().filter_map(by_fragments).collect();
    }
    if kernel.parameters.iter().any(|parameter| parameter.name == "FORMAT") {
        all.extend(with_formats.iter().flat_map(|one| in_formats(kernel, one)));
    }
    all
}

/// What `attention_matrix` is given for a head of that width, if it is.
fn by_fragments(mut values: Configuration) -> Option<Configuration> {
    let head_width = values.get("HEAD_WIDTH") as usize;
    let problem = Problem { head_width, queries: 4096, heads: 8, dtype: DType::F16 };
    let units = TARGETS.iter().find(|target| target.matrix_rate > 0)?;
    let Algorithm::Matrix { queries, keys } = attention::plan(&problem, &units.card()) else {
        return None;
    };
    values.set("QUERIES", queries);
    values.set("KEYS", keys);
    Some(values)
}

/// What the weights of a kernel that reads blocks may be in.
pub fn formats_of(kernel: &str) -> impl Iterator<Item = Format> + use<> {
    let in_bytes = kernel == "qgemm_i8";
    Format::ALL.into_iter().filter(move |format| !in_bytes || format.has_integer_levels())
}

/// A configuration with weights in every format, by as many outputs at a time as blocks are read.
fn in_formats(kernel: &Kernel, values: &Configuration) -> impl Iterator<Item = Configuration> {
    let has = |name| values.values().iter().any(|(known, _)| *known == name);
    let given: &[(&str, u32)] = match (has("ROWS"), has("VECTOR")) {
        (true, _) => &[("VECTOR", 16), ("ITEM_N", 16), ("SLICES", 32)],
        (_, true) => &[("VECTOR", 4)],
        _ => &[],
    };
    formats_of(kernel.name).map(move |format| {
        let mut one = values.clone();
        one.set("FORMAT", format.number());
        given.iter().for_each(|(name, value)| assert!(one.set(name, *value)));
        one
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_for_gpus_has_every_type_and_every_format_on_every_target() {
        for target in &TARGETS {
            let programs = given(target, &DType::ALL);
            for program in &programs {
                let has = |dtype, format: u32| {
                    programs.iter().any(|other| {
                        let own = (other.dtype, format_of(&other.configuration));
                        other.name == program.name && own == (dtype, format)
                    })
                };
                let (name, target) = (program.name, target.name);
                let taken = |dtype: &DType| program.kernel().takes(*dtype);
                // Of weights as activations are, but for kernels of blocks alone.
                let usual = format_of(&Configuration::defaults(program.kernel().parameters));
                let looked_at =
                    |dtype: &DType| usual == 0 || *dtype == DType::F16 || target == "gfx803";
                let dtypes = DType::ALL.into_iter().filter(taken).filter(looked_at);
                assert!(dtypes.into_iter().all(|dtype| has(dtype, usual)), "{name} for {target}");
                let values = program.configuration.values();
                let reads_blocks = values.iter().any(|(name, _)| *name == "FORMAT");
                for format in formats_of(name).filter(|_| reads_blocks) {
                    assert!(has(DType::F16, format.number()), "{name} in {format} for {target}");
                    let all = target != "gfx803"
                        || !taken(&DType::F32)
                        || has(DType::F32, format.number());
                    assert!(all, "{name} in {format} for {target}, activations in f32");
                }
            }
        }
    }

    #[test]
    fn what_is_shipped_for_a_chip_is_looked_at_and_what_is_unknown_is_named() {
        let target = Target::find("gfx803").unwrap();
        let shipped = shipped(target);
        assert!(shipped.iter().any(|program| program.name == "conv2d_local"));
        assert!(named(target, "gemm_locale", &[], &DType::ALL).is_err());
        let odd = [("TILE".to_owned(), 4)];
        let error = named(target, "gemm_local", &odd, &DType::ALL).unwrap_err().to_string();
        assert!(error.starts_with("parameters: gemm_local has FORMAT, TILE_M"), "{error}");
    }
}
