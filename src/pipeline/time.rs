//! How long a plan takes: the sum over its launches of what each was measured to take.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::ladder::Steps;
use super::rates::Rates;
use super::{LoadOptions, Observer, Plan, Progress, Request, tell};
use crate::backend::record::{RecordedLaunch, RecordedStage};
use crate::bench::peak::Peaks;
use crate::device::{Device, TransferRates};
use crate::hardware::Preset;
use crate::info::{DeviceInfo, DeviceKind};
use crate::models::ModelFiles;
use crate::{DType, Result};

/// How long a request takes, predicted. Programs are taken to be compiled already, and transfers not
/// to overlap with launches. Prints as lines of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanTimes {
    /// What is done in turn, in the order in which it begins.
    pub stages: Vec<StageTimes>,
    /// The launches of all stages, the longest first.
    pub kernels: Vec<KernelTimes>,
    /// Reading the weights and bringing them into the form in which kernels read them.
    pub load_seconds: f64,
    /// A call of the UNet, on average.
    pub call_seconds: f64,
    /// All but loading.
    pub drawing_seconds: f64,
    /// All of it.
    pub total_seconds: f64,
    /// Where the times of launches come from.
    pub basis: TimesBasis,
}

/// How long a stage takes, all of its turns together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageTimes {
    /// As in a profile.
    pub stage: &'static str,
    /// Launches, and copies on the device.
    pub launch_seconds: f64,
    /// What the host does for launches, as far as the device does nothing meanwhile.
    pub host_seconds: f64,
    /// Writes and reads of activations, also of what is parked on the host, and fresh memory.
    pub transfer_seconds: f64,
    /// Copies of weights that are on the host.
    pub weight_seconds: f64,
}

impl StageTimes {
    /// The sum.
    pub fn seconds(&self) -> f64 {
        self.launch_seconds + self.host_seconds + self.transfer_seconds + self.weight_seconds
    }
}

/// How long the launches of a kernel take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTimes {
    /// Its name.
    pub kernel: &'static str,
    /// How many.
    pub launches: u64,
    /// All of them together.
    pub seconds: f64,
}

/// Where the times of launches come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimesBasis {
    /// Launches that take a time of their own.
    pub different_launches: usize,
    /// Those of them that were never measured on the device.
    pub estimated_launches: usize,
    /// What their times were estimated from.
    pub estimated_from: &'static str,
}

/// What was recorded for the time that it takes, and of what.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recording {
    pub launches: Vec<RecordedLaunch>,
    pub stages: Vec<RecordedStage>,
    pub options: LoadOptions,
    pub request: Request,
}

impl Plan {
    /// Predicts how long the plan takes on `device`, on which it was made, and keeps that in
    /// [`Plan::times`], and what each thing that is done for want of memory saves and costs in
    /// [`Plan::ladder`]. Launches that were never made there are made now, a few times each: seconds
    /// for a model that is new. `observer` is told of it.
    ///
    /// What the device has no room to measure is estimated.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`](crate::Error::Cancelled) if `observer` asks for it; those of reading the
    /// files; [`Error::Build`](crate::Error::Build), [`Error::Device`](crate::Error::Device).
    pub fn time(
        &mut self,
        device: &Device,
        files: &ModelFiles,
        observer: &mut Observer,
    ) -> Result<&PlanTimes> {
        let mut steps = Steps::plan(device, files, self.dtype.parse()?, self)?;
        let all = std::iter::once(&mut *self).chain(steps.plans());
        let mut launches: Vec<RecordedLaunch> = Vec::new();
        all.for_each(|plan| launches.extend_from_slice(&plan.recording.launches));
        device.measure_seconds(&launches, |done, total| {
            tell(observer, &Progress::Timing { done, total })
        })?;
        let rates = Rates::measured(device, files, self.dtype.parse()?)?;
        for plan in std::iter::once(&mut *self).chain(steps.plans()) {
            plan.times = Some(times(plan, device, rates, &[]));
        }
        self.ladder = steps.taken();
        Ok(self.times.as_ref().expect("it was predicted just now"))
    }

    /// As [`Plan::time`], at once: nothing is measured, and what was never measured is estimated from
    /// its work. [`Plan::ladder`] stays as it is.
    pub fn estimate(&mut self, device: &Device) -> &PlanTimes {
        self.estimate_like(device, Rates::known(device), &[])
    }

    /// As [`Plan::estimate`], given what else takes time and launches that are like these.
    pub(super) fn estimate_like(
        &mut self,
        device: &Device,
        rates: Rates,
        like: &[RecordedLaunch],
    ) -> &PlanTimes {
        let times = times(self, device, rates, like);
        self.times.insert(times)
    }
}

/// The seconds of each launch: what is known, and estimates of the rest, like `like` as far as that is
/// known.
struct Seconds {
    of_launches: Vec<f64>,
    estimated: usize,
    from: &'static str,
}

impl Seconds {
    fn of(device: &Device, launches: &[RecordedLaunch], like: &[RecordedLaunch]) -> Self {
        let known = device.known_seconds(launches);
        let mut speed = Speed::of(device);
        speed.learn(launches, &known);
        speed.learn(like, &device.known_seconds(like));
        let seconds = launches.iter().zip(&known);
        let seconds = seconds.map(|(launch, known)| known.unwrap_or_else(|| speed.seconds(launch)));
        Self {
            of_launches: seconds.collect(),
            estimated: known.iter().filter(|seconds| seconds.is_none()).count(),
            from: speed.from(),
        }
    }
}

/// Those of `launches` that take less than a quarter of a second, as far as `like` tells.
pub(super) fn within_reach(
    device: &Device,
    launches: &[RecordedLaunch],
    like: &[RecordedLaunch],
) -> Vec<RecordedLaunch> {
    let Seconds { of_launches, .. } = Seconds::of(device, launches, like);
    let all = launches.iter().zip(of_launches);
    all.filter(|(_, seconds)| *seconds < 0.25).map(|(launch, _)| launch.clone()).collect()
}

fn times(plan: &Plan, device: &Device, rates: Rates, like: &[RecordedLaunch]) -> PlanTimes {
    let Recording { launches, stages, .. } = &plan.recording;
    let seconds = Seconds::of(device, launches, like);
    let kind = device.info().kind;
    let drawing: Vec<&RecordedStage> =
        stages.iter().filter(|stage| stage.name != LOADING).collect();
    let kernels = kernel_times(&drawing, launches, &seconds.of_launches);
    let stages: Vec<StageTimes> = drawing
        .into_iter()
        .map(|stage| stage_times(stage, &seconds.of_launches, kind, rates))
        .filter(|stage| stage.seconds() > 0.0)
        .collect();
    let drawing_seconds: f64 = stages.iter().map(StageTimes::seconds).sum();
    // What stays in files is read when it is used.
    let load_seconds = rates.loading * (plan.weight_bytes + plan.memory.host_bytes) as f64;
    let unet = stages.iter().find(|stage| stage.stage == "unet");
    PlanTimes {
        load_seconds,
        call_seconds: unet.map_or(0.0, |unet| unet.seconds() / plan.calls.max(1) as f64),
        drawing_seconds,
        total_seconds: drawing_seconds + load_seconds,
        basis: TimesBasis {
            different_launches: launches.len(),
            estimated_launches: seconds.estimated,
            estimated_from: seconds.from,
        },
        stages,
        kernels,
    }
}

/// The stage in which weights are loaded.
const LOADING: &str = "load";

fn stage_times(
    stage: &RecordedStage,
    seconds: &[f64],
    kind: DeviceKind,
    rates: Rates,
) -> StageTimes {
    let (mut launched, mut host) = (0.0, 0.0);
    for (&index, &count) in &stage.launches {
        launched += count as f64 * seconds[index];
        host += count as f64
            * match kind {
                // The same cores do both.
                DeviceKind::Cpu => rates.host_seconds,
                // The host is ahead, if it can be.
                DeviceKind::Gpu => (rates.host_seconds - seconds[index]).max(0.0),
            };
    }
    let RecordedStage { writes, reads, copies, allocations, host_allocations, .. } = stage;
    let TransferRates { write, read, copy, allocate, host_allocate } = rates.transfers;
    StageTimes {
        stage: if stage.name.is_empty() { "other" } else { stage.name },
        launch_seconds: launched + copy.seconds(copies.count, copies.bytes),
        host_seconds: host,
        transfer_seconds: write.seconds(writes.count, writes.bytes)
            + read.seconds(reads.count, reads.bytes)
            + allocate.seconds(allocations.count, allocations.bytes)
            + host_allocate.seconds(host_allocations.count, host_allocations.bytes),
        // Of weights the bytes matter. What is read from files for a use is packed each time.
        weight_seconds: write.seconds_of_a_part(stage.weights.bytes)
            + rates.loading * stage.weights.read_bytes as f64,
    }
}

/// The launches of stages by kernel, the longest first.
fn kernel_times(
    stages: &[&RecordedStage],
    launches: &[RecordedLaunch],
    seconds: &[f64],
) -> Vec<KernelTimes> {
    let mut kernels: Vec<KernelTimes> = Vec::new();
    for (&index, &count) in stages.iter().flat_map(|stage| &stage.launches) {
        let name = launches[index].program.kernel;
        let at = kernels.iter().position(|row| row.kernel == name).unwrap_or_else(|| {
            kernels.push(KernelTimes { kernel: name, launches: 0, seconds: 0.0 });
            kernels.len() - 1
        });
        kernels[at].launches += count;
        kernels[at].seconds += count as f64 * seconds[index];
    }
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    kernels
}

/// What a device does in a second, for launches that were never made there.
struct Speed {
    flop_s: f64,
    byte_s: f64,
    from: &'static str,
    /// Measured seconds, and those that would have been estimated, by kernel and element type.
    learnt: HashMap<(&'static str, DType), [f64; 2]>,
}

impl Speed {
    /// Of what a device can do at most, what kernels reach.
    const SHARE: f64 = 0.6;
    /// A launch takes so long at least.
    const LEAST_SECONDS: f64 = 1e-5;

    fn of(device: &Device) -> Self {
        let info = device.info();
        let peaks = device.cache_dir().and_then(|folder| Peaks::load(folder, info).ok().flatten());
        let (flop_s, byte_s, from) = match (peaks, Preset::find(info)) {
            (Some(peaks), _) => {
                let (flop_s, byte_s) = (peaks.f32.value * 1e9, peaks.memory_gb_s() * 1e9);
                (flop_s, byte_s, "the peaks that clbench has measured")
            }
            (None, Some(preset)) => {
                let memory_gb_s = preset.memory_gb_s.unwrap_or(usual_memory_gb_s(info));
                (preset.f32_gflop_s * 1e9, memory_gb_s * 1e9, "the device's data sheet")
            }
            (None, None) => {
                let from = "what devices with so many units usually do";
                (usual_flop_s(info), usual_memory_gb_s(info) * 1e9, from)
            }
        };
        Self { flop_s, byte_s, from, learnt: HashMap::new() }
    }

    /// Takes note of how long launches take for their work.
    fn learn(&mut self, launches: &[RecordedLaunch], known: &[Option<f64>]) {
        for (launch, seconds) in launches.iter().zip(known) {
            let Some(seconds) = seconds else { continue };
            let sums = [*seconds, self.by_work(launch)];
            let RecordedLaunch { program, .. } = launch;
            let learnt = self.learnt.entry((program.kernel, program.dtype)).or_default();
            *learnt = [learnt[0] + sums[0], learnt[1] + sums[1]];
        }
    }

    fn from(&self) -> &'static str {
        if self.learnt.is_empty() { self.from } else { "launches of the same kernels" }
    }

    fn seconds(&self, launch: &RecordedLaunch) -> f64 {
        let kernel = (launch.program.kernel, launch.program.dtype);
        let ratio = self.learnt.get(&kernel).map_or(1.0, |[measured, work]| measured / work);
        ratio * self.by_work(launch)
    }

    /// What binds, arithmetic or memory.
    fn by_work(&self, launch: &RecordedLaunch) -> f64 {
        let flop = launch.flop as f64 / (Self::SHARE * self.flop_s);
        let bytes = launch.bytes as f64 / (Self::SHARE * self.byte_s);
        flop.max(bytes).max(Self::LEAST_SECONDS)
    }
}

/// A GPU's units have 64 lanes and run at 1 GHz, a CPU's have two vectors and run at 2.5.
fn usual_flop_s(info: &DeviceInfo) -> f64 {
    let (lanes, hz) = match info.kind {
        DeviceKind::Gpu => (64, 1.0e9),
        DeviceKind::Cpu => (2 * info.vector_width, 2.5e9),
    };
    2.0 * f64::from(info.compute_units * lanes) * hz
}

fn usual_memory_gb_s(info: &DeviceInfo) -> f64 {
    match info.kind {
        DeviceKind::Gpu => 100.0,
        DeviceKind::Cpu => 15.0,
    }
}

impl fmt::Display for PlanTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = self.stages.iter();
        let parts: Vec<String> = std::iter::once(("loading", self.load_seconds))
            .chain(stages.map(|stage| (stage.stage, stage.seconds())))
            .filter(|(_, seconds)| *seconds >= 5e-4)
            .map(|(name, seconds)| format!("{name} {seconds:.3}"))
            .collect();
        writeln!(f, "predicted time    {:.2} s: {}", self.total_seconds, parts.join(", "))?;
        writeln!(f, "unet call         {:.3} s", self.call_seconds)?;
        let sum = |of: fn(&StageTimes) -> f64| self.stages.iter().map(of).sum::<f64>();
        let (transfers, weights) = (sum(|s| s.transfer_seconds), sum(|s| s.weight_seconds));
        writeln!(f, "transfers         {transfers:.3} s, and {weights:.3} s of weights")?;
        writeln!(f, "host              {:.3} s beside launches", sum(|s| s.host_seconds))?;
        let TimesBasis { different_launches, estimated_launches, estimated_from } = &self.basis;
        let measured = different_launches - estimated_launches;
        write!(f, "kernel times      {measured} measured")?;
        if *estimated_launches > 0 {
            write!(f, ", {estimated_launches} estimated from {estimated_from}")?;
        }
        writeln!(f)
    }
}
