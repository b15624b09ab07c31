//! What binds a run: which of a device's measured limits it comes closest to.

use serde::{Deserialize, Serialize};

use super::peak::Peaks;
use crate::kernel::Configuration;
use crate::profile::Work;

/// What a run cannot be quicker than.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Multiply-adds of f32.
    Compute,
    /// Memory, at the best of its rates.
    Memory,
    /// Reads of local memory.
    LocalMemory,
    /// That a launch takes time, whatever it does.
    Launch,
    /// Memory would bind, but the run is quicker than memory: its data stay in a cache, whose
    /// limit is not measured.
    Cache,
}

impl Limit {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Compute => "compute",
            Limit::Memory => "memory",
            Limit::LocalMemory => "local memory",
            Limit::Launch => "launch latency",
            Limit::Cache => "cache",
        }
    }
}

/// How near a run is to what binds it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// What binds.
    pub binds: Limit,
    /// The time that this limit alone asks for, in percent of the time that was taken. More than
    /// 100 if the data stay in a cache.
    pub percent_of_peak: f64,
}

/// The limit that asks for the most time, of launches of these kernels that together took
/// `seconds`.
pub fn bound<'a>(
    peaks: &Peaks,
    launches: impl IntoIterator<Item = (&'a str, &'a Configuration, Work)>,
    seconds: f64,
) -> Bound {
    let (mut flop, mut bytes, mut local, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (kernel, configuration, work) in launches {
        flop += work.flop as f64;
        bytes += work.bytes as f64;
        local += local_bytes(kernel, configuration, work);
        count += 1.0;
    }
    let asked = [
        (Limit::Compute, flop / (peaks.f32.value * 1e9)),
        (Limit::Memory, bytes / (peaks.memory_gb_s() * 1e9)),
        (Limit::LocalMemory, local / (peaks.local_memory.value * 1e9)),
        (Limit::Launch, count * peaks.launch_back_to_back.value / 1e6),
    ];
    let most = |best: (Limit, f64), next: (Limit, f64)| if next.1 > best.1 { next } else { best };
    let (binds, least) = asked.into_iter().fold(asked[0], most);
    let percent_of_peak = 100.0 * least / seconds.max(1e-9);
    // Two measurements of one memory differ by a few percent.
    let cached = binds == Limit::Memory && percent_of_peak > 105.0;
    Bound { binds: if cached { Limit::Cache } else { binds }, percent_of_peak }
}

/// What a launch reads of local memory. Products by tiles read `ITEM_M` and `ITEM_N` floats for as
/// many multiply-adds as the product of both; other kernels read little of it.
fn local_bytes(kernel: &str, configuration: &Configuration, work: Work) -> f64 {
    let value = |wanted: &str| {
        let found = configuration.values().iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| f64::from(*value))
    };
    match (value("ITEM_M"), value("ITEM_N")) {
        (Some(m), Some(n)) if kernel.ends_with("_local") => {
            4.0 * work.flop as f64 / 2.0 * (1.0 / m + 1.0 / n)
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::kernel::Kernel;

    #[test]
    fn the_slowest_resource_binds() {
        // 100 GFLOP/s, 10 GB/s, local memory 200 GB/s, 5 us a launch.
        let peaks = super::super::peak::tests::made_up(Device::cpu().info());
        let configuration = |name: &str| {
            let kernel = Kernel::find(name).unwrap();
            (kernel.name, Configuration::defaults(kernel.parameters))
        };
        let (register, cast) = (configuration("gemm_register"), configuration("cast"));
        let mut local = configuration("gemm_local");
        local.1.set("ITEM_M", 4);
        local.1.set("ITEM_N", 4);
        let cases = [
            ("many operations", &register, (1_000_000_000, 1000), 0.02, Limit::Compute, 50.0),
            ("many bytes", &cast, (0, 1_000_000_000), 0.2, Limit::Memory, 50.0),
            ("bytes that stay near", &cast, (0, 1_000_000_000), 0.05, Limit::Cache, 200.0),
            // 4 x 4 multiply-adds from 8 floats: a byte for each operation.
            ("small tiles", &local, (1_000_000_000, 1000), 0.02, Limit::Compute, 50.0),
            ("little work", &cast, (0, 100), 10e-6, Limit::Launch, 50.0),
        ];
        for (why, (kernel, configuration), (flop, bytes), seconds, binds, percent) in cases {
            let launch = (*kernel, configuration, Work { flop, bytes });
            let found = bound(&peaks, [launch], seconds);
            assert_eq!(found.binds, binds, "{why}");
            assert!((found.percent_of_peak - percent).abs() < 1e-6, "{why}: {found:?}");
        }
        let mut slow_local = peaks.clone();
        slow_local.local_memory.value = 10.0;
        let launch = (local.0, &local.1, Work { flop: 1_000_000_000, bytes: 1000 });
        let found = bound(&slow_local, [launch], 0.2);
        assert_eq!(found, Bound { binds: Limit::LocalMemory, percent_of_peak: 50.0 });
    }
}
