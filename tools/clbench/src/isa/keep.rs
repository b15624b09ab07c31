//! Code objects on disk, each with what a machine or an emulator needs in order to run it and to
//! judge what came out: see `kernels/README.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use ellesmere::bench::{Case, Inputs, Sizes};
use ellesmere::info::DeviceInfo;
use ellesmere::isa::{CodeObject, Compiler, KernelArgument, Target};
use ellesmere::kernel::Kernel;
use ellesmere::tune::Forced;
use ellesmere::tune::database::tuned_values;
use ellesmere::{DType, Device, DeviceOptions, Error, Format, Result};
use serde::Serialize;

use super::npy;
use super::programs::{Program, format_of, formats_of};
use super::witness::{Launched, Passed, Witness};

/// Small problems: a few work-groups each, with edges that no tile divides. An op at sizes that are
/// not its case's.
const PROBLEMS: &[(&str, &[(&str, usize)])] = &[
    ("attention", &[("queries", 40), ("keys", 45), ("heads", 2), ("head_width", 40)]),
    ("attention", &[("queries", 40), ("keys", 45), ("heads", 1), ("head_width", 64)]),
    ("attention", &[("queries", 40), ("keys", 45), ("heads", 1), ("head_width", 80)]),
    ("attention", &[("queries", 40), ("keys", 45), ("heads", 1), ("head_width", 160)]),
    ("attention", &[("queries", 40), ("keys", 45), ("heads", 1), ("head_width", 512)]),
    ("cast", &[("elements", 1000)]),
    ("conv2d", &[("height", 9), ("width", 10), ("channels", 20), ("outputs", 40)]),
    ("gaussian_sample", &[("height", 5), ("width", 7)]),
    ("geglu", &[("rows", 5), ("channels", 40)]),
    ("gemm", &[("rows", 70), ("outputs", 72), ("inputs", 40)]),
    ("gemm_split", &[("rows", 20), ("outputs", 72), ("inputs", 520), ("slices", 4)]),
    ("gemv", &[("rows", 1), ("outputs", 72), ("inputs", 40)]),
    ("group_norm", &[("pixels", 100), ("channels", 64), ("groups", 8)]),
    ("layer_norm", &[("rows", 5), ("channels", 100)]),
    ("peak_fma", &[("elements", 1024), ("turns", 3)]),
    ("peak_int8", &[("elements", 1024), ("turns", 3)]),
    ("peak_launch", &[]),
    ("peak_local", &[("groups", 2), ("turns", 2)]),
    ("peak_memory", &[("elements", 4096)]),
    ("qgemm_i8", &[("rows", 70), ("outputs", 72), ("inputs", 64)]),
    ("timestep_embedding", &[("width", 64)]),
    ("token_embedding", &[("length", 5), ("channels", 40), ("vocabulary", 11)]),
    ("winograd", &[("height", 9), ("width", 10), ("channels", 20), ("outputs", 40), ("tile", 2)]),
    ("winograd", &[("height", 9), ("width", 10), ("channels", 20), ("outputs", 40), ("tile", 4)]),
    ("winograd_local", &[("height", 9), ("width", 10), ("channels", 16), ("outputs", 40)]),
];

/// A launch of one code object.
#[derive(Serialize)]
struct Description<'a> {
    kernel: &'a str,
    /// The kernel's descriptor in the code object.
    symbol: String,
    code_object: String,
    target: &'a str,
    compiler: &'a str,
    dtype: &'a str,
    /// How weights are stored; none where as activations are.
    format: Option<String>,
    configuration: BTreeMap<&'a str, u32>,
    problem: &'a Problem,
    /// Work-groups, and work-items of each.
    groups: [usize; 3],
    local: [usize; 3],
    wave: u32,
    local_bytes: u32,
    scratch_bytes: u32,
    argument_bytes: u32,
    arguments: Vec<Described<'a>>,
    /// The head of the kernel's file: what it computes, and the shapes of its arguments.
    contract: String,
}

#[derive(Clone, Serialize)]
struct Problem {
    op: &'static str,
    sizes: Sizes,
}

/// An argument: what the code object says of it, and what it is here.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(flatten)]
    layout: &'a KernelArgument,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    /// A buffer that the kernel reads, from a file of so many elements.
    Read { elements: usize, element: &'static str, before: String },
    /// One that it writes: each byte before, what is expected after, and how far an element of that
    /// may be off.
    Written {
        elements: usize,
        element: &'static str,
        before_byte: u8,
        after: String,
        tolerance: f64,
    },
    /// A number, a null pointer, or what a driver fills in.
    Value { value: serde_json::Number },
}

/// Writes every program that a small problem leads to; what none leads to is said.
///
/// # Errors
///
/// What a compiler or a linker refuses, and files that cannot be written.
pub fn run(
    folder: &Path,
    target: &'static Target,
    compiler: &Compiler,
    programs: &[Program],
) -> Result<ExitCode> {
    std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, error))?;
    let mut count = 0;
    let unreached = reach(target, programs, |program, problem, launched| {
        count += 1;
        write(folder, target, compiler, program, problem, launched)
    })?;
    println!("{} as {} compiles for it: {count} code objects", target.name, compiler.name());
    // Such as a cast to the type that it comes from: compiled all the same, and never launched.
    for one in &unreached {
        let (kernel, configuration) = (one.kernel().name, &one.configuration);
        eprintln!("clbench: no small problem leads to {kernel} {} {configuration}", one.dtype);
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the definitions run small problems, tells `each` of every program that is launched for the
/// first time, and gives those that never are.
fn reach<'a>(
    target: &Target,
    programs: &'a [Program],
    mut each: impl FnMut(&Program, &Problem, &Launched) -> Result<()>,
) -> Result<Vec<&'a Program>> {
    let mut wanted: Vec<&Program> = programs.iter().collect();
    for (op, own) in PROBLEMS {
        let case = Case::find(op).expect("problems are of cases");
        for sizes in in_formats(case, own)? {
            let format = sizes.get("format").map_or(0, |format| *format as u32);
            let problem = Problem { op: case.op, sizes };
            for dtype in DType::ALL {
                for forced in forced(case, &wanted, dtype, format) {
                    for launched in launches(case, &problem, dtype, target, forced)? {
                        let same = |one: &&Program| {
                            let source = &launched.source;
                            (one.kernel().name, one.dtype) == (source.kernel, source.dtype)
                                && one.configuration.values() == source.parameters
                        };
                        if let Some(at) = wanted.iter().position(same) {
                            each(wanted.remove(at), &problem, &launched)?;
                        }
                    }
                }
            }
        }
    }
    Ok(wanted)
}

/// Sizes with weights in every format, where the case knows formats: blocks lie along the inputs,
/// and are whole.
fn in_formats(case: &Case, own: &[(&str, usize)]) -> Result<Vec<Sizes>> {
    let own: Vec<_> = own.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    let plain = case.sizes(&own)?;
    let mut all = vec![plain.clone()];
    if plain.contains_key("format") {
        let along = if plain.contains_key("inputs") { "inputs" } else { "channels" };
        all.extend(formats_of(case.op).map(|format| {
            let mut sizes = plain.clone();
            sizes.insert("format", format.number() as usize);
            sizes.insert(along, plain[along].next_multiple_of(format.block_values()));
            sizes
        }));
    }
    Ok(all)
}

/// What to insist on so that each wanted configuration of a case's kernels is launched that has
/// this type and format: the tuned values of each.
fn forced(case: &Case, wanted: &[&Program], dtype: DType, format: u32) -> Vec<Vec<Forced>> {
    let mut all: Vec<Vec<Forced>> = Vec::new();
    let own = wanted.iter().filter(|one| case.kernels.contains(&one.kernel().name));
    let alike = |one: &&&Program| {
        let own = format_of(&one.configuration);
        one.dtype == dtype && (own == 0 || own == format)
    };
    for one in own.filter(alike) {
        let values: Vec<_> = tuned_values(one.kernel(), &one.configuration).into_iter().collect();
        let forced = vec![(one.kernel().name.to_owned(), values)];
        if !all.contains(&forced) {
            all.push(forced);
        }
    }
    all
}

fn launches(
    case: &Case,
    problem: &Problem,
    dtype: DType,
    target: &Target,
    forced: Vec<Forced>,
) -> Result<Vec<Launched>> {
    // Blocks of just the bytes that were asked for, all bits of which are set before they are
    // written.
    let options = DeviceOptions { guards: true, poison: true, forced, ..DeviceOptions::default() };
    let mut launched = Vec::new();
    // Also as where the compiler has no words for matrix units.
    for matrix_units in [target.card().matrix_units, false] {
        let info = DeviceInfo { matrix_units, ..target.card() };
        let witness = Arc::new(Witness::new(info));
        let device = Device::new(Arc::clone(&witness) as _, &options);
        (case.prepare)(&Inputs::new(&device, dtype, &problem.sizes))?()?;
        launched.extend(witness.take());
        if !target.card().matrix_units {
            break;
        }
    }
    Ok(launched)
}

fn write(
    folder: &Path,
    target: &Target,
    compiler: &Compiler,
    program: &Program,
    problem: &Problem,
    launched: &Launched,
) -> Result<()> {
    let (kernel, source) = (program.kernel(), &launched.source);
    let code = CodeObject::new(compiler, target, source)?;
    let values = program.configuration.values();
    let values: Vec<String> = values.iter().map(|(name, value)| format!("{name}{value}")).collect();
    let stem = [vec![kernel.name.to_owned(), program.dtype.name().to_owned()], values].concat();
    let stem = stem.join("-");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| Error::file(&path, error))
    };
    let code_object = format!("{stem}.co");
    write(&code_object, &code.elf)?;
    let mut passed = launched.arguments.iter();
    let describe = |layout| {
        let hidden = |layout: &KernelArgument| layout.kind.starts_with("hidden_");
        let Some((name, passed)) = (!hidden(layout)).then(|| passed.next()).flatten() else {
            let value = hidden_value(layout, launched).into();
            return Ok(Described { name: None, layout, content: Content::Value { value } });
        };
        let content = content(folder, &stem, name, layout, passed)?;
        Ok(Described { name: Some(*name), layout, content })
    };
    let arguments = code.arguments.iter().map(describe).collect::<Result<Vec<_>>>()?;
    let parameters = &source.parameters;
    let format = parameters.iter().find(|(name, _)| *name == "FORMAT");
    let format = format.and_then(|&(_, number)| Format::from_number(number));
    let description = Description {
        kernel: kernel.name,
        symbol: format!("{}.kd", kernel.name),
        code_object,
        target: target.name,
        compiler: compiler.name(),
        dtype: program.dtype.name(),
        format: format.map(|format| format.to_string()),
        configuration: parameters.iter().copied().collect(),
        problem,
        groups: launched.groups,
        local: launched.local,
        wave: code.wave,
        local_bytes: code.local_bytes,
        scratch_bytes: code.scratch_bytes,
        argument_bytes: code.argument_bytes,
        arguments,
        contract: contract(kernel),
    };
    let text = serde_json::to_string_pretty(&description).expect("numbers, texts and lists");
    write(&format!("{stem}.json"), format!("{text}\n").as_bytes())
}

/// What an argument is, with the files of its buffer.
fn content(
    folder: &Path,
    stem: &str,
    name: &str,
    layout: &KernelArgument,
    passed: &Passed,
) -> Result<Content> {
    let element = npy::element(layout.type_name.as_deref().unwrap_or(""));
    let count = |bytes: &[u8]| bytes.len() / npy::element_bytes(element);
    Ok(match passed {
        Passed::Read(bytes) => {
            let before = format!("{stem}.{name}.npy");
            npy::write(&folder.join(&before), element, bytes)?;
            Content::Read { elements: count(bytes), element, before }
        }
        Passed::Written { before, after: expected } => {
            let after = format!("{stem}.{name}.expected.npy");
            npy::write(&folder.join(&after), element, expected)?;
            let before_byte = before.first().copied().unwrap_or(0);
            debug_assert!(before.iter().all(|byte| *byte == before_byte), "blocks are poisoned");
            let tolerance = tolerance(element, expected);
            Content::Written { elements: count(expected), element, before_byte, after, tolerance }
        }
        Passed::Absent => Content::Value { value: 0.into() },
        Passed::U32(value) => Content::Value { value: (*value).into() },
        Passed::I32(value) => Content::Value { value: (*value).into() },
        Passed::F32(value) => {
            let number = serde_json::Number::from_f64(f64::from(*value));
            let value = number.expect("kernels rely on no infinities");
            Content::Value { value }
        }
    })
}

/// As `clbench run` has it: a rounding of the result to its type to either side, and f32 sums of a
/// model's length. Whole numbers are equal.
fn tolerance(element: &str, expected: &[u8]) -> f64 {
    let (dtype, values): (_, Vec<f32>) = match element {
        "<f4" => (DType::F32, floats(expected)),
        "<f2" => (DType::F16, halves(expected)),
        _ => return 0.0,
    };
    let expected: Vec<f32> = values.into_iter().filter(|value| !value.is_nan()).collect();
    f64::from(ellesmere::bench::Agreement::between(&expected, &expected, dtype).tolerance)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<2>();
    values.iter().map(|value| half::f16::from_le_bytes(*value).to_f32()).collect()
}

/// What the driver fills in for a launch of whole work-groups from 0 on.
fn hidden_value(layout: &KernelArgument, launched: &Launched) -> u64 {
    let at = match layout.kind.as_bytes().last() {
        Some(b'x') => 0,
        Some(b'y') => 1,
        _ => 2,
    };
    let dimensions = launched.groups.iter().zip(launched.local);
    let value = match layout.kind.trim_end_matches(['x', 'y', 'z']) {
        "hidden_block_count_" => launched.groups[at],
        "hidden_group_size_" => launched.local[at],
        "hidden_grid_dims" => {
            let used = dimensions.map(|(groups, local)| groups * local > 1).collect::<Vec<_>>();
            used.iter().rposition(|used| *used).map_or(1, |last| last + 1)
        }
        // Offsets, remainders, and what kernels of ours have no use for.
        _ => 0,
    };
    value as u64
}

/// The comment that a kernel's own file begins with.
fn contract(kernel: &Kernel) -> String {
    let own = format!("#line 1 \"{}.cl\"\n", kernel.name);
    let text = kernel.source.rsplit_once(&own).map_or("", |(_, text)| text);
    let lines = text.lines().map_while(|line| line.strip_prefix("//"));
    lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::programs::given;

    #[test]
    fn all_but_what_no_op_launches_is_reached_by_a_small_problem() {
        for name in ["gfx803", "gfx1030"] {
            let target = Target::find(name).unwrap();
            let programs = given(target, &DType::ALL);
            let unreached = reach(target, &programs, |_, _, launched| {
                let written = launched.arguments.iter().any(|(_, passed)| {
                    matches!(passed, Passed::Written { before, after } if before != after)
                });
                assert!(written, "{}: nothing is written", launched.source.kernel);
                Ok(())
            });
            // To the type that it comes from, and kernels that know one type.
            let one_type = [
                "cast",
                "gemm_merge",
                "group_norm_merge",
                "peak_int8",
                "peak_launch",
                "peak_local",
                "peak_memory",
            ];
            for program in unreached.unwrap() {
                let (kernel, values) = (program.kernel().name, &program.configuration);
                assert!(one_type.contains(&kernel), "{kernel} {} {values} {name}", program.dtype);
            }
        }
    }
}
