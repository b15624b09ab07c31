//! What of a model is loaded, and where to.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::plan::{Plan, plan};
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

    /// All that a request needs, placed so that it fits the device's budget and the fewest bytes of
    /// weights are copied while it is drawn, and the plan for that.
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
        let placements: [&[Component]; 4] =
            [&[], &[Component::TextEncoder, Component::Vae], &[Component::UNet], &Component::ALL];
        let mut options = Self { offload_threshold_bytes, ..Self::for_request(request) };
        let mut best: Option<(Self, Plan)> = None;
        for offload in placements {
            options.offload = offload.iter().copied().collect();
            let plan = match Pipeline::plan(device, files, dtype, &options, request) {
                Err(Error::OutOfMemory { .. }) => continue,
                planned => planned?,
            };
            // One that offloads more may copy less: what has more room need not repeat its work.
            if best.as_ref().is_none_or(|(_, best)| plan.copied_bytes < best.copied_bytes) {
                best = Some((options.clone(), plan));
            }
            if best.as_ref().is_some_and(|(_, best)| best.copied_bytes == 0) {
                break;
            }
        }
        if let Some(best) = best {
            return Ok(best);
        }
        // What all weights on the host take, found between what is too little and what is enough.
        let peak_bytes = |budget_bytes| {
            let dry = device.dry_run_within(budget_bytes);
            plan(&dry, files, dtype, &options, request).map(|plan| plan.peak_bytes)
        };
        let budget_bytes = device.memory_stats().budget_bytes;
        // What others hold is a part of every budget.
        let others_bytes = device.memory_stats().registered_bytes();
        let most = peak_bytes(u64::MAX / 2)?.saturating_add(others_bytes);
        let (mut too_little, mut enough) = (budget_bytes, most);
        while enough > too_little && enough - too_little > enough / 100 {
            let between = too_little + (enough - too_little) / 2;
            match peak_bytes(between) {
                Ok(_) => enough = between,
                Err(Error::OutOfMemory { .. }) => too_little = between,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Budget { budget_bytes, least_bytes: enough })
    }
}

impl Component {
    /// In the order of their use.
    pub const ALL: [Self; 3] = [Self::TextEncoder, Self::UNet, Self::Vae];

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
