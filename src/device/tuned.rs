//! What kernels are specialised by on a device, and launches that it tunes.

use std::sync::Arc;

use super::{Call, Device, DeviceOptions};
use crate::backend::record::RecordedProblem;
use crate::info::DeviceInfo;
use crate::kernel::{Configuration, Kernel};
use crate::tune::database::{Basis, DeviceKey, RunnerUp, source_hash, tuned_values};
use crate::tune::first_use::{self, Found, Grid, OpenLaunch};
use crate::tune::{Autotune, Choice, Class, Configurations, Database, Entry};
use crate::{DType, Result};

/// What makes a launch one that can be tuned: see [`Device::run_tuned`].
pub(crate) struct Tunable<'a> {
    /// The problem.
    pub class: &'a Class,
    /// How the elements of the outputs are stored.
    pub output: DType,
    /// The launch that a configuration leads to.
    pub grid: &'a dyn Fn(&Configuration) -> Grid,
}

/// The configurations that a device's options ask for.
pub(super) fn configurations_of(info: &DeviceInfo, options: &DeviceOptions) -> Arc<Configurations> {
    let database = match (&options.autotune, &options.tuning) {
        (Autotune::Off, _) => Database::default(),
        (_, None) => Database::shipped(),
        (_, Some(path)) => Database::open(path),
    };
    database.check(info);
    Arc::new(Configurations::new(options.forced.clone(), options.autotune, database))
}

impl Device {
    /// What was chosen for each problem that ops asked about, and why.
    pub fn choices(&self) -> Vec<Choice> {
        self.inner.configurations.choices()
    }

    /// By what the device is known to the tuning database.
    pub fn key(&self) -> DeviceKey {
        DeviceKey::of(self.info())
    }

    /// The tuned configurations that are known.
    pub fn tuning(&self) -> &Database {
        self.inner.configurations.database()
    }

    /// What `kernel` is to be specialised by for a problem. `suggested` are values that the problem
    /// decides, and those that suit it where nothing was measured.
    pub(crate) fn configuration(
        &self,
        kernel: &'static str,
        dtype: DType,
        class: &Class,
        suggested: &[(&'static str, u32)],
    ) -> Arc<Configuration> {
        let kernel = Kernel::find(kernel).expect("ops call kernels of the catalogue");
        let configurations = &self.inner.configurations;
        let chosen = configurations.choose(kernel, dtype, class, suggested, self.info());
        if let Some(record) = &self.inner.record {
            record.chosen(RecordedProblem {
                kernel: kernel.name,
                dtype,
                class: class.0.clone(),
                configuration: chosen.values().to_vec(),
                launches: 0,
                flop: 0,
                bytes: 0,
            });
        }
        chosen
    }

    /// As [`Device::run`], of a launch that could have another configuration. A device that tunes on
    /// first use does so here.
    pub(crate) fn run_tuned(&self, call: &Call, tunable: &Tunable) -> Result<()> {
        if self.executes() && self.tune(call, tunable)? {
            let kernel = Kernel::find(call.kernel).expect("ops call kernels of the catalogue");
            // What was found stands where the next one looks: the suggestion has no say.
            let configuration = self.inner.configurations.choose(
                kernel,
                call.dtype,
                tunable.class,
                &[],
                self.info(),
            );
            let Grid { groups, local } = (tunable.grid)(&configuration);
            return self.run(&Call { configuration: &configuration, groups, local, ..*call });
        }
        self.run(call)
    }

    /// Tunes a launch if that is to be done now; whether its configuration may have changed.
    fn tune(&self, call: &Call, tunable: &Tunable) -> Result<bool> {
        let configurations = &self.inner.configurations;
        let unsettled = || configurations.unsettled(call.kernel, call.dtype, tunable.class);
        let Some(limit) = configurations.first_use_limit() else { return Ok(false) };
        // What stands in for a kernel's source is being tried, not used.
        let tunes = self.backend().specialises() && self.inner.sources.is_empty();
        if !tunes || unsettled().is_none() {
            return Ok(false);
        }
        let _one_at_a_time = configurations.tuning();
        // Another thread may have tuned it meanwhile.
        let Some(choice) = unsettled() else { return Ok(true) };
        let kernel = Kernel::find(call.kernel).expect("ops call kernels of the catalogue");
        let launch = OpenLaunch {
            kernel,
            dtype: call.dtype,
            output: tunable.output,
            arguments: call.arguments,
            grid: tunable.grid,
        };
        let (default, near) = (&choice.default, &choice.configuration);
        let found = first_use::tune(self.backend(), &launch, default, near, limit)?;
        configurations.settle(&choice, found.as_ref().map(|found| found.best.0.clone()));
        if let Some(found) = found {
            let Found { trials, default_seconds, best: (best, seconds), .. } = &found;
            tracing::info!(
                "{} {} {}: {best} takes {seconds} s, the default {default_seconds} s, of {trials}",
                choice.kernel,
                choice.dtype,
                choice.class,
            );
            let kept = configurations.database().remember(self.entry(kernel, &choice, &found));
            configurations.database().note_once(kept);
        }
        Ok(true)
    }

    fn entry(&self, kernel: &Kernel, choice: &Choice, found: &Found) -> Entry {
        let (best, seconds) = &found.best;
        let runner_up = found.runner_up.as_ref().map(|(configuration, seconds)| RunnerUp {
            configuration: tuned_values(kernel, configuration),
            seconds: Some(*seconds),
        });
        Entry {
            kernel: choice.kernel.to_owned(),
            dtype: choice.dtype.name().to_owned(),
            class: choice.class.sizes(),
            shape: Default::default(),
            source: source_hash(kernel, choice.dtype),
            device: self.key(),
            basis: Basis::Measured,
            configuration: match *best == choice.default {
                true => Default::default(),
                false => tuned_values(kernel, best),
            },
            seconds: Some(*seconds),
            default_seconds: Some(found.default_seconds),
            runner_up,
        }
    }
}
