//! The OpenCL backend: any driver of OpenCL 1.2 or later, found at run time.
//!
//! The loader (`libOpenCL.so.1` or `OpenCL.dll`, or what `OPENCL_DYLIB_PATH` names) is opened by the
//! first call; where there is none, [`enumerate`] finds no device and says why.

use std::borrow::Cow;
use std::ffi::CString;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cl3::command_queue::{
    enqueue_barrier_with_wait_list, enqueue_copy_buffer, enqueue_copy_buffer_rect,
    enqueue_marker_with_wait_list, enqueue_read_buffer, enqueue_write_buffer,
};
use cl3::device::{CL_DEVICE_PROFILING_TIMER_RESOLUTION, get_device_info};
use cl3::memory::{CL_BUFFER_CREATE_TYPE_REGION, CL_MEM_READ_WRITE};
use cl3::program::{CL_PROGRAM_BINARIES, CL_PROGRAM_BUILD_LOG};
use cl3::types::{
    CL_FALSE, CL_TRUE, cl_bool, cl_buffer_region, cl_command_queue, cl_event, cl_mem,
};

use super::parts::{self, Times};
use super::words::Words;
use super::{
    Backend, Buffer, CopyRegion, Launch, LaunchLimit, NoTime, Program, ProgramSource, Timer,
    Transfer, check_range, shortened,
};
use crate::info::{DeviceInfo, DeviceKind};
use crate::{Error, Result};

mod handle;
mod info;
mod launches;
mod transfers;
mod trials;

use handle::{
    ClKernel, ClProgram, ClTimer, Context, Event, Memory, Queue, described, failed,
    failed_with_memory,
};
use info::POCL;
pub use info::{Enumeration, Found, enumerate};
use launches::Compiled;
use transfers::{Started, Transfers};

/// An opened OpenCL device: a context of its own, an in-order queue, and another for transfers.
///
/// A clone is the same device: it uses the same queues, its buffers are those of the other.
#[derive(Clone, Debug)]
pub struct OpenCl {
    // Dropped in this order.
    transfers: Arc<Transfers>,
    queue: Arc<Queue>,
    context: Arc<Context>,
    device: info::DeviceId,
    info: DeviceInfo,
    words: Arc<Words>,
    has_clock: bool,
    unflushed: Arc<AtomicU32>,
    /// For how long a launch may run: see [`Backend::limited`].
    limit: Option<LaunchLimit>,
}

/// Copies of as many bytes are worth a second core.
const SHARED_COPY_BYTES: usize = 1 << 20;

/// A wait list as the driver takes it.
fn list(events: &[cl_event]) -> *const cl_event {
    if events.is_empty() { ptr::null() } else { events.as_ptr() }
}

/// A driver may keep launches back until it is told; after so many it is.
const LAUNCHES_PER_FLUSH: u32 = 16;

impl OpenCl {
    /// Opens a device.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] if it cannot be used; [`Error::Device`] if the driver fails.
    pub fn open(found: &Found) -> Result<Self> {
        if let Some(reason) = &found.unusable {
            let (wanted, detail) = (found.info.name.clone(), reason.clone());
            return Err(Error::NoDevice { wanted, detail });
        }
        let device = found.id;
        let context = cl3::context::create_context(&[device.0], ptr::null(), None, ptr::null_mut());
        let context = Context::new(context.map_err(|code| failed("clCreateContext", code))?);
        let context = Arc::new(context);
        // rusticl 22.3, which has none, gives every event the times 2 and 3.
        let resolution = get_device_info(device.0, CL_DEVICE_PROFILING_TIMER_RESOLUTION);
        let has_clock = resolution.is_ok_and(|resolution| usize::from(resolution) > 0);
        let queue = || Queue::create(&context, device.0, has_clock);
        let (queue, transfers) = (Arc::new(queue()?), Arc::new(Transfers::new(queue()?)));
        // What runs on the host's processor has no words of a GPU's.
        let words = match found.info.kind {
            DeviceKind::Gpu => trials::words(&context, device),
            DeviceKind::Cpu => Arc::default(),
        };
        let info = DeviceInfo { matrix_units: words.matrix_units(), ..found.info.clone() };
        let (unflushed, limit) = (Arc::default(), None);
        Ok(Self { transfers, queue, context, device, info, words, has_clock, unflushed, limit })
    }

    /// The words that its compiler has instructions for.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Whether a program's launches are cut where they would take too long.
    fn cuts(&self, source: &ProgramSource) -> bool {
        self.limit.is_some() && parts::can_be_cut(source)
    }

    fn finish_build(&self, source: &ProgramSource, program: ClProgram) -> Result<Program> {
        let error = |log| Error::Build {
            kernel: source.kernel.to_owned(),
            device: self.info.name.clone(),
            log,
        };
        let devices = [self.device.0];
        let built = cl3::program::build_program(
            program.raw(),
            &devices,
            &CString::new(self.options(source)).expect("options have no zero byte"),
            None,
            ptr::null_mut(),
        );
        built.map_err(|code| error(format!("{}\n{}", described(code), self.log(&program))))?;
        let name = CString::new(source.kernel).expect("a kernel's name has no zero byte");
        let kernel = cl3::kernel::create_kernel(program.raw(), &name)
            .map_err(|code| error(format!("clCreateKernel failed: {}", described(code))))?;
        Ok(Program::new(Compiled::new(program, ClKernel::new(kernel), self.cuts(source))))
    }

    fn log(&self, program: &ClProgram) -> String {
        let log = cl3::program::get_program_build_info(
            program.raw(),
            self.device.0,
            CL_PROGRAM_BUILD_LOG,
        );
        shortened(&log.map(String::from).unwrap_or_default())
    }

    /// An event that is complete when all that is queued so far is.
    fn marker(&self) -> Result<Event> {
        // SAFETY: the wait list is empty.
        let marker = unsafe { enqueue_marker_with_wait_list(self.queue.raw(), 0, ptr::null()) };
        marker.map(Event::new).map_err(|code| failed("clEnqueueMarkerWithWaitList", code))
    }

    /// Copies `bytes` bytes from or to the host, after all that is queued, and waits for it: `copy`
    /// queues a part, which blocks or begins after some events. Where cores make copies, half is for
    /// another of them.
    fn shared_copy(
        &self,
        bytes: usize,
        copy: impl Fn(cl_command_queue, Range<usize>, cl_bool, &[cl_event]) -> Result<cl_event>,
    ) -> Result<()> {
        let part = |queue, range, blocks, before: &[cl_event]| {
            copy(queue, range, blocks, before).map(Event::new)
        };
        if self.info.kind != DeviceKind::Cpu || bytes < SHARED_COPY_BYTES {
            return part(self.queue.raw(), 0..bytes, CL_TRUE, &[]).map(drop);
        }
        let (half, before) = (bytes / 2, self.marker()?);
        // The other queue is to wait for it.
        self.flush()?;
        let other = part(self.transfers.raw(), 0..half, CL_FALSE, &[before.raw()])?;
        let copied = part(self.queue.raw(), half..bytes, CL_TRUE, &[]).map(drop);
        // Whatever has failed, the other half is not to outlive the call.
        let flushed = cl3::command_queue::flush(self.transfers.raw());
        let waited = cl3::event::wait_for_events(&[other.raw()]);
        copied?;
        flushed.map_err(|code| failed("clFlush", code))?;
        waited.map_err(|code| failed("clWaitForEvents", code))
    }

    /// Waits for what is queued, transfers apart.
    fn drain(&self) -> Result<()> {
        // rusticl 22.3 waits for what is not flushed yet, and for nothing if all of it is.
        drop(self.marker()?);
        cl3::command_queue::finish(self.queue.raw()).map_err(|code| failed("clFinish", code))
    }

    fn flush(&self) -> Result<()> {
        self.unflushed.store(0, Ordering::Relaxed);
        cl3::command_queue::flush(self.queue.raw()).map_err(|code| failed("clFlush", code))
    }

    /// Has the driver start on what is queued, now and then.
    fn launched(&self) {
        if self.unflushed.fetch_add(1, Ordering::Relaxed) + 1 >= LAUNCHES_PER_FLUSH {
            // What fails here fails again at the next call that waits.
            let _ = self.flush();
        }
    }
}

fn memory(buffer: &Buffer) -> cl_mem {
    buffer.handle::<Memory>().raw()
}

impl Backend for OpenCl {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory_bytes(&self) -> Option<u64> {
        self.device.free_memory_bytes()
    }

    fn allocate(&self, bytes: u64) -> Result<Buffer> {
        let flags = CL_MEM_READ_WRITE;
        // SAFETY: no host memory is passed.
        let memory = unsafe {
            cl3::memory::create_buffer(self.context.raw(), flags, bytes as usize, ptr::null_mut())
        };
        match memory {
            Ok(memory) => Ok(Buffer::new(bytes, Memory::new(memory))),
            Err(code) => Err(failed_with_memory("clCreateBuffer", code, bytes)),
        }
    }

    fn part(&self, whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        check_range(whole, offset, bytes);
        let region = cl_buffer_region { origin: offset as usize, size: bytes as usize };
        // SAFETY: the region lies inside the buffer, and the call only reads it.
        let memory = unsafe {
            cl3::memory::create_sub_buffer(
                memory(whole),
                CL_MEM_READ_WRITE,
                CL_BUFFER_CREATE_TYPE_REGION,
                (&raw const region).cast(),
            )
        };
        let memory = memory.map_err(|code| failed("clCreateSubBuffer", code))?;
        Ok(Buffer::new_part(whole, offset, bytes, Memory::new(memory)))
    }

    fn write(&self, target: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        check_range(target, offset, data.len() as u64);
        if data.is_empty() {
            return Ok(());
        }
        self.shared_copy(data.len(), |queue, range, blocks, before| {
            let part = &data[range.clone()];
            // SAFETY: the caller's contract puts the range inside the buffer; `shared_copy` waits, so
            // `data` outlives the copy; the wait list is that of the slice.
            let event = unsafe {
                enqueue_write_buffer(
                    queue,
                    memory(target),
                    blocks,
                    offset as usize + range.start,
                    part.len(),
                    part.as_ptr().cast(),
                    before.len() as u32,
                    list(before),
                )
            };
            event.map_err(|code| failed_with_memory("clEnqueueWriteBuffer", code, target.bytes()))
        })
    }

    /// So does PoCL 3.1: a core that finds no more work-groups of a kernel takes the copy.
    fn overlaps_transfers(&self) -> bool {
        true
    }

    fn transfer(&self, target: &Buffer, data: &Arc<Vec<u8>>) -> Result<(Transfer, Box<dyn Timer>)> {
        check_range(target, 0, data.len() as u64);
        if data.is_empty() {
            return Ok((Transfer::new(Started::default()), Box::new(NoTime)));
        }
        // Whoever used the target before is in the queue.
        let before = self.marker()?;
        self.flush()?;
        let event = self.transfers.start(memory(target), data, &before)?;
        let started = Started(Some(Arc::clone(&event)));
        Ok((
            Transfer::new(started),
            Box::new(Times(vec![ClTimer { event, has_clock: self.has_clock }])),
        ))
    }

    fn join(&self, transfer: &Transfer) -> Result<()> {
        let Some(event) = &transfer.handle::<Started>().0 else { return Ok(()) };
        let events = [event.raw()];
        // SAFETY: the wait list is one event of this context.
        let barrier =
            unsafe { enqueue_barrier_with_wait_list(self.queue.raw(), 1, events.as_ptr()) };
        let failed = |code| failed("clEnqueueBarrierWithWaitList", code);
        barrier.map(Event::new).map(drop).map_err(failed)
    }

    fn read(&self, source: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        check_range(source, offset, data.len() as u64);
        if data.is_empty() {
            return Ok(());
        }
        let (start, bytes) = (data.as_mut_ptr(), data.len());
        self.shared_copy(bytes, |queue, range, blocks, before| {
            // SAFETY: as in `write`; the parts of `data` do not overlap, and it is borrowed
            // exclusively until `shared_copy` returns.
            let event = unsafe {
                enqueue_read_buffer(
                    queue,
                    memory(source),
                    blocks,
                    offset as usize + range.start,
                    range.len(),
                    start.add(range.start).cast(),
                    before.len() as u32,
                    list(before),
                )
            };
            event.map_err(|code| failed("clEnqueueReadBuffer", code))
        })
    }

    fn copy(&self, region: &CopyRegion) -> Result<()> {
        let [read_bytes, written_bytes] = region.spans();
        check_range(region.source, region.source_offset, read_bytes);
        check_range(region.target, region.target_offset, written_bytes);
        if read_bytes == 0 {
            return Ok(());
        }
        let (call, event) = match region.rows {
            // SAFETY: the caller's contract puts both ranges inside two different buffers, which
            // the driver keeps until the command is done.
            1 => ("clEnqueueCopyBuffer", unsafe {
                enqueue_copy_buffer(
                    self.queue.raw(),
                    memory(region.source),
                    memory(region.target),
                    region.source_offset as usize,
                    region.target_offset as usize,
                    region.bytes as usize,
                    0,
                    ptr::null(),
                )
            }),
            // SAFETY: as above; the origins, in bytes, rows and layers, and the extent live on the
            // stack for as long as the call takes.
            rows => ("clEnqueueCopyBufferRect", unsafe {
                enqueue_copy_buffer_rect(
                    self.queue.raw(),
                    memory(region.source),
                    memory(region.target),
                    [region.source_offset as usize, 0, 0].as_ptr(),
                    [region.target_offset as usize, 0, 0].as_ptr(),
                    [region.bytes as usize, rows as usize, 1].as_ptr(),
                    region.source_pitch as usize,
                    0,
                    region.target_pitch as usize,
                    0,
                    0,
                    ptr::null(),
                )
            }),
        };
        event
            .map(Event::new)
            .map(drop)
            .map_err(|code| failed_with_memory(call, code, region.target.bytes()))
    }

    /// Argument names are kept, to be compared with those of the first launch.
    fn options(&self, source: &ProgramSource) -> String {
        let mut options = String::from("-cl-std=CL1.2 -cl-fast-relaxed-math -cl-kernel-arg-info");
        for definition in source.definitions() {
            options.push_str(&format!(" -D {definition}"));
        }
        // Simulators and translators refuse the builtin, some as late as at the first launch.
        if self.info.platform.starts_with(POCL) {
            options.push_str(" -D HAS_BUILTIN_PREFETCH");
        }
        if self.info.amx {
            options.push_str(" -D HAS_AMX");
        }
        options.push_str(&self.words.option());
        // Tells such a program from the other: the lines before its source are in no hash of it.
        if self.cuts(source) {
            options.push_str(" -D LAUNCHED_IN_PARTS");
        }
        options
    }

    fn build(&self, source: &ProgramSource) -> Result<Program> {
        let text = self.words.added_to(source.source);
        let text = match self.cuts(source) {
            true => Cow::Owned([parts::GROUPS_FROM_OFFSET, &*text].concat()),
            false => text,
        };
        // One text: cl3 0.13 passes a wrong address for the second of several.
        let program = cl3::program::create_program_with_source(self.context.raw(), &[&text]);
        let program = program.map_err(|code| failed("clCreateProgramWithSource", code))?;
        self.finish_build(source, ClProgram::new(program))
    }

    fn binary(&self, program: &Program) -> Option<Vec<u8>> {
        let compiled: &Compiled = program.handle();
        let binaries =
            cl3::program::get_program_info(compiled.program.raw(), CL_PROGRAM_BINARIES).ok()?;
        // One for each device of the context: one.
        let binary = Vec::<Vec<u8>>::from(binaries).into_iter().next()?;
        (!binary.is_empty()).then_some(binary)
    }

    fn load(&self, source: &ProgramSource, binary: &[u8]) -> Result<Program> {
        let devices = [self.device.0];
        // SAFETY: the context was made for this device.
        let program = unsafe {
            cl3::program::create_program_with_binary(self.context.raw(), &devices, &[binary])
        };
        let program = program.map_err(|code| failed("clCreateProgramWithBinary", code))?;
        self.finish_build(source, ClProgram::new(program))
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
        self.drain()?;
        self.transfers.finish()
    }
}

#[cfg(test)]
mod tests {
    use cl3::event::{CL_COMPLETE, CL_EVENT_COMMAND_EXECUTION_STATUS, get_event_info};

    use super::*;
    use crate::DType;
    use crate::backend::{Argument, Value};

    /// A launch that takes a while.
    const SLOW: &str = "
        __kernel void slow(__global float *y, const uint turns)
        {
            float sum = y[get_global_id(0)];
            for (uint turn = 0; turn < turns; turn++)
                sum = sum * 0.5f + 1.0f;
            y[get_global_id(0)] = sum;
        }";

    #[test]
    fn finish_waits_for_what_was_flushed_before() {
        for found in enumerate().devices.iter().filter(|found| found.unusable.is_none()) {
            let backend = OpenCl::open(found).unwrap();
            let (dtype, parameters) = (DType::F32, Vec::new());
            let source = ProgramSource { kernel: "slow", dtype, parameters, source: SLOW };
            let program = backend.build(&source).unwrap();
            let compiled: &Compiled = program.handle();
            let buffer = backend.allocate(256).unwrap();
            backend.write(&buffer, 0, &[0; 256]).unwrap();
            let y = Argument { name: "y", value: Value::Output(&buffer) };
            let turns = Argument { name: "turns", value: Value::U32(1_000_000) };
            let (arguments, groups, local) = (&[y, turns], [1; 3], [64, 1, 1]);
            let launch = Launch { arguments, groups, local };
            let parts = backend.launch_all(compiled, &launch).unwrap();
            backend.flush().unwrap();
            backend.finish().unwrap();
            let event = parts[0].event.raw();
            let status = get_event_info(event, CL_EVENT_COMMAND_EXECUTION_STATUS).unwrap();
            assert_eq!(i32::from(status), CL_COMPLETE, "{}", found.info.platform);
        }
    }
}
