//! Which devices the driver has, and what it says of them.

use std::sync::Arc;

use super::driver::{Attribute, Driver, Missing};
use crate::Result;
use crate::backend::comgr::{self, Comgr};
use crate::info::{DeviceInfo, DeviceKind};

/// What a search for devices has found.
#[derive(Debug, Default)]
pub struct Enumeration {
    /// In the driver's order.
    pub devices: Vec<Found>,
    /// Why there is not more, a line each.
    pub notes: Vec<String>,
}

/// A device that is not opened yet.
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) driver: Option<Arc<Driver>>,
    /// The driver's number for it.
    pub(super) ordinal: u32,
    /// What it says of itself.
    pub info: DeviceInfo,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
}

#[cfg(test)]
impl Found {
    /// A device that is not there.
    pub fn made_up(info: DeviceInfo, unusable: Option<String>) -> Self {
        Self { driver: None, ordinal: 0, info, unusable }
    }
}

impl Found {
    /// How many bytes of its memory the driver says that nobody uses now, where it tells.
    pub fn free_memory_bytes(&self) -> Option<u64> {
        let driver = self.driver.as_ref()?;
        driver.set_device(self.ordinal).and_then(|()| driver.free_bytes()).ok()
    }
}

/// Every device of the driver. The absence of a library or of a device is no error but a note.
pub fn enumerate() -> Enumeration {
    let mut found = Enumeration::default();
    let driver = match Driver::open() {
        Ok(driver) => driver,
        Err(Missing(why)) => {
            found.notes.push(format!("HIP: {why}"));
            return found;
        }
    };
    let called = format!("HIP {} ({})", driver.version(), driver.name());
    let count = match driver.device_count() {
        Ok(0) => {
            found.notes.push(format!("{called} is installed and finds no device"));
            return found;
        }
        Ok(count) => count,
        Err(error) => {
            found.notes.push(format!("{called}: {error}"));
            return found;
        }
    };
    let compiler = match Comgr::open() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            let names = comgr::LIBRARIES.join(", ");
            Err(format!("there is no comgr to compile kernels (looked for {names})"))
        }
        Err(error) => Err(error.to_string()),
    };
    for ordinal in 0..count {
        match describe(&driver, ordinal) {
            Ok((info, unusable)) => {
                let unusable = unusable.or_else(|| compiler.clone().err());
                let driver = Some(Arc::clone(&driver));
                found.devices.push(Found { driver, ordinal, info, unusable });
            }
            Err(error) => found.notes.push(format!("{called}, device {ordinal}: {error}")),
        }
    }
    found
}

fn describe(driver: &Driver, ordinal: u32) -> Result<(DeviceInfo, Option<String>)> {
    let number = |attribute| driver.attribute(ordinal, attribute);
    let architecture = driver.architecture(ordinal)?;
    let memory_bytes = driver.memory_bytes(ordinal)?;
    let pci = [Attribute::PciDomain, Attribute::PciBus, Attribute::PciDevice].map(number);
    let info = DeviceInfo {
        backend: "hip",
        name: driver.device_name(ordinal)?,
        vendor: "Advanced Micro Devices, Inc.".to_owned(),
        platform: format!("HIP, {}", driver.name()),
        driver: driver.version(),
        kind: DeviceKind::Gpu,
        compute_units: number(Attribute::ComputeUnits)?,
        memory_bytes,
        // No limit of its own is told.
        max_allocation_bytes: memory_bytes,
        local_memory_bytes: number(Attribute::LocalMemory)?.into(),
        local_memory_is_fast: true,
        max_work_group: number(Attribute::MaxWorkGroup)? as usize,
        vector_width: 1,
        // Words are not tried here yet: kernels are those of every GPU.
        matrix_units: false,
        amx: false,
        sub_group: Some(number(Attribute::SubGroup)?).filter(|size| *size > 0),
        architecture: architecture.clone(),
        pci_address: match pci {
            [Ok(domain), Ok(bus), Ok(device)] => {
                Some(format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
            }
            _ => None,
        },
    };
    let unusable = match architecture {
        Some(_) => None,
        None => Some("its driver does not tell the architecture".to_owned()),
    };
    Ok((info, unusable))
}
