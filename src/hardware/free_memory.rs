//! How much of a device's memory nobody uses now.

use std::fs;
use std::path::Path;

use nvml_wrapper::Nvml;
use serde::Serialize;

use crate::backend::cpu::available_bytes;
use crate::info::{DeviceInfo, DeviceKind};

/// Memory that nobody uses, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FreeMemory {
    /// Bytes.
    pub bytes: u64,
    /// What tells: `driver`, `sysfs`, `nvml` or `host`.
    pub source: &'static str,
}

/// How much of a device's memory nobody uses now; `None` where nothing tells.
///
/// `told` is what the device's own driver says, see
/// [`Backend::free_memory_bytes`](crate::backend::Backend::free_memory_bytes). Beside it there is
/// what the Linux kernel says of AMD's cards, what NVML says of NVIDIA's, both by the card's PCI
/// address, and for processors what is left of the host's memory.
pub fn free_memory(info: &DeviceInfo, told: Option<u64>) -> Option<FreeMemory> {
    least(info, told, Path::new("/sys"), nvml)
}

/// The least of what is told: a driver may know of no other program's memory, and a kernel of none
/// that a driver keeps back.
fn least(
    info: &DeviceInfo,
    told: Option<u64>,
    sysfs: &Path,
    nvml: impl Fn(&str) -> Option<u64>,
) -> Option<FreeMemory> {
    let mut answers = vec![("driver", told)];
    match (info.kind, info.pci_address.as_deref()) {
        (DeviceKind::Cpu, _) => answers.push(("host", available_bytes())),
        (DeviceKind::Gpu, Some(address)) => {
            answers.push(("sysfs", kernel(sysfs, address)));
            if info.vendor.to_lowercase().contains("nvidia") {
                answers.push(("nvml", nvml(address)));
            }
        }
        (DeviceKind::Gpu, None) => {}
    }
    let free = |(source, bytes): (_, Option<u64>)| {
        Some(FreeMemory { bytes: bytes?.min(info.memory_bytes), source })
    };
    answers.into_iter().filter_map(free).min_by_key(|free| free.bytes)
}

/// Less video memory than this is the part of the host's that a chip without memory of its own has
/// set aside: its drivers use all of the host's.
const LEAST_CARD_BYTES: u64 = 1 << 30;

/// What the kernel's driver says of the card at a PCI address.
fn kernel(sysfs: &Path, address: &str) -> Option<u64> {
    let folder = sysfs.join("bus/pci/devices").join(address.to_lowercase());
    let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let total = number("mem_info_vram_total").filter(|&total| total > LEAST_CARD_BYTES)?;
    total.checked_sub(number("mem_info_vram_used")?)
}

/// What NVML says of the card at a PCI address, if NVML is installed.
fn nvml(address: &str) -> Option<u64> {
    // The name without a version is only there where programs are developed.
    let versioned = || Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
    let nvml = if cfg!(target_os = "linux") { versioned() } else { Nvml::init() }.ok()?;
    Some(nvml.device_by_pci_bus_id(address).ok()?.memory_info().ok()?.free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;

    fn gpu(vendor: &str, pci_address: Option<&str>) -> DeviceInfo {
        DeviceInfo {
            kind: DeviceKind::Gpu,
            vendor: vendor.to_owned(),
            memory_bytes: 8 << 30,
            matrix_units: false,
            amx: false,
            pci_address: pci_address.map(str::to_owned),
            ..Cpu::new().info().clone()
        }
    }

    /// A `/sys` with one card of so much memory, so much of it in use.
    fn sysfs(total: &str, used: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("bus/pci/devices/0000:0b:00.0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("mem_info_vram_total"), total).unwrap();
        fs::write(folder.join("mem_info_vram_used"), used).unwrap();
        root
    }

    const CARD: Option<&str> = Some("0000:0B:00.0");
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_least_that_is_told_counts() {
        let root = sysfs("8589934592\n", "2147483648\n");
        let find = |vendor, address, told| {
            let info = gpu(vendor, address);
            least(&info, told, root.path(), |_| Some(GIB)).map(|free| (free.bytes, free.source))
        };
        assert_eq!(find("AMD", CARD, None), Some((6 * GIB, "sysfs")));
        assert_eq!(find("AMD", CARD, Some(5 * GIB)), Some((5 * GIB, "driver")));
        assert_eq!(find("AMD", CARD, Some(7 * GIB)), Some((6 * GIB, "sysfs")));
        assert_eq!(find("AMD", Some("0000:0c:00.0"), None), None, "another card");
        assert_eq!(find("AMD", None, Some(9 * GIB)), Some((8 * GIB, "driver")), "no more than all");
        assert_eq!(find("AMD", None, None), None, "nobody tells");
        assert_eq!(find("NVIDIA Corporation", CARD, None), Some((GIB, "nvml")));
    }

    #[test]
    fn what_the_kernel_says_is_passed_over_where_it_cannot_be_right() {
        let cases = [
            ("a chip that shares the host's memory", "536870912", "1000"),
            ("more in use than there is", "8589934592", "8589934593"),
            ("no number", "8 GB", "1000"),
            ("empty", "", ""),
        ];
        for (why, total, used) in cases {
            assert_eq!(kernel(sysfs(total, used).path(), "0000:0b:00.0"), None, "{why}");
        }
        assert_eq!(kernel(Path::new("/no/such/folder"), "0000:0b:00.0"), None);
    }

    #[test]
    fn a_processor_has_what_the_host_has_left() {
        let info = Cpu::new().info().clone();
        let free = least(&info, None, Path::new("/no/such/folder"), |_| None).unwrap();
        assert_eq!(free.source, "host");
        assert!((1..=info.memory_bytes).contains(&free.bytes), "{free:?}");
    }

    #[test]
    fn without_nvml_nothing_is_said() {
        assert_eq!(nvml("ffff:ff:1f.7"), None, "no such card, or no such library");
    }
}
