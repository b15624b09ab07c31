//! What of a model is loaded, and where to.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::Request;
use crate::{Error, Result};

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
    /// Components whose weights stay on the host: each weight is copied to the device just before
    /// it is used, so that the device holds one at a time. The picture is the same, to the bit.
    pub offload: BTreeSet<Component>,
}

impl LoadOptions {
    /// All that a request needs, on the device.
    pub fn for_request(request: &Request) -> Self {
        Self { vae_encoder: request.init_image.is_some(), offload: BTreeSet::new() }
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
