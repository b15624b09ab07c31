//! AMD's compiler as a library, `libamd_comgr.so`: compiles for any of its chips, present or not.
//!
//! It is opened at run time. Two versions are about, whose actions have other numbers: the library
//! says which it is.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use libloading::Library;

use crate::backend::library::{self, Opened};
use crate::{Error, Result, knob};

/// The library by the names that its versions have.
#[cfg(not(windows))]
pub const LIBRARIES: [&str; 3] = ["libamd_comgr.so.3", "libamd_comgr.so.2", "libamd_comgr.so"];
/// The library by the names that its versions have.
#[cfg(windows)]
pub const LIBRARIES: [&str; 3] = ["amd_comgr_3.dll", "amd_comgr_2.dll", "amd_comgr.dll"];

const LANGUAGE_OPENCL_1_2: u32 = 1;
const KIND_SOURCE: u32 = 1;
const KIND_LOG: u32 = 5;
const KIND_EXECUTABLE: u32 = 8;

/// An action's number in version 2 and in version 3.
#[derive(Clone, Copy)]
struct Action(&'static str, u32, u32);

const ADD_PRECOMPILED_HEADERS: Action = Action("ADD_PRECOMPILED_HEADERS", 1, 1);
const COMPILE: Action = Action("COMPILE_SOURCE_WITH_DEVICE_LIBS_TO_BC", 15, 12);
const CODEGEN_ASSEMBLY: Action = Action("CODEGEN_BC_TO_ASSEMBLY", 7, 5);
const CODEGEN_RELOCATABLE: Action = Action("CODEGEN_BC_TO_RELOCATABLE", 6, 4);
const LINK: Action = Action("LINK_RELOCATABLE_TO_EXECUTABLE", 9, 7);

type Status = u32;
type Handle = u64;

/// Declares the functions that are used, and how they are found in the library.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of `amd_comgr.h`, of versions 2 and 3; a handle
                    // there is a struct of one u64, which is passed as that is.
                    $($name: *unsafe {
                        library.get(concat!("amd_comgr_", stringify!($name), "\0").as_bytes())?
                    },)*
                })
            }
        }
    };
}

functions! {
    get_version: fn(*mut usize, *mut usize);
    create_data: fn(u32, *mut Handle) -> Status;
    release_data: fn(Handle) -> Status;
    set_data: fn(Handle, usize, *const u8) -> Status;
    set_data_name: fn(Handle, *const c_char) -> Status;
    get_data: fn(Handle, *mut usize, *mut u8) -> Status;
    create_data_set: fn(*mut Handle) -> Status;
    destroy_data_set: fn(Handle) -> Status;
    data_set_add: fn(Handle, Handle) -> Status;
    action_data_count: fn(Handle, u32, *mut usize) -> Status;
    action_data_get_data: fn(Handle, u32, usize, *mut Handle) -> Status;
    create_action_info: fn(*mut Handle) -> Status;
    destroy_action_info: fn(Handle) -> Status;
    action_info_set_isa_name: fn(Handle, *const c_char) -> Status;
    action_info_set_language: fn(Handle, u32) -> Status;
    action_info_set_option_list: fn(Handle, *const *const c_char, usize) -> Status;
    action_info_set_logging: fn(Handle, bool) -> Status;
    do_action: fn(u32, Handle, Handle, Handle) -> Status;
}

/// The library, opened.
pub struct Comgr {
    functions: Functions,
    version: [usize; 2],
    library: Opened,
}

impl std::fmt::Debug for Comgr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.library.name, self.version())
    }
}

/// An object of the library, released when dropped.
struct Owned<'a> {
    handle: Handle,
    release: unsafe extern "C" fn(Handle) -> Status,
    _library: &'a Comgr,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from the function that `release` belongs to, and is dropped once.
        unsafe { (self.release)(self.handle) };
    }
}

impl Comgr {
    /// The first of the library's names that opens; `None` where none is installed.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if one opens that is no comgr, or one of a version that is not known.
    pub fn open() -> Result<Option<Self>> {
        let named = knob::comgr_library()?;
        let Ok(library) = library::open(&LIBRARIES, named.as_deref(), true) else {
            return Ok(None);
        };
        let functions = Functions::find(library.library)
            .map_err(|error| Error::Device { call: "opening comgr", detail: error.to_string() })?;
        let mut version = [0, 0];
        let [major, minor] = &mut version;
        // SAFETY: both are there to be written.
        unsafe { (functions.get_version)(major, minor) };
        if !matches!(version[0], 2 | 3) {
            let detail = format!("expected version 2 or 3, got {}.{}", version[0], version[1]);
            return Err(Error::Device { call: "opening comgr", detail });
        }
        Ok(Some(Self { functions, version, library }))
    }

    /// The library's version, such as 2.4.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version[0], self.version[1])
    }

    /// Whether it compiles for a chip such as `gfx803`.
    pub fn knows(&self, chip: &str) -> bool {
        self.action_info(chip).is_ok()
    }

    /// Compiles OpenCL C 1.2 into the assembly of a chip such as `gfx803`.
    ///
    /// # Errors
    ///
    /// The compiler's log, or the call that failed.
    pub fn assembly(
        &self,
        chip: &str,
        source: &str,
        options: &[String],
    ) -> std::result::Result<String, String> {
        let info = self.action_info(chip)?;
        let bitcode = self.bitcode(&info, source, options)?;
        let assembly = self.act(CODEGEN_ASSEMBLY, &info, &bitcode)?;
        self.text(&assembly, KIND_SOURCE)?.ok_or_else(|| "no assembly came out".to_owned())
    }

    /// Compiles OpenCL C 1.2 into a code object, which a driver loads, for an architecture with its
    /// feature flags, such as `gfx906:sramecc+:xnack-`.
    ///
    /// # Errors
    ///
    /// The compiler's log, or the call that failed.
    pub fn code_object(
        &self,
        architecture: &str,
        source: &str,
        options: &[String],
    ) -> std::result::Result<Vec<u8>, String> {
        let info = self.action_info(architecture)?;
        let bitcode = self.bitcode(&info, source, options)?;
        let relocatable = self.act(CODEGEN_RELOCATABLE, &info, &bitcode)?;
        // They are the compiler's, and the linker knows none of them.
        self.set_options(&info, &[])?;
        let executable = self.act(LINK, &info, &relocatable)?;
        self.first(&executable, KIND_EXECUTABLE)?
            .ok_or_else(|| "no code object came out".to_owned())
    }

    /// What actions for a chip are told.
    fn action_info(&self, chip: &str) -> std::result::Result<Owned<'_>, String> {
        self.library.enter();
        let calls = &self.functions;
        let info = self.create(calls.create_action_info, calls.destroy_action_info)?;
        let isa = text(&format!("amdgcn-amd-amdhsa--{chip}"))?;
        // SAFETY: the text ends in NUL and outlives the call, which copies it.
        unsafe {
            let set = (calls.action_info_set_isa_name)(info.handle, isa.as_ptr());
            check("set_isa_name", set).map_err(|_| format!("this comgr knows no {chip}"))?;
            let language = (calls.action_info_set_language)(info.handle, LANGUAGE_OPENCL_1_2);
            check("set_language", language)?;
            check("set_logging", (calls.action_info_set_logging)(info.handle, true))?;
        }
        Ok(info)
    }

    fn set_options(&self, info: &Owned, options: &[String]) -> std::result::Result<(), String> {
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (list, count) = (options.as_ptr(), options.len());
        // SAFETY: the texts end in NUL and outlive the call, which copies them.
        let set = unsafe { (self.functions.action_info_set_option_list)(info.handle, list, count) };
        check("set_options", set)
    }

    /// The front end's part, with the device libraries.
    fn bitcode(
        &self,
        info: &Owned,
        source: &str,
        options: &[String],
    ) -> std::result::Result<Owned<'_>, String> {
        self.set_options(info, options)?;
        let source = self.source_set(source)?;
        let with_headers = self.act(ADD_PRECOMPILED_HEADERS, info, &source)?;
        self.act(COMPILE, info, &with_headers)
    }

    /// A set with one source in it.
    fn source_set(&self, source: &str) -> std::result::Result<Owned<'_>, String> {
        let calls = &self.functions;
        let set = self.create(calls.create_data_set, calls.destroy_data_set)?;
        let mut handle = 0;
        // SAFETY: the handle is there to be written.
        check("create_data", unsafe { (calls.create_data)(KIND_SOURCE, &mut handle) })?;
        let data = Owned { handle, release: calls.release_data, _library: self };
        let name: &CStr = c"kernel.cl";
        // SAFETY: bytes and name outlive the calls, which copy them; the handles are valid.
        unsafe {
            check("set_data", (calls.set_data)(data.handle, source.len(), source.as_ptr()))?;
            check("set_data_name", (calls.set_data_name)(data.handle, name.as_ptr()))?;
            check("data_set_add", (calls.data_set_add)(set.handle, data.handle))?;
        }
        Ok(set)
    }

    fn create(
        &self,
        create: unsafe extern "C" fn(*mut Handle) -> Status,
        release: unsafe extern "C" fn(Handle) -> Status,
    ) -> std::result::Result<Owned<'_>, String> {
        let mut handle = 0;
        // SAFETY: the handle is there to be written.
        check("create", unsafe { create(&mut handle) })?;
        Ok(Owned { handle, release, _library: self })
    }

    fn act(
        &self,
        action: Action,
        info: &Owned,
        input: &Owned,
    ) -> std::result::Result<Owned<'_>, String> {
        let calls = &self.functions;
        let output = self.create(calls.create_data_set, calls.destroy_data_set)?;
        let Action(name, in_2, in_3) = action;
        let number = if self.version[0] == 2 { in_2 } else { in_3 };
        // SAFETY: all handles are valid.
        let status = unsafe { (calls.do_action)(number, info.handle, input.handle, output.handle) };
        check(name, status).map_err(|failure| match self.text(&output, KIND_LOG) {
            Ok(Some(log)) if !log.trim().is_empty() => log,
            _ => failure,
        })?;
        Ok(output)
    }

    /// The first data of a kind in a set, as text.
    fn text(&self, set: &Owned, kind: u32) -> std::result::Result<Option<String>, String> {
        let bytes = self.first(set, kind)?;
        let text =
            |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        Ok(bytes.map(text))
    }

    /// The first data of a kind in a set.
    fn first(&self, set: &Owned, kind: u32) -> std::result::Result<Option<Vec<u8>>, String> {
        let calls = &self.functions;
        let mut count = 0;
        // SAFETY: the set is valid; the count is there to be written.
        check("data_count", unsafe { (calls.action_data_count)(set.handle, kind, &mut count) })?;
        if count == 0 {
            return Ok(None);
        }
        let mut handle = 0;
        // SAFETY: there is a first one; the handle is there to be written.
        let got = unsafe { (calls.action_data_get_data)(set.handle, kind, 0, &mut handle) };
        check("get_data", got)?;
        let data = Owned { handle, release: calls.release_data, _library: self };
        let mut size = 0;
        // SAFETY: without a place to write to, the size alone is written.
        let asked = unsafe { (calls.get_data)(data.handle, &mut size, ptr::null_mut()) };
        check("get_data", asked)?;
        let mut bytes = vec![0; size];
        // SAFETY: there is room for the size that it said.
        let read = unsafe { (calls.get_data)(data.handle, &mut size, bytes.as_mut_ptr()) };
        check("get_data", read)?;
        bytes.truncate(size);
        Ok(Some(bytes))
    }
}

fn text(text: &str) -> std::result::Result<CString, String> {
    CString::new(text).map_err(|_| "a NUL in a text".to_owned())
}

fn check(call: &str, status: Status) -> std::result::Result<(), String> {
    match status {
        0 => Ok(()),
        status => Err(format!("comgr's {call} gave status {status}")),
    }
}
