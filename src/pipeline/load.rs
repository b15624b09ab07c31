//! What of a model is loaded, and where to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::plan::{Plan, plan};
use super::rungs::Ways;
use super::{Pipeline, Request};
use crate::device::{Device, OffloadTo, Offloading, WeightPlacement};
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
    /// How many thousandths of the bytes of an offloaded component's weights are on the device all the
    /// same, spread evenly over the component: none if it is not named. What a model that nearly fits
    /// has no room for is all that is copied then.
    ///
    /// Which weights these are is settled when they are loaded. Copies that stay as long as there is
    /// room would have to give way in the middle of a picture, and since weights are used in a circle,
    /// the one whose use is longest ago is the one that is wanted next.
    pub resident_permille: BTreeMap<Component, u16>,
    /// Where the weights of offloaded components are.
    pub offload_to: OffloadTo,
}

impl LoadOptions {
    /// Has weights of `component` stay on the host until the guard is dropped, if they are to.
    pub(super) fn place(&self, device: &Device, component: Component) -> Option<Offloading> {
        let offloads = self.offload.contains(&component);
        let placement = WeightPlacement {
            threshold_bytes: self.offload_threshold_bytes,
            resident_permille: self.resident_permille.get(&component).copied().unwrap_or_default(),
            to: self.offload_to,
        };
        offloads.then(|| device.place_weights(placement))
    }

    /// The same with another share of a component's weights on the device.
    fn with_resident(&self, component: Component, permille: u16) -> Self {
        let mut options = self.clone();
        options.resident_permille.retain(|other, _| *other != component);
        if permille > 0 {
            options.resident_permille.insert(component, permille);
        }
        options
    }

    /// The same with all weights on the host.
    pub(super) fn all_offloaded(&self) -> Self {
        let offload = Component::ALL.into();
        Self { offload, resident_permille: BTreeMap::new(), ..self.clone() }
    }

    /// All that a request needs, on the device.
    pub fn for_request(request: &Request) -> Self {
        Self { vae_encoder: request.init_image.is_some(), ..Self::default() }
    }

    /// All that a request needs, placed so that it fits the device's budget and the picture takes
    /// the least time, and the plan for that. Of components whose weights are on the host, as many
    /// weights are on the device as there is room for ([`LoadOptions::resident_permille`]).
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
        Self::for_request(request).fitted(device, files, dtype, request)
    }

    /// As [`LoadOptions::fitting`], with these options but for what is offloaded and how much of that
    /// is on the device all the same.
    ///
    /// # Errors
    ///
    /// As [`LoadOptions::fitting`].
    pub fn fitted(
        &self,
        device: &Device,
        files: &ModelFiles,
        dtype: DType,
        request: &Request,
    ) -> Result<(Self, Plan)> {
        let mut options = Self { resident_permille: BTreeMap::new(), ..self.clone() };
        let mut best: Option<(Self, Plan, f64)> = None;
        for offload in Component::subsets() {
            options.offload = offload;
            let mut plan = match Pipeline::plan(device, files, dtype, &options, request) {
                Err(Error::OutOfMemory { .. }) => continue,
                planned => planned?,
            };
            let unconstrained =
                plan.copied_bytes == 0 && plan.rungs.is_empty() && plan.vae_tile.is_none();
            let times = plan.estimate(device);
            let copying: f64 = times.stages.iter().map(|stage| stage.weight_seconds).sum();
            let mut seconds = times.drawing_seconds;
            let least = best.as_ref().map_or(f64::INFINITY, |(_, _, least)| *least);
            let mut placed = options.clone();
            // As far as copies alone make it slower, fewer of them may make it the quickest.
            if copying > 0.0 && seconds - copying < least {
                let case = Case { device, files, dtype, request };
                (placed, plan) = case.fill(placed, plan)?;
                seconds = plan.estimate(device).drawing_seconds;
            }
            if seconds < least {
                best = Some((placed, plan, seconds));
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

/// What stays the same while weights are placed.
struct Case<'a> {
    device: &'a Device,
    files: &'a ModelFiles,
    dtype: DType,
    request: &'a Request,
}

impl Case<'_> {
    /// How closely the share of weights on the device is found, in thousandths.
    const CLOSE: u16 = 10;

    /// Has as many of the offloaded weights on the device as leave all else of the plan as it is:
    /// activations come first.
    fn fill(&self, mut options: LoadOptions, plan: Plan) -> Result<(LoadOptions, Plan)> {
        // More steps need no more memory, and take longer to plan.
        let short = Request { steps: self.request.steps.min(2), ..self.request.clone() };
        let request = if self.plan(&options, &short).is_ok() { &short } else { self.request };
        // The UNet's are copied at every step. Beside them there is no room for others'.
        let components = match options.offload.contains(&Component::UNet) {
            true => &[Component::UNet][..],
            false => &[Component::Vae, Component::TextEncoder],
        };
        for &component in components {
            if !options.offload.contains(&component) {
                continue;
            }
            let (mut fits, mut too_many) = (0, 1000);
            while too_many - fits > Self::CLOSE {
                let share = fits.midpoint(too_many);
                let tried = options.with_resident(component, share);
                match self.plan(&tried, request) {
                    Ok(filled) if filled.is_alike(&plan) => fits = share,
                    Ok(_) | Err(Error::OutOfMemory { .. }) => too_many = share,
                    Err(error) => return Err(error),
                }
            }
            options = options.with_resident(component, fits);
        }
        match self.plan(&options, self.request) {
            Ok(filled) if filled.is_alike(&plan) => Ok((options, filled)),
            _ => Ok((LoadOptions { resident_permille: BTreeMap::new(), ..options }, plan)),
        }
    }

    fn plan(&self, options: &LoadOptions, request: &Request) -> Result<Plan> {
        Pipeline::plan(self.device, self.files, self.dtype, options, request)
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
