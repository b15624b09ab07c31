//! Each op at sizes of a real model: how long it takes, and whether it agrees with its definition.
//!
//! A [`Case`] is one op; its file is named after it and [`CASES`] lists it. [`peak`] measures what a
//! device can do at most, and [`roofline`] says how near a run comes to it. `clbench run` and
//! `clbench peak` are the programs around this.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::device::Device;
use crate::kernel::Configuration;
use crate::profile::{Record, Work};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

mod attention;
mod cast;
mod conv2d;
mod conv2d_few_inputs;
mod conv2d_few_outputs;
mod gaussian_sample;
mod geglu;
mod gemm;
mod gemm_split;
mod gemv;
mod group_norm;
mod inputs;
mod layer_norm;
pub mod peak;
mod peak_cases;
mod problem;
mod qgemm_i8;
pub mod roofline;
mod suite;
mod timestep_embedding;
mod token_embedding;
mod winograd;
mod winograd_local;

pub use inputs::{Inputs, Sizes};
pub use peak::{Peak, Peaks};
pub use problem::Problem;
use roofline::Bound;
pub use suite::{Part, Suite};

/// An op that can be run by itself.
#[derive(Debug)]
pub struct Case {
    /// The op's name.
    pub op: &'static str,
    /// The kernels that it chooses from.
    pub kernels: &'static [&'static str],
    /// The names of its sizes with their defaults. The definition must not take long at these.
    pub sizes: &'static [(&'static str, usize)],
    /// Uploads drawn inputs and gives what runs the op on them once.
    pub prepare: fn(&Inputs) -> Result<Run>,
}

/// Runs an op once.
pub type Run = Box<dyn Fn() -> Result<Tensor>>;

/// Every case, in alphabetical order.
pub const CASES: &[Case] = &[
    attention::CASE,
    cast::CASE,
    conv2d::CASE,
    conv2d_few_inputs::CASE,
    conv2d_few_outputs::CASE,
    gaussian_sample::CASE,
    geglu::CASE,
    gemm::CASE,
    gemm_split::CASE,
    gemv::CASE,
    group_norm::CASE,
    layer_norm::CASE,
    peak_cases::FMA,
    peak_cases::INT8,
    peak_cases::LAUNCH,
    peak_cases::LOCAL,
    peak_cases::MEMORY,
    qgemm_i8::CASE,
    timestep_embedding::CASE,
    token_embedding::CASE,
    winograd::CASE,
    winograd_local::CASE,
];

/// What came of running a case.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// The sizes it ran at.
    pub sizes: BTreeMap<&'static str, usize>,
    /// The kernels that it launched in one run, each as often as it was launched.
    pub launches: Vec<&'static str>,
    /// The same launches with what they were specialised by and had to do.
    pub details: Vec<Launched>,
    /// The work of one run.
    pub work: Work,
    /// By the host's clock, from the call until the device had finished: each run, the shortest
    /// first.
    pub host: Vec<Duration>,
    /// The same by the device's clock; empty where the driver does not tell.
    pub device: Vec<Duration>,
}

/// One launch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Launched {
    /// The kernel.
    pub kernel: &'static str,
    /// What it was specialised by.
    pub configuration: Configuration,
    /// Its work.
    pub work: Work,
    /// Its time in the last run by the device's clock, where the driver tells.
    pub device: Option<Duration>,
}

impl Measurement {
    /// The times to judge by: the device's where the driver tells them, else the host's.
    pub fn times(&self) -> &[Duration] {
        if self.device.is_empty() { &self.host } else { &self.device }
    }

    /// The median of [`Measurement::times`].
    pub fn median(&self) -> Duration {
        let times = self.times();
        times[times.len() / 2]
    }

    /// What binds the median run on a device of these peaks.
    pub fn bound(&self, peaks: &Peaks) -> Bound {
        let launches = self.details.iter();
        let launches = launches.map(|one| (one.kernel, &one.configuration, one.work));
        roofline::bound(peaks, launches, self.median().as_secs_f64())
    }
}

/// How far a result is from its definition's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Agreement {
    /// The largest difference of an element; infinite if one is not a number.
    pub difference: f32,
    /// The largest magnitude in the definition's result.
    pub largest: f32,
    /// The difference that is still agreement: a rounding of the result to its type to either
    /// side, and f32 sums of a model's length.
    pub tolerance: f32,
}

impl Agreement {
    /// Whether the difference is within the tolerance.
    pub fn holds(&self) -> bool {
        self.difference <= self.tolerance
    }
}

impl Case {
    /// The case of an op or of a kernel.
    pub fn find(name: &str) -> Option<&'static Case> {
        CASES.iter().find(|case| case.op == name || case.kernels.contains(&name))
    }

    /// As [`Case::find`].
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] with the names that there are.
    pub fn known(name: &str) -> Result<&'static Case> {
        Self::find(name).ok_or_else(|| {
            let names: BTreeSet<&str> =
                CASES.iter().flat_map(|case| case.kernels).copied().collect();
            let names: Vec<&str> = names.into_iter().collect();
            let detail = format!("expected one of {}, got {name:?}", names.join(", "));
            Error::argument("kernel", detail)
        })
    }

    /// The defaults with `given` in their place.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the case has no size of that name, or if one is 0 that is not by default.
    pub fn sizes(&self, given: &[(String, usize)]) -> Result<Sizes> {
        let mut sizes: Sizes = self.sizes.iter().copied().collect();
        for (name, value) in given {
            let names: Vec<&str> = self.sizes.iter().map(|&(name, _)| name).collect();
            let Some(size) = sizes.get_mut(name.as_str()) else {
                let detail = format!("{} has {}, got {name}", self.op, names.join(", "));
                return Err(Error::argument("shape", detail));
            };
            if *value == 0 && *size != 0 {
                return Err(Error::argument("shape", format!("{name} must be at least 1, got 0")));
            }
            *size = *value;
        }
        Ok(sizes)
    }

    /// Runs the case for about as long as `time`, at least three times and once before.
    ///
    /// # Errors
    ///
    /// Those of the op.
    pub fn measure(
        &self,
        device: &Device,
        dtype: DType,
        sizes: &Sizes,
        time: Duration,
    ) -> Result<Measurement> {
        let run = (self.prepare)(&Inputs::new(device, dtype, sizes))?;
        run()?;
        device.finish()?;
        let mut measured = Measurement {
            sizes: sizes.clone(),
            launches: Vec::new(),
            details: Vec::new(),
            work: Work::default(),
            host: Vec::new(),
            device: Vec::new(),
        };
        let profile = device.profile();
        let was_enabled = profile.is_enabled();
        let begin = Instant::now();
        profile.set_enabled(true);
        while measured.host.len() < 3 || begin.elapsed() < time {
            let known = profile.records().len();
            let stage = device.stage("bench");
            let start = Instant::now();
            run()?;
            device.finish()?;
            measured.host.push(start.elapsed());
            drop(stage);
            let records = profile.records().split_off(known);
            let launches = || records.iter().filter(|record| record.launch.is_some());
            measured.launches = launches().map(|record| record.name).collect();
            let launched = |record: &Record| {
                let (work, configuration) = (record.launch?, record.configuration.clone()?);
                Some(Launched { kernel: record.name, configuration, work, device: record.device })
            };
            measured.details = records.iter().filter_map(launched).collect();
            measured.work =
                launches().filter_map(|record| record.launch).fold(Work::default(), |sum, work| {
                    Work { flop: sum.flop + work.flop, bytes: sum.bytes + work.bytes }
                });
            measured
                .device
                .extend(launches().map(|record| record.device).sum::<Option<Duration>>());
        }
        profile.set_enabled(was_enabled);
        measured.host.sort();
        measured.device.sort();
        Ok(measured)
    }

    /// Compares one run with the definition's, which chooses as `device` does.
    ///
    /// # Errors
    ///
    /// Those of the op.
    pub fn agreement(&self, device: &Device, dtype: DType, sizes: &Sizes) -> Result<Agreement> {
        let actual = self.result(device, dtype, sizes)?;
        let definitions = Device::definitions(Some(device.info().clone()));
        let expected = self.result(&definitions, dtype, sizes)?;
        Ok(Agreement::between(&actual, &expected, dtype))
    }

    /// What one run gives.
    ///
    /// # Errors
    ///
    /// Those of the op.
    pub fn result(&self, device: &Device, dtype: DType, sizes: &Sizes) -> Result<Vec<f32>> {
        (self.prepare)(&Inputs::new(device, dtype, sizes)).and_then(|run| run()?.to_vec())
    }
}

impl Agreement {
    /// How far a result, stored as `dtype`, is from its definition's.
    pub fn between(actual: &[f32], expected: &[f32], dtype: DType) -> Self {
        assert_eq!(actual.len(), expected.len(), "both are results of the same op");
        let largest = expected.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let difference = actual.iter().zip(expected).map(|(actual, expected)| {
            let difference = (actual - expected).abs();
            if difference.is_nan() { f32::INFINITY } else { difference }
        });
        let difference = difference.fold(0.0, f32::max);
        let tolerance = largest * (2.0 * dtype.rounding() + 1e-4);
        Agreement { difference, largest, tolerance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{KERNELS, Kernel};

    #[test]
    fn every_kernel_has_a_case() {
        for kernel in KERNELS {
            assert!(Case::find(kernel.name).is_some(), "{} has no case in bench/", kernel.name);
        }
    }

    #[test]
    fn every_case_names_kernels_of_the_catalogue_and_runs() {
        assert!(CASES.is_sorted_by(|a, b| a.op < b.op));
        let device = Device::cpu();
        for case in CASES {
            for kernel in case.kernels {
                assert!(Kernel::find(kernel).is_some(), "{}: no kernel {kernel}", case.op);
            }
            // Small: definitions are written for reading.
            let sizes: Sizes =
                case.sizes.iter().map(|&(name, size)| (name, size.min(32))).collect();
            let measured = case.measure(&device, DType::F32, &sizes, Duration::ZERO).unwrap();
            assert!(measured.host.len() >= 3 && measured.work.bytes > 0, "{}", case.op);
            for launched in measured.launches {
                assert!(case.kernels.contains(&launched), "{} launches {launched}", case.op);
            }
        }
    }

    #[test]
    fn a_size_that_the_op_does_not_have_is_named() {
        let case = Case::find("layer_norm").unwrap();
        let sizes = case.sizes(&[("rows".to_owned(), 3)]).unwrap();
        assert_eq!(sizes["rows"], 3);
        let error = case.sizes(&[("width".to_owned(), 3)]).unwrap_err().to_string();
        assert_eq!(error, "shape: layer_norm has rows, channels, got width");
    }
}
