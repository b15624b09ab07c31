//! What a kernel was asked to do, and how to ask it again: what a tuner works on.

use std::sync::Arc;

use super::{Case, Inputs, Sizes};
use crate::backend::record::{Record, RecordedProblem};
use crate::device::{Device, DeviceOptions};
use crate::info::DeviceInfo;
use crate::io::one_line;
use crate::kernel::{Configuration, Kernel};
use crate::profile::Work;
use crate::tune::{Autotune, Class, Entry};
use crate::{DType, Error, Result};

/// A kernel at one class of sizes, and a run of its op that asks for just that.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The kernel that the op's plan chooses.
    pub kernel: &'static Kernel,
    /// What `REAL` is.
    pub dtype: DType,
    /// By which the kernel's configuration is chosen.
    pub class: Class,
    /// The configuration that the op takes where nothing was measured.
    pub default: Configuration,
    /// The op.
    pub case: &'static Case,
    /// Sizes at which the op launches the kernel for this class.
    pub sizes: Sizes,
    /// Launches that the problem stands for: in one run of the op, or in a whole model.
    pub launches: u64,
    /// The kernel's work in one run of the op at these sizes.
    pub work: Work,
    /// How much of the model's time it takes, roughly, in operations: every device computes about
    /// ten in the time in which it moves a byte.
    pub weight: u64,
}

impl Problem {
    /// The problems of an op at some sizes on the device that `info` describes, found by a dry
    /// run: one for each kernel that its plan chooses.
    ///
    /// # Errors
    ///
    /// Those of the op.
    pub fn of(
        case: &'static Case,
        dtype: DType,
        sizes: &Sizes,
        info: &DeviceInfo,
    ) -> Result<Vec<Self>> {
        let device = dry(info);
        (case.prepare)(&Inputs::new(&device, dtype, sizes))?()?;
        let recorded = device.recorded().expect("a dry run records").problems;
        let launched = recorded.into_iter().filter(|recorded| recorded.launches > 0);
        Ok(launched.map(|recorded| Self::new(case, sizes.clone(), recorded)).collect())
    }

    /// The problem of a kernel, or those of all kernels of an op, at some sizes.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if there is no such kernel, or if its op's plan chooses another one on
    /// that device; those of the op.
    pub fn named(
        name: &str,
        dtype: DType,
        sizes: &[(String, usize)],
        info: &DeviceInfo,
    ) -> Result<Vec<Self>> {
        let case = Case::known(name)?;
        let mut problems = Self::of(case, dtype, &case.sizes(sizes)?, info)?;
        if case.op == name {
            return Ok(problems);
        }
        let chosen: Vec<&str> = problems.iter().map(|problem| problem.kernel.name).collect();
        if !chosen.contains(&name) {
            let (op, device, chosen) = (case.op, &info.name, chosen.join(", "));
            let detail = format!("{op} on {device} launches {chosen} at these sizes, not {name}");
            return Err(Error::argument("kernel", detail));
        }
        problems.retain(|problem| problem.kernel.name == name);
        Ok(problems)
    }

    /// What a model launched, as a problem by itself; `None` if no op can be asked for just that.
    pub fn again(recorded: &RecordedProblem, info: &DeviceInfo) -> Option<Self> {
        let case = case_of(recorded.kernel, recorded.class.iter().map(|(name, _)| *name))?;
        let same = |problem: &Self| {
            problem.kernel.name == recorded.kernel
                && problem.dtype == recorded.dtype
                && problem.class.0 == recorded.class
        };
        let at = |sizes| {
            let problems = Self::of(case, recorded.dtype, &sizes, info).ok()?;
            problems.into_iter().find(same)
        };
        let problem = sizes_at(case, &recorded.class)?.into_iter().find_map(at)?;
        let (launches, weight) = (recorded.launches, weight(recorded));
        Some(Self { launches, weight, ..problem })
    }

    /// What an entry of the tuning database was measured for.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if no op can be asked for just that; those of the op.
    pub fn of_entry(entry: &Entry, info: &DeviceInfo) -> Result<Self> {
        let none = || {
            let (kernel, device) = (one_line(&entry.kernel), &info.name);
            Error::argument("entry", format!("no op launches {kernel} for its class on {device}"))
        };
        let case = case_of(&entry.kernel, entry.class.keys().map(String::as_str));
        let case = case.ok_or_else(none)?;
        let guesses = if entry.shape.is_empty() {
            let class = entry.class.iter().map(|(name, &size)| (name.as_str(), size));
            sizes_at(case, &class.collect::<Vec<_>>()).ok_or_else(none)?
        } else {
            let shape = entry.shape.iter().map(|(name, &size)| (name.clone(), size));
            vec![case.sizes(&shape.collect::<Vec<_>>())?]
        };
        let dtype = entry.dtype.parse()?;
        for sizes in guesses {
            // A file may hold anything; no model comes near.
            let product = sizes
                .values()
                .filter(|size| **size > 0)
                .try_fold(1u64, |product, &size| product.checked_mul(size as u64));
            product.filter(|product| *product <= 1 << 48).ok_or_else(none)?;
            let mut problems = Self::of(case, dtype, &sizes, info)?.into_iter();
            let same = |p: &Self| p.kernel.name == entry.kernel && p.class.sizes() == entry.class;
            if let Some(problem) = problems.find(same) {
                return Ok(problem);
            }
        }
        Err(none())
    }

    fn new(case: &'static Case, sizes: Sizes, recorded: RecordedProblem) -> Self {
        let weight = weight(&recorded);
        let RecordedProblem { kernel, dtype, class, configuration, launches, flop, bytes } =
            recorded;
        let kernel = Kernel::find(kernel).expect("ops launch kernels of the catalogue");
        let work = Work { flop, bytes };
        let mut default = Configuration::defaults(kernel.parameters);
        for (name, value) in configuration {
            default.set(name, value);
        }
        Self { kernel, dtype, class: Class(class), default, case, sizes, launches, work, weight }
    }
}

fn weight(recorded: &RecordedProblem) -> u64 {
    recorded.flop.max(10 * recorded.bytes)
}

/// A dry run of the device that `info` describes, with all the memory that is asked for: which
/// kernels a model launches does not depend on whether it fits.
pub(super) fn dry(info: &DeviceInfo) -> Device {
    let options = DeviceOptions {
        budget_bytes: Some(u64::MAX / 2),
        // Defaults are what is asked for.
        autotune: Autotune::Off,
        ..DeviceOptions::default()
    };
    Device::new(Arc::new(Record::new(info.clone())), &options).dry_run()
}

/// The case that launches a kernel for a class of such sizes: products in a batch are those between
/// Winograd's transforms.
fn case_of<'a>(kernel: &str, mut sizes: impl Iterator<Item = &'a str>) -> Option<&'static Case> {
    Case::find(if sizes.any(|name| name == "batch") { "winograd" } else { kernel })
}

/// Height and width of so many pixels, as square as may be.
fn square(pixels: usize) -> Option<[usize; 2]> {
    let height = (1..=pixels.isqrt()).rev().find(|side| pixels.is_multiple_of(*side))?;
    Some([height, pixels / height])
}

/// Sizes of an op that lead to a class of one of its kernels, or may. What a class leaves open is
/// the case's default, or several guesses; images are as square as may be.
fn sizes_at(case: &Case, class: &[(&str, usize)]) -> Option<Vec<Sizes>> {
    let mut sizes: Sizes = case.sizes.iter().copied().collect();
    let in_class = |wanted| class.iter().find(|(name, _)| *name == wanted).map(|&(_, size)| size);
    for &(name, size) in class {
        if let Some(own) = sizes.get_mut(name) {
            *own = size;
        }
    }
    match case.op {
        "conv2d" | "conv2d_few_inputs" | "conv2d_few_outputs" => {
            let stride = sizes["stride"];
            let [height, width] = square(in_class("rows")?)?;
            let kernel = in_class("taps")?.isqrt();
            let pixels = [("height", height * stride), ("width", width * stride)];
            sizes.extend(pixels.into_iter().chain([("kernel", kernel)]));
        }
        "winograd" | "winograd_local" => {
            let tile = match (case.op, in_class("batch")) {
                ("winograd_local", _) => 2,
                (_, Some(places)) => places.isqrt() - 2,
                (_, None) => in_class("tile")?,
            };
            if let Some(own) = sizes.get_mut("tile") {
                *own = tile;
            }
            // The rows of a product are tiles. What one transform does not see decides how much
            // of it is done at a time.
            let outputs = in_class("outputs").or(in_class("panels").map(|panels| panels * 32));
            let channels = in_class("channels").or(in_class("inputs"));
            let guess = |known: Option<usize>, guesses: [usize; 6]| match known {
                Some(known) => {
                    // What is known may be a block of something larger.
                    let larger = guesses.into_iter().filter(|guess| *guess > known);
                    [known, 2 * known].into_iter().chain(larger).collect()
                }
                None => guesses.to_vec(),
            };
            let widths = [32, 320, 640, 1280, 1920, 2560];
            let tiles = in_class("tiles").or(in_class("rows"));
            let mut all = Vec::new();
            for tiles in guess(tiles, [16, 64, 128, 256, 512, 1024]) {
                let [height, width] = square(tiles)?;
                for outputs in guess(outputs, widths) {
                    let channels = channels.map_or(widths.to_vec(), |known| vec![known]);
                    for channels in channels {
                        let mut sizes = sizes.clone();
                        sizes.extend([("height", height * tile), ("width", width * tile)]);
                        sizes.extend([("outputs", outputs), ("channels", channels)]);
                        all.push(sizes);
                    }
                }
            }
            return Some(all);
        }
        "group_norm" => {
            // Sixty-four pixels a chunk, see the op.
            sizes.extend(in_class("chunks").map(|chunks| ("pixels", 64 * chunks)));
            let channels = sizes["channels"];
            let groups = (1..=32).rev().find(|groups| channels.is_multiple_of(*groups))?;
            sizes.insert("groups", groups);
        }
        "token_embedding" => {
            sizes.insert("samples", 1);
            sizes.insert("length", in_class("rows")?);
        }
        "gaussian_sample" => {
            let elements = in_class("elements")?;
            sizes.extend([("height", 1), ("channels", 1), ("width", elements)]);
        }
        _ => {}
    }
    Some(vec![sizes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::CASES;
    use crate::kernel::KERNELS;

    #[test]
    fn every_case_can_be_asked_again_for_its_kernels_classes() {
        let host = Device::cpu().info().clone();
        let gpu = DeviceInfo { vector_width: 1, ..host.clone() };
        let units = DeviceInfo { matrix_units: true, ..gpu.clone() };
        let mut kernels = Vec::new();
        let amx = DeviceInfo { amx: true, vector_width: 16, ..host.clone() };
        for info in [host, gpu, units, amx] {
            for case in CASES {
                let sizes = case.sizes(&[]).unwrap();
                for problem in Problem::of(case, DType::F16, &sizes, &info).unwrap() {
                    let work = problem.work;
                    assert!(work.bytes > 0, "{}: no work", problem.kernel.name);
                    let recorded = RecordedProblem {
                        kernel: problem.kernel.name,
                        dtype: problem.dtype,
                        class: problem.class.0.clone(),
                        configuration: problem.default.values().to_vec(),
                        launches: 1,
                        flop: work.flop,
                        bytes: work.bytes,
                    };
                    let again = Problem::again(&recorded, &info).expect(problem.kernel.name);
                    assert_eq!(again.class, problem.class);
                    kernels.push(problem.kernel.name);
                }
            }
        }
        for kernel in KERNELS {
            assert!(kernels.contains(&kernel.name), "{} is launched by no case", kernel.name);
        }
    }

    #[test]
    fn a_kernel_that_the_plan_does_not_choose_is_refused() {
        let host = Device::cpu().info().clone();
        let problems = Problem::named("gemm", DType::F32, &[], &host).unwrap();
        assert_eq!(problems.len(), 1);
        let info = DeviceInfo { vector_width: 1, ..host };
        assert!(Problem::named("gemm_local", DType::F32, &[], &info).is_ok());
        let error = Problem::named("gemm_register", DType::F32, &[], &info).unwrap_err();
        assert!(error.to_string().contains("launches gemm_local at these sizes"), "{error}");
        let error = Problem::named("gemma", DType::F32, &[], &info).unwrap_err().to_string();
        assert!(error.starts_with("kernel: expected one of ") && error.ends_with("got \"gemma\""));
    }
}
