//! What to run a model with on a device: element type, placement of weights, pictures at once.

use std::fmt;

use serde::Serialize;

use super::load::too_little;
use super::time::{know_rates, seconds_per_byte};
use super::{
    Component, LoadOptions, Observer, Pipeline, Plan, PlanTimes, Progress, Request, Rung, tell,
};
use crate::device::Device;
use crate::models::ModelFiles;
use crate::{DType, Error, Result};

/// The choices that there are for a request on a device, within its budget. Prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// The device.
    pub device: String,
    /// What it may hold.
    pub budget_bytes: u64,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// What can be chosen, each with as many pictures at once as fit. The order is that of element
    /// types, then of placements, fewest components on the host first.
    pub choices: Vec<Choice>,
    /// Which of them takes the least time for a picture.
    pub recommended: usize,
}

/// One way to run a model, and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// How weights and activations are stored.
    pub dtype: String,
    /// Components whose weights are on the host.
    pub offload: Vec<Component>,
    /// What else is done for want of memory.
    pub rungs: Vec<Rung>,
    /// The side in pixels of the VAE decoder's tiles, if it works in tiles.
    pub vae_tile: Option<usize>,
    /// The most pictures at once that fit: [`Request::count`].
    pub count: usize,
    /// The most that is held at once, in bytes.
    pub peak_bytes: u64,
    /// How long a picture takes of `count` that are drawn together, loading apart.
    pub picture_seconds: f64,
    /// How long a picture takes that is drawn alone, loading apart.
    pub single_seconds: f64,
    /// How long loading takes.
    pub load_seconds: f64,
    /// How many of the launches' times were estimated from others of the same kernel.
    pub estimated_launches: usize,
    /// How many launches take a time of their own.
    pub different_launches: usize,
}

/// The most pictures at once that a request may ask for.
const MOST_PICTURES: usize = 64;

/// Weighs the choices for `request`, whose count does not matter, on `device`, within its budget.
///
/// Peaks come from dry runs. The launches of one picture are measured where they are not known
/// ([`Plan::time`] does the same, and `observer` is told as there); those of several pictures at once
/// are estimated from them, by kernel and work.
///
/// # Errors
///
/// [`Error::Budget`] if nothing fits, with the least budget that would do; those of [`Plan::time`].
pub fn recommend(
    device: &Device,
    files: &ModelFiles,
    request: &Request,
    observer: &mut Observer,
) -> Result<Recommendation> {
    let mut choices: Vec<Choice> = Vec::new();
    let mut size = [0, 0];
    for dtype in DType::ALL {
        let case = Case { device, files, dtype };
        let mut singles = Vec::new();
        for offload in Component::subsets() {
            let options = LoadOptions { offload, ..LoadOptions::for_request(request) };
            match case.plan(&options, request, 1) {
                Ok(plan) => singles.push((options, plan)),
                Err(Error::OutOfMemory { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some((_, first)) = singles.first() else { continue };
        size = first.size;
        let loading = seconds_per_byte(device, files, dtype)?;
        know_rates(device)?;
        for (options, mut single) in singles {
            let all_fit =
                |choice: &Choice| choice.dtype == dtype.name() && choice.count == MOST_PICTURES;
            // More on the host is no quicker.
            if choices.iter().any(all_fit) {
                break;
            }
            let launches = single.recording.launches.clone();
            device.measure_seconds(&launches, |done, total| {
                tell(observer, &Progress::Timing { done, total })
            })?;
            let single_seconds = single.estimate_like(device, loading, &[]).drawing_seconds;
            let mut most = case.most_pictures(&options, request, single)?;
            most.estimate_like(device, loading, &launches);
            let choice = Choice::new(&most, single_seconds);
            // A placement that brings nothing is no choice.
            let worse = |other: &Choice| {
                other.dtype == choice.dtype
                    && other.count >= choice.count
                    && other.picture_seconds <= choice.picture_seconds
            };
            if !choices.iter().any(worse) {
                choices.push(choice);
            }
        }
    }
    let seconds = |&index: &usize| choices[index].picture_seconds;
    let quickest = (0..choices.len()).min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    match quickest {
        Some(recommended) => Ok(Recommendation {
            device: device.info().name.clone(),
            budget_bytes: device.memory_stats().budget_bytes,
            size,
            choices,
            recommended,
        }),
        None => {
            // What needs least: the smaller elements, and all weights on the host.
            let one = Request { count: 1, ..request.clone() };
            let offload = Component::ALL.into();
            let options = LoadOptions { offload, ..LoadOptions::for_request(&one) };
            Err(too_little(device, files, DType::F16, &options, &one))
        }
    }
}

/// What stays the same while pictures are counted.
struct Case<'a> {
    device: &'a Device,
    files: &'a ModelFiles,
    dtype: DType,
}

impl Case<'_> {
    fn plan(&self, options: &LoadOptions, request: &Request, count: usize) -> Result<Plan> {
        let request = Request { count, ..request.clone() };
        Pipeline::plan(self.device, self.files, self.dtype, options, &request)
    }

    /// The plan for as many pictures at once as fit; `single` is the one for one.
    fn most_pictures(
        &self,
        options: &LoadOptions,
        request: &Request,
        single: Plan,
    ) -> Result<Plan> {
        let (mut most, mut enough, mut too_many) = (single, 1, MOST_PICTURES + 1);
        while too_many - enough > 1 {
            // Few are likelier than many.
            let between = match too_many > MOST_PICTURES {
                true => (2 * enough).min(MOST_PICTURES),
                false => enough.midpoint(too_many),
            };
            match self.plan(options, request, between) {
                Ok(plan) => (most, enough) = (plan, between),
                Err(Error::OutOfMemory { .. }) => too_many = between,
                Err(error) => return Err(error),
            }
        }
        Ok(most)
    }
}

impl Choice {
    fn new(plan: &Plan, single_seconds: f64) -> Self {
        let count = plan.recording.request.count;
        let times = plan.times.as_ref().expect("the plan's times were predicted");
        let PlanTimes { drawing_seconds, load_seconds, basis, .. } = times;
        Self {
            dtype: plan.dtype.clone(),
            offload: plan.offloaded.clone(),
            rungs: plan.rungs.clone(),
            vae_tile: plan.vae_tile,
            count,
            peak_bytes: plan.peak_bytes,
            picture_seconds: drawing_seconds / count as f64,
            single_seconds,
            load_seconds: *load_seconds,
            estimated_launches: basis.estimated_launches,
            different_launches: basis.different_launches,
        }
    }
}

impl fmt::Display for Recommendation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [width, height] = self.size;
        let budget_gb = self.budget_bytes as f64 / 1e9;
        writeln!(f, "{}, {width}x{height}, within {budget_gb:.3} GB", self.device)?;
        writeln!(
            f,
            "   {:5} {:24} {:14} {:>9} {:>9} {:>11} {:>12} {:>13} {:>9}",
            "dtype",
            "weights on the host",
            "UNet",
            "VAE tile",
            "at once",
            "peak",
            "s a picture",
            "s, one alone",
            "s to load"
        )?;
        for (index, choice) in self.choices.iter().enumerate() {
            let names: Vec<&str> = choice.offload.iter().map(|part| part.name()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let unet = match &choice.rungs {
                rungs if rungs.contains(&Rung::ParkSkips) => "skips parked",
                rungs if rungs.contains(&Rung::GuidanceInTurn) => "halves in turn",
                _ => "at once",
            };
            let tile = choice.vae_tile.map_or("whole".to_owned(), |tile| tile.to_string());
            writeln!(
                f,
                "{:2} {:5} {names:24} {unet:14} {tile:>9} {:>9} {:>8.3} GB {:>12.2} {:>13.2} {:>9.2}",
                if index == self.recommended { "->" } else { "" },
                choice.dtype,
                choice.count,
                choice.peak_bytes as f64 / 1e9,
                choice.picture_seconds,
                choice.single_seconds,
                choice.load_seconds,
            )?;
        }
        let best = &self.choices[self.recommended];
        write!(f, "recommended: --dtype {}", best.dtype)?;
        let names: Vec<&str> = best.offload.iter().map(|part| part.name()).collect();
        if !names.is_empty() {
            write!(f, " --offload {}", names.join(","))?;
        }
        Ok(())
    }
}
