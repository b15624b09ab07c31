//! Every device of this machine, best first.
//!
//! GPUs come before CPU devices; among either, the platform of the card's maker comes first and
//! the newest version of platform and driver before older ones. HIP stands before OpenCL for the
//! architectures that presets prefer it for, and after it for others. A card that two drivers offer
//! is used through the first of them, and the second entry says so.
//!
//! The host itself, through no driver, is always the last entry. `auto` takes it where there is
//! no GPU, also where an OpenCL driver for the host's processor is installed: it needs no driver,
//! and its kernels are written for that processor.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::free_memory::{FreeMemory, free_memory};
use super::preset::{environment, prefers_hip};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::hip::{self, Hip};
use crate::backend::opencl::{self, OpenCl};
use crate::info::{DeviceInfo, DeviceKind};
use crate::{Error, Result, knob};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Detected {
    /// Every device, best first, the host last.
    pub entries: Vec<DeviceEntry>,
    /// Why there is not more, a line each: a driver that is missing or fails.
    pub notes: Vec<String>,
}

/// A device that can be opened by its id.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceEntry {
    /// `opencl:0`, `opencl:1` and so on, `hip:0` and so on, or `cpu`.
    pub id: String,
    /// What the device says of itself.
    pub info: DeviceInfo,
    /// The id of an earlier entry that is the same card.
    pub duplicate_of: Option<String>,
    /// Why the device is not used by itself, or cannot be used.
    pub note: Option<String>,
    #[serde(skip)]
    found: Found,
}

/// What a device is opened from.
#[derive(Clone, Debug)]
enum Found {
    Host,
    OpenCl(opencl::Found),
    Hip(hip::Found),
}

/// Which device a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best that works.
    Auto,
    /// The entry of that id.
    Id(String),
}

impl Wanted {
    /// `auto`, `cpu`, `opencl:N` or `hip:N`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let number = text.split_once(':').and_then(|(backend, number)| {
            let known = ["opencl", "hip"].contains(&backend);
            Some((backend, number.parse::<usize>().ok().filter(|_| known)?))
        });
        match (text, number) {
            ("auto", _) => Ok(Wanted::Auto),
            ("cpu", _) => Ok(Wanted::Id("cpu".to_owned())),
            (_, Some((backend, number))) => Ok(Wanted::Id(format!("{backend}:{number}"))),
            _ => {
                let detail = format!("expected auto, cpu, opencl:N or hip:N, got {text:?}");
                Err(Error::argument("device", detail))
            }
        }
    }
}

/// Every device of this machine. Nothing is opened.
pub fn detect() -> Detected {
    let mut notes = Vec::new();
    // Before any driver is opened, for drivers read them then.
    for architecture in architectures(Path::new("/sys")) {
        let lines = hip::set_environment(environment(&architecture));
        notes.extend(lines.into_iter().map(|line| format!("{line}, as {architecture} needs it")));
    }
    let set = knob::driver_variables();
    let (opencl, hip) = (opencl::enumerate(), hip::enumerate());
    notes.extend(opencl.notes);
    notes.extend(hip.notes);
    let told = |name: &str| notes.iter().any(|note| note.starts_with(name));
    let lines: Vec<String> = set
        .into_iter()
        .filter(|(name, _)| !told(name))
        .map(|(name, value)| format!("{name}={value} is set"))
        .collect();
    notes.extend(lines);
    let host = Cpu::new().info().clone();
    Detected { entries: list(opencl.devices, hip.devices, host), notes }
}

/// The AMD GPUs of this machine as the Linux kernel's driver numbers them, such as `gfx803`.
fn architectures(sysfs: &Path) -> Vec<String> {
    let Ok(nodes) = fs::read_dir(sysfs.join("class/kfd/kfd/topology/nodes")) else {
        return Vec::new();
    };
    let architecture = |folder: PathBuf| {
        let text = fs::read_to_string(folder.join("properties")).ok()?;
        let number = |line: &str| line.strip_prefix("gfx_target_version ")?.trim().parse().ok();
        let number: u32 = text.lines().find_map(number).filter(|number| *number > 0)?;
        let (major, minor, stepping) = (number / 10_000, number / 100 % 100, number % 100);
        Some(format!("gfx{major}{minor:x}{stepping:x}"))
    };
    let mut found: Vec<String> = nodes.filter_map(|node| architecture(node.ok()?.path())).collect();
    found.sort();
    found.dedup();
    found
}

impl Detected {
    /// The entry of that id.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] with what there is.
    pub fn get(&self, id: &str) -> Result<&DeviceEntry> {
        self.entries.iter().find(|entry| entry.id == id).ok_or_else(|| {
            let there: Vec<String> = self
                .entries
                .iter()
                .map(|entry| format!("{} ({})", entry.id, entry.info.name))
                .collect();
            let mut detail = format!("there is {}", there.join(", "));
            for note in &self.notes {
                detail.push_str("; ");
                detail.push_str(note);
            }
            Error::NoDevice { wanted: id.to_owned(), detail }
        })
    }

    /// GPUs that could be used, best first: through its best driver each, then through others.
    pub fn gpus(&self) -> impl Iterator<Item = &DeviceEntry> {
        let gpus = || {
            let usable = |entry: &&DeviceEntry| entry.unusable().is_none();
            self.entries.iter().filter(|entry| entry.info.kind == DeviceKind::Gpu).filter(usable)
        };
        let first = gpus().filter(|entry| entry.duplicate_of.is_none());
        first.chain(gpus().filter(|entry| entry.duplicate_of.is_some()))
    }
}

impl DeviceEntry {
    /// The backend of this device.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] if it cannot be used; [`Error::Device`] if the driver fails.
    pub fn open(&self) -> Result<Arc<dyn Backend>> {
        match &self.found {
            Found::Host => Ok(Arc::new(Cpu::new())),
            Found::OpenCl(found) => Ok(Arc::new(OpenCl::open(found)?)),
            Found::Hip(found) => Ok(Arc::new(Hip::open(found)?)),
        }
    }

    /// How much of its memory nobody uses now; `None` where nothing tells. The device is not
    /// opened.
    pub fn free_memory(&self) -> Option<FreeMemory> {
        let told = match &self.found {
            Found::Host => None,
            Found::OpenCl(found) => found.free_memory_bytes(),
            Found::Hip(found) => found.free_memory_bytes(),
        };
        free_memory(&self.info, told)
    }

    /// Why it cannot be used at all, if it cannot.
    pub fn unusable(&self) -> Option<&str> {
        self.found.unusable()
    }
}

impl Found {
    fn unusable(&self) -> Option<&str> {
        match self {
            Found::Host => None,
            Found::OpenCl(found) => found.unusable.as_deref(),
            Found::Hip(found) => found.unusable.as_deref(),
        }
    }
}

/// Entries in their order, with ids and notes.
fn list(
    mut opencl: Vec<opencl::Found>,
    hip: Vec<hip::Found>,
    host: DeviceInfo,
) -> Vec<DeviceEntry> {
    opencl.sort_by_key(|found| (found.unusable.is_some(), rank(&found.info)));
    let entry = |backend: &str, index: usize, info: &DeviceInfo, found: Found| DeviceEntry {
        id: format!("{backend}:{index}"),
        info: info.clone(),
        duplicate_of: None,
        note: None,
        found,
    };
    let opencl = opencl
        .into_iter()
        .enumerate()
        .map(|(index, found)| entry("opencl", index, &found.info.clone(), Found::OpenCl(found)));
    let hip = hip
        .into_iter()
        .enumerate()
        .map(|(index, found)| entry("hip", index, &found.info.clone(), Found::Hip(found)));
    let mut entries: Vec<DeviceEntry> = opencl.chain(hip).collect();
    entries.sort_by_key(|entry| (entry.unusable().is_some(), rank(&entry.info)));
    let mut first_at: HashMap<String, (String, &'static str)> = HashMap::new();
    for entry in &mut entries {
        if let Some(reason) = entry.found.unusable() {
            entry.note = Some(reason.to_owned());
            continue;
        }
        let Some(address) = entry.info.pci_address.clone() else { continue };
        if let Some((other, backend)) = first_at.get(&address) {
            let note = match *backend == entry.info.backend {
                true => format!("the same card as {other} (PCI {address}) through another driver"),
                false => format!(
                    "the same card as {other} (PCI {address}), which is preferred for such cards"
                ),
            };
            entry.note = Some(note);
            entry.duplicate_of = Some(other.clone());
        } else {
            first_at.insert(address, (entry.id.clone(), entry.info.backend));
        }
    }
    let id = "cpu".to_owned();
    let (duplicate_of, note) = (None, None);
    entries.push(DeviceEntry { id, info: host, duplicate_of, note, found: Found::Host });
    entries
}

/// Less is better.
fn rank(info: &DeviceInfo) -> impl Ord + use<> {
    // "AMD Accelerated Parallel Processing, OpenCL 2.1 AMD-APP (3581.0)"
    let (platform, version) = info.platform.split_once(", ").unwrap_or((&info.platform, ""));
    let makers_own = platform.starts_with("AMD ");
    let kind = match info.kind {
        DeviceKind::Gpu => 0,
        DeviceKind::Cpu => 1,
    };
    let backend = match &info.architecture {
        Some(architecture) if info.backend == "hip" && !prefers_hip(architecture) => 2,
        _ if info.backend == "hip" => 0,
        _ => 1,
    };
    (kind, backend, !makers_own, Reverse(numbers(version)), Reverse(numbers(&info.driver)))
}

/// The numbers in a version, in their order.
fn numbers(version: &str) -> Vec<u64> {
    let digits = version.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(
        name: &str,
        kind: DeviceKind,
        platform: &str,
        driver: &str,
        pci_address: Option<&str>,
    ) -> opencl::Found {
        let info = DeviceInfo {
            backend: "opencl",
            name: name.to_owned(),
            platform: platform.to_owned(),
            driver: driver.to_owned(),
            kind,
            matrix_units: false,
            amx: false,
            pci_address: pci_address.map(str::to_owned),
            ..Cpu::new().info().clone()
        };
        opencl::Found::made_up(info, None)
    }

    fn names(found: Vec<opencl::Found>) -> Vec<String> {
        let entries = list(found, Vec::new(), Cpu::new().info().clone());
        let (last, rest) = entries.split_last().unwrap();
        assert_eq!(last.id, "cpu");
        let name = |(index, entry): (usize, &DeviceEntry)| {
            assert_eq!(entry.id, format!("opencl:{index}"));
            entry.info.name.clone()
        };
        rest.iter().enumerate().map(name).collect()
    }

    const AMD: &str = "AMD Accelerated Parallel Processing, OpenCL 2.1 AMD-APP (3581.0)";
    const AMD_OLD: &str = "AMD Accelerated Parallel Processing, OpenCL 2.1 AMD-APP (3423.0)";
    const RUSTICL: &str = "rusticl, OpenCL 3.0";
    const POCL: &str = "Portable Computing Language, OpenCL 3.0 PoCL 3.1 Linux";
    use DeviceKind::{Cpu as C, Gpu as G};

    #[test]
    fn the_best_device_comes_first() {
        let card = Some("0000:01:00.0");
        let cases: [(&str, Vec<opencl::Found>, &[&str]); 5] = [
            (
                "a GPU before a CPU, whatever the version",
                vec![device("a", C, POCL, "9.0", None), device("b", G, RUSTICL, "1.0", None)],
                &["b", "a"],
            ),
            (
                "AMD's platform before a newer one",
                vec![device("a", G, RUSTICL, "25.1", card), device("b", G, AMD, "3581.0", card)],
                &["b", "a"],
            ),
            (
                "the newer platform of one maker",
                vec![device("a", G, AMD_OLD, "3423.0", card), device("b", G, AMD, "3581", card)],
                &["b", "a"],
            ),
            (
                "the newer driver, by number and not by letter",
                vec![device("a", G, RUSTICL, "9.3.6", None), device("b", G, RUSTICL, "22.1", None)],
                &["b", "a"],
            ),
            (
                "equal ones in the driver's order",
                vec![device("a", G, AMD, "1", None), device("b", G, AMD, "1", None)],
                &["a", "b"],
            ),
        ];
        for (why, found, expected) in cases {
            assert_eq!(names(found), expected, "{why}");
        }
    }

    #[test]
    fn a_card_seen_by_two_drivers_is_used_through_the_first() {
        let card = Some("0000:01:00.0");
        let found = vec![
            device("gfx803", G, RUSTICL, "24.1", card),
            device("Radeon RX 580", G, AMD, "3581.0", card),
            device("another card", G, AMD, "3581.0", Some("0000:02:00.0")),
            device("no address", G, RUSTICL, "24.1", None),
        ];
        let entries = list(found, Vec::new(), Cpu::new().info().clone());
        let duplicates: Vec<_> = entries.iter().filter(|e| e.duplicate_of.is_some()).collect();
        let [duplicate] = duplicates.as_slice() else { panic!("one duplicate: {duplicates:?}") };
        assert_eq!(duplicate.info.name, "gfx803");
        let note = "the same card as opencl:0 (PCI 0000:01:00.0) through another driver".to_owned();
        assert_eq!(duplicate.note, Some(note));
        let detected = Detected { entries, notes: Vec::new() };
        let order: Vec<_> = detected.gpus().map(|entry| entry.info.name.as_str()).collect();
        assert_eq!(order, ["Radeon RX 580", "another card", "no address", "gfx803"]);
    }

    fn hip_device(architecture: &str, pci_address: Option<&str>) -> hip::Found {
        let info = DeviceInfo {
            backend: "hip",
            architecture: Some(architecture.to_owned()),
            ..device(architecture, G, "HIP, libamdhip64.so.6", "6.0.0", pci_address).info
        };
        hip::Found::made_up(info, None)
    }

    #[test]
    fn a_card_of_two_backends_is_used_through_the_one_that_presets_prefer() {
        let card = Some("0000:01:00.0");
        let cases = [
            ("gfx803", ["opencl:0", "hip:0"]),
            ("gfx900:xnack-", ["opencl:0", "hip:0"]),
            ("gfx906:sramecc+:xnack-", ["hip:0", "opencl:0"]),
            ("gfx1030", ["hip:0", "opencl:0"]),
            ("gfx1201", ["hip:0", "opencl:0"]),
        ];
        for (architecture, [first, second]) in cases {
            let opencl = vec![device("card", G, AMD, "3581.0", card)];
            let hip = vec![hip_device(architecture, card)];
            let entries = list(opencl, hip, Cpu::new().info().clone());
            let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
            assert_eq!(ids, [first, second, "cpu"], "{architecture}");
            assert_eq!(entries[1].duplicate_of.as_deref(), Some(first), "{architecture}");
            let note = format!(
                "the same card as {first} (PCI 0000:01:00.0), which is preferred for such cards"
            );
            assert_eq!(entries[1].note.as_deref(), Some(note.as_str()));
        }
    }

    #[test]
    fn the_kernel_tells_architectures_before_any_driver_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let nodes = root.path().join("class/kfd/kfd/topology/nodes");
        let cards = [("0", "0"), ("1", "80003"), ("2", "90010"), ("3", "100300"), ("4", "80003")];
        for (node, version) in cards {
            fs::create_dir_all(nodes.join(node)).unwrap();
            let text = format!("simd_count 144\ngfx_target_version {version}\nvendor_id 4098\n");
            fs::write(nodes.join(node).join("properties"), text).unwrap();
        }
        fs::create_dir_all(nodes.join("5")).unwrap();
        assert_eq!(architectures(root.path()), ["gfx1030", "gfx803", "gfx90a"]);
        assert_eq!(architectures(Path::new("/no/such/folder")), [""; 0]);
    }

    #[test]
    fn a_device_that_cannot_be_used_comes_last_and_says_why() {
        let broken = device("old", G, AMD, "1", Some("0000:01:00.0"));
        let broken =
            opencl::Found::made_up(broken.info, Some("its driver has no compiler".to_owned()));
        let found = vec![broken, device("new", C, POCL, "3.1", Some("0000:01:00.0"))];
        let entries = list(found, Vec::new(), Cpu::new().info().clone());
        assert_eq!(entries[0].info.name, "new");
        assert_eq!(entries[0].duplicate_of, None);
        assert_eq!(entries[1].note.as_deref(), Some("its driver has no compiler"));
        let error = entries[1].open().unwrap_err().to_string();
        assert_eq!(error, "no device old: its driver has no compiler");
    }

    #[test]
    fn an_id_that_is_not_there_gets_the_list_of_those_that_are() {
        let found = vec![device("card", G, AMD, "1", None)];
        let host = DeviceInfo { name: "host".to_owned(), ..Cpu::new().info().clone() };
        let notes = vec!["platform rusticl: no device".to_owned()];
        let detected = Detected { entries: list(found, Vec::new(), host), notes };
        assert_eq!(
            detected.get("opencl:9").unwrap_err().to_string(),
            "no device opencl:9: there is opencl:0 (card), cpu (host); platform rusticl: no device"
        );
        assert_eq!(detected.get("opencl:0").unwrap().info.name, "card");
    }

    #[test]
    fn a_name_is_auto_cpu_or_a_backend_with_a_number() {
        assert_eq!(Wanted::parse("auto").unwrap(), Wanted::Auto);
        assert_eq!(Wanted::parse("opencl:01").unwrap(), Wanted::Id("opencl:1".to_owned()));
        assert_eq!(Wanted::parse("hip:0").unwrap(), Wanted::Id("hip:0".to_owned()));
        for text in ["", "gpu", "opencl", "opencl:", "opencl:-1", "hip:x", "cuda:0", "CPU"] {
            let error = Wanted::parse(text).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("device: expected auto, cpu, opencl:N or hip:N, got {text:?}")
            );
        }
    }
}
