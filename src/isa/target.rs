//! The chips that the report knows: facts from their makers' manuals, in one table.

use crate::info::{DeviceInfo, DeviceKind};
use crate::isa::assembly::Facts;

/// A chip, as far as the model needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// As compilers call it.
    pub name: &'static str,
    /// Work-items of a wave, as programs are compiled.
    pub wave: u32,
    /// Cycles that a vector instruction of a wave occupies its SIMD.
    pub cycles: u32,
    /// SIMDs of a compute unit.
    pub simds: u32,
    /// Waves that a SIMD holds.
    pub most_waves: u32,
    /// Vector registers of a SIMD's lane, over all its waves, and how they are dealt out.
    pub vgprs: u32,
    vgpr_granule: u32,
    /// Scalar registers of a SIMD where they are dealt out; 0 where each wave has its own.
    sgprs: u32,
    /// Bytes of local memory of a compute unit.
    pub local_bytes: u32,
    /// Bytes that local memory moves in a cycle.
    pub local_bytes_per_cycle: u32,
    /// Bytes that the first cache moves in a cycle.
    pub global_bytes_per_cycle: u32,
    /// Products of f16 that a SIMD's matrix unit adds up in a cycle; 0 where it has none.
    pub matrix_rate: u32,
    /// Whether other vector instructions issue while it does.
    pub matrix_beside_vector: bool,
    /// Compute units of the best-known card with this chip.
    pub units: u32,
    /// Local memory that a work-group may take.
    pub group_local_bytes: u32,
}

const GCN: Target = Target {
    name: "gfx803",
    wave: 64,
    cycles: 4,
    simds: 4,
    most_waves: 10,
    vgprs: 256,
    vgpr_granule: 4,
    sgprs: 800,
    local_bytes: 64 << 10,
    local_bytes_per_cycle: 128,
    global_bytes_per_cycle: 64,
    matrix_rate: 0,
    matrix_beside_vector: true,
    units: 36,
    group_local_bytes: 32 << 10,
};

const VEGA: Target = Target { name: "gfx900", units: 64, group_local_bytes: 64 << 10, ..GCN };

const CDNA: Target = Target {
    name: "gfx90a",
    most_waves: 8,
    vgprs: 512,
    vgpr_granule: 8,
    matrix_rate: 128,
    units: 104,
    ..VEGA
};

const RDNA: Target = Target {
    name: "gfx1030",
    wave: 32,
    cycles: 1,
    simds: 2,
    most_waves: 16,
    vgprs: 1024,
    vgpr_granule: 16,
    sgprs: 0,
    global_bytes_per_cycle: 128,
    matrix_beside_vector: false,
    units: 72,
    ..VEGA
};

const RDNA3: Target = Target { vgprs: 1536, vgpr_granule: 24, ..RDNA };

/// Every chip, the oldest first.
pub const TARGETS: [Target; 8] = [
    GCN,
    VEGA,
    Target { name: "gfx906", units: 60, ..VEGA },
    CDNA,
    Target { name: "gfx942", matrix_rate: 256, units: 304, ..CDNA },
    RDNA,
    Target { name: "gfx1100", matrix_rate: 128, units: 96, ..RDNA3 },
    Target { name: "gfx1201", matrix_rate: 256, units: 64, ..RDNA3 },
];

/// Scalar registers are dealt out in sixteens, local memory in 512 bytes.
const SGPR_GRANULE: u32 = 16;
const LOCAL_GRANULE: u32 = 512;

impl Target {
    /// The chip of that name.
    pub fn find(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Waves that fit a SIMD at once: what registers and local memory leave room for. 0 if not
    /// even one work-group fits.
    pub fn waves(&self, facts: &Facts) -> u32 {
        let by_vgprs = self.vgprs / facts.vgprs.max(1).next_multiple_of(self.vgpr_granule);
        let by_sgprs = match self.sgprs {
            0 => self.most_waves,
            sgprs => sgprs / facts.sgprs.max(1).next_multiple_of(SGPR_GRANULE),
        };
        let by_registers = by_vgprs.min(by_sgprs).min(self.most_waves);
        // Work-groups of a compute unit, and their waves over its SIMDs.
        let group_waves = facts.work_group.div_ceil(self.wave).max(1);
        let groups = match facts.local_bytes {
            0 => u32::MAX,
            bytes => self.local_bytes / bytes.next_multiple_of(LOCAL_GRANULE),
        };
        let by_local = (groups.saturating_mul(group_waves) / self.simds)
            .max(u32::from(groups > 0 && group_waves < self.simds));
        by_registers.min(by_local)
    }

    /// A card with this chip as its driver would describe it, for what is decided where there is
    /// none: an RX 580, RX Vega 64, Radeon VII, MI210, MI300X, RX 6800 XT, RX 7900 XTX or
    /// RX 9070 XT.
    pub fn card(&self) -> DeviceInfo {
        DeviceInfo {
            backend: "opencl",
            name: self.name.to_owned(),
            vendor: "AMD".to_owned(),
            platform: "none: chosen by the static report".to_owned(),
            driver: String::new(),
            kind: DeviceKind::Gpu,
            compute_units: self.units,
            memory_bytes: 8 << 30,
            max_allocation_bytes: 8 << 30,
            local_memory_bytes: u64::from(self.group_local_bytes),
            local_memory_is_fast: true,
            max_work_group: 256,
            vector_width: 1,
            matrix_units: self.matrix_rate > 0,
            amx: false,
            sub_group: None,
            architecture: None,
            pci_address: None,
        }
    }

    /// The chip's number as its libraries have it: 8003 for gfx803, 9010 for gfx90a.
    pub(super) fn isa_version(&self) -> u32 {
        let digits = self.name.trim_start_matches("gfx");
        let (major, rest) = digits.split_at(digits.len() - 2);
        let digit = |at: usize| u32::from_str_radix(&rest[at..=at], 16).expect("a hex digit");
        major.parse::<u32>().expect("a number") * 1000 + digit(0) * 100 + digit(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_what_the_scarcest_resource_leaves() {
        let facts = |vgprs, sgprs, local_bytes, work_group| Facts {
            vgprs,
            sgprs,
            local_bytes,
            work_group,
            ..Facts::default()
        };
        let chip = |name| Target::find(name).unwrap();
        for (why, target, facts, waves) in [
            ("nothing binds", "gfx803", facts(16, 16, 0, 256), 10),
            ("84 vector registers", "gfx803", facts(84, 16, 0, 256), 3),
            ("one more", "gfx803", facts(85, 16, 0, 256), 2),
            ("100 scalar registers", "gfx803", facts(16, 100, 0, 256), 7),
            ("five groups of four waves", "gfx803", facts(24, 16, 12 << 10, 256), 5),
            ("two groups of one wave", "gfx803", facts(24, 16, 32 << 10, 64), 1),
            ("no group fits", "gfx803", facts(24, 16, 65 << 10, 256), 0),
            ("half as many waves in twice the registers", "gfx90a", facts(128, 100, 0, 256), 4),
            ("waves of 32", "gfx1030", facts(84, 100, 0, 256), 10),
            ("registers in 24s", "gfx1100", facts(97, 100, 0, 256), 12),
        ] {
            assert_eq!(chip(target).waves(&facts), waves, "{why}");
        }
    }

    #[test]
    fn a_chip_has_the_number_of_its_name() {
        let numbers = TARGETS.map(|target| target.isa_version());
        assert_eq!(numbers, [8003, 9000, 9006, 9010, 9402, 10300, 11000, 12001]);
    }
}
