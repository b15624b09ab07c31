//! Every device of this machine, best first.
//!
//! GPUs come before CPU devices; among either, the platform of the card's maker comes first and
//! the newest version of platform and driver before older ones. A card that two drivers offer is
//! used through the first of them, and the second entry says so.
//!
//! The host itself, through no driver, is always the last entry. `auto` takes it where there is
//! no GPU, also where an OpenCL driver for the host's processor is installed: it needs no driver,
//! and its kernels are written for that processor.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::free_memory::{FreeMemory, free_memory};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::opencl::{self, Found, OpenCl};
use crate::info::{DeviceInfo, DeviceKind};
use crate::{Error, Result};

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
    /// `opencl:0`, `opencl:1` and so on, or `cpu`.
    pub id: String,
    /// What the device says of itself.
    pub info: DeviceInfo,
    /// The id of an earlier entry that is the same card.
    pub duplicate_of: Option<String>,
    /// Why the device is not used by itself, or cannot be used.
    pub note: Option<String>,
    #[serde(skip)]
    found: Option<Found>,
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
    /// `auto`, `cpu` or `opencl:N`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let number = text.strip_prefix("opencl:").map(str::parse::<usize>);
        match (text, number) {
            ("auto", _) => Ok(Wanted::Auto),
            ("cpu", _) => Ok(Wanted::Id("cpu".to_owned())),
            (_, Some(Ok(number))) => Ok(Wanted::Id(format!("opencl:{number}"))),
            _ => {
                let detail = format!("expected auto, cpu or opencl:N, got {text:?}");
                Err(Error::argument("device", detail))
            }
        }
    }
}

/// Every device of this machine. Nothing is opened.
pub fn detect() -> Detected {
    let found = opencl::enumerate();
    Detected { entries: list(found.devices, Cpu::new().info().clone()), notes: found.notes }
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
            None => Ok(Arc::new(Cpu::new())),
            Some(found) => Ok(Arc::new(OpenCl::open(found)?)),
        }
    }

    /// How much of its memory nobody uses now; `None` where nothing tells. The device is not
    /// opened.
    pub fn free_memory(&self) -> Option<FreeMemory> {
        let told = self.found.as_ref().and_then(Found::free_memory_bytes);
        free_memory(&self.info, told)
    }

    /// Why it cannot be used at all, if it cannot.
    pub fn unusable(&self) -> Option<&str> {
        self.found.as_ref()?.unusable.as_deref()
    }
}

/// Entries in their order, with ids and notes.
fn list(mut found: Vec<Found>, host: DeviceInfo) -> Vec<DeviceEntry> {
    found.sort_by_key(|found| (found.unusable.is_some(), rank(&found.info)));
    let mut first_at: HashMap<String, String> = HashMap::new();
    let mut entries = Vec::new();
    for (index, found) in found.into_iter().enumerate() {
        let id = format!("opencl:{index}");
        let address = found.info.pci_address.clone().filter(|_| found.unusable.is_none());
        let duplicate_of = address.as_ref().and_then(|address| first_at.get(address).cloned());
        let note = match (&found.unusable, &duplicate_of, &address) {
            (Some(reason), _, _) => Some(reason.clone()),
            (_, Some(other), Some(address)) => {
                Some(format!("the same card as {other} (PCI {address}) through another driver"))
            }
            _ => None,
        };
        if let Some(address) = address {
            first_at.entry(address).or_insert_with(|| id.clone());
        }
        let info = found.info.clone();
        entries.push(DeviceEntry { id, info, duplicate_of, note, found: Some(found) });
    }
    let id = "cpu".to_owned();
    entries.push(DeviceEntry { id, info: host, duplicate_of: None, note: None, found: None });
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
    (kind, !makers_own, Reverse(numbers(version)), Reverse(numbers(&info.driver)))
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
    ) -> Found {
        let info = DeviceInfo {
            backend: "opencl",
            name: name.to_owned(),
            platform: platform.to_owned(),
            driver: driver.to_owned(),
            kind,
            matrix_units: false,
            pci_address: pci_address.map(str::to_owned),
            ..Cpu::new().info().clone()
        };
        Found::made_up(info, None)
    }

    fn names(found: Vec<Found>) -> Vec<String> {
        let entries = list(found, Cpu::new().info().clone());
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
        let cases: [(&str, Vec<Found>, &[&str]); 5] = [
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
        let entries = list(found, Cpu::new().info().clone());
        let duplicates: Vec<_> = entries.iter().filter(|e| e.duplicate_of.is_some()).collect();
        let [duplicate] = duplicates.as_slice() else { panic!("one duplicate: {duplicates:?}") };
        assert_eq!(duplicate.info.name, "gfx803");
        let note = "the same card as opencl:0 (PCI 0000:01:00.0) through another driver".to_owned();
        assert_eq!(duplicate.note, Some(note));
        let detected = Detected { entries, notes: Vec::new() };
        let order: Vec<_> = detected.gpus().map(|entry| entry.info.name.as_str()).collect();
        assert_eq!(order, ["Radeon RX 580", "another card", "no address", "gfx803"]);
    }

    #[test]
    fn a_device_that_cannot_be_used_comes_last_and_says_why() {
        let broken = device("old", G, AMD, "1", Some("0000:01:00.0"));
        let broken = Found::made_up(broken.info, Some("its driver has no compiler".to_owned()));
        let found = vec![broken, device("new", C, POCL, "3.1", Some("0000:01:00.0"))];
        let entries = list(found, Cpu::new().info().clone());
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
        let detected = Detected { entries: list(found, host), notes };
        assert_eq!(
            detected.get("opencl:9").unwrap_err().to_string(),
            "no device opencl:9: there is opencl:0 (card), cpu (host); platform rusticl: no device"
        );
        assert_eq!(detected.get("opencl:0").unwrap().info.name, "card");
    }

    #[test]
    fn a_name_is_auto_cpu_or_opencl_with_a_number() {
        assert_eq!(Wanted::parse("auto").unwrap(), Wanted::Auto);
        assert_eq!(Wanted::parse("opencl:01").unwrap(), Wanted::Id("opencl:1".to_owned()));
        for text in ["", "gpu", "opencl", "opencl:", "opencl:-1", "opencl:x", "CPU"] {
            let error = Wanted::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("device: expected auto, cpu or opencl:N, got {text:?}"));
        }
    }
}
