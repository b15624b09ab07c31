//! AMD's driver library: its functions, found when it is opened, and what its codes mean.
//!
//! The library is opened once and stays open: its threads outlive whoever opened it. Under the
//! feature `hip-link` the same table is filled by the linker.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

#[cfg(not(feature = "hip-link"))]
use libloading::Library;

use crate::{Error, Result};
#[cfg(not(feature = "hip-link"))]
use crate::{
    backend::library::{self, Opened},
    knob,
};

/// The library by the names that its versions have, the newest first.
#[cfg(all(not(feature = "hip-link"), not(windows)))]
const NAMES: [&str; 4] =
    ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"];
#[cfg(all(not(feature = "hip-link"), windows))]
const NAMES: [&str; 3] = ["amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll"];

/// `hipError_t`
pub type Code = c_int;
/// A stream, an event, a module, a function, or an address on the device.
pub type Pointer = *mut c_void;

pub const SUCCESS: Code = 0;
pub const OUT_OF_MEMORY: Code = 2;
pub const NO_DEVICE: Code = 100;
pub const INVALID_DEVICE: Code = 101;
pub const NOT_READY: Code = 600;

/// Where a copy comes from and goes to.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Direction {
    ToDevice = 1,
    ToHost = 2,
    OnDevice = 3,
}

/// Numbers that the driver tells of a device: the same in versions 5 to 7.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Attribute {
    MaxWorkGroup = 56,
    ComputeUnits = 63,
    PciBus = 67,
    PciDevice = 68,
    PciDomain = 69,
    LocalMemory = 74,
    SubGroup = 87,
}

/// Declares the functions that are used, and how they are found.
macro_rules! functions {
    ($($field:ident = $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// All of them, or the name of one that is not there.
            #[cfg(not(feature = "hip-link"))]
            fn find(library: &Library) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the types are those of `hip_runtime_api.h`, versions 5 to 7; an
                    // enumeration there is an int, a handle a pointer.
                    $($field: *unsafe {
                        library.get(concat!(stringify!($name), "\0").as_bytes())
                    }.map_err(|_| stringify!($name))?,)*
                })
            }

            #[cfg(feature = "hip-link")]
            fn linked() -> Self {
                Self {
                    $($field: {
                        let function = hip_sys::hiprt::$name as *const ();
                        // SAFETY: as where a library is opened: these are the same functions,
                        // whose enumerations have names of their own in those bindings.
                        unsafe { std::mem::transmute(function) }
                    },)*
                }
            }
        }
    };
}

functions! {
    init = hipInit(c_uint) -> Code;
    runtime_get_version = hipRuntimeGetVersion(*mut c_int) -> Code;
    get_error_name = hipGetErrorName(Code) -> *const c_char;
    get_device_count = hipGetDeviceCount(*mut c_int) -> Code;
    device_get_name = hipDeviceGetName(*mut c_char, c_int, c_int) -> Code;
    device_get_attribute = hipDeviceGetAttribute(*mut c_int, c_int, c_int) -> Code;
    device_total_mem = hipDeviceTotalMem(*mut usize, c_int) -> Code;
    set_device = hipSetDevice(c_int) -> Code;
    mem_get_info = hipMemGetInfo(*mut usize, *mut usize) -> Code;
    malloc = hipMalloc(*mut Pointer, usize) -> Code;
    free = hipFree(Pointer) -> Code;
    host_malloc = hipHostMalloc(*mut Pointer, usize, c_uint) -> Code;
    host_free = hipHostFree(Pointer) -> Code;
    host_register = hipHostRegister(Pointer, usize, c_uint) -> Code;
    host_unregister = hipHostUnregister(Pointer) -> Code;
    memcpy = hipMemcpyAsync(Pointer, *const c_void, usize, c_int, Pointer) -> Code;
    memcpy_2d = hipMemcpy2DAsync(
        Pointer, usize, *const c_void, usize, usize, usize, c_int, Pointer
    ) -> Code;
    stream_create = hipStreamCreateWithFlags(*mut Pointer, c_uint) -> Code;
    stream_destroy = hipStreamDestroy(Pointer) -> Code;
    stream_synchronize = hipStreamSynchronize(Pointer) -> Code;
    stream_wait_event = hipStreamWaitEvent(Pointer, Pointer, c_uint) -> Code;
    event_create = hipEventCreateWithFlags(*mut Pointer, c_uint) -> Code;
    event_destroy = hipEventDestroy(Pointer) -> Code;
    event_record = hipEventRecord(Pointer, Pointer) -> Code;
    event_query = hipEventQuery(Pointer) -> Code;
    event_synchronize = hipEventSynchronize(Pointer) -> Code;
    event_elapsed_time = hipEventElapsedTime(*mut f32, Pointer, Pointer) -> Code;
    module_load_data = hipModuleLoadData(*mut Pointer, *const c_void) -> Code;
    module_unload = hipModuleUnload(Pointer) -> Code;
    module_get_function = hipModuleGetFunction(*mut Pointer, Pointer, *const c_char) -> Code;
    module_launch_kernel = hipModuleLaunchKernel(
        Pointer, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Pointer,
        *mut Pointer, *mut Pointer
    ) -> Code;
}

/// The function that tells a device's architecture, which is no attribute but a text in a struct,
/// and where it stands there. The struct has changed once, and the function's name with it.
#[cfg(not(feature = "hip-link"))]
fn properties(version: u32) -> (&'static str, usize) {
    if version < 6 {
        ("hipGetDeviceProperties", 396)
    } else {
        ("hipGetDevicePropertiesR0600", 1160)
    }
}

/// More than the struct has in any version.
const PROPERTIES_BYTES: usize = 8192;

type GetProperties = unsafe extern "C" fn(Pointer, c_int) -> Code;

/// The library, opened.
pub struct Driver {
    functions: Functions,
    properties: Option<(GetProperties, usize)>,
    /// Which library, such as `libamdhip64.so.6`.
    name: String,
    version: [u32; 3],
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.version())
    }
}

/// Why there is no driver to use.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing(pub String);

impl Driver {
    /// The first library of the known names that opens, or the one that the knob names.
    #[cfg(not(feature = "hip-link"))]
    pub fn open() -> Result<Arc<Self>, Missing> {
        let named = match knob::hip_library().map_err(|error| Missing(error.to_string()))? {
            knob::Library::Usual => None,
            knob::Library::Named(path) => Some(path),
            knob::Library::Off => return Err(Missing("switched off".to_owned())),
        };
        let Opened { name, library: opened, .. } =
            library::open(&NAMES, named.as_deref(), false)
                .map_err(|looked_for| Missing(format!("no library (looked for {looked_for})")))?;
        let functions = match Functions::find(opened) {
            Ok(functions) => functions,
            Err(symbol) => return Err(Missing(lacking(opened, &name, symbol))),
        };
        let mut driver = Self::new(functions, name)?;
        let (function, offset) = properties(driver.version[0]);
        // SAFETY: the type is that of `hip_runtime_api.h`.
        match unsafe { opened.get::<GetProperties>(function.as_bytes()) } {
            Ok(found) => driver.properties = Some((*found, offset)),
            Err(_) => return Err(Missing(lacking(opened, &driver.name, function))),
        }
        Ok(Arc::new(driver))
    }

    /// The library that this program is linked with.
    #[cfg(feature = "hip-link")]
    pub fn open() -> Result<Arc<Self>, Missing> {
        let function = hip_sys::hiprt::hipGetDeviceProperties as *const ();
        // SAFETY: the struct is a pointer here; the bindings are of version 5, whose function and
        // struct have this name.
        let function: GetProperties = unsafe { std::mem::transmute(function) };
        let mut driver = Self::new(Functions::linked(), "the linked library".to_owned())?;
        driver.properties = Some((function, 396));
        Ok(Arc::new(driver))
    }

    fn new(functions: Functions, name: String) -> Result<Self, Missing> {
        let mut number = 0;
        // SAFETY: the number is there to be written.
        let code = unsafe { (functions.runtime_get_version)(&mut number) };
        if code != SUCCESS {
            let detail = format!("{name}: hipRuntimeGetVersion failed: {}", functions.text(code));
            return Err(Missing(detail));
        }
        let version = version(number);
        if !(5..=7).contains(&version[0]) {
            let [major, minor, patch] = version;
            let detail = format!("{name} is version {major}.{minor}.{patch}, expected 5 to 7");
            return Err(Missing(detail));
        }
        Ok(Self { functions, properties: None, name, version })
    }

    /// Which library it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, such as 5.2.21153.
    pub fn version(&self) -> String {
        self.version.map(|number| number.to_string()).join(".")
    }

    /// A code as messages have it: `hipErrorNoDevice (100)`.
    pub fn described(&self, code: Code) -> String {
        self.functions.text(code)
    }

    /// Nothing, or the error of a call that failed.
    pub fn check(&self, call: &'static str, code: Code) -> Result<()> {
        match code {
            SUCCESS => Ok(()),
            code => Err(Error::Device { call, detail: self.described(code) }),
        }
    }

    /// As [`Driver::check`] for a call that may need `bytes` bytes of memory.
    pub fn check_memory(&self, call: &'static str, code: Code, bytes: u64) -> Result<()> {
        match code {
            OUT_OF_MEMORY => {
                Err(Error::OutOfMemory { requested_bytes: bytes, held_bytes: 0, budget_bytes: 0 })
            }
            code => self.check(call, code),
        }
    }

    /// How many devices there are, none being no error.
    pub fn device_count(&self) -> Result<u32> {
        // SAFETY: no pointers.
        match unsafe { (self.functions.init)(0) } {
            // Version 5 without the kernel's driver says the second.
            NO_DEVICE | INVALID_DEVICE => return Ok(0),
            code => self.check("hipInit", code)?,
        }
        let mut count = 0;
        // SAFETY: the number is there to be written.
        match unsafe { (self.functions.get_device_count)(&mut count) } {
            NO_DEVICE | INVALID_DEVICE => Ok(0),
            code => self.check("hipGetDeviceCount", code).map(|()| count.max(0) as u32),
        }
    }

    pub fn device_name(&self, device: u32) -> Result<String> {
        let mut text = [0; 256];
        let (room, device) = (text.len() as c_int, device as c_int);
        // SAFETY: there is room for as many characters as it is told.
        let code =
            unsafe { (self.functions.device_get_name)(text.as_mut_ptr().cast(), room, device) };
        self.check("hipDeviceGetName", code)?;
        Ok(until_nul(&text))
    }

    pub fn attribute(&self, device: u32, attribute: Attribute) -> Result<u32> {
        let mut number = 0;
        let (attribute, device) = (attribute as c_int, device as c_int);
        // SAFETY: the number is there to be written.
        let code = unsafe { (self.functions.device_get_attribute)(&mut number, attribute, device) };
        self.check("hipDeviceGetAttribute", code)?;
        Ok(number.max(0) as u32)
    }

    pub fn memory_bytes(&self, device: u32) -> Result<u64> {
        let mut bytes = 0;
        // SAFETY: the number is there to be written.
        let code = unsafe { (self.functions.device_total_mem)(&mut bytes, device as c_int) };
        self.check("hipDeviceTotalMem", code).map(|()| bytes as u64)
    }

    /// The architecture with its feature flags, such as `gfx906:sramecc+:xnack-`; `None` where the
    /// driver gives something else.
    pub fn architecture(&self, device: u32) -> Result<Option<String>> {
        let Some((get, offset)) = self.properties else { return Ok(None) };
        let mut bytes = vec![0u64; PROPERTIES_BYTES / 8];
        // SAFETY: there is room, aligned, for more than any version writes.
        let code = unsafe { get(bytes.as_mut_ptr().cast(), device as c_int) };
        self.check("hipGetDeviceProperties", code)?;
        let bytes: Vec<u8> = bytes.into_iter().flat_map(u64::to_ne_bytes).collect();
        let text = until_nul(&bytes[offset..offset + 256]);
        let is_known = text.starts_with("gfx")
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-:".contains(c));
        Ok(is_known.then_some(text))
    }

    /// Has the calls of this thread meant for a device.
    pub fn set_device(&self, device: u32) -> Result<()> {
        // SAFETY: no pointers.
        self.check("hipSetDevice", unsafe { (self.functions.set_device)(device as c_int) })
    }

    /// How many bytes of the current device nobody uses.
    pub fn free_bytes(&self) -> Result<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are there to be written.
        let code = unsafe { (self.functions.mem_get_info)(&mut free, &mut total) };
        self.check("hipMemGetInfo", code).map(|()| free as u64)
    }
}

/// Calls that take addresses or handles: whose they are, and that they are valid, the callers say.
/// Each gives the driver's code.
#[allow(clippy::missing_safety_doc, reason = "each is the driver's function of that name")]
#[rustfmt::skip]
impl Driver {
    pub unsafe fn malloc(&self, bytes: usize) -> (Code, Pointer) {
        // SAFETY: the pointer is there to be written.
        created(|pointer| unsafe { (self.functions.malloc)(pointer, bytes) })
    }
    pub unsafe fn free(&self, memory: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.free)(memory) }
    }
    pub unsafe fn host_malloc(&self, bytes: usize) -> (Code, Pointer) {
        // SAFETY: the pointer is there to be written.
        created(|pointer| unsafe { (self.functions.host_malloc)(pointer, bytes, 0) })
    }
    pub unsafe fn host_free(&self, memory: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.host_free)(memory) }
    }
    pub unsafe fn host_register(&self, memory: Pointer, bytes: usize) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.host_register)(memory, bytes, 0) }
    }
    pub unsafe fn host_unregister(&self, memory: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.host_unregister)(memory) }
    }
    pub unsafe fn memcpy(
        &self, target: Pointer, source: *const c_void, bytes: usize, direction: Direction,
        stream: Pointer,
    ) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.memcpy)(target, source, bytes, direction as c_int, stream) }
    }
    pub unsafe fn memcpy_2d(
        &self, target: (Pointer, usize), source: (Pointer, usize), size: [usize; 2],
        stream: Pointer,
    ) -> Code {
        let ((target, to_pitch), (source, from_pitch)) = (target, source);
        let (copy, direction) = (self.functions.memcpy_2d, Direction::OnDevice as c_int);
        // SAFETY: the caller's.
        unsafe { copy(target, to_pitch, source, from_pitch, size[0], size[1], direction, stream) }
    }
    pub unsafe fn stream_create(&self) -> (Code, Pointer) {
        // Beside the stream that other libraries of this process use.
        const NON_BLOCKING: c_uint = 1;
        // SAFETY: the pointer is there to be written.
        created(|pointer| unsafe { (self.functions.stream_create)(pointer, NON_BLOCKING) })
    }
    pub unsafe fn stream_destroy(&self, stream: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.stream_destroy)(stream) }
    }
    pub unsafe fn stream_synchronize(&self, stream: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.stream_synchronize)(stream) }
    }
    pub unsafe fn stream_wait_event(&self, stream: Pointer, event: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.stream_wait_event)(stream, event, 0) }
    }
    pub unsafe fn event_create(&self) -> (Code, Pointer) {
        // SAFETY: the pointer is there to be written.
        created(|pointer| unsafe { (self.functions.event_create)(pointer, 0) })
    }
    pub unsafe fn event_destroy(&self, event: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.event_destroy)(event) }
    }
    pub unsafe fn event_record(&self, event: Pointer, stream: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.event_record)(event, stream) }
    }
    pub unsafe fn event_query(&self, event: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.event_query)(event) }
    }
    pub unsafe fn event_synchronize(&self, event: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.event_synchronize)(event) }
    }
    pub unsafe fn event_elapsed_ms(&self, start: Pointer, end: Pointer) -> (Code, f32) {
        let mut ms = 0.0;
        // SAFETY: the number is there to be written; the events are the caller's.
        let code = unsafe { (self.functions.event_elapsed_time)(&mut ms, start, end) };
        (code, ms)
    }
    pub unsafe fn module_load(&self, image: *const c_void) -> (Code, Pointer) {
        // SAFETY: the pointer is there to be written; the image is the caller's.
        created(|pointer| unsafe { (self.functions.module_load_data)(pointer, image) })
    }
    pub unsafe fn module_unload(&self, module: Pointer) -> Code {
        // SAFETY: the caller's.
        unsafe { (self.functions.module_unload)(module) }
    }
    pub unsafe fn module_function(&self, module: Pointer, name: &CStr) -> (Code, Pointer) {
        let name = name.as_ptr();
        // SAFETY: the pointer is there to be written; the module is the caller's.
        created(|pointer| unsafe { (self.functions.module_get_function)(pointer, module, name) })
    }
    pub unsafe fn launch(
        &self, function: Pointer, groups: [u32; 3], local: [u32; 3], stream: Pointer,
        extra: *mut Pointer,
    ) -> Code {
        let ([x, y, z], [in_x, in_y, in_z]) = (groups, local);
        let (launch, none) = (self.functions.module_launch_kernel, std::ptr::null_mut());
        // SAFETY: the caller's.
        unsafe { launch(function, x, y, z, in_x, in_y, in_z, 0, stream, none, extra) }
    }
}

impl Functions {
    fn text(&self, code: Code) -> String {
        // SAFETY: it gives a text of its own for any number, or null.
        let name = unsafe { (self.get_error_name)(code) };
        if name.is_null() {
            return format!("error {code}");
        }
        // SAFETY: the library's texts end in NUL and stay.
        let name = unsafe { CStr::from_ptr(name) };
        format!("{} ({code})", name.to_string_lossy())
    }
}

fn created(create: impl FnOnce(*mut Pointer) -> Code) -> (Code, Pointer) {
    let mut pointer = std::ptr::null_mut();
    let code = create(&mut pointer);
    (code, pointer)
}

/// Which function a library lacks, and which version it is, if it tells.
#[cfg(not(feature = "hip-link"))]
fn lacking(opened: &Library, name: &str, symbol: &str) -> String {
    type GetVersion = unsafe extern "C" fn(*mut c_int) -> Code;
    let mut number = 0;
    // SAFETY: the type is that of `hip_runtime_api.h`; the number is there to be written.
    let code = unsafe {
        let get = opened.get::<GetVersion>(b"hipRuntimeGetVersion\0");
        get.map(|get| get(&mut number))
    };
    let version = match code {
        Ok(SUCCESS) => format!("version {}", version(number).map(|n| n.to_string()).join(".")),
        _ => "which tells no version".to_owned(),
    };
    format!("{name}, {version}, has no {symbol}: versions 5 to 7 of ROCm have it")
}

/// 50221153 is 5.2.21153.
fn version(number: c_int) -> [u32; 3] {
    let number = number.max(0) as u32;
    [number / 10_000_000, number / 100_000 % 100, number % 100_000]
}

fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_number() {
        assert_eq!(version(50_221_153), [5, 2, 21_153]);
        assert_eq!(version(70_051_831), [7, 0, 51_831]);
        assert_eq!(version(0), [0, 0, 0]);
    }

    #[test]
    fn a_text_ends_at_its_first_nul() {
        assert_eq!(until_nul(b"gfx803\0\xff"), "gfx803");
        assert_eq!(until_nul(b"\0abc"), "");
        assert_eq!(until_nul(b" a b "), "a b");
    }
}
