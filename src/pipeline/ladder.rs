//! What a plan does to need less memory, and what each of it gives and takes.

use std::fmt;

use serde::Serialize;

use super::plan::plan;
use super::rungs::Ways;
use super::time::Recording;
use super::{LoadOptions, Plan, Request, Rung, VaeTiling};
use crate::device::Device;
use crate::models::ModelFiles;
use crate::{DType, Result};

/// Something that a plan does for want of memory, beside what it did before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RungTaken {
    /// What is done.
    pub rung: String,
    /// By how much it lowers the peak in bytes, where no budget limits either; 0 where another part
    /// of the work has the peak.
    pub saves_bytes: u64,
    /// By how much it makes drawing longer, in seconds; less than 0 where it makes it shorter.
    pub costs_seconds: f64,
}

/// What a plan is made for, one rung after the other.
pub(super) struct Steps {
    options: LoadOptions,
    request: Request,
    ways: Ways,
    /// The name of a rung, and the plan without a limit that has it and those before it.
    plans: Vec<(String, Plan)>,
}

impl Steps {
    /// Plans without a limit: of nothing for want of memory, then of each that `taken` does.
    pub fn plan(device: &Device, files: &ModelFiles, dtype: DType, taken: &Plan) -> Result<Self> {
        let Recording { options, request, .. } = &taken.recording;
        let bare = LoadOptions { offload: Default::default(), ..options.clone() };
        let mut steps =
            Self { options: bare, request: request.clone(), ways: Ways::default(), plans: vec![] };
        let plan_of = |files: &ModelFiles, steps: &Self| {
            let dry = device.dry_run_within(u64::MAX / 2);
            plan(&dry, files, dtype, &steps.options, &steps.request, steps.ways)
        };
        if taken.fewer_bits.is_some() {
            let mut as_stored = files.clone();
            as_stored.quantize(None);
            steps.plans.push((String::new(), plan_of(&as_stored, &steps)?));
        }
        let rung = taken.fewer_bits.as_ref().map(|format| format!("weights in {format}"));
        steps.plans.push((rung.unwrap_or_default(), plan_of(files, &steps)?));
        let mut add = |rung: String, change: &mut dyn FnMut(&mut Self)| {
            change(&mut steps);
            let plan = plan_of(files, &steps)?;
            steps.plans.push((rung, plan));
            Ok::<_, crate::Error>(())
        };
        for &component in &options.offload {
            let rung = match options.resident_permille.get(&component) {
                None => format!("weights of the {component} on the host"),
                Some(permille) => {
                    let percent = f64::from(*permille) / 10.0;
                    format!("weights of the {component} on the host, but for {percent} %")
                }
            };
            add(rung, &mut |steps| steps.options.offload.extend([component]))?;
        }
        // Tiles, smaller ones as well, come below.
        let unet = [Rung::GuidanceInTurn, Rung::ParkSkips];
        for rung in unet.into_iter().filter(|rung| taken.rungs.contains(rung)) {
            add(rung.to_string(), &mut |steps| rung.take(&mut steps.ways))?;
        }
        if let (VaeTiling::Auto, Some(tile)) = (request.vae_tiling, taken.vae_tile) {
            add(format!("the VAE in tiles of {tile} pixels"), &mut |steps| {
                steps.request.vae_tiling = VaeTiling::Exact;
                steps.request.vae_tile = Some(tile);
            })?;
        }
        Ok(steps)
    }

    /// The plans, whose times are to be predicted.
    pub fn plans(&mut self) -> impl Iterator<Item = &mut Plan> {
        self.plans.iter_mut().map(|(_, plan)| plan)
    }

    /// What each rung saves and costs beside the ones before it.
    pub fn taken(&self) -> Vec<RungTaken> {
        let seconds = |plan: &Plan| plan.times.as_ref().map_or(0.0, |times| times.drawing_seconds);
        let pairs = self.plans.iter().zip(self.plans.iter().skip(1));
        let taken = pairs.map(|((_, before), (rung, after))| RungTaken {
            rung: rung.clone(),
            saves_bytes: before.peak_bytes.saturating_sub(after.peak_bytes),
            costs_seconds: seconds(after) - seconds(before),
        });
        taken.collect()
    }
}

impl fmt::Display for RungTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rung, saves_bytes, costs_seconds } = self;
        let saves_mb = *saves_bytes as f64 / 1e6;
        write!(f, "{rung}: saves {saves_mb:.1} MB, costs {costs_seconds:.3} s")
    }
}
