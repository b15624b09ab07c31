//! Launches that are limited in time: cut into parts, with the same result to the bit.
//!
//! The limit here is a nanosecond, so that every launch of more work-groups than run at once is cut
//! into parts as small as parts may be, whatever the machine does beside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ellesmere::bench::{CASES, Case, Sizes};
use ellesmere::hardware::DeviceEntry;
use ellesmere::info::{DeviceInfo, DeviceKind};
use ellesmere::profile::Record;
use ellesmere::{DType, Device, DeviceOptions};
use tempfile::TempDir;

#[path = "common/claiming.rs"]
mod claiming;
#[path = "common/required.rs"]
mod required;
#[path = "common/tested.rs"]
mod tested;

use claiming::Claiming;

const LIMIT: Duration = Duration::from_nanos(1);

/// Every device but the host itself.
fn entries() -> Vec<DeviceEntry> {
    let mut entries = tested::entries();
    required::check(entries.iter().map(|entry| &entry.info));
    entries.retain(|entry| entry.id != "cpu");
    entries
}

/// A device that runs what GPUs run, by matrix units where elements are f16, and on which two
/// work-groups at once are enough.
fn as_gpu(entry: &DeviceEntry, options: &DeviceOptions) -> Device {
    let inner = entry.open().unwrap();
    let (kind, matrix_units) = (DeviceKind::Gpu, true);
    let (vector_width, compute_units, info) = (1, 2, inner.info().clone());
    let info = DeviceInfo { kind, vector_width, compute_units, matrix_units, ..info };
    let device = Device::new(Arc::new(Claiming::new(inner, info)), options);
    device.profile().set_enabled(true);
    device
}

fn options(launch_limit: Option<Duration>) -> DeviceOptions {
    DeviceOptions { launch_limit, poison: true, ..DeviceOptions::default() }
}

/// Sizes of several work-groups along each axis of each kernel's grid.
fn sizes(case: &Case) -> Sizes {
    let sizes: &[(&str, usize)] = match case.op {
        "attention" => {
            &[("samples", 2), ("queries", 130), ("keys", 67), ("heads", 3), ("head_width", 8)]
        }
        "cast" => &[("elements", 5003)],
        "conv2d" => &[("height", 19), ("width", 13), ("channels", 9), ("outputs", 133)],
        "conv2d_few_inputs" => &[("height", 19), ("width", 19), ("channels", 3), ("outputs", 133)],
        "conv2d_few_outputs" => &[("height", 19), ("width", 19), ("channels", 18), ("outputs", 4)],
        "gaussian_sample" => &[("height", 23), ("width", 17), ("channels", 4)],
        "geglu" => &[("rows", 5), ("channels", 517)],
        "gemm" => &[("rows", 195), ("outputs", 133), ("inputs", 21)],
        "gemm_split" => &[("rows", 67), ("outputs", 70), ("inputs", 77), ("slices", 4)],
        "gemv" => &[("rows", 3), ("outputs", 197), ("inputs", 21)],
        "group_norm" => &[("samples", 5), ("pixels", 300), ("channels", 12), ("groups", 3)],
        "layer_norm" => &[("rows", 9), ("channels", 70)],
        "peak_fma" => &[("elements", 2000), ("turns", 3)],
        "peak_int8" => &[("elements", 2000), ("turns", 3)],
        "peak_launch" => &[("value", 3)],
        "peak_local" => &[("groups", 5), ("turns", 2)],
        "peak_memory" => &[("elements", 9001)],
        "qgemm_i8" => &[("rows", 195), ("outputs", 133), ("inputs", 64)],
        "timestep_embedding" => &[("samples", 3), ("width", 320)],
        "token_embedding" => &[("samples", 2), ("length", 5), ("channels", 130), ("vocabulary", 9)],
        "winograd_local" => &[("height", 13), ("width", 19), ("channels", 16), ("outputs", 70)],
        "winograd" => &[("height", 13), ("width", 19), ("channels", 70), ("outputs", 133)],
        op => panic!("{op} has no sizes here"),
    };
    let sizes: Vec<_> = sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    case.sizes(&sizes).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn launches(device: &Device) -> Vec<Record> {
    let mut records = device.profile().records();
    records.retain(|record| record.launch.is_some());
    records
}

#[test]
fn every_kernel_that_gpus_run_gives_the_same_in_parts() {
    for entry in entries() {
        let platform = &entry.info.platform;
        // A part's place has nothing to do with types, and llvmpipe's compiler takes its time.
        let is_slow = platform.starts_with("rusticl");
        let dtypes = if is_slow { &DType::ALL[..1] } else { &DType::ALL[..] };
        let (whole, limited) =
            (as_gpu(&entry, &options(None)), as_gpu(&entry, &options(Some(LIMIT))));
        assert!(limited.notes().is_empty(), "{:?}", limited.notes());
        for case in CASES {
            let sizes = sizes(case);
            for &dtype in dtypes {
                eprintln!("{} {dtype} on {platform}", case.op);
                let expected = bits(&case.result(&whole, dtype, &sizes).unwrap());
                // The second time nothing is waited for any more.
                for time in ["first", "second"] {
                    let actual = bits(&case.result(&limited, dtype, &sizes).unwrap());
                    assert!(actual == expected, "{} {dtype} on {platform}, {time}", case.op);
                }
            }
        }
        let all: BTreeSet<&str> = launches(&whole).iter().map(|record| record.name).collect();
        assert!(launches(&whole).iter().all(|record| record.parts == 1));
        let cut = launches(&limited).into_iter().filter(|record| record.parts > 1);
        let mut cut: BTreeSet<&str> = cut.map(|record| record.name).collect();
        // Of one work-group.
        cut.insert("peak_launch");
        assert_eq!(cut, all, "on {platform}");
    }
}

#[test]
fn a_limit_that_nothing_reaches_cuts_nothing_once_that_is_known() {
    for entry in entries() {
        let limited = as_gpu(&entry, &options(Some(Duration::from_secs(3600))));
        let case = Case::find("layer_norm").unwrap();
        for _ in 0..12 {
            case.result(&limited, DType::F32, &sizes(case)).unwrap();
        }
        let parts: Vec<usize> = launches(&limited).iter().map(|record| record.parts).collect();
        assert!(parts[0] > 1, "the first one is careful: {parts:?}");
        assert_eq!(parts.last(), Some(&1), "{parts:?}");
    }
}

#[test]
fn a_launch_in_parts_is_timed_as_one() {
    for entry in entries() {
        let limited = as_gpu(&entry, &options(Some(LIMIT)));
        let case = Case::find("geglu").unwrap();
        {
            let _stage = limited.stage("all");
            case.result(&limited, DType::F32, &sizes(case)).unwrap();
        }
        let record = &launches(&limited)[0];
        assert!(record.parts > 1, "{record:?}");
        // rusticl 22.3 has no clock.
        if let (Some(all), Some(longest)) = (record.device, record.longest) {
            assert!(longest <= all && all <= longest * record.parts as u32, "{record:?}");
        }
        let told = limited.profile().report().launches.unwrap();
        assert_eq!((told.count, told.parts), (1, record.parts as u64));
        assert_eq!(told.limit, Some(LIMIT));
    }
}

#[test]
fn programs_with_and_without_a_limit_are_kept_apart_on_disk() {
    for entry in entries() {
        let folder = TempDir::new().unwrap();
        let case = Case::find("geglu").unwrap();
        let run = |launch_limit| {
            let cache_dir = Some(folder.path().to_owned());
            let device = as_gpu(&entry, &DeviceOptions { cache_dir, ..options(launch_limit) });
            let result = bits(&case.result(&device, DType::F32, &sizes(case)).unwrap());
            (result, launches(&device)[0].parts > 1, device.program_stats().built)
        };
        let (expected, is_cut, built) = run(None);
        assert!(!is_cut && built == 1);
        for time in ["first", "second"] {
            let (result, is_cut, _) = run(Some(LIMIT));
            assert!(result == expected && is_cut, "{time} on {}", entry.info.platform);
        }
    }
}

#[test]
fn times_with_and_without_a_limit_are_kept_apart() {
    let entries = entries();
    let Some(entry) = entries.first() else { return };
    let folder = TempDir::new().unwrap();
    let open = |launch_limit| {
        let cache_dir = Some(folder.path().to_owned());
        as_gpu(entry, &DeviceOptions { cache_dir, launch_limit, ..DeviceOptions::default() })
    };
    let (whole, limited) = (open(None), open(Some(LIMIT)));
    let case = Case::find("geglu").unwrap();
    let recorded = |device: &Device| {
        let dry = device.dry_run();
        case.result(&dry, DType::F32, &sizes(case)).unwrap();
        (dry.recorded_stages().unwrap().0, dry.recorded(), dry.memory_stats().peak_held_bytes)
    };
    assert_eq!(format!("{:?}", recorded(&whole)), format!("{:?}", recorded(&limited)));
    let (launches, ..) = recorded(&whole);
    let seconds = |device: &Device| device.measure_seconds(&launches, |_, _| Ok(())).unwrap();
    assert!(seconds(&whole)[0].is_some());
    assert_eq!(open(Some(LIMIT)).known_seconds(&launches), [None]);
    assert!(seconds(&limited)[0].is_some());
    assert_eq!(open(None).known_seconds(&launches), seconds(&whole));
    assert_eq!(open(Some(LIMIT)).known_seconds(&launches), seconds(&limited));
}

#[test]
fn the_host_itself_says_that_it_has_no_limit() {
    let options = DeviceOptions { launch_limit: Some(LIMIT), ..DeviceOptions::default() };
    let notes = Device::cpu_with(&options).notes();
    assert!(notes.len() == 1 && notes[0].contains("launch limit has no effect"), "{notes:?}");
    assert!(Device::cpu().notes().is_empty());
}
