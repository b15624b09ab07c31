//! Every kernel once, at sizes small enough for a simulator: `tools/check` runs this under
//! Oclgrind, which finds reads and writes out of bounds, races, and reads of what nobody wrote.
//!
//! A device is also asked to run what it would not choose by itself, so that kernels for GPUs and
//! kernels for CPUs both run wherever there is a driver for either.

use std::collections::BTreeSet;
use std::sync::Arc;

use ellesmere::bench::{CASES, Case, Sizes};
use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::kernel::KERNELS;
use ellesmere::{DType, Device, DeviceOptions};

#[path = "common/claiming.rs"]
mod claiming;
#[path = "common/required.rs"]
mod required;
#[path = "common/tested.rs"]
mod tested;

use claiming::Claiming;

/// Sizes that end in the middle of a tile, a vector and a work-group, with a second one of each
/// where that is not much.
fn small(case: &Case) -> Sizes {
    let sizes: &[(&str, usize)] = match case.op {
        "attention" => {
            &[("samples", 1), ("queries", 66), ("keys", 67), ("heads", 2), ("head_width", 8)]
        }
        "cast" => &[("elements", 1031)],
        "conv2d" => &[("height", 9), ("width", 11), ("channels", 9), ("outputs", 37)],
        "conv2d_few_inputs" => &[("height", 5), ("width", 19), ("channels", 3), ("outputs", 37)],
        "conv2d_few_outputs" => &[("height", 5), ("width", 19), ("channels", 18), ("outputs", 4)],
        "gaussian_sample" => &[("height", 3), ("width", 7), ("channels", 4)],
        "geglu" => &[("rows", 3), ("channels", 37)],
        "gemm" => &[("rows", 67), ("outputs", 37), ("inputs", 21)],
        "gemm_split" => &[("rows", 35), ("outputs", 37), ("inputs", 77), ("slices", 2)],
        "gemv" => &[("rows", 3), ("outputs", 37), ("inputs", 21)],
        "group_norm" => &[("samples", 2), ("pixels", 70), ("channels", 12), ("groups", 3)],
        "layer_norm" => &[("rows", 3), ("channels", 70)],
        "peak_fma" => &[("elements", 37), ("turns", 3)],
        "peak_int8" => &[("elements", 37), ("turns", 3)],
        "peak_launch" => &[("value", 3)],
        "peak_local" => &[("groups", 2), ("turns", 2)],
        "peak_memory" => &[("elements", 1031)],
        "qgemm_i8" => &[("rows", 67), ("outputs", 37), ("inputs", 64), ("columns", 21)],
        "timestep_embedding" => &[("samples", 2), ("width", 10)],
        "token_embedding" => &[("samples", 2), ("length", 5), ("channels", 12), ("vocabulary", 9)],
        "winograd_local" => &[("height", 5), ("width", 7), ("channels", 16), ("outputs", 37)],
        "winograd" => &[("height", 5), ("width", 7), ("channels", 6), ("outputs", 37)],
        op => panic!("{op} has no small sizes here"),
    };
    let sizes: Vec<_> = sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    case.sizes(&sizes).unwrap()
}

/// Kinds of devices, with the width of their vectors, and what they have beside these.
const AS: [(DeviceKind, u32, Units); 4] = [
    (DeviceKind::Gpu, 1, Units::None),
    (DeviceKind::Cpu, 8, Units::None),
    (DeviceKind::Gpu, 1, Units::Matrix),
    (DeviceKind::Cpu, 16, Units::Amx),
];

/// Units that change what some ops launch, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Units {
    None,
    Matrix,
    Amx,
}

impl Units {
    /// Whether a kernel is for them alone.
    fn have(self, kernel: &str) -> bool {
        match self {
            Units::None => true,
            Units::Matrix => kernel.ends_with("_matrix"),
            Units::Amx => kernel.ends_with("_amx"),
        }
    }
}

#[test]
fn agrees_with_its_definition_as_on_a_gpu_and_as_on_a_cpu() {
    let entries = tested::entries();
    required::check(entries.iter().map(|entry| &entry.info));
    for entry in &entries {
        let mut launched = BTreeSet::new();
        // llvmpipe's compiler takes minutes over tiles in registers, and is never given them.
        let platform = &entry.info.platform;
        // A compiler for GPUs has no room for the tiles that a CPU's registers hold.
        let for_gpus_alone = platform.starts_with("rusticl") || platform.starts_with("HIP");
        let kinds = if for_gpus_alone { &AS[..1] } else { &AS[..] };
        for &(kind, vector_width, units) in kinds {
            let inner = entry.open().unwrap();
            let (matrix_units, amx) = (units == Units::Matrix, units == Units::Amx);
            let info = DeviceInfo { kind, vector_width, matrix_units, amx, ..inner.info().clone() };
            let backend = Arc::new(Claiming::new(inner, info));
            // What nobody wrote is a NaN on every device. Oclgrind does not know that of what a kernel
            // writes: to it a buffer is what the host has written of it.
            let options = DeviceOptions { poison: true, ..DeviceOptions::default() };
            let device = Device::new(backend, &options);
            device.profile().set_enabled(true);
            let of_units = |case: &&Case| case.kernels.iter().any(|kernel| units.have(kernel));
            for case in CASES.iter().filter(of_units) {
                let sizes = small(case);
                for dtype in DType::ALL {
                    eprintln!("{} {dtype} as {kind:?} on {platform}, {units:?}", case.op);
                    let agreement = case.agreement(&device, dtype, &sizes).unwrap();
                    let place = format!("{} {dtype} as {kind:?} on {}", case.op, entry.id);
                    assert!(agreement.holds(), "{place}: {agreement:?}");
                }
            }
            let records = device.profile().records();
            launched.extend(records.iter().filter(|r| r.launch.is_some()).map(|r| r.name));
        }
        let all: BTreeSet<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        assert!(
            launched == all || kinds.len() == 1,
            "not launched on {platform}: {:?}",
            all.difference(&launched)
        );
    }
}
