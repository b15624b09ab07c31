use super::*;
use crate::backend::cpu::Cpu;

const LIMITS: Limits = Limits {
    budget_bytes: 1 << 20,
    max_allocation_bytes: 1 << 20,
    poison: false,
    guards: false,
    copies_ahead: false,
};

pub(super) fn manager(budget_bytes: u64, max_allocation_bytes: u64) -> Arc<MemoryManager> {
    let limits = Limits { budget_bytes, max_allocation_bytes, ..LIMITS };
    Arc::new(MemoryManager::new(Arc::new(Cpu::new()), limits))
}

#[test]
fn a_dropped_block_is_reused_and_its_bytes_stay_held() {
    let manager = manager(1 << 20, 1 << 20);
    drop(manager.allocate(5000, Lifetime::Transient).unwrap());
    let held_bytes = manager.stats().held_bytes;
    assert!((5000..=5000 + 5000 / 8).contains(&held_bytes), "{held_bytes}");
    let _block = manager.allocate(4990, Lifetime::Transient).unwrap();
    assert_eq!(manager.stats().held_bytes, held_bytes);
    assert_eq!(manager.stats().peak_held_bytes, held_bytes);
}

#[test]
fn the_budget_counts_unused_blocks_only_until_someone_needs_them() {
    let manager = manager(10_000, 10_000);
    drop(manager.allocate(6000, Lifetime::Transient).unwrap());
    let block = manager.allocate(9000, Lifetime::Resident).unwrap();
    assert_eq!(manager.stats().held_bytes, 9000);
    let error = manager.allocate(2000, Lifetime::Resident).unwrap_err();
    assert_eq!(error.to_string(), "device out of memory: 2000 B requested, 9000 B of 10000 B held");
    drop(block);
    assert_eq!(manager.stats().held_bytes, 0);
}

#[test]
fn no_request_passes_the_largest_allocation() {
    let manager = manager(1 << 20, 4096);
    assert!(manager.allocate(4097, Lifetime::Transient).is_err());
    // Rounding up to the size class does not push a request over the limit either.
    assert_eq!(manager.allocate(4095, Lifetime::Transient).unwrap().buffer().bytes(), 4096);
}

#[test]
fn labels_have_their_own_peaks() {
    let manager = manager(1 << 20, 1 << 20);
    manager.push_label("unet");
    drop(manager.allocate(1024, Lifetime::Resident).unwrap());
    manager.pop_label();
    let _other = manager.allocate(512, Lifetime::Resident).unwrap();
    let stats = manager.stats();
    assert_eq!(stats.labels["unet"], LabelStats { live_bytes: 0, peak_live_bytes: 1024 });
    assert_eq!(stats.labels["other"], LabelStats { live_bytes: 512, peak_live_bytes: 512 });
}

#[test]
fn size_classes_waste_at_most_a_64th() {
    for bytes in (1..100_000).step_by(37).chain([1 << 20, (1 << 20) + 1, 3_000_000_017]) {
        let class = pool::size_class(bytes);
        assert!(class >= bytes && class - bytes <= (bytes / 64).max(255), "{bytes} -> {class}");
    }
}

#[test]
fn a_block_of_twice_the_size_is_reused_where_that_wastes_little_of_all() {
    for (why, in_use, expected) in [("much is in use", 1 << 20, 8192), ("little is", 1024, 4096)] {
        let manager = manager(1 << 22, 1 << 22);
        let _weights = manager.allocate(in_use, Lifetime::Resident).unwrap();
        drop(manager.allocate(8192, Lifetime::Transient).unwrap());
        let block = manager.allocate(4096, Lifetime::Transient).unwrap();
        assert_eq!(block.buffer().bytes(), expected, "{why}");
    }
}

#[test]
fn of_what_nobody_uses_no_more_is_given_back_than_the_budget_asks_for() {
    let manager = manager(16 << 10, 16 << 10);
    let transient = |bytes| manager.allocate(bytes, Lifetime::Transient).unwrap();
    drop([transient(1024), transient(4096), transient(8192)]);
    assert_eq!(manager.stats().held_bytes, 1024 + 4096 + 8192);
    // The block of 4096 is the least that is enough.
    let _block = transient(5120);
    assert_eq!(manager.stats().held_bytes, 1024 + 8192 + 5120);
    assert_eq!(manager.stats().largest_free_bytes, 8192);
}

#[test]
fn a_write_outside_a_guarded_block_is_found_with_its_distance() {
    let limits = Limits { guards: true, ..LIMITS };
    let backend = Arc::new(Cpu::new());
    let manager = Arc::new(MemoryManager::new(Arc::clone(&backend) as _, limits));
    let x = manager.allocate(100, Lifetime::Transient).unwrap();
    let y = manager.allocate(5000, Lifetime::Resident).unwrap();
    let arguments = crate::device::arguments! { x: x.buffer(), y: Output(y.buffer()) };
    backend.write(x.buffer(), 0, &[1; 100]).unwrap();
    backend.write(y.buffer(), 0, &[2; 5000]).unwrap();
    manager.check_guards("kernel", &arguments).unwrap();
    assert_eq!(manager.stats().held_bytes, 5100, "zones are not counted");

    let (whole, start) = y.buffer().part_of().unwrap();
    let cases = [
        (start + 5000, 3, "3 B past the end of y, from 0 B behind it on"),
        (start + 5000 + 40, 4, "4 B past the end of y, from 40 B behind it on"),
        (start - 8, 8, "8 B before the start of y, from 8 B before it on"),
    ];
    for (at, bytes, expected) in cases {
        let mut old = vec![0; bytes];
        backend.read(whole, at, &mut old).unwrap();
        backend.write(whole, at, &vec![7; bytes]).unwrap();
        let error = manager.check_guards("kernel", &arguments).unwrap_err().to_string();
        assert_eq!(error, format!("kernel wrote outside its buffers: {expected}"));
        let others = crate::device::arguments! { x: x.buffer() };
        let error = manager.check_guards("kernel", &others).unwrap_err().to_string();
        assert!(error.contains("a block of 5000 B that is no argument"), "{error}");
        backend.write(whole, at, &old).unwrap();
    }
    manager.check_guards("kernel", &arguments).unwrap();
    drop(y);
    assert_eq!(manager.stats().held_bytes, 100, "a guarded block is not kept for later");
}

#[test]
fn what_others_hold_counts_against_the_budget_until_they_let_go() {
    let manager = manager(10_000, 10_000);
    drop(manager.allocate(6000, Lifetime::Transient).unwrap());
    let other = manager.register("encoder", 7000);
    assert_eq!(manager.stats().held_bytes, 0, "unused blocks make room");
    assert_eq!(manager.stats().registered_bytes(), 7000);
    let error = manager.allocate(3001, Lifetime::Resident).unwrap_err();
    assert_eq!(error.to_string(), "device out of memory: 3001 B requested, 7000 B of 10000 B held");
    let block = manager.allocate(3000, Lifetime::Resident).unwrap();
    let more = manager.register("encoder", 1 << 40);
    assert!(manager.allocate(1, Lifetime::Resident).is_err());
    assert_eq!(block.buffer().bytes(), 3000, "what is in use stays");
    drop((other, more));
    let stats = manager.stats();
    assert_eq!(stats.registered_bytes(), 0);
    assert_eq!(stats.registered["encoder"].peak_live_bytes, 7000 + (1 << 40));
    assert_eq!(stats.peak_held_bytes, 6144, "what others hold is not held by the manager");
    manager.allocate(7000, Lifetime::Resident).unwrap();
}

#[test]
fn a_table_tells_what_is_held_for_what() {
    let manager = manager(4_000_000_000, 4_000_000_000);
    manager.push_label("unet");
    let _weights = manager.allocate(30_000_000, Lifetime::Resident).unwrap();
    drop(manager.allocate(1 << 24, Lifetime::Transient).unwrap());
    manager.pop_label();
    let _other = manager.register("video encoder", 500_000_000);
    let stats = manager.stats();
    assert_eq!((stats.pool_bytes, stats.largest_free_bytes), (1 << 24, 1 << 24));
    assert_eq!(stats.held_bytes - stats.live_bytes, stats.pool_bytes);
    let expected = "\
memory                             now       at most
held                          0.047 GB      0.047 GB  of 4.000 GB
in use                        0.030 GB      0.047 GB
  unet                        0.030 GB      0.047 GB
in the pool                   0.017 GB                36 % of what is held, largest block 0.017 GB
others                        0.500 GB
  video encoder               0.500 GB      0.500 GB";
    assert_eq!(stats.to_string(), expected);
}

/// A driver whose writes fail.
#[derive(Debug)]
struct Unwritable(Cpu);

impl Backend for Unwritable {
    fn info(&self) -> &crate::info::DeviceInfo {
        self.0.info()
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        self.0.allocate(bytes)
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        self.0.part(whole, offset, bytes)
    }

    fn write(&self, _: &Buffer, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Device { call: "a driver call", detail: "lost (-1)".to_owned() })
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.read(source, offset, data)
    }

    fn copy(&self, region: &crate::backend::CopyRegion) -> Result<()> {
        self.0.copy(region)
    }

    fn build(&self, source: &crate::backend::ProgramSource) -> Result<crate::backend::Program> {
        self.0.build(source)
    }

    fn binary(&self, program: &crate::backend::Program) -> Option<Vec<u8>> {
        self.0.binary(program)
    }

    fn load(
        &self,
        source: &crate::backend::ProgramSource,
        binary: &[u8],
    ) -> Result<crate::backend::Program> {
        self.0.load(source, binary)
    }

    fn launch(
        &self,
        program: &crate::backend::Program,
        launch: &crate::backend::Launch,
    ) -> Result<Box<dyn crate::backend::Timer>> {
        self.0.launch(program, launch)
    }

    fn finish(&self) -> Result<()> {
        self.0.finish()
    }
}

#[test]
fn a_block_that_cannot_be_poisoned_is_given_back() {
    let limits = Limits { poison: true, ..LIMITS };
    let manager = Arc::new(MemoryManager::new(Arc::new(Unwritable(Cpu::new())), limits));
    assert!(manager.allocate(100, Lifetime::Resident).is_err());
    assert!(manager.allocate(100, Lifetime::Transient).is_err());
    manager.trim();
    assert_eq!((manager.stats().held_bytes, manager.stats().live_bytes), (0, 0));
}
