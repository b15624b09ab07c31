//! What to run a model with on a device: element type, placement of weights, pictures at once.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::load::too_little;
use super::rates::Rates;
use super::time::within_reach;
use super::{
    Component, LoadOptions, Observer, Pipeline, Plan, PlanTimes, Progress, Request, Rung, tell,
};
use crate::backend::record::RecordedLaunch;
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
    /// What can be chosen: for each element type one picture at once, two, four and so on up to the
    /// most that fit, with the placement of weights that is the quickest for so many.
    pub choices: Vec<Choice>,
    /// Which of them takes the least time for a picture.
    pub recommended: usize,
}

/// One way to run a model, and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// How weights and activations are stored.
    pub dtype: String,
    /// Components whose weights are on the host, or those of them that have no room.
    pub offload: Vec<Component>,
    /// How many thousandths of these components' weights are on the device all the same.
    pub resident_permille: BTreeMap<Component, u16>,
    /// What else is done for want of memory.
    pub rungs: Vec<Rung>,
    /// The side in pixels of the VAE decoder's tiles, if it works in tiles.
    pub vae_tile: Option<usize>,
    /// Pictures at once: [`Request::count`].
    pub count: usize,
    /// The most that is held at once, in bytes.
    pub peak_bytes: u64,
    /// How long a picture takes of `count` that are drawn together, loading apart.
    pub picture_seconds: f64,
    /// How long loading takes.
    pub load_seconds: f64,
    /// How many of the launches' times were estimated from others of the same kernel.
    pub estimated_launches: usize,
    /// How many launches take a time of their own.
    pub different_launches: usize,
}

/// The most pictures at once that a request may ask for.
const MOST_PICTURES: usize = 64;

/// Launches of several pictures at once are measured for so long. What is left then is estimated.
const BATCH_TIME: Duration = Duration::from_secs(2);

/// Weighs the choices for `request`, whose count does not matter, on `device`, within its budget.
///
/// Each choice is what [`LoadOptions::fitted`] makes of `options` for so many pictures, so a run with
/// [`Choice::load_options`] holds at most [`Choice::peak_bytes`], to the byte. Launches are measured
/// where they are not known ([`Plan::time`] does the same, and `observer` is told as there); of several
/// pictures at once those that take long, and what is left after two seconds, are estimated from the
/// others of their kernel.
///
/// # Errors
///
/// [`Error::Budget`] if nothing fits, with the least budget that would do; those of [`Plan::time`].
pub fn recommend(
    device: &Device,
    files: &ModelFiles,
    options: &LoadOptions,
    request: &Request,
    observer: &mut Observer,
) -> Result<Recommendation> {
    let mut choices: Vec<Choice> = Vec::new();
    let mut size = [0, 0];
    for dtype in DType::ALL {
        let case = Case { device, files, dtype, options };
        let most = case.most_pictures(request)?;
        if most == 0 {
            continue;
        }
        let rates = Rates::measured(device, files, dtype)?;
        let mut fitted = case.fitted(most, request)?;
        // By what is known then, other placements may be quicker, with launches of their own.
        for _ in 0..2 {
            if !case.measure(&fitted, observer)? {
                break;
            }
            fitted = case.fitted(most, request)?;
        }
        let mut smaller: Vec<RecordedLaunch> = Vec::new();
        for (load, mut plan) in fitted {
            plan.estimate_like(device, rates, &smaller);
            size = plan.size;
            choices.push(Choice::new(&plan, &load));
            smaller.extend(plan.recording.launches);
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
            Err(too_little(device, files, DType::F16, &options.all_offloaded(), &one))
        }
    }
}

/// What stays the same while pictures are counted.
struct Case<'a> {
    device: &'a Device,
    files: &'a ModelFiles,
    dtype: DType,
    options: &'a LoadOptions,
}

impl Case<'_> {
    /// How many pictures at once fit at most: with all weights on the host.
    fn most_pictures(&self, request: &Request) -> Result<usize> {
        let options = self.options.all_offloaded();
        let fits = |count| {
            let request = Request { count, ..request.clone() };
            match Pipeline::plan(self.device, self.files, self.dtype, &options, &request) {
                Ok(_) => Ok(true),
                Err(Error::OutOfMemory { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let (mut enough, mut too_many) = (0, MOST_PICTURES + 1);
        while too_many - enough > 1 {
            // Few are likelier than many.
            let between = match too_many > MOST_PICTURES {
                true => (2 * enough).clamp(1, MOST_PICTURES),
                false => enough.midpoint(too_many),
            };
            match fits(between)? {
                true => enough = between,
                false => too_many = between,
            }
        }
        Ok(enough)
    }

    /// Placements and plans of one picture at once, two, four and so on up to `most`.
    fn fitted(&self, most: usize, request: &Request) -> Result<Vec<(LoadOptions, Plan)>> {
        let doubled = std::iter::successors(Some(1), |count| Some(2 * count));
        let counts = doubled.take_while(|&count| count < most).chain([most]);
        let fitted = counts.map(|count| {
            let request = Request { count, ..request.clone() };
            self.options.fitted(self.device, self.files, self.dtype, &request)
        });
        fitted.collect()
    }

    /// Has the plans' launches measured, those of a single picture all of them, those of several as
    /// far as that is quick; whether there was anything to measure.
    fn measure(&self, plans: &[(LoadOptions, Plan)], observer: &mut Observer) -> Result<bool> {
        let (mut is_new, mut smaller) = (false, Vec::<RecordedLaunch>::new());
        let (mut start, mut is_late) = (Instant::now(), false);
        for (_, plan) in plans {
            let launches = &plan.recording.launches;
            let is_batch = plan.recording.request.count > 1;
            let quick = match is_batch {
                false => launches.clone(),
                true => within_reach(self.device, launches, &smaller),
            };
            is_new |= self.device.known_seconds(&quick).contains(&None);
            let measured = self.device.measure_seconds(&quick, |done, total| {
                is_late = is_batch && start.elapsed() > BATCH_TIME;
                if is_late {
                    return Err(Error::Cancelled);
                }
                tell(observer, &Progress::Timing { done, total })
            });
            match measured {
                Err(Error::Cancelled) if is_late => {}
                measured => drop(measured?),
            }
            smaller.extend_from_slice(launches);
            if !is_batch {
                start = Instant::now();
            }
        }
        Ok(is_new)
    }
}

impl Choice {
    fn new(plan: &Plan, load: &LoadOptions) -> Self {
        let count = plan.recording.request.count;
        let times = plan.times.as_ref().expect("the plan's times were predicted");
        let PlanTimes { drawing_seconds, load_seconds, basis, .. } = times;
        Self {
            dtype: plan.dtype.clone(),
            offload: plan.offloaded.clone(),
            resident_permille: load.resident_permille.clone(),
            rungs: plan.rungs.clone(),
            vae_tile: plan.vae_tile,
            count,
            peak_bytes: plan.peak_bytes,
            picture_seconds: drawing_seconds / count as f64,
            load_seconds: *load_seconds,
            estimated_launches: basis.estimated_launches,
            different_launches: basis.different_launches,
        }
    }

    /// What loads the weights to where this choice has them: `options`, as [`recommend`] was given
    /// them, but for the placement.
    pub fn load_options(&self, options: &LoadOptions) -> LoadOptions {
        LoadOptions {
            offload: self.offload.iter().copied().collect(),
            resident_permille: self.resident_permille.clone(),
            ..options.clone()
        }
    }

    /// Whose weights are on the host, and how much of them.
    fn placement(&self) -> String {
        let name = |part: &Component| match self.resident_permille.get(part) {
            None => part.name().to_owned(),
            Some(permille) => {
                format!("{} {:.0} %", part.name(), 100.0 - f64::from(*permille) / 10.0)
            }
        };
        let names: Vec<String> = self.offload.iter().map(name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

impl fmt::Display for Recommendation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [width, height] = self.size;
        let budget_gb = self.budget_bytes as f64 / 1e9;
        writeln!(f, "{}, {width}x{height}, within {budget_gb:.3} GB", self.device)?;
        writeln!(
            f,
            "   {:5} {:32} {:14} {:>9} {:>9} {:>11} {:>12} {:>9}",
            "dtype",
            "weights on the host",
            "UNet",
            "VAE tile",
            "at once",
            "peak",
            "s a picture",
            "s to load"
        )?;
        for (index, choice) in self.choices.iter().enumerate() {
            let unet = match &choice.rungs {
                rungs if rungs.contains(&Rung::ParkSkips) => "skips parked",
                rungs if rungs.contains(&Rung::GuidanceInTurn) => "halves in turn",
                _ => "at once",
            };
            let tile = choice.vae_tile.map_or("whole".to_owned(), |tile| tile.to_string());
            writeln!(
                f,
                "{:2} {:5} {:32} {unet:14} {tile:>9} {:>9} {:>8.3} GB {:>12.2} {:>9.2}",
                if index == self.recommended { "->" } else { "" },
                choice.dtype,
                choice.placement(),
                choice.count,
                choice.peak_bytes as f64 / 1e9,
                choice.picture_seconds,
                choice.load_seconds,
            )?;
        }
        let best = &self.choices[self.recommended];
        write!(f, "recommended: --dtype {}", best.dtype)?;
        match (best.count, best.offload.is_empty()) {
            (1, true) => Ok(()),
            (1, false) => write!(f, ", weights as --offload auto places them"),
            (count, true) => write!(f, ", {count} pictures at once"),
            (count, false) => {
                write!(f, ", {count} pictures at once, weights as --offload auto places them")
            }
        }
    }
}
