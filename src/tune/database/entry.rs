//! What an entry says, and of which kernel and device.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::info::{DeviceInfo, DeviceKind};
use crate::io::one_line;
use crate::kernel::{Configuration, Kernel};
use crate::tune::Recording;
use crate::{DType, Error, Result};

/// The device that an entry or a recording is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceKey {
    /// The device's name.
    pub name: String,
    /// What it has in common with devices that run kernels alike: see [`architecture`].
    pub architecture: String,
    /// The platform or driver stack.
    pub platform: String,
    /// The driver's version.
    pub driver: String,
}

impl DeviceKey {
    /// The key of a device.
    pub fn of(info: &DeviceInfo) -> Self {
        Self {
            name: info.name.clone(),
            architecture: architecture(info),
            platform: info.platform.clone(),
            driver: info.driver.clone(),
        }
    }
}

/// Names that drivers give to chips of one architecture, in lower case.
const ARCHITECTURES: [(&str, &[&str]); 1] = [(
    "gfx803",
    &["ellesmere", "polaris", "baffin", "fiji", "rx 470", "rx 480", "rx 570", "rx 580", "rx 590"],
)];

/// What devices that run kernels alike have in common: the backend and the lanes of a vector for
/// CPUs, the instruction set for GPUs whose name tells it, else their name.
pub fn architecture(info: &DeviceInfo) -> String {
    if info.kind == DeviceKind::Cpu {
        return format!("{} cpu of {} lanes", info.backend, info.vector_width);
    }
    if let Some(architecture) = &info.architecture {
        return architecture.split(':').next().unwrap_or_default().to_owned();
    }
    let name = info.name.to_lowercase();
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    if let Some(target) = words().find(|word| is_target(word)) {
        return target.to_owned();
    }
    let known =
        ARCHITECTURES.iter().find(|(_, names)| names.iter().any(|part| name.contains(part)));
    known.map_or(name.clone(), |(architecture, _)| (*architecture).to_owned())
}

/// `gfx` and a number.
fn is_target(word: &str) -> bool {
    let number = word.strip_prefix("gfx").unwrap_or_default();
    number.len() >= 3 && number.chars().all(|c| c.is_ascii_hexdigit())
}

/// A hash of everything that decides what a kernel's configurations are worth: its source with the
/// prelude, and how elements are stored. Sixteen hexadecimal digits.
pub fn source_hash(kernel: &Kernel, dtype: DType) -> String {
    let hash = Sha256::new().chain_update(dtype.name()).chain_update(kernel.source).finalize();
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is known of a kernel, an element type and a class of problems on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The kernel.
    pub kernel: String,
    /// How elements are stored.
    pub dtype: String,
    /// The problem's class.
    pub class: BTreeMap<String, usize>,
    /// The sizes that `clbench` was given for it; empty where it was not `clbench`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shape: BTreeMap<String, usize>,
    /// The hash of the kernel's source: see [`source_hash`].
    pub source: String,
    /// The device.
    pub device: DeviceKey,
    /// How it was chosen.
    pub basis: Basis,
    /// The best configuration's tuned parameters; none where it is what the op suggests, which then
    /// stands for classes near this one as well.
    pub configuration: BTreeMap<String, u32>,
    /// Its median time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The median time of what the op suggests, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_seconds: Option<f64>,
    /// The second best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
}

/// How much quicker than what the op suggests a configuration must be to answer for other classes.
const WORTH: f64 = 1.05;

/// How an entry was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// By times on the device.
    Measured,
    /// By what the compiler reports for a device that nobody ran it on.
    Static,
}

/// The configuration that came second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerUp {
    /// Its tuned parameters.
    pub configuration: BTreeMap<String, u32>,
    /// Its median time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The tuned parameters of a kernel's configuration.
pub fn tuned_values(kernel: &Kernel, configuration: &Configuration) -> BTreeMap<String, u32> {
    let tuned = kernel.parameters.iter().filter(|parameter| !parameter.values.is_empty());
    tuned.map(|p| (p.name.to_owned(), configuration.get(p.name))).collect()
}

impl Entry {
    /// The best and the second best of a recording; `None` if no candidate was right.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the recording does not say of what it is.
    pub fn of_recording(recording: &Recording) -> Result<Option<Self>> {
        let about = recording.about.as_ref().ok_or_else(|| {
            Error::argument("recording", "expected metadata of a kernel and a device, got none")
        })?;
        let kernel = about.kernel().map_err(|detail| Error::argument("recording", detail))?;
        let tuned = |values: &BTreeMap<String, u32>| {
            let is_tuned = |name: &str| {
                kernel.parameters.iter().any(|p| p.name == name && !p.values.is_empty())
            };
            values.iter().filter(|(name, _)| is_tuned(name)).map(|(n, v)| (n.clone(), *v)).collect()
        };
        let ranking = recording.ranking();
        let Some((best, seconds)) = ranking.first() else { return Ok(None) };
        let suggested = tuned(&about.default);
        let of_default = ranking.iter().find(|(trial, _)| tuned(&trial.configuration) == suggested);
        let runner_up = ranking.get(1).map(|(trial, seconds)| RunnerUp {
            configuration: tuned(&trial.configuration),
            seconds: Some(*seconds),
        });
        Ok(Some(Self {
            kernel: about.kernel.clone(),
            dtype: about.dtype.clone(),
            class: about.class.clone(),
            shape: about.shape.clone(),
            source: about.source.clone(),
            device: about.device.clone(),
            basis: Basis::Measured,
            configuration: match tuned(&best.configuration) {
                best if best == suggested => BTreeMap::new(),
                better => better,
            },
            seconds: Some(*seconds),
            default_seconds: of_default.map(|(_, seconds)| *seconds),
            runner_up,
        }))
    }

    /// Whether this entry answers for the same as another: the newer replaces the older.
    pub fn same_key(&self, other: &Self) -> bool {
        self.kernel == other.kernel
            && self.dtype == other.dtype
            && self.class == other.class
            && self.device == other.device
    }

    /// Whether the values are for classes near this one too. What an op suggests depends on the
    /// sizes: a class where that is nearly as quick says that it is good nearby.
    /// A static entry is of its own class: its model is about how its sizes fall on a chip's units.
    pub(super) fn is_for_others(&self) -> bool {
        if self.basis == Basis::Static {
            return false;
        }
        let times = self.seconds.zip(self.default_seconds);
        times.is_none_or(|(best, default)| WORTH * best <= default)
    }

    /// `base` with this entry's values.
    ///
    /// # Errors
    ///
    /// Why the entry is of no use for the kernel as it is, or for this device.
    pub fn apply(
        &self,
        base: &Configuration,
        info: &DeviceInfo,
    ) -> std::result::Result<Configuration, String> {
        let name = one_line(&self.kernel);
        let kernel = Kernel::find(&self.kernel).ok_or(format!("there is no kernel {name}"))?;
        let dtype: DType = self.dtype.parse().map_err(|error: Error| error.to_string())?;
        if self.source != source_hash(kernel, dtype) {
            return Err("of another source of the kernel".to_owned());
        }
        with_values(kernel, base, &self.configuration, info)
    }

    /// `kernel dtype class`, in one line.
    pub(super) fn title(&self) -> String {
        let class: Vec<String> = self.class.iter().map(|(n, size)| format!("{n}={size}")).collect();
        one_line(format_args!("{} {} {}", self.kernel, self.dtype, class.join(",")))
    }
}

/// `base` with other values of a kernel's tuned parameters.
///
/// # Errors
///
/// What the kernel or the device does not take.
pub fn with_values(
    kernel: &Kernel,
    base: &Configuration,
    values: &BTreeMap<String, u32>,
    info: &DeviceInfo,
) -> std::result::Result<Configuration, String> {
    let mut configuration = base.clone();
    for (name, &value) in values {
        let shown = one_line(name);
        let parameter = kernel.parameters.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or(format!("the kernel has no parameter {shown}"))?;
        if !parameter.takes(value) && base.get(parameter.name) != value {
            return Err(format!("{shown} must be one of {:?}, got {value}", parameter.values));
        }
        configuration.set(name, value);
    }
    match kernel.violated(&configuration, info) {
        Some(constraint) => Err(format!("this must hold: {}", constraint.text)),
        None => Ok(configuration),
    }
}

/// How near an entry's device is to the one that asks, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearness {
    /// This device and driver.
    Driver,
    /// This device, another driver.
    Device,
    /// Another device of this architecture.
    Architecture,
}

impl Nearness {
    pub(super) const ALL: [Self; 3] = [Self::Driver, Self::Device, Self::Architecture];

    /// How near a device is; `None` if it is of no use.
    pub fn of(entry: &DeviceKey, device: &DeviceKey) -> Option<Self> {
        if entry == device {
            Some(Self::Driver)
        } else if entry.name == device.name && entry.architecture == device.architecture {
            Some(Self::Device)
        } else if entry.architecture == device.architecture {
            Some(Self::Architecture)
        } else {
            None
        }
    }
}

impl fmt::Display for Nearness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Driver => "this device and driver",
            Self::Device => "this device, another driver",
            Self::Architecture => "this architecture",
        })
    }
}
