//! What of a model is loaded, and where to.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::plan::{Plan, plan};
use super::rungs::Ways;
use super::{Pipeline, Request};
use crate::device::{Device, Offloading};
use crate::models::ModelFiles;
use crate::{DType, Error, Result};

/// A part of a model that is loaded as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// From a prompt to what the UNet attends to.
    TextEncoder,
    /// From noise to less noise, once a step.
    #[serde(rename = "unet")]
    UNet,
    /// Between pictures and latents, both ways.
    Vae,
}

/// What of a model is loaded, and where its weights are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether the VAE's encoder is loaded: pictures drawn from noise do without.
    pub vae_encoder: bool,
    /// Components whose weights stay on the host: each weight is copied to the device for its use,
    /// so that the device holds one at a time, or two where it copies beside its launches and the
    /// budget has room. The picture is the same, to the bit.
    pub offload: BTreeSet<Component>,
    /// Weights of these components that are on the device all the same: those of at most so many
    /// bytes each. Small weights cost a copy's latency and give little room. With 0, all of them stay
    /// on the host.
    pub offload_threshold_bytes: u64,
}

impl LoadOptions {
    /// Has weights of `component` stay on the host until the guard is dropped, if they are to.
    pub(super) fn place(&self, device: &Device, component: Component) -> Option<Offloading> {
        let offloads = self.offload.contains(&component);
        offloads.then(|| device.offload_weights_over(self.offload_threshold_bytes))
    }

    /// All that a request needs, on the device.
    pub fn for_request(request: &Request) -> Self {
        Self { vae_encoder: request.init_image.is_some(), ..Self::default() }
    }

    /// All that a request needs, placed so that it fits the device's budget and the picture takes
    /// the least time, and the plan for that.
    ///
    /// Of every placement it is known what the run would do under the budget (the halves of guidance
    /// one after the other, tiles of the VAE), so its time is a sum over what would be launched and
    /// copied. Nothing is measured: see [`Plan::estimate`], and [`Plan::time`] for what makes a
    /// device's times known.
    ///
    /// # Errors
    ///
    /// [`Error::Budget`] if even all weights on the host leave too little room; those of
    /// [`Pipeline::plan`], but for [`Error::OutOfMemory`].
    pub fn fitting(
        device: &Device,
        files: &ModelFiles,
        dtype: DType,
        request: &Request,
    ) -> Result<(Self, Plan)> {
        Self::fitting_over(device, files, dtype, request, 0)
    }

    /// As [`LoadOptions::fitting`], with weights of at most `offload_threshold_bytes` each on the
    /// device whatever is [offloaded](LoadOptions::offload).
    ///
    /// # Errors
    ///
    /// As [`LoadOptions::fitting`].
    pub fn fitting_over(
        device: &Device,
        files: &ModelFiles,
        dtype: DType,
        request: &Request,
        offload_threshold_bytes: u64,
    ) -> Result<(Self, Plan)> {
        let mut options = Self { offload_threshold_bytes, ..Self::for_request(request) };
        let mut best: Option<(Self, Plan, f64)> = None;
        for offload in Component::subsets() {
            options.offload = offload;
            let mut plan = match Pipeline::plan(device, files, dtype, &options, request) {
                Err(Error::OutOfMemory { .. }) => continue,
                planned => planned?,
            };
            let seconds = plan.estimate(device).drawing_seconds;
            let unconstrained =
                plan.copied_bytes == 0 && plan.rungs.is_empty() && plan.vae_tile.is_none();
            if best.as_ref().is_none_or(|(_, _, least)| seconds < *least) {
                best = Some((options.clone(), plan, seconds));
            }
            // Nothing that needs less memory is quicker.
            if unconstrained {
                break;
            }
        }
        match best {
            Some((options, plan, _)) => Ok((options, plan)),
            None => Err(too_little(device, files, dtype, &options, request)),
        }
    }
}

/// What to say where the device's budget has no room for a plan.
pub(super) fn too_little(
    device: &Device,
    files: &ModelFiles,
    dtype: DType,
    options: &LoadOptions,
    request: &Request,
) -> Error {
    let budget_bytes = device.memory_stats().budget_bytes;
    match least_budget(device, files, dtype, options, request) {
        Ok(least_bytes) => Error::Budget { budget_bytes, least_bytes },
        Err(error) => error,
    }
}

/// The least budget in which a plan fits that does not fit the device's: found between what is too
/// little and what is enough.
fn least_budget(
    device: &Device,
    files: &ModelFiles,
    dtype: DType,
    options: &LoadOptions,
    request: &Request,
) -> Result<u64> {
    let peak_bytes = |budget_bytes| {
        let dry = device.dry_run_within(budget_bytes);
        let plan = plan(&dry, files, dtype, options, request, Ways::default());
        plan.map(|plan| plan.peak_bytes)
    };
    let stats = device.memory_stats();
    // What others hold is a part of every budget.
    let most = peak_bytes(u64::MAX / 2)?.saturating_add(stats.registered_bytes());
    let (mut too_little, mut enough) = (stats.budget_bytes, most);
    while enough > too_little && enough - too_little > enough / 100 {
        let between = too_little + (enough - too_little) / 2;
        match peak_bytes(between) {
            Ok(_) => enough = between,
            Err(Error::OutOfMemory { .. }) => too_little = between,
            Err(error) => return Err(error),
        }
    }
    Ok(enough)
}

impl Component {
    /// In the order of their use.
    pub const ALL: [Self; 3] = [Self::TextEncoder, Self::UNet, Self::Vae];

    /// Every choice of components, fewest first; all of them are the last.
    pub(super) fn subsets() -> impl Iterator<Item = BTreeSet<Self>> {
        let chosen = |bits: u32| {
            let all = Self::ALL.into_iter().enumerate();
            all.filter(|(index, _)| bits >> index & 1 == 1)
                .map(|(_, component)| component)
                .collect()
        };
        let mut choices: Vec<u32> = (0..1 << Self::ALL.len()).collect();
        choices.sort_by_key(|bits| bits.count_ones());
        choices.into_iter().map(chosen)
    }

    /// As [`Component::from_str`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text-encoder",
            Self::UNet => "unet",
            Self::Vae => "vae",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Component {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::argument("component", format!("expected one of {names}, got {name:?}"))
        })
    }
}
