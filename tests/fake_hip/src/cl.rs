//! PoCL, which does the work.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::OnceLock;

use cl3::device::{CL_DEVICE_TYPE_CPU, get_device_ids};
use cl3::platform::{CL_PLATFORM_NAME, get_platform_ids, get_platform_info};
use libloading::Library;

use crate::{COMPILING, lock};

type Pointer = *mut c_void;

/// A context on PoCL's device, and the functions for pointers that a device shares.
pub struct Cl {
    pub context: Pointer,
    pub device: Pointer,
    alloc: unsafe extern "C" fn(Pointer, u64, usize, u32) -> Pointer,
    free: unsafe extern "C" fn(Pointer, Pointer),
    set_pointer: unsafe extern "C" fn(Pointer, u32, *const c_void) -> i32,
}

// SAFETY: OpenCL's calls are safe from any thread.
unsafe impl Send for Cl {}
// SAFETY: as above.
unsafe impl Sync for Cl {}

impl Cl {
    /// The one context, if PoCL is installed.
    pub fn get() -> Option<&'static Self> {
        static CL: OnceLock<Option<Cl>> = OnceLock::new();
        CL.get_or_init(Self::open).as_ref()
    }

    fn open() -> Option<Self> {
        let is_pocl = |platform: &Pointer| {
            get_platform_info(*platform, CL_PLATFORM_NAME)
                .is_ok_and(|name| String::from(name).starts_with("Portable Computing Language"))
        };
        let platform = get_platform_ids().ok()?.into_iter().find(is_pocl)?;
        let device = *get_device_ids(platform, CL_DEVICE_TYPE_CPU).ok()?.first()?;
        let context = cl3::context::create_context(&[device], ptr::null(), None, ptr::null_mut());
        // SAFETY: OpenCL's loader is open already; the types are those of `cl.h`.
        unsafe {
            let library: &'static Library =
                Box::leak(Box::new(Library::new("libOpenCL.so.1").ok()?));
            Some(Self {
                context: context.ok()?,
                device,
                alloc: *library.get(b"clSVMAlloc").ok()?,
                free: *library.get(b"clSVMFree").ok()?,
                set_pointer: *library.get(b"clSetKernelArgSVMPointer").ok()?,
            })
        }
    }

    /// Memory that kernels reach by its address; null where there is none.
    pub fn allocate(&self, bytes: usize) -> Pointer {
        const READ_WRITE: u64 = 1;
        // SAFETY: the context is valid.
        unsafe { (self.alloc)(self.context, READ_WRITE, bytes, 0) }
    }

    /// # Safety
    ///
    /// The memory came from [`Cl::allocate`] and nothing uses it.
    pub unsafe fn free(&self, memory: Pointer) {
        // SAFETY: the caller's.
        unsafe { (self.free)(self.context, memory) }
    }

    /// # Safety
    ///
    /// The kernel is valid, and nobody else sets its arguments.
    pub unsafe fn set_pointer(&self, kernel: Pointer, index: u32, address: u64) -> Result<(), i32> {
        // SAFETY: the caller's.
        let code = unsafe {
            match address {
                0 => return cl3::kernel::set_kernel_arg(kernel, index, 8, ptr::null()),
                address => (self.set_pointer)(kernel, index, address as *const c_void),
            }
        };
        if code == 0 { Ok(()) } else { Err(code) }
    }

    /// A program, or the compiler's log.
    pub fn build(&self, source: &str, options: &[String]) -> Result<Pointer, String> {
        let program = cl3::program::create_program_with_source(self.context, &[source])
            .map_err(|code| format!("clCreateProgramWithSource: {code}"))?;
        let mut all = "-cl-std=CL1.2".to_owned();
        for option in options.iter().filter(|o| o.starts_with("-D") || o.starts_with("-cl-")) {
            all.push(' ');
            all.push_str(option);
        }
        let all = CString::new(all).map_err(|error| error.to_string())?;
        let devices = [self.device];
        let _compiling = lock(&COMPILING);
        match cl3::program::build_program(program, &devices, &all, None, ptr::null_mut()) {
            Ok(()) => Ok(program),
            Err(code) => {
                // SAFETY: the program is ours.
                let _ = unsafe { cl3::program::release_program(program) };
                Err(format!("clBuildProgram: {code}"))
            }
        }
    }
}
