//! What known hardware should reach, by its data sheet: what measured peaks are held against.
//!
//! A preset is arithmetic on facts (units, lanes, clock, bus), never a measurement.

use std::fs;

use crate::info::{DeviceInfo, DeviceKind};

/// What a device should reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// How the figures follow from facts, for people.
    pub facts: String,
    /// Multiply-adds of f32, two operations each.
    pub f32_gflop_s: f64,
    /// The same in f16, where the device has arithmetic of its own for it.
    pub f16_gflop_s: Option<f64>,
    /// Dot products of bytes, two operations a product.
    pub int8_gop_s: Option<f64>,
    /// Memory, reads and writes together.
    pub memory_gb_s: Option<f64>,
    /// Local memory of all compute units.
    pub local_memory_gb_s: Option<f64>,
}

/// How much of a device's free memory to hold by default, at most.
///
/// A driver needs some of a card's memory for itself once work begins: compiled programs, queues,
/// the registers that a kernel spills. The host's memory serves every program that runs, and the
/// files that the system keeps in it.
pub fn memory_fraction(info: &DeviceInfo) -> f64 {
    match info.kind {
        DeviceKind::Gpu => 0.95,
        DeviceKind::Cpu => 0.9,
    }
}

/// Whether an architecture's cards are used through HIP where OpenCL offers them too.
///
/// So are those that ROCm supports, whose HIP its maker tests. Others, gfx803 among them, have an
/// OpenCL that works, and a HIP that is built by their users if at all.
pub(super) fn prefers_hip(architecture: &str) -> bool {
    const SUPPORTED: [&str; 9] =
        ["gfx906", "gfx908", "gfx90a", "gfx94", "gfx95", "gfx1030", "gfx110", "gfx115", "gfx120"];
    SUPPORTED.iter().any(|start| architecture.starts_with(start))
}

/// What the drivers of an architecture's cards are told by variables before they are opened.
pub(super) fn environment(architecture: &str) -> &'static [(&'static str, &'static str)] {
    match architecture {
        // As every guide to ROCm on these cards has it: copies by the card's own engines go wrong.
        "gfx803" => &[("HSA_ENABLE_SDMA", "0")],
        _ => &[],
    }
}

impl Preset {
    /// What is known of a device; `None` where nothing is.
    pub fn find(info: &DeviceInfo) -> Option<Self> {
        match info.kind {
            DeviceKind::Gpu => card(&info.name, info.compute_units),
            DeviceKind::Cpu => {
                let text = fs::read_to_string("/proc/cpuinfo").ok()?;
                let most = "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq";
                let most = fs::read_to_string(most).ok().and_then(|khz| khz.trim().parse().ok());
                processor(&text, most.map(|khz: f64| khz / 1e6), info.compute_units)
            }
        }
    }
}

/// A card's data sheet: boost clocks of the reference design.
struct Card {
    /// Words that the name must have, in lower case.
    words: &'static [&'static str],
    units: u32,
    /// f32 multiply-adds a cycle of a unit.
    lanes: u32,
    mhz: u32,
    memory_gb_s: f64,
    /// How many times as fast f16 and dot products of bytes are, where there is such arithmetic.
    f16: Option<f64>,
    int8: Option<f64>,
}

/// Bytes of local memory that a unit reads in a cycle: 32 banks of 4.
const LOCAL_BYTES: f64 = 128.0;

const fn card_of(
    words: &'static [&'static str],
    (units, lanes, mhz): (u32, u32, u32),
    memory_gb_s: f64,
    f16: Option<f64>,
    int8: Option<f64>,
) -> Card {
    Card { words, units, lanes, mhz, memory_gb_s, f16, int8 }
}

/// The first that fits counts, so special names stand before general ones.
const CARDS: &[Card] = &[
    // Polaris: f16 at the rate of f32, bytes as integers.
    card_of(&["rx 580 2048sp"], (32, 64, 1284), 224.0, Some(1.0), None),
    card_of(&["rx 590 gme"], (36, 64, 1380), 256.0, Some(1.0), None),
    card_of(&["rx 590"], (36, 64, 1545), 256.0, Some(1.0), None),
    card_of(&["rx 580"], (36, 64, 1340), 256.0, Some(1.0), None),
    card_of(&["rx 570"], (32, 64, 1244), 224.0, Some(1.0), None),
    card_of(&["rx 480"], (36, 64, 1266), 256.0, Some(1.0), None),
    card_of(&["rx 470"], (32, 64, 1206), 211.0, Some(1.0), None),
    // Drivers that tell only the chip.
    card_of(&["ellesmere"], (36, 64, 1340), 256.0, Some(1.0), None),
    card_of(&["gfx803"], (36, 64, 1340), 256.0, Some(1.0), None),
    card_of(&["polaris10"], (36, 64, 1340), 256.0, Some(1.0), None),
    card_of(&["rx vega 64"], (64, 64, 1546), 483.8, Some(2.0), None),
    card_of(&["radeon vii"], (60, 64, 1750), 1024.0, Some(2.0), Some(4.0)),
    card_of(&["gtx 1060 6gb"], (10, 128, 1708), 192.2, None, Some(4.0)),
    card_of(&["gtx 1080 ti"], (28, 128, 1582), 484.4, None, Some(4.0)),
    card_of(&["rtx 2060"], (30, 64, 1680), 336.0, Some(2.0), Some(4.0)),
    card_of(&["rtx 3060 ti"], (38, 128, 1665), 448.0, Some(1.0), Some(2.0)),
    card_of(&["rtx 3060"], (28, 128, 1777), 360.0, Some(1.0), Some(2.0)),
    card_of(&["rtx 3090"], (82, 128, 1695), 936.2, Some(1.0), Some(2.0)),
    card_of(&["rtx 4090"], (128, 128, 2520), 1008.0, Some(1.0), Some(2.0)),
    card_of(&["rtx 5090"], (170, 128, 2407), 1792.0, Some(1.0), Some(2.0)),
    card_of(&["a100"], (108, 64, 1410), 1555.0, Some(4.0), Some(4.0)),
    card_of(&["h100", "hbm3"], (132, 128, 1980), 3350.0, Some(2.0), Some(2.0)),
    card_of(&["h200"], (132, 128, 1980), 4800.0, Some(2.0), Some(2.0)),
];

fn card(name: &str, units: u32) -> Option<Preset> {
    let name = name.to_lowercase();
    let card = CARDS.iter().find(|card| card.words.iter().all(|word| name.contains(word)))?;
    // Another number of units is another card under the same chip's name.
    if card.units != units {
        return None;
    }
    let cycles = f64::from(card.units) * f64::from(card.mhz) / 1e3;
    let f32_gflop_s = 2.0 * f64::from(card.lanes) * cycles;
    Some(Preset {
        facts: format!("{} units x {} lanes x {} MHz", card.units, card.lanes, card.mhz),
        f32_gflop_s,
        f16_gflop_s: card.f16.map(|times| times * f32_gflop_s),
        int8_gop_s: card.int8.map(|times| times * f32_gflop_s),
        memory_gb_s: Some(card.memory_gb_s),
        local_memory_gb_s: Some(LOCAL_BYTES * cycles),
    })
}

/// What a Linux kernel says of the processor; `most_ghz` is its boost clock where that is known.
fn processor(text: &str, most_ghz: Option<f64>, cores: u32) -> Option<Preset> {
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let number = |name| field(name).and_then(|value| value.parse::<u32>().ok());
    // Some drivers count threads that share a core's vectors, or make units up.
    let threads = text.lines().filter(|line| line.starts_with("processor")).count() as u32;
    let cores = cores.min(threads.max(1));
    let lanes = lanes(field("vendor_id")?, number("cpu family")?, number("model")?)?;
    let (ghz, which) = match most_ghz {
        Some(ghz) => (ghz, "at most"),
        None => (field("cpu MHz")?.parse::<f64>().ok()? / 1e3, "nominally; it may run faster"),
    };
    Some(Preset {
        facts: format!("{cores} cores x {lanes} lanes x {ghz:.2} GHz {which}"),
        f32_gflop_s: 2.0 * f64::from(cores) * f64::from(lanes) * ghz,
        f16_gflop_s: None,
        int8_gop_s: None,
        memory_gb_s: None,
        local_memory_gb_s: None,
    })
}

/// f32 multiply-adds a cycle of a core: lanes of a vector times units that multiply and add.
fn lanes(vendor: &str, family: u32, model: u32) -> Option<u32> {
    match (vendor, family, model) {
        // Zen: halves of 256 bits. Zen 2 and 3: two of 256. Zen 4: one of 512, in halves.
        ("AuthenticAMD", 0x17, 0x00..0x30) => Some(8),
        ("AuthenticAMD", 0x17, _) => Some(16),
        ("AuthenticAMD", 0x19, _) => Some(16),
        // Zen 5: two of 512, those for laptops apart.
        ("AuthenticAMD", 0x1a, 0x00..0x20 | 0x40..0x50) => Some(32),
        // Haswell to Comet Lake, Alder and Raptor Lake: two of 256.
        ("GenuineIntel", 6, 0x3c | 0x3f | 0x45 | 0x46 | 0x3d | 0x47 | 0x4f | 0x56) => Some(16),
        ("GenuineIntel", 6, 0x4e | 0x5e | 0x8e | 0x9e | 0xa5 | 0xa6) => Some(16),
        ("GenuineIntel", 6, 0x97 | 0x9a | 0xb7 | 0xba | 0xbf) => Some(16),
        // Servers from Ice Lake on: two of 512.
        ("GenuineIntel", 6, 0x6a | 0x6c | 0x8f | 0xcf | 0xad) => Some(32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_its_data_sheet() {
        let preset = card("AMD Radeon RX 580 Series", 36).unwrap();
        assert!((preset.f32_gflop_s - 6174.7).abs() < 0.1, "{preset:?}");
        assert_eq!(preset.memory_gb_s, Some(256.0));
        assert_eq!(preset.f16_gflop_s, Some(preset.f32_gflop_s));
        assert_eq!(preset.int8_gop_s, None);
        let h100 = card("NVIDIA H100 80GB HBM3", 132).unwrap();
        assert!((h100.f32_gflop_s - 66_908.0).abs() < 1.0, "{h100:?}");
    }

    #[test]
    fn a_chip_with_other_units_is_another_card() {
        assert_eq!(card("Ellesmere", 32), None);
        assert_eq!(card("AMD Radeon RX 580 2048SP", 36), None);
        assert!(card("AMD Radeon RX 580 2048SP", 32).is_some());
        assert_eq!(card("llvmpipe (LLVM 15.0.6, 256 bits)", 2), None);
    }

    #[test]
    fn a_processor_is_cores_times_lanes_times_clock() {
        let text = "processor\t: 0\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n\
                    model name\t: AMD EPYC\ncpu MHz\t\t: 2600.000\n";
        let nominal = processor(text, None, 2).unwrap();
        assert!((nominal.f32_gflop_s - 166.4).abs() < 1e-9, "{nominal:?}");
        assert_eq!(nominal.facts, "2 cores x 16 lanes x 2.60 GHz nominally; it may run faster");
        assert_eq!(processor(text, None, 8), processor(text, None, 2), "units made up");
        let boost = processor(text, Some(3.7), 2).unwrap();
        assert!((boost.f32_gflop_s - 236.8).abs() < 1e-9, "{boost:?}");
        assert_eq!(processor(&text.replace(": 25", ": 99"), None, 2), None);
        assert_eq!(processor("", None, 2), None);
    }
}
