//! The driver's functions.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Mutex;

use cl3::command_queue::{
    CL_QUEUE_PROFILING_ENABLE, create_command_queue, enqueue_barrier_with_wait_list,
    enqueue_marker_with_wait_list, enqueue_native_kernel, enqueue_nd_range_kernel,
};
use cl3::event::{
    CL_EVENT_COMMAND_EXECUTION_STATUS, CL_PROFILING_COMMAND_END, get_event_info,
    get_event_profiling_info, release_event, wait_for_events,
};

use crate::cl::Cl;
use crate::metadata::{Metadata, Places};
use crate::{DEVICE, OBJECTS, PINNED, architecture, comgr, hold, let_go, lock, pass, setting};

type Code = c_int;
type Pointer = *mut c_void;

const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const NOT_INITIALIZED: Code = 3;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
const INVALID_IMAGE: Code = 200;
const NO_BINARY_FOR_GPU: Code = 209;
const INVALID_HANDLE: Code = 400;
const NOT_FOUND: Code = 500;
const NOT_READY: Code = 600;
const LAUNCH_FAILURE: Code = 719;
const ALREADY_REGISTERED: Code = 712;
const NOT_REGISTERED: Code = 713;

/// Memory of the device, by address.
static MEMORY: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
/// Pinned memory of the host, and memory of others that is registered.
static HOST: Mutex<BTreeMap<u64, Vec<u64>>> = Mutex::new(BTreeMap::new());
static REGISTERED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Every queue there is, as an address.
static QUEUES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

struct Stream {
    queue: Pointer,
}

struct Event {
    /// When it was recorded last.
    event: Mutex<Option<usize>>,
}

struct Module {
    program: Pointer,
    metadata: Metadata,
    functions: Mutex<HashMap<CString, Box<Function>>>,
}

struct Function {
    /// Has one set of arguments, so that setting them and launching is one step.
    kernel: Mutex<usize>,
    places: Places,
}

fn code(work: impl FnOnce() -> Result<(), Code>) -> Code {
    work().err().unwrap_or(0)
}

fn cl() -> Result<&'static Cl, Code> {
    Cl::get().ok_or(NOT_INITIALIZED)
}

/// What a failure of PoCL is here.
fn failed(code: i32) -> Code {
    eprintln!("the fake driver: PoCL failed with {code}");
    LAUNCH_FAILURE
}

/// Puts a value where the caller wants it.
unsafe fn put<T>(target: *mut T, value: T) -> Result<(), Code> {
    if target.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's: there is room for one.
    unsafe { target.write(value) };
    Ok(())
}

unsafe fn object<'a, T>(pointer: Pointer) -> Result<&'a T, Code> {
    // SAFETY: the caller's: it came from a function of this library.
    unsafe { pointer.cast::<T>().as_ref() }.ok_or(INVALID_HANDLE)
}

fn device_count() -> c_int {
    if Cl::get().is_some() { setting("FAKE_HIP_DEVICES", 1) } else { 0 }
}

fn check_device(device: c_int) -> Result<(), Code> {
    if (0..device_count()).contains(&device) { Ok(()) } else { Err(INVALID_DEVICE) }
}

/// Whether bytes lie in one block of the device's memory.
fn is_ours(address: u64, bytes: u64) -> bool {
    let memory = lock(&MEMORY);
    let block = memory.range(..=address).next_back();
    block.is_some_and(|(start, length)| address - start + bytes <= *length)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipInit(_flags: c_uint) -> Code {
    code(|| {
        pass()?;
        if device_count() > 0 { Ok(()) } else { Err(NO_DEVICE) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipRuntimeGetVersion(version: *mut c_int) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        unsafe { put(version, setting("FAKE_HIP_VERSION", 60_032_831)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorName(code: Code) -> *const c_char {
    let name = match code {
        0 => c"hipSuccess",
        INVALID_VALUE => c"hipErrorInvalidValue",
        OUT_OF_MEMORY => c"hipErrorOutOfMemory",
        NOT_INITIALIZED => c"hipErrorNotInitialized",
        NO_DEVICE => c"hipErrorNoDevice",
        INVALID_DEVICE => c"hipErrorInvalidDevice",
        INVALID_IMAGE => c"hipErrorInvalidImage",
        NO_BINARY_FOR_GPU => c"hipErrorNoBinaryForGpu",
        INVALID_HANDLE => c"hipErrorInvalidHandle",
        NOT_FOUND => c"hipErrorNotFound",
        NOT_READY => c"hipErrorNotReady",
        LAUNCH_FAILURE => c"hipErrorLaunchFailure",
        ALREADY_REGISTERED => c"hipErrorHostMemoryAlreadyRegistered",
        NOT_REGISTERED => c"hipErrorHostMemoryNotRegistered",
        _ => c"hipErrorUnknown",
    };
    name.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceCount(count: *mut c_int) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        unsafe { put(count, device_count())? };
        if device_count() > 0 { Ok(()) } else { Err(NO_DEVICE) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetName(name: *mut c_char, room: c_int, device: c_int) -> Code {
    code(|| {
        pass()?;
        check_device(device)?;
        // SAFETY: the caller's: there is so much room.
        unsafe { put_text(name.cast(), "A fake card", room as usize) };
        Ok(())
    })
}

unsafe fn put_text(target: *mut u8, text: &str, room: usize) {
    let length = text.len().min(room - 1);
    // SAFETY: the caller's.
    unsafe {
        target.copy_from_nonoverlapping(text.as_ptr(), length);
        target.add(length).write(0);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
) -> Code {
    code(|| {
        pass()?;
        check_device(device)?;
        let pci = setting("FAKE_HIP_PCI", "0000:0b:00".to_owned());
        let pci = |index| {
            let part =
                pci.split(':').nth(index).and_then(|part| c_int::from_str_radix(part, 16).ok());
            part.expect("FAKE_HIP_PCI is domain:bus:device")
        };
        let number = match attribute {
            56 => 1024,
            63 => 60,
            67 => pci(1),
            68 => pci(2),
            69 => pci(0),
            74 => 65_536,
            87 => setting("FAKE_HIP_WAVE", 64),
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller's.
        unsafe { put(value, number) }
    })
}

fn memory_bytes() -> u64 {
    setting("FAKE_HIP_MEMORY", 8 << 30)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceTotalMem(bytes: *mut usize, device: c_int) -> Code {
    code(|| {
        pass()?;
        check_device(device)?;
        // SAFETY: the caller's.
        unsafe { put(bytes, memory_bytes() as usize) }
    })
}

/// The struct of version 5, as far as anybody reads it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceProperties(properties: *mut u8, device: c_int) -> Code {
    // SAFETY: the caller's: there is room for the struct, which has 792 bytes.
    unsafe { put_architecture(properties, 396, device) }
}

/// The struct of versions 6 and 7.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevicePropertiesR0600(properties: *mut u8, device: c_int) -> Code {
    if setting("FAKE_HIP_VERSION", 60_032_831) < 60_000_000 {
        return NOT_FOUND;
    }
    // SAFETY: the caller's: there is room for the struct, which has 1472 bytes.
    unsafe { put_architecture(properties, 1160, device) }
}

unsafe fn put_architecture(properties: *mut u8, offset: usize, device: c_int) -> Code {
    code(|| {
        pass()?;
        check_device(device)?;
        // SAFETY: the caller's: the text has 256 bytes in the struct.
        unsafe { put_text(properties.add(offset), &architecture(), 256) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipSetDevice(device: c_int) -> Code {
    code(|| pass().and_then(|()| check_device(device)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemGetInfo(free: *mut usize, total: *mut usize) -> Code {
    code(|| {
        pass()?;
        let used: u64 = lock(&MEMORY).values().sum();
        // SAFETY: the caller's.
        unsafe {
            put(free, memory_bytes().saturating_sub(used) as usize)?;
            put(total, memory_bytes() as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMalloc(memory: *mut Pointer, bytes: usize) -> Code {
    code(|| {
        pass()?;
        let used: u64 = lock(&MEMORY).values().sum();
        if used + bytes as u64 > memory_bytes() {
            return Err(OUT_OF_MEMORY);
        }
        let address = cl()?.allocate(bytes);
        if address.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        lock(&MEMORY).insert(address as u64, bytes as u64);
        hold(DEVICE, bytes as u64);
        // SAFETY: the caller's.
        unsafe { put(memory, address) }
    })
}

/// Waits for every stream, as the real one does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFree(memory: Pointer) -> Code {
    code(|| {
        for queue in lock(&QUEUES).iter() {
            let _ = cl3::command_queue::finish(*queue as Pointer);
        }
        let bytes = lock(&MEMORY).remove(&(memory as u64)).ok_or(INVALID_VALUE)?;
        let_go(DEVICE, bytes);
        // SAFETY: it was allocated there, and no queue uses it any more.
        unsafe { cl()?.free(memory) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostMalloc(memory: *mut Pointer, bytes: usize, _flags: c_uint) -> Code {
    code(|| {
        pass()?;
        let mut block = vec![0u64; bytes.div_ceil(8)];
        let address: Pointer = block.as_mut_ptr().cast();
        hold(PINNED, 8 * block.len() as u64);
        lock(&HOST).insert(address as u64, block);
        // SAFETY: the caller's.
        unsafe { put(memory, address) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipHostFree(memory: Pointer) -> Code {
    code(|| {
        let block = lock(&HOST).remove(&(memory as u64)).ok_or(INVALID_VALUE)?;
        let_go(PINNED, 8 * block.len() as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipHostRegister(memory: Pointer, _bytes: usize, _flags: c_uint) -> Code {
    code(|| {
        pass()?;
        let mut registered = lock(&REGISTERED);
        if registered.contains(&(memory as u64)) {
            return Err(ALREADY_REGISTERED);
        }
        registered.push(memory as u64);
        hold(OBJECTS, 1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipHostUnregister(memory: Pointer) -> Code {
    code(|| {
        let mut registered = lock(&REGISTERED);
        let at = registered.iter().position(|one| *one == memory as u64);
        registered.swap_remove(at.ok_or(NOT_REGISTERED)?);
        let_go(OBJECTS, 1);
        Ok(())
    })
}

/// Rows of bytes, from and to so far apart.
#[repr(C)]
struct Rows {
    target: *mut u8,
    target_pitch: usize,
    source: *const u8,
    source_pitch: usize,
    bytes: usize,
    rows: usize,
}

unsafe extern "C" fn copy_rows(rows: Pointer) {
    // SAFETY: `enqueue_copy` has passed it, and has looked at what lies on the device; the caller
    // keeps what lies on the host until the copy is over.
    unsafe {
        let rows = &*rows.cast::<Rows>();
        for row in 0..rows.rows {
            let source = rows.source.add(row * rows.source_pitch);
            source.copy_to_nonoverlapping(rows.target.add(row * rows.target_pitch), rows.bytes);
        }
    }
}

fn enqueue_copy(mut rows: Rows, kind: c_int, stream: Pointer) -> Result<(), Code> {
    pass()?;
    let span = |pitch: usize| match rows.rows {
        0 => 0,
        count => ((count - 1) * pitch + rows.bytes) as u64,
    };
    let to_device = matches!(kind, 1 | 3);
    let from_device = matches!(kind, 2 | 3);
    let ours = (!to_device || is_ours(rows.target as u64, span(rows.target_pitch)))
        && (!from_device || is_ours(rows.source as u64, span(rows.source_pitch)));
    if !ours || !(to_device || from_device) || rows.bytes > rows.target_pitch.min(rows.source_pitch)
    {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the stream is the caller's; OpenCL copies the description.
    let event = unsafe {
        let queue = object::<Stream>(stream)?.queue;
        let (none, size) = (ptr::null(), size_of::<Rows>());
        let description = (&raw mut rows).cast();
        let work = Some(copy_rows as unsafe extern "C" fn(Pointer));
        enqueue_native_kernel(queue, work, description, size, 0, none, none.cast(), 0, none.cast())
            .and_then(|event| cl3::command_queue::flush(queue).map(|()| event))
            .map_err(failed)?
    };
    // SAFETY: the event is ours.
    unsafe { release_event(event) }.map_err(failed)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemcpyAsync(
    target: Pointer,
    source: *const c_void,
    bytes: usize,
    kind: c_int,
    stream: Pointer,
) -> Code {
    let (target, source) = (target.cast(), source.cast());
    let (target_pitch, source_pitch) = (bytes, bytes);
    let rows = Rows { target, target_pitch, source, source_pitch, bytes, rows: 1 };
    code(|| enqueue_copy(rows, kind, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemcpy2DAsync(
    target: Pointer,
    target_pitch: usize,
    source: *const c_void,
    source_pitch: usize,
    bytes: usize,
    rows: usize,
    kind: c_int,
    stream: Pointer,
) -> Code {
    let (target, source) = (target.cast(), source.cast());
    let rows = Rows { target, target_pitch, source, source_pitch, bytes, rows };
    code(|| enqueue_copy(rows, kind, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreateWithFlags(stream: *mut Pointer, _flags: c_uint) -> Code {
    code(|| {
        pass()?;
        let cl = cl()?;
        // SAFETY: the context was made for this device.
        let queue =
            unsafe { create_command_queue(cl.context, cl.device, CL_QUEUE_PROFILING_ENABLE) };
        let queue = queue.map_err(failed)?;
        lock(&QUEUES).push(queue as usize);
        hold(OBJECTS, 1);
        // SAFETY: the caller's.
        unsafe { put(stream, Box::into_raw(Box::new(Stream { queue })).cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamDestroy(stream: Pointer) -> Code {
    code(|| {
        // SAFETY: the caller's: it was made above, and is not used again.
        let stream = unsafe { Box::from_raw(stream.cast::<Stream>()) };
        lock(&QUEUES).retain(|queue| *queue != stream.queue as usize);
        let _ = cl3::command_queue::finish(stream.queue);
        let_go(OBJECTS, 1);
        // SAFETY: the queue is ours.
        unsafe { cl3::command_queue::release_command_queue(stream.queue) }.map_err(failed)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamSynchronize(stream: Pointer) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let stream = unsafe { object::<Stream>(stream)? };
        cl3::command_queue::finish(stream.queue).map_err(failed)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamWaitEvent(
    stream: Pointer,
    event: Pointer,
    _flags: c_uint,
) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let (stream, event) = unsafe { (object::<Stream>(stream)?, object::<Event>(event)?) };
        let event = lock(&event.event);
        let Some(recorded) = *event else { return Ok(()) };
        let events = [recorded as Pointer];
        // SAFETY: the queue and the event are of one context.
        unsafe {
            enqueue_barrier_with_wait_list(stream.queue, 1, events.as_ptr())
                .and_then(|barrier| release_event(barrier))
                .map_err(failed)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventCreateWithFlags(event: *mut Pointer, _flags: c_uint) -> Code {
    code(|| {
        pass()?;
        let made = Box::new(Event { event: Mutex::new(None) });
        hold(OBJECTS, 1);
        // SAFETY: the caller's.
        unsafe { put(event, Box::into_raw(made).cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventDestroy(event: Pointer) -> Code {
    code(|| {
        // SAFETY: the caller's: it was made above, and is not used again.
        let event = unsafe { Box::from_raw(event.cast::<Event>()) };
        let_go(OBJECTS, 1);
        replace(&event, None)
    })
}

fn replace(event: &Event, recorded: Option<Pointer>) -> Result<(), Code> {
    let before = std::mem::replace(&mut *lock(&event.event), recorded.map(|event| event as usize));
    match before {
        // SAFETY: it was ours.
        Some(before) => unsafe { release_event(before as Pointer) }.map_err(failed),
        None => Ok(()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventRecord(event: Pointer, stream: Pointer) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let (event, stream) = unsafe { (object::<Event>(event)?, object::<Stream>(stream)?) };
        // SAFETY: the wait list is empty.
        let marker = unsafe { enqueue_marker_with_wait_list(stream.queue, 0, ptr::null()) };
        replace(event, Some(marker.map_err(failed)?))?;
        cl3::command_queue::flush(stream.queue).map_err(failed)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventQuery(event: Pointer) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let event = unsafe { object::<Event>(event)? };
        let Some(recorded) = *lock(&event.event) else { return Ok(()) };
        let status = get_event_info(recorded as Pointer, CL_EVENT_COMMAND_EXECUTION_STATUS);
        match i32::from(status.map_err(failed)?) {
            0 => Ok(()),
            status if status < 0 => Err(LAUNCH_FAILURE),
            _ => Err(NOT_READY),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventSynchronize(event: Pointer) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let event = unsafe { object::<Event>(event)? };
        let Some(recorded) = *lock(&event.event) else { return Ok(()) };
        wait_for_events(&[recorded as Pointer]).map_err(failed)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventElapsedTime(ms: *mut f32, start: Pointer, end: Pointer) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let (start, end) = unsafe { (object::<Event>(start)?, object::<Event>(end)?) };
        let time = |event: &Event| -> Result<u64, Code> {
            let recorded = (*lock(&event.event)).ok_or(INVALID_HANDLE)? as Pointer;
            let status = get_event_info(recorded, CL_EVENT_COMMAND_EXECUTION_STATUS);
            if i32::from(status.map_err(failed)?) > 0 {
                return Err(NOT_READY);
            }
            get_event_profiling_info(recorded, CL_PROFILING_COMMAND_END)
                .map(u64::from)
                .map_err(failed)
        };
        let nanoseconds = time(end)? as f64 - time(start)? as f64;
        // SAFETY: the caller's.
        unsafe { put(ms, (nanoseconds / 1e6) as f32) }
    })
}

/// A source for a compiler that has none of AMD's builtins: the words of `amd.h` are there behind names
/// such as `HAS_DPP`, and without them those of `portable.h` hold, which mean the same.
fn without_words(source: &str) -> String {
    let names = ["DPP", "SDOT4", "SUDOT4", "WMMA", "MFMA"];
    let defines = names.map(|name| format!("#define HAS_{name}"));
    let kept = source
        .lines()
        .filter(|line| !defines.iter().any(|define| line.starts_with(define.as_str())));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// Options for a compiler that has no arithmetic of f16 and no dot products of bytes: the peaks' kernels
/// do the same in f32, within the error of f16, and one product after the other.
fn without_types(options: &[String]) -> Vec<String> {
    let lacking = ["-DHALF=1", "-DDOT=1"];
    options.iter().filter(|option| !lacking.contains(&option.as_str())).cloned().collect()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadData(module: *mut Pointer, image: *const c_void) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's: a whole code object, of this library's compiler.
        let (elf, origin) = unsafe { comgr::read(image.cast()) }.ok_or(INVALID_IMAGE)?;
        let metadata = Metadata::read(elf).ok_or(INVALID_IMAGE)?;
        let chip = |text: &str| text.split(':').next().map(str::to_owned);
        if metadata.target().and_then(chip) != chip(&architecture()) {
            return Err(NO_BINARY_FOR_GPU);
        }
        let source = without_words(&origin.source);
        let program = cl()?.build(&source, &without_types(&origin.options)).map_err(|log| {
            eprintln!("the fake driver: {:?}: {log}", metadata.kernels());
            INVALID_IMAGE
        })?;
        let functions = Mutex::default();
        let made = Box::new(Module { program, metadata, functions });
        hold(OBJECTS, 1);
        // SAFETY: the caller's.
        unsafe { put(module, Box::into_raw(made).cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleUnload(module: Pointer) -> Code {
    code(|| {
        // SAFETY: the caller's: it was made above, and is not used again.
        let module = unsafe { Box::from_raw(module.cast::<Module>()) };
        let_go(OBJECTS, 1);
        for function in lock(&module.functions).values() {
            // SAFETY: the kernel is ours.
            unsafe { cl3::kernel::release_kernel(*lock(&function.kernel) as Pointer) }
                .map_err(failed)?;
        }
        // SAFETY: the program is ours.
        unsafe { cl3::program::release_program(module.program) }.map_err(failed)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleGetFunction(
    function: *mut Pointer,
    module: Pointer,
    name: *const c_char,
) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let (module, name) = unsafe { (object::<Module>(module)?, CStr::from_ptr(name)) };
        let mut functions = lock(&module.functions);
        if !functions.contains_key(name) {
            let text = name.to_str().map_err(|_| NOT_FOUND)?;
            let places = module.metadata.arguments(text).ok_or(NOT_FOUND)?;
            let kernel = cl3::kernel::create_kernel(module.program, name).map_err(failed)?;
            let made = Box::new(Function { kernel: Mutex::new(kernel as usize), places });
            functions.insert(name.to_owned(), made);
        }
        let found: *const Function = &raw const **functions.get(name).ok_or(NOT_FOUND)?;
        // SAFETY: the caller's.
        unsafe { put(function, found.cast_mut().cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLaunchKernel(
    function: Pointer,
    groups_x: c_uint,
    groups_y: c_uint,
    groups_z: c_uint,
    local_x: c_uint,
    local_y: c_uint,
    local_z: c_uint,
    _local_bytes: c_uint,
    stream: Pointer,
    parameters: *mut Pointer,
    extra: *mut Pointer,
) -> Code {
    code(|| {
        pass()?;
        // SAFETY: the caller's.
        let (function, stream) =
            unsafe { (object::<Function>(function)?, object::<Stream>(stream)?) };
        // SAFETY: the caller's: names and values in turns, until the end.
        let arguments = unsafe { packed(parameters, extra, function.places.bytes)? };
        let kernel = lock(&function.kernel);
        for (index, place) in function.places.explicit.iter().enumerate() {
            let bytes = &arguments[place.offset..place.offset + place.bytes];
            let index = index as u32;
            if place.is_pointer {
                let address = u64::from_le_bytes(bytes.try_into().map_err(|_| INVALID_VALUE)?);
                if address != 0 && !is_ours(address, 1) {
                    return Err(INVALID_VALUE);
                }
                // SAFETY: the kernel is locked.
                unsafe { cl()?.set_pointer(*kernel as Pointer, index, address) }.map_err(failed)?;
            } else {
                let (size, value) = (bytes.len(), bytes.as_ptr().cast());
                // SAFETY: as above; OpenCL copies the bytes.
                unsafe { cl3::kernel::set_kernel_arg(*kernel as Pointer, index, size, value) }
                    .map_err(failed)?;
            }
        }
        let local = [local_x, local_y, local_z].map(|size| size as usize);
        let groups = [groups_x, groups_y, groups_z].map(|size| size as usize);
        let global: [usize; 3] = std::array::from_fn(|axis| groups[axis] * local[axis]);
        // The work-items that a real card counts from there, PoCL is told of.
        let offset = function.places.offsets.map(|place| {
            let (start, length) = place.unwrap_or((0, 0));
            let bytes = arguments[start..start + length].iter().rev();
            bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
        });
        // SAFETY: the sizes have three elements each, and all arguments are set.
        unsafe {
            enqueue_nd_range_kernel(
                stream.queue,
                *kernel as Pointer,
                3,
                offset.as_ptr(),
                global.as_ptr(),
                local.as_ptr(),
                0,
                ptr::null(),
            )
            .and_then(|event| release_event(event))
            .and_then(|()| cl3::command_queue::flush(stream.queue))
            .map_err(failed)
        }
    })
}

/// The arguments of a launch, which come as one buffer.
unsafe fn packed<'a>(
    parameters: *mut Pointer,
    extra: *mut Pointer,
    bytes: usize,
) -> Result<&'a [u8], Code> {
    if !parameters.is_null() || extra.is_null() {
        return Err(INVALID_VALUE);
    }
    let (mut buffer, mut size) = (ptr::null::<u8>(), 0);
    // SAFETY: the caller's: names and values in turns, until the end; the buffer has its size.
    unsafe {
        for index in (0..).step_by(2) {
            match *extra.add(index) as usize {
                1 => buffer = (*extra.add(index + 1)).cast(),
                2 => size = *(*extra.add(index + 1)).cast::<usize>(),
                3 => break,
                _ => return Err(INVALID_VALUE),
            }
        }
        if buffer.is_null() || size < bytes {
            return Err(INVALID_VALUE);
        }
        Ok(std::slice::from_raw_parts(buffer, size))
    }
}
