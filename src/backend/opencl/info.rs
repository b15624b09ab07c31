//! Which devices the driver has, and what it says of them.

use std::ffi::c_void;

use cl3::device::*;
use cl3::error_codes::{DLOPEN_RUNTIME_LOAD_FAILED, cl_int};
use cl3::info_type::InfoType;
use cl3::platform::{CL_PLATFORM_NAME, CL_PLATFORM_VERSION, get_platform_ids, get_platform_info};

use super::handle::described;
use crate::backend::amx;
use crate::info::{DeviceInfo, DeviceKind};

/// The name of PoCL's platform.
pub const POCL: &str = "Portable Computing Language";

/// What a search for devices has found.
#[derive(Debug, Default)]
pub struct Enumeration {
    /// In the driver's order.
    pub devices: Vec<Found>,
    /// Why there is not more, a line each: no loader, a platform that fails or has no device.
    pub notes: Vec<String>,
}

/// A device that is not opened yet.
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) id: DeviceId,
    /// What it says of itself.
    pub info: DeviceInfo,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
}

#[cfg(test)]
impl Found {
    /// A device that is not there.
    pub fn made_up(info: DeviceInfo, unusable: Option<String>) -> Self {
        Self { id: DeviceId(std::ptr::null_mut()), info, unusable }
    }
}

/// A `cl_device_id` of a platform, which lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceId(pub *mut c_void);

// SAFETY: the driver's calls take a device from any thread.
unsafe impl Send for DeviceId {}
// SAFETY: as above.
unsafe impl Sync for DeviceId {}

impl Found {
    /// How many bytes of its memory the driver says that nobody uses now, where it tells.
    pub fn free_memory_bytes(&self) -> Option<u64> {
        self.id.free_memory_bytes()
    }
}

impl DeviceId {
    pub fn free_memory_bytes(self) -> Option<u64> {
        // What a test has made up.
        if self.0.is_null() {
            return None;
        }
        let extensions = get_device_info(self.0, CL_DEVICE_EXTENSIONS).map(text).ok()?;
        if !extensions.contains("cl_amd_device_attribute_query") {
            return None;
        }
        first_kib(&get_device_data(self.0, CL_DEVICE_GLOBAL_FREE_MEMORY_AMD).ok()?)
    }
}

/// What `CL_DEVICE_GLOBAL_FREE_MEMORY_AMD` answers: one or two `size_t` of KiB, all that is free and
/// the largest free block.
fn first_kib(answer: &[u8]) -> Option<u64> {
    let kib = usize::from_ne_bytes(*answer.first_chunk()?);
    (kib as u64).checked_mul(1024)
}

/// Every device of every platform. The absence of a loader or driver is no error but a note.
pub fn enumerate() -> Enumeration {
    let mut found = Enumeration::default();
    let platforms = match get_platform_ids() {
        Ok(platforms) => platforms,
        Err(code) => {
            found.notes.push(match code {
                DLOPEN_RUNTIME_LOAD_FAILED => {
                    "OpenCL: no loader (libOpenCL.so.1 or OpenCL.dll; OPENCL_DYLIB_PATH can name \
                     another)"
                        .to_owned()
                }
                // What the loader says when it finds no driver: CL_PLATFORM_NOT_FOUND_KHR.
                -1001 => "OpenCL: a loader, but no driver".to_owned(),
                code => format!("OpenCL: clGetPlatformIDs failed: {}", described(code)),
            });
            return found;
        }
    };
    if platforms.is_empty() {
        found.notes.push("OpenCL: a loader, but no driver".to_owned());
    }
    for platform in platforms {
        let text = |what| get_platform_info(platform, what).map(text).unwrap_or_default();
        let (name, version) = (text(CL_PLATFORM_NAME), text(CL_PLATFORM_VERSION));
        match get_device_ids(platform, CL_DEVICE_TYPE_ALL) {
            Ok(ids) if ids.is_empty() => {
                found.notes.push(format!("OpenCL platform {name} ({version}): no device"));
            }
            Ok(ids) => {
                for id in ids {
                    match describe(id, &name, &version) {
                        Ok(device) => found.devices.push(device),
                        Err(code) => found.notes.push(format!(
                            "OpenCL platform {name} ({version}): clGetDeviceInfo failed: {}",
                            described(code)
                        )),
                    }
                }
            }
            Err(code) => found.notes.push(format!(
                "OpenCL platform {name} ({version}): clGetDeviceIDs failed: {}",
                described(code)
            )),
        }
    }
    found
}

fn text(value: InfoType) -> String {
    let text = String::from(value);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn describe(id: *mut c_void, platform: &str, version: &str) -> Result<Found, cl_int> {
    let get = |what| get_device_info(id, what);
    let string = |what| get(what).map(text);
    let number = |what| get(what).map(u32::from);
    let long = |what| get(what).map(u64::from);

    let extensions = string(CL_DEVICE_EXTENSIONS)?;
    let name = board_name(id, &extensions).map_or_else(|| string(CL_DEVICE_NAME), Ok)?;
    let kind = match long(CL_DEVICE_TYPE)? & (CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR) {
        0 => DeviceKind::Cpu,
        _ => DeviceKind::Gpu,
    };
    // Mesa's rusticl answers CL_GLOBAL for every device.
    let local_memory_is_fast = number(CL_DEVICE_LOCAL_MEM_TYPE)? == CL_LOCAL
        || (kind == DeviceKind::Gpu && platform == "rusticl");
    let memory_bytes = long(CL_DEVICE_GLOBAL_MEM_SIZE)?;
    let info = DeviceInfo {
        backend: "opencl",
        name,
        vendor: string(CL_DEVICE_VENDOR)?,
        platform: format!("{platform}, {version}"),
        driver: string(CL_DRIVER_VERSION)?,
        kind,
        compute_units: number(CL_DEVICE_MAX_COMPUTE_UNITS)?,
        memory_bytes,
        max_allocation_bytes: long(CL_DEVICE_MAX_MEM_ALLOC_SIZE)?.min(memory_bytes),
        local_memory_bytes: long(CL_DEVICE_LOCAL_MEM_SIZE)?,
        local_memory_is_fast,
        max_work_group: get(CL_DEVICE_MAX_WORK_GROUP_SIZE).map(usize::from)?,
        // A compiler whose vectors are the work-items of a group (every GPU, llvmpipe) answers
        // 1; one that keeps a work-item's own vectors (PoCL) answers their width.
        vector_width: number(CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT)?.max(1),
        matrix_units: false,
        // PoCL runs kernels in threads of this process, and its compiler knows the instructions.
        amx: platform == POCL && kind == DeviceKind::Cpu && amx::is_usable(),
        sub_group: None,
        architecture: None,
        pci_address: pci_address(id, &extensions),
    };
    let unusable = unusable(id, &string(CL_DEVICE_OPENCL_C_VERSION)?);
    Ok(Found { id: DeviceId(id), info, unusable })
}

fn unusable(id: *mut c_void, language: &str) -> Option<String> {
    let is = |what| get_device_info(id, what).map(u32::from).is_ok_and(|value| value != 0);
    // "OpenCL C 1.2 vendor's words"
    let version = language.split(' ').nth(2).and_then(|version| {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    if !is(CL_DEVICE_AVAILABLE) {
        Some("the driver says that it is not available".to_owned())
    } else if !is(CL_DEVICE_COMPILER_AVAILABLE) {
        Some("its driver has no compiler".to_owned())
    } else if !is(CL_DEVICE_ENDIAN_LITTLE) {
        Some("it is big-endian".to_owned())
    } else if version.is_none_or(|version| version < (1, 2)) {
        Some(format!("OpenCL C 1.2 is needed, the driver has {language:?}"))
    } else {
        None
    }
}

/// The name on the box, where the driver's own is a code name.
fn board_name(id: *mut c_void, extensions: &str) -> Option<String> {
    if !extensions.contains("cl_amd_device_attribute_query") {
        return None;
    }
    let name = get_device_info(id, CL_DEVICE_BOARD_NAME_AMD).map(text).ok()?;
    (!name.is_empty()).then_some(name)
}

/// `domain:bus:device.function`, by whichever extension tells.
fn pci_address(id: *mut c_void, extensions: &str) -> Option<String> {
    let number = |what| get_device_info(id, what).map(u32::from).ok();
    if extensions.contains("cl_khr_pci_bus_info") {
        let bytes = get_device_data(id, CL_DEVICE_PCI_BUS_INFO_KHR).ok()?;
        let words: Vec<u32> =
            bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let &[domain, bus, device, function] = words.as_slice() else { return None };
        return Some(format_pci(domain, bus, device, function));
    }
    if extensions.contains("cl_amd_device_attribute_query") {
        // A union: its type, 17 bytes of padding, then bus, device and function. Type 1 is PCIe.
        let bytes = get_device_data(id, CL_DEVICE_TOPOLOGY_AMD).ok()?;
        let &[1, 0, 0, 0, .., bus, device, function] = bytes.as_slice() else { return None };
        return Some(format_pci(0, bus.into(), device.into(), function.into()));
    }
    if extensions.contains("cl_nv_device_attribute_query") {
        const CL_DEVICE_PCI_DOMAIN_ID_NV: u32 = 0x400A;
        let (bus, slot) = (number(CL_DEVICE_PCI_BUS_ID_NV)?, number(CL_DEVICE_PCI_SLOT_ID_NV)?);
        let domain = get_device_data(id, CL_DEVICE_PCI_DOMAIN_ID_NV).ok();
        let domain = domain.and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
        return Some(format_pci(domain.unwrap_or(0), bus, slot >> 3, slot & 7));
    }
    None
}

fn format_pci(domain: u32, bus: u32, device: u32, function: u32) -> String {
    format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_the_first_number_in_kib() {
        let answer = |numbers: &[usize]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
        };
        assert_eq!(first_kib(&answer(&[8_000_000, 1_000])), Some(8_192_000_000));
        assert_eq!(first_kib(&answer(&[4])), Some(4096));
        assert_eq!(first_kib(&[1, 2]), None);
    }
}
