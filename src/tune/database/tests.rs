use std::fs;

use super::file::{Document, FORMAT};
use super::*;
use crate::backend::Backend as _;
use crate::backend::cpu::Cpu;
use crate::io::atomic::beside;
use crate::tune::Recording;

fn info() -> DeviceInfo {
    DeviceInfo {
        max_work_group: 256,
        local_memory_bytes: 32 << 10,
        ..Cpu::definitions().info().clone()
    }
}

fn kernel() -> &'static Kernel {
    Kernel::find("gemm_local").unwrap()
}

fn class(rows: usize) -> Class {
    Class(vec![("rows", rows), ("outputs", 320), ("inputs", 320)])
}

/// An entry of `gemm_local` for this device, by its `TILE_M`.
fn entry(rows: usize, tile_m: u32) -> Entry {
    Entry {
        kernel: "gemm_local".to_owned(),
        dtype: "f32".to_owned(),
        class: class(rows).sizes(),
        shape: BTreeMap::new(),
        source: source_hash(kernel(), DType::F32),
        device: DeviceKey::of(&info()),
        basis: Basis::Measured,
        configuration: BTreeMap::from([("TILE_M".to_owned(), tile_m)]),
        seconds: Some(0.001),
        default_seconds: None,
        runner_up: None,
    }
}

fn with_entries(users: &[Entry], shipped: &[Entry]) -> Database {
    let database = Database::default();
    let users = users.iter().map(|entry| (Source::User, entry.clone()));
    let shipped = shipped.iter().map(|entry| (Source::Shipped, entry.clone()));
    lock(&database.entries).extend(users.chain(shipped));
    database
}

/// The `TILE_M` that a database gives for so many rows, and the last of what it says.
fn tile_m(database: &Database, rows: usize, info: &DeviceInfo) -> (Option<u32>, Vec<Step>) {
    let base = Configuration::defaults(kernel().parameters);
    let class = class(rows);
    let query = Query { kernel: kernel(), dtype: DType::F32, class: &class, base: &base, info };
    let (found, steps) = database.look_up(&query);
    (found.map(|(_, configuration)| configuration.get("TILE_M")), steps)
}

#[test]
fn the_chain_goes_from_the_driver_to_the_architecture_and_the_user_is_asked_first() {
    let own = info();
    let other_driver = DeviceInfo { driver: "another".to_owned(), ..own.clone() };
    let other_device = DeviceInfo { name: "another".to_owned(), ..own.clone() };
    let other_kind = DeviceInfo { vector_width: 1, ..own.clone() };
    let of = |info: &DeviceInfo, tile_m| Entry { device: DeviceKey::of(info), ..entry(64, tile_m) };
    let cases = [
        ("the user's before the shipped", vec![of(&own, 16)], vec![of(&own, 32)], Some(16)),
        ("shipped", vec![], vec![of(&own, 32)], Some(32)),
        (
            "this driver's, though shipped, before another driver's",
            vec![of(&other_driver, 16)],
            vec![of(&own, 32)],
            Some(32),
        ),
        (
            "this device's before another's",
            vec![of(&other_device, 16), of(&other_driver, 64)],
            vec![],
            Some(64),
        ),
        ("another device of this architecture", vec![of(&other_device, 16)], vec![], Some(16)),
        ("another architecture", vec![of(&other_kind, 16)], vec![], None),
        ("nothing", vec![], vec![], None),
    ];
    for (why, users, shipped, expected) in cases {
        let (found, steps) = tile_m(&with_entries(&users, &shipped), 64, &own);
        assert_eq!(found, expected, "{why}");
        assert!(!steps.is_empty(), "{why}");
        assert_eq!(steps.len() == 6, expected.is_none(), "{why}: {steps:?}");
    }
}

#[test]
fn the_nearest_class_answers_up_to_the_cut_off() {
    let database = with_entries(&[entry(64, 16), entry(256, 32), entry(4096, 64)], &[]);
    let cases = [
        ("the same", 64, Some(16)),
        ("between, nearer to the smaller", 100, Some(16)),
        ("between, nearer to the larger", 200, Some(32)),
        ("a factor of 4 away", 1024, Some(32)),
        ("a factor of 5 away", 12, None),
        ("far beyond", 100_000, None),
    ];
    for (why, rows, expected) in cases {
        assert_eq!(tile_m(&database, rows, &info()).0, expected, "{why}");
    }
    let stated = Entry { basis: Basis::Static, seconds: None, ..entry(64, 16) };
    let database = with_entries(&[], &[stated]);
    let default = Configuration::defaults(kernel().parameters).get("TILE_M");
    for (why, rows, expected) in [("its own class", 64, 16), ("a class near", 128, default)] {
        assert_eq!(tile_m(&database, rows, &info()).0, Some(expected), "static, {why}");
    }
    let other = Class(vec![("rows", 64), ("outputs", 320), ("channels", 320)]);
    assert_eq!(distance(&entry(64, 16).class, &other), f64::INFINITY, "sizes of other names");
}

#[test]
fn an_entry_without_values_leaves_what_the_op_suggests_nearby_too() {
    let mut suggested_is_best = entry(128, 16);
    suggested_is_best.configuration.clear();
    let database = with_entries(&[suggested_is_best, entry(512, 32)], &[]);
    let base = Configuration::defaults(kernel().parameters).get("TILE_M");
    assert_ne!(base, 32);
    assert_eq!(tile_m(&database, 128, &info()).0, Some(base));
    assert_eq!(tile_m(&database, 200, &info()).0, Some(base));
    assert_eq!(tile_m(&database, 400, &info()).0, Some(32));
}

#[test]
fn an_entry_that_is_hardly_quicker_than_the_suggestion_answers_for_its_own_class_alone() {
    let base = Configuration::defaults(kernel().parameters).get("TILE_M");
    assert_ne!(base, 32);
    for (why, default_seconds, nearby) in [
        ("4 % quicker", Some(0.00104), base),
        ("6 % quicker", Some(0.00106), 32),
        ("nobody knows", None, 32),
    ] {
        let database = with_entries(&[Entry { default_seconds, ..entry(128, 32) }], &[]);
        assert_eq!(tile_m(&database, 128, &info()).0, Some(32), "{why}");
        assert_eq!(tile_m(&database, 200, &info()).0, Some(nearby), "{why}");
    }
}

#[test]
fn an_entry_that_does_not_fit_the_kernel_as_it_is_answers_nothing_and_is_said() {
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut entry = entry(64, 16);
        change(&mut entry);
        entry
    };
    let value = |name: &str, value: u32| {
        changed(&|entry| entry.configuration = BTreeMap::from([(name.to_owned(), value)]))
    };
    let cases = [
        (changed(&|entry| entry.source = "0123456789abcdef".to_owned()), "of another source"),
        (value("TILE_M", 17), "TILE_M must be one of [16, 32, 64, 128], got 17"),
        (value("TILE_M", u32::MAX), "TILE_M must be one of"),
        (value("TILE_X", 16), "the kernel has no parameter TILE_X"),
        (
            changed(&|entry| {
                let values = [("TILE_N", 128), ("ITEM_M", 4)];
                entry.configuration = values.map(|(name, value)| (name.to_owned(), value)).into();
            }),
            "this must hold: the work-group fits the device",
        ),
    ];
    for (bad, expected) in cases {
        // The next best answers in its place.
        let database = with_entries(&[bad, entry(128, 32)], &[]);
        let (found, steps) = tile_m(&database, 64, &info());
        let said = steps.iter().any(|step| step.found.contains(expected));
        assert!(said, "{expected}: {steps:?}");
        assert_eq!(found, Some(32), "{expected}");
    }
}

#[test]
fn what_is_remembered_is_found_by_the_next_and_replaces_the_older() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not there yet").join("tuning.json");
    let database = Database::open(&path);
    for (rows, tile) in [(64, 16), (256, 32), (64, 64)] {
        database.remember(entry(rows, tile)).unwrap();
    }
    for database in [database, Database::open(&path)] {
        assert_eq!(database.entries().iter().filter(|(s, _)| *s == Source::User).count(), 2);
        assert_eq!(tile_m(&database, 64, &info()).0, Some(64));
        assert_eq!(tile_m(&database, 256, &info()).0, Some(32));
        assert_eq!(database.notes(), [""; 0]);
    }
}

#[test]
fn tuners_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    std::thread::scope(|scope| {
        for tuner in 0..4 {
            // Each has opened the file on its own, as a process does.
            let database = Database::open(&path);
            scope.spawn(move || {
                for number in 0..10 {
                    database.remember(entry(1 + tuner * 100 + number, 16)).unwrap();
                }
            });
        }
    });
    let read = Database::open(&path);
    let users = read.entries().into_iter().filter(|(source, _)| *source == Source::User).count();
    assert_eq!(users, 40);
    assert_eq!(read.notes(), [""; 0]);
}

#[test]
fn a_damaged_file_is_kept_aside_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let cases: [&[u8]; 5] = [
        b"not JSON",
        b"",
        b"\xff\xfe",
        b"{\"format\": \"ellesmere tuning 99\", \"entries\": []}",
        b"{\"format\": \"ellesmere tuning 1\"}",
    ];
    for (number, bytes) in cases.into_iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let database = Database::open(&path);
        let notes = database.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains(": damaged, kept aside as ") && notes[0].lines().count() == 1);
        let kept =
            beside(&path, ["corrupt", "corrupt2", "corrupt3", "corrupt4", "corrupt5"][number]);
        assert_eq!(fs::read(kept).unwrap(), bytes);
        assert!(!path.exists());
        // It goes on without.
        database.remember(entry(64, 16)).unwrap();
        assert_eq!(tile_m(&Database::open(&path), 64, &info()).0, Some(16));
    }
}

#[test]
fn an_entry_that_is_not_understood_is_not_used_but_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let odd = serde_json::json!({"kernel": "of a later version", "more": 1});
    let mut slow = serde_json::to_value(entry(64, 16)).unwrap();
    slow["seconds"] = (-1.0).into();
    let document = Document { format: FORMAT.to_owned(), entries: vec![odd.clone(), slow] };
    fs::write(&path, serde_json::to_string(&document).unwrap()).unwrap();
    let database = Database::open(&path);
    assert!(database.notes()[0].ends_with("not used, 2 of its entries that are malformed"));
    assert_eq!(tile_m(&database, 64, &info()).0, None);
    database.remember(entry(64, 32)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["entries"][0], odd);
    assert_eq!(written["entries"].as_array().unwrap().len(), 3);
}

#[test]
fn entries_of_another_source_are_noted_when_a_device_is_opened() {
    let stale = Entry { source: "0".repeat(16), ..entry(64, 16) };
    let mut database = with_entries(&[stale, entry(128, 16)], &[]);
    database.path = Some(PathBuf::from("tuning.json"));
    database.check(&info());
    let expected = "tuning.json: not used, 1 of its entries, such as gemm_local f32 \
                    inputs=320,outputs=320,rows=64: of another source of the kernel";
    assert_eq!(database.notes(), [expected]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_once_and_the_entry_holds() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: not even the superuser can write below it.
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let path = file.join("tuning.json");
    let database = Database::open(&path);
    for rows in [64, 256] {
        let outcome = database.remember(entry(rows, 16));
        let message = outcome.as_ref().unwrap_err().to_string();
        assert!(message.contains("cannot be written") && message.lines().count() == 1);
        database.note_once(outcome);
    }
    let kept = |note: &&String| note.starts_with("tuned configurations are not kept: ");
    assert_eq!(database.notes().iter().filter(kept).count(), 1, "{:?}", database.notes());
    assert_eq!(tile_m(&database, 64, &info()).0, Some(16));
}

#[test]
fn a_file_of_the_documented_format_is_read() {
    // The example of kernels/tuned/README.md.
    let readme = include_str!("../../../kernels/tuned/README.md");
    let start = readme.find("```json\n").unwrap() + "```json\n".len();
    let example = &readme[start..start + readme[start..].find("```").unwrap()];
    let mut entries = parse(example).unwrap();
    let entry = entries.remove(0).entry.expect("the example is an entry");
    assert!(Kernel::find(&entry.kernel).is_some());
    assert_eq!(entry.runner_up.unwrap().seconds, Some(0.000542));
    let shipped = Database::with_files(None, &[("example", example)]);
    assert_eq!(shipped.entries().len(), 1);
}

#[test]
fn a_recording_gives_its_best_and_second_best() {
    use crate::tune::record::{About, Outcome, Trial};
    let trial = |tile_m: u32, outcome, seconds: &[f64]| Trial {
        configuration: BTreeMap::from([("TILE_M".to_owned(), tile_m)]),
        outcome,
        detail: String::new(),
        runs: seconds.to_vec(),
        compile_seconds: 0.0,
        validate_seconds: 0.0,
        timestamp: String::new(),
    };
    let expected = Entry {
        seconds: Some(0.002),
        runner_up: Some(RunnerUp {
            configuration: BTreeMap::from([("TILE_M".to_owned(), 64)]),
            seconds: Some(0.003),
        }),
        ..entry(64, 32)
    };
    let about = About {
        kernel: expected.kernel.clone(),
        dtype: expected.dtype.clone(),
        source: expected.source.clone(),
        device: expected.device.clone(),
        class: expected.class.clone(),
        shape: BTreeMap::new(),
        default: BTreeMap::new(),
    };
    let trials = vec![
        trial(16, Outcome::Correctness, &[0.001]),
        trial(64, Outcome::Ok, &[0.003]),
        trial(32, Outcome::Ok, &[0.002]),
        trial(128, Outcome::Ok, &[0.004]),
    ];
    let mut recording = Recording { about: Some(about), trials };
    assert_eq!(Entry::of_recording(&recording).unwrap(), Some(expected));
    recording.trials.truncate(1);
    assert_eq!(Entry::of_recording(&recording).unwrap(), None);
    recording.about = None;
    assert!(Entry::of_recording(&recording).is_err());
}

#[test]
fn architectures_are_told_from_what_drivers_say() {
    use crate::info::DeviceKind;
    let gpu = |name: &str| {
        architecture(&DeviceInfo { kind: DeviceKind::Gpu, name: name.to_owned(), ..info() })
    };
    for name in ["Ellesmere", "gfx803", "AMD Radeon RX 580 (radeonsi, polaris10, ACO)"] {
        assert_eq!(gpu(name), "gfx803", "{name}");
    }
    assert_eq!(gpu("gfx90a:sramecc+:xnack-"), "gfx90a");
    assert_eq!(gpu("Some Card"), "some card");
    let cpu = DeviceInfo { backend: "opencl", vector_width: 16, ..info() };
    assert_eq!(architecture(&cpu), "opencl cpu of 16 lanes");
}

#[test]
fn every_file_of_kernels_tuned_is_shipped() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/tuned");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    files.retain(|name| name.ends_with(".json"));
    files.sort();
    let shipped: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, shipped, "SHIPPED lists the files of kernels/tuned/ in order");
    // Reading them panics where one is malformed.
    for (_, entry) in Database::shipped().entries() {
        let kernel = Kernel::find(&entry.kernel).expect("a shipped entry is of a kernel");
        let (title, dtype) = (entry.title(), entry.dtype.parse().unwrap());
        let hash = source_hash(kernel, dtype);
        assert_eq!(entry.source, hash, "{title}: tune it anew, or take it out");
    }
}
