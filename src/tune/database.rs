//! The tuning database: which configuration was the best for a problem on a device.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::DType;
use crate::info::{DeviceInfo, DeviceKind};
use crate::kernel::Kernel;

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
