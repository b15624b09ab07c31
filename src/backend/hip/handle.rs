//! The driver's objects, each released when dropped, and the times that events tell.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::driver::{Code, Direction, Driver, NOT_READY, Pointer};
use crate::Result;
use crate::backend::parts::Timed;

/// A device of a driver. Whatever the driver is asked for, it means the device that the calling
/// thread has chosen last.
#[derive(Debug)]
pub struct Card {
    driver: Arc<Driver>,
    ordinal: u32,
    /// Events that nobody uses, to be recorded again.
    events: Mutex<Vec<RawEvent>>,
}

#[derive(Debug)]
struct RawEvent(Pointer);

// SAFETY: the driver's calls take an event from any thread.
unsafe impl Send for RawEvent {}

impl Card {
    pub fn new(driver: Arc<Driver>, ordinal: u32) -> Arc<Self> {
        Arc::new(Self { driver, ordinal, events: Mutex::default() })
    }

    /// The driver, whose calls by this thread now mean this device.
    pub fn driver(&self) -> Result<&Driver> {
        self.driver.set_device(self.ordinal)?;
        Ok(&self.driver)
    }

    /// The same where an error is of no use: the call that follows fails again.
    fn releasing(&self) -> &Driver {
        let _ = self.driver.set_device(self.ordinal);
        &self.driver
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let events = std::mem::take(&mut *lock(&self.events));
        let driver = self.releasing();
        for event in events {
            // SAFETY: the event is ours, and nobody else has it. A failure leaks it.
            unsafe { driver.event_destroy(event.0) };
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $release:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            raw: Pointer,
            card: Arc<Card>,
        }

        // SAFETY: the driver's calls take its objects from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object is ours and is released once. A failure leaks it.
                unsafe { self.card.releasing().$release(self.raw) };
            }
        }
    };
}

handle!(
    /// `hipStream_t`
    Stream,
    stream_destroy
);
handle!(
    /// Memory of the device. The driver waits for what uses it before it lets go.
    Memory,
    free
);
handle!(
    /// Memory of the host that the device copies by itself.
    Pinned,
    host_free
);
handle!(
    /// Memory of others on the host, pinned while this lives.
    Registered,
    host_unregister
);
handle!(
    /// `hipModule_t`
    Module,
    module_unload
);

impl Stream {
    /// For calls of the driver; valid while `self` lives.
    pub fn raw(&self) -> Pointer {
        self.raw
    }

    /// An in-order queue.
    pub fn create(card: &Arc<Card>) -> Result<Self> {
        let driver = card.driver()?;
        // SAFETY: the device is the one chosen.
        let (code, raw) = unsafe { driver.stream_create() };
        driver.check("hipStreamCreateWithFlags", code)?;
        Ok(Self { raw, card: Arc::clone(card) })
    }

    /// Waits for all that was queued.
    pub fn synchronize(&self) -> Result<()> {
        let driver = self.card.driver()?;
        // SAFETY: the stream is valid.
        driver.check("hipStreamSynchronize", unsafe { driver.stream_synchronize(self.raw) })
    }

    /// Has what is queued from now on wait for an event.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        let driver = self.card.driver()?;
        // SAFETY: both are valid.
        let code = unsafe { driver.stream_wait_event(self.raw, event.raw()) };
        driver.check("hipStreamWaitEvent", code)
    }

    /// Queues a copy.
    ///
    /// # Safety
    ///
    /// Both ends have so many bytes, and stay until the copy is over.
    pub unsafe fn copy(
        &self,
        target: Pointer,
        source: *const c_void,
        bytes: usize,
        direction: Direction,
    ) -> Result<()> {
        let driver = self.card.driver()?;
        // SAFETY: the caller's.
        let code = unsafe { driver.memcpy(target, source, bytes, direction, self.raw) };
        driver.check_memory("hipMemcpyAsync", code, bytes as u64)
    }
}

impl Memory {
    /// For calls of the driver; valid while `self` lives.
    pub fn raw(&self) -> Pointer {
        self.raw
    }

    pub fn allocate(card: &Arc<Card>, bytes: u64) -> Result<Self> {
        let driver = card.driver()?;
        // SAFETY: the device is the one chosen.
        let (code, raw) = unsafe { driver.malloc(bytes as usize) };
        driver.check_memory("hipMalloc", code, bytes)?;
        Ok(Self { raw, card: Arc::clone(card) })
    }
}

impl Pinned {
    /// For calls of the driver; valid while `self` lives.
    pub fn raw(&self) -> Pointer {
        self.raw
    }

    /// `None` where there is no more of it.
    pub fn allocate(card: &Arc<Card>, bytes: usize) -> Result<Option<Self>> {
        let driver = card.driver()?;
        // SAFETY: the device is the one chosen.
        let (code, raw) = unsafe { driver.host_malloc(bytes) };
        Ok((code == super::driver::SUCCESS).then(|| Self { raw, card: Arc::clone(card) }))
    }
}

impl Registered {
    /// `None` where the driver does not pin it.
    ///
    /// # Safety
    ///
    /// The bytes stay where they are until this is dropped.
    pub unsafe fn new(card: &Arc<Card>, data: &[u8]) -> Result<Option<Self>> {
        let driver = card.driver()?;
        let raw = data.as_ptr() as Pointer;
        // SAFETY: the caller's.
        let code = unsafe { driver.host_register(raw, data.len()) };
        Ok((code == super::driver::SUCCESS).then(|| Self { raw, card: Arc::clone(card) }))
    }
}

impl Module {
    pub fn load(card: &Arc<Card>, image: &[u8]) -> Result<Self> {
        let driver = card.driver()?;
        // SAFETY: the caller has read the image as an ELF file: it is whole.
        let (code, raw) = unsafe { driver.module_load(image.as_ptr().cast()) };
        driver.check("hipModuleLoadData", code)?;
        Ok(Self { raw, card: Arc::clone(card) })
    }

    /// A kernel of it, which lives as long as it does.
    pub fn function(&self, name: &CStr) -> Result<Pointer> {
        let driver = self.card.driver()?;
        // SAFETY: the module is valid.
        let (code, function) = unsafe { driver.module_function(self.raw, name) };
        driver.check("hipModuleGetFunction", code)?;
        Ok(function)
    }
}

/// A moment of a stream, that others can wait for.
#[derive(Debug)]
pub struct Event {
    raw: Option<RawEvent>,
    card: Arc<Card>,
}

// SAFETY: the driver's calls take an event from any thread.
unsafe impl Sync for Event {}

impl Event {
    fn raw(&self) -> Pointer {
        self.raw.as_ref().expect("it is taken when dropped").0
    }

    /// After all that the stream has queued so far.
    pub fn record(card: &Arc<Card>, stream: &Stream) -> Result<Self> {
        let driver = card.driver()?;
        let unused = lock(&card.events).pop();
        let raw = match unused {
            Some(event) => event,
            None => {
                // SAFETY: the device is the one chosen.
                let (code, raw) = unsafe { driver.event_create() };
                driver.check("hipEventCreateWithFlags", code)?;
                RawEvent(raw)
            }
        };
        let event = Self { raw: Some(raw), card: Arc::clone(card) };
        // SAFETY: both are valid, and of one device.
        let code = unsafe { driver.event_record(event.raw(), stream.raw()) };
        driver.check("hipEventRecord", code)?;
        Ok(event)
    }

    fn query(&self) -> Code {
        // SAFETY: the event is valid.
        unsafe { self.card.releasing().event_query(self.raw()) }
    }

    /// Whether what was queued before it is complete or has failed.
    pub fn is_over(&self) -> bool {
        self.query() != NOT_READY
    }

    /// Waits for it.
    pub fn synchronize(&self) -> Result<()> {
        let driver = self.card.driver()?;
        // SAFETY: the event is valid.
        driver.check("hipEventSynchronize", unsafe { driver.event_synchronize(self.raw()) })
    }

    /// How long after another, once both are over.
    fn since(&self, start: &Event) -> Option<Duration> {
        let driver = self.card.releasing();
        // SAFETY: both are valid, and of one device.
        let (code, ms) = unsafe { driver.event_elapsed_ms(start.raw(), self.raw()) };
        let is_time = code == super::driver::SUCCESS && ms.is_finite() && ms >= 0.0;
        is_time.then(|| Duration::from_secs_f64(f64::from(ms) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // Recorded again, it forgets what it was: who waits for it now has been told to already.
        lock(&self.card.events).extend(self.raw.take());
    }
}

/// A part of a launch, or a transfer.
#[derive(Clone)]
pub struct HipTimer {
    /// The moment that times count from.
    origin: Arc<Event>,
    start: Arc<Event>,
    end: Arc<Event>,
}

impl HipTimer {
    pub fn new(origin: Arc<Event>, start: Event, end: Arc<Event>) -> Self {
        Self { origin, start: Arc::new(start), end }
    }
}

impl Timed for HipTimer {
    fn is_over(&self) -> bool {
        self.end.is_over()
    }

    fn elapsed(&self) -> Option<Duration> {
        self.end.since(&self.start).filter(|time| !time.is_zero())
    }

    fn span(&self) -> Option<Range<Duration>> {
        let start = self.start.since(&self.origin)?;
        Some(start..start + self.elapsed()?)
    }
}
