//! The HIP backend: AMD's driver of versions 5 to 7, found at run time.
//!
//! Kernels are the same OpenCL C as everywhere. AMD's compiler library makes code objects of them,
//! which the driver loads; where the arguments lie in memory, a code object says itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::comgr::Comgr;
use super::parts::{self, Times};
use super::words::{TRIAL, Words};
use super::{
    Backend, Buffer, CopyRegion, Launch, LaunchLimit, NoTime, Program, ProgramSource, Timer,
    Transfer, check_range, shortened,
};
use crate::info::DeviceInfo;
use crate::{Error, Result};

mod code_object;
mod driver;
mod environment;
mod handle;
mod info;
mod launches;
mod transfers;

use driver::{Direction, Pointer};
pub use environment::set_environment;
use handle::{Card, Event, HipTimer, Memory, Module, Stream, lock};
pub use info::{Enumeration, Found, enumerate};
use launches::{Compiled, Function};
use transfers::{Staging, Started, Transfers};

/// An opened HIP device: a stream for launches, and another for transfers.
///
/// A clone is the same device: it uses the same streams, its buffers are those of the other.
#[derive(Clone, Debug)]
pub struct Hip {
    // Dropped in this order.
    transfers: Arc<Transfers>,
    staging: Arc<Mutex<Staging>>,
    origin: Arc<Event>,
    stream: Arc<Stream>,
    card: Arc<Card>,
    compiler: Arc<Comgr>,
    architecture: String,
    words: Arc<Words>,
    info: DeviceInfo,
    /// For how long a launch may run: see [`Backend::limited`].
    limit: Option<LaunchLimit>,
}

/// The words that the compiler has for each architecture: it stays the same while it is loaded.
static WORDS: Mutex<BTreeMap<String, Arc<Words>>> = Mutex::new(BTreeMap::new());

/// Where a buffer lies on the device.
enum Place {
    Whole(Memory),
    /// The buffer keeps the whole one.
    Part(u64),
}

impl Hip {
    /// Opens a device.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] if it cannot be used; [`Error::Device`] if the driver fails.
    pub fn open(found: &Found) -> Result<Self> {
        let info = found.info.clone();
        let unusable = |detail: String| Error::NoDevice { wanted: info.name.clone(), detail };
        if let Some(reason) = &found.unusable {
            return Err(unusable(reason.clone()));
        }
        let (Some(driver), Some(architecture)) = (&found.driver, info.architecture.clone()) else {
            return Err(unusable("it is not there".to_owned()));
        };
        let compiler = Comgr::open()?.ok_or_else(|| unusable("there is no comgr".to_owned()))?;
        let words = words(&compiler, &architecture);
        let info = DeviceInfo { matrix_units: words.matrix_units(), ..info };
        let card = Card::new(Arc::clone(driver), found.ordinal);
        let (stream, beside) = (Stream::create(&card)?, Stream::create(&card)?);
        let origin = Arc::new(Event::record(&card, &stream)?);
        stream.synchronize()?;
        let (transfers, staging) = (Arc::new(Transfers::new(beside)), Arc::default());
        let (stream, compiler, limit) = (Arc::new(stream), Arc::new(compiler), None);
        Ok(Self {
            transfers,
            staging,
            origin,
            stream,
            card,
            compiler,
            architecture,
            words,
            info,
            limit,
        })
    }

    /// Whether a program's launches are cut where they would take too long.
    fn cuts(&self, source: &ProgramSource) -> bool {
        self.limit.is_some() && parts::can_be_cut(source)
    }

    fn build_error(&self, source: &ProgramSource, log: &str) -> Error {
        let log = shortened(log);
        let (kernel, device) = (source.kernel.to_owned(), self.info.name.clone());
        Error::Build { kernel, device, log }
    }

    fn compiler_options(&self, source: &ProgramSource) -> Vec<String> {
        let mut options =
            ["-cl-fast-relaxed-math", "-cl-kernel-arg-info", "-O3"].map(str::to_owned).to_vec();
        options.extend(source.definitions().map(|definition| format!("-D{definition}")));
        // Tells such a program from the other: the lines before its source are in no hash of it.
        if self.cuts(source) {
            options.push("-DLAUNCHED_IN_PARTS".to_owned());
        }
        options
    }
}

/// The words that the compiler has instructions for, by trials the first time.
fn words(compiler: &Comgr, architecture: &str) -> Arc<Words> {
    // Every change is complete before anything can panic.
    let mut found = lock(&WORDS);
    if let Some(words) = found.get(architecture) {
        return Arc::clone(words);
    }
    let options = ["-cl-fast-relaxed-math", "-O3", "-DDTYPE_F16"].map(str::to_owned);
    let words = Arc::new(Words::find(|text| {
        let image = compiler.code_object(architecture, text, &options);
        image.is_ok_and(|image| code_object::layout(&image, TRIAL, architecture).is_ok())
    }));
    found.insert(architecture.to_owned(), Arc::clone(&words));
    words
}

fn address(buffer: &Buffer) -> u64 {
    match buffer.handle::<Place>() {
        Place::Whole(memory) => memory.raw() as u64,
        Place::Part(address) => *address,
    }
}

fn pointer(buffer: &Buffer, offset: u64) -> Pointer {
    (address(buffer) + offset) as Pointer
}

impl Backend for Hip {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory_bytes(&self) -> Option<u64> {
        self.card.driver().and_then(|driver| driver.free_bytes()).ok()
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        Ok(Buffer::new(bytes, Place::Whole(Memory::allocate(&self.card, bytes)?)))
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        check_range(whole, offset, bytes);
        Ok(Buffer::new_part(whole, offset, bytes, Place::Part(address(whole) + offset)))
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        check_range(target, offset, data.len() as u64);
        if data.is_empty() {
            return Ok(());
        }
        let (mut staging, target) = (lock(&self.staging), pointer(target, offset));
        // SAFETY: the caller's contract puts the range inside the buffer.
        unsafe { staging.write(&self.card, &self.stream, target, data) }
    }

    fn overlaps_transfers(&self) -> bool {
        true
    }

    fn transfer(&self, target: &Buffer, data: &Arc<Vec<u8>>) -> Result<(Transfer, Box<dyn Timer>)> {
        check_range(target, 0, data.len() as u64);
        if data.is_empty() {
            return Ok((Transfer::new(Started::default()), Box::new(NoTime)));
        }
        // Whoever used the target before is in the stream.
        let before = Event::record(&self.card, &self.stream)?;
        // SAFETY: the caller's contract puts the range inside the buffer, which is joined before it
        // is dropped.
        let (start, end) =
            unsafe { self.transfers.start(&self.card, pointer(target, 0), data, &before)? };
        let started = Started(Some(Arc::clone(&end)));
        let origin = Arc::clone(&self.origin);
        Ok((Transfer::new(started), Box::new(Times(vec![HipTimer::new(origin, start, end)]))))
    }

    fn join(&self, transfer: &Transfer) -> Result<()> {
        match &transfer.handle::<Started>().0 {
            Some(event) => self.stream.wait_for(event),
            None => Ok(()),
        }
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        check_range(source, offset, data.len() as u64);
        if data.is_empty() {
            return Ok(());
        }
        let (mut staging, source) = (lock(&self.staging), pointer(source, offset));
        // SAFETY: as in `write`; `data` is borrowed exclusively until the call returns.
        unsafe { staging.read(&self.card, &self.stream, source, data) }
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        let [read_bytes, written_bytes] = region.spans();
        check_range(region.source, region.source_offset, read_bytes);
        check_range(region.target, region.target_offset, written_bytes);
        if read_bytes == 0 {
            return Ok(());
        }
        let source = pointer(region.source, region.source_offset);
        let target = pointer(region.target, region.target_offset);
        if region.rows == 1 {
            // SAFETY: the caller's contract puts both ranges inside two different buffers, which
            // the driver keeps until the copy is done.
            return unsafe {
                self.stream.copy(target, source, region.bytes as usize, Direction::OnDevice)
            };
        }
        let driver = self.card.driver()?;
        let size = [region.bytes as usize, region.rows as usize];
        let (from, to) = (region.source_pitch as usize, region.target_pitch as usize);
        // SAFETY: as above.
        let code =
            unsafe { driver.memcpy_2d((target, to), (source, from), size, self.stream.raw()) };
        driver.check_memory("hipMemcpy2DAsync", code, region.target.bytes())
    }

    fn options(&self, source: &ProgramSource) -> String {
        let (architecture, compiler) = (&self.architecture, self.compiler.version());
        let options = self.compiler_options(source).join(" ");
        format!("{architecture}, comgr {compiler}, {options}{}", self.words.option())
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        let options = self.compiler_options(source);
        let text = self.words.added_to(source.source);
        let text = match self.cuts(source) {
            true => Cow::Owned([parts::GROUPS_FROM_OFFSET, &*text].concat()),
            false => text,
        };
        let image = self.compiler.code_object(&self.architecture, &text, &options);
        let image = image.map_err(|log| self.build_error(source, &log))?;
        self.load(source, &image)
    }

    fn binary(&self, program: &Program) -> Option<Vec<u8>> {
        Some(program.handle::<Compiled>().image.clone())
    }

    fn load(&self, source: &ProgramSource, binary: &[u8]) -> Result<Program> {
        let layout =
            code_object::layout(binary, source.kernel, &self.architecture).map_err(|why| {
                self.build_error(source, &format!("its code object is of no use: {why}"))
            })?;
        let module = Module::load(&self.card, binary)?;
        let name = CString::new(source.kernel).expect("a kernel's name has no zero byte");
        let function = Function::new(module.function(&name)?);
        let (image, in_parts) = (binary.to_vec(), self.cuts(source));
        Ok(Program::new(Compiled::new(function, layout, image, module, in_parts)))
    }

    fn launch(&self, program: &Program, launch: &Launch) -> Result<Box<dyn Timer>> {
        Ok(Box::new(Times(self.launch_all(program.handle(), launch)?)))
    }

    fn launch_limit(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.longest)
    }

    fn limited(&self, limit: LaunchLimit) -> Option<Arc<dyn Backend>> {
        Some(Arc::new(Self { limit: Some(limit), ..self.clone() }))
    }

    fn finish(&self) -> Result<()> {
        self.stream.synchronize()?;
        self.transfers.finish()
    }
}
