//! The compiler's functions, forwarded, with the source carried along.
//!
//! A code object that comes out of the linker gets the options and the source behind it. Where they
//! begin stands in the padding of the ELF header, which nobody reads.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, OnceLock};

use libloading::Library;

use crate::{COMPILING, lock};

type Status = u32;
type Handle = u64;

const FAILED: Status = 1;
const SOURCE: u32 = 1;
const EXECUTABLE: u32 = 8;
/// Where in an ELF header a number of four bytes says how long the file is.
const PADDING: usize = 9;

/// What a code object was compiled from.
#[derive(Clone)]
pub struct Origin {
    pub options: Vec<String>,
    pub source: String,
}

static OPTIONS: Mutex<Option<HashMap<Handle, Vec<String>>>> = Mutex::new(None);
static ORIGINS: Mutex<Option<HashMap<Handle, Origin>>> = Mutex::new(None);

fn with<K, V, R>(
    map: &Mutex<Option<HashMap<K, V>>>,
    work: impl FnOnce(&mut HashMap<K, V>) -> R,
) -> R {
    work(lock(map).get_or_insert_default())
}

fn real() -> Option<&'static Library> {
    static REAL: OnceLock<Option<Library>> = OnceLock::new();
    let open = || {
        let names = ["libamd_comgr.so.3", "libamd_comgr.so.2"];
        // SAFETY: a compiler's initialisers touch nothing of ours.
        names.iter().find_map(|name| unsafe { Library::new(*name) }.ok())
    };
    REAL.get_or_init(open).as_ref()
}

/// Functions that are forwarded as they are.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        /// The real functions.
        #[allow(dead_code, reason = "not all of them are called from here")]
        mod forwarded {
            use super::*;
            $(pub unsafe fn $name($($argument: $type),*) -> Status {
                let Some(library) = real() else { return FAILED };
                // SAFETY: the type is that of `amd_comgr.h`; what is passed is the caller's.
                unsafe {
                    let function = library.get::<unsafe extern "C" fn($($type),*) -> Status>(
                        stringify!($name).as_bytes(),
                    );
                    function.map_or(FAILED, |function| function($($argument),*))
                }
            })*
        }
        forward!(@export $($name($($argument: $type),*);)*);
    };
    (@export amd_comgr_do_action $rest:tt; $($more:tt)*) => { forward!(@export $($more)*); };
    (@export amd_comgr_action_info_set_option_list $rest:tt; $($more:tt)*) => {
        forward!(@export $($more)*);
    };
    (@export amd_comgr_data_set_remove $rest:tt; $($more:tt)*) => { forward!(@export $($more)*); };
    (@export $name:ident($($argument:ident: $type:ty),*); $($more:tt)*) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Status {
            // SAFETY: the caller's.
            unsafe { forwarded::$name($($argument),*) }
        }
        forward!(@export $($more)*);
    };
    (@export) => {};
}

forward! {
    amd_comgr_create_data(kind: u32, data: *mut Handle);
    amd_comgr_release_data(data: Handle);
    amd_comgr_set_data(data: Handle, bytes: usize, text: *const u8);
    amd_comgr_set_data_name(data: Handle, name: *const c_char);
    amd_comgr_get_data(data: Handle, bytes: *mut usize, text: *mut u8);
    amd_comgr_create_data_set(set: *mut Handle);
    amd_comgr_destroy_data_set(set: Handle);
    amd_comgr_data_set_add(set: Handle, data: Handle);
    amd_comgr_data_set_remove(set: Handle, kind: u32);
    amd_comgr_action_data_count(set: Handle, kind: u32, count: *mut usize);
    amd_comgr_action_data_get_data(set: Handle, kind: u32, index: usize, data: *mut Handle);
    amd_comgr_create_action_info(info: *mut Handle);
    amd_comgr_destroy_action_info(info: Handle);
    amd_comgr_action_info_set_isa_name(info: Handle, name: *const c_char);
    amd_comgr_action_info_set_language(info: Handle, language: u32);
    amd_comgr_action_info_set_option_list(info: Handle, list: *const *const c_char, count: usize);
    amd_comgr_action_info_set_logging(info: Handle, on: bool);
    amd_comgr_do_action(kind: u32, info: Handle, input: Handle, output: Handle);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn amd_comgr_get_version(major: *mut usize, minor: *mut usize) {
    let Some(library) = real() else { return };
    // SAFETY: the type is that of `amd_comgr.h`; what is passed is the caller's.
    unsafe {
        let name = b"amd_comgr_get_version";
        if let Ok(get) = library.get::<unsafe extern "C" fn(*mut usize, *mut usize)>(name) {
            get(major, minor);
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn amd_comgr_action_info_set_option_list(
    info: Handle,
    list: *const *const c_char,
    count: usize,
) -> Status {
    // SAFETY: the caller's: so many texts that end in NUL.
    let text = |index| unsafe { CStr::from_ptr(*list.add(index)) }.to_string_lossy().into_owned();
    let options = (0..count).map(text).collect();
    with(&OPTIONS, |all| all.insert(info, options));
    // SAFETY: the caller's.
    unsafe { forwarded::amd_comgr_action_info_set_option_list(info, list, count) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn amd_comgr_do_action(
    kind: u32,
    info: Handle,
    input: Handle,
    output: Handle,
) -> Status {
    let compiling = lock(&COMPILING);
    // SAFETY: the caller's.
    let status = unsafe { forwarded::amd_comgr_do_action(kind, info, input, output) };
    drop(compiling);
    if status != 0 {
        return status;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are there to be written.
    unsafe { amd_comgr_get_version(&mut major, &mut minor) };
    let [compile, codegen, link] = if major == 2 { [15, 6, 9] } else { [12, 4, 7] };
    if kind == compile {
        let Some(source) = first(input, SOURCE) else { return FAILED };
        let source = String::from_utf8_lossy(&source).into_owned();
        let options = with(&OPTIONS, |all| all.get(&info).cloned().unwrap_or_default());
        with(&ORIGINS, |all| all.insert(output, Origin { options, source }));
    } else if kind == codegen || kind == link {
        let Some(origin) = with(&ORIGINS, |all| all.get(&input).cloned()) else { return FAILED };
        if kind == link && attach(output, &origin).is_none() {
            return FAILED;
        }
        with(&ORIGINS, |all| all.insert(output, origin));
    }
    0
}

/// The first data of a kind in a set.
fn first(set: Handle, kind: u32) -> Option<Vec<u8>> {
    let (mut data, mut bytes) = (0, 0);
    // SAFETY: what is written to is there, and has room for what was said.
    unsafe {
        if forwarded::amd_comgr_action_data_get_data(set, kind, 0, &mut data) != 0 {
            return None;
        }
        let none = std::ptr::null_mut();
        let mut content = match forwarded::amd_comgr_get_data(data, &mut bytes, none) {
            0 => vec![0; bytes],
            _ => Vec::new(),
        };
        let status = forwarded::amd_comgr_get_data(data, &mut bytes, content.as_mut_ptr());
        forwarded::amd_comgr_release_data(data);
        (status == 0).then_some(content)
    }
}

/// Puts the origin behind the code object of a set.
fn attach(set: Handle, origin: &Origin) -> Option<()> {
    let mut content = first(set, EXECUTABLE)?;
    let length = u32::try_from(content.len()).ok()?;
    content[PADDING..PADDING + 4].copy_from_slice(&length.to_le_bytes());
    let behind = [origin.options.join("\n"), "\0".to_owned(), origin.source.clone()].concat();
    content.extend((behind.len() as u64).to_le_bytes());
    content.extend(behind.into_bytes());
    let mut data = 0;
    // SAFETY: the handles are valid; what is passed stays for as long as the calls take.
    let status = unsafe {
        forwarded::amd_comgr_data_set_remove(set, EXECUTABLE)
            | forwarded::amd_comgr_create_data(EXECUTABLE, &mut data)
            | forwarded::amd_comgr_set_data(data, content.len(), content.as_ptr())
            | forwarded::amd_comgr_set_data_name(data, c"kernel.co".as_ptr())
            | forwarded::amd_comgr_data_set_add(set, data)
            | forwarded::amd_comgr_release_data(data)
    };
    (status == 0).then_some(())
}

/// The code object at an address, and what it was compiled from.
///
/// # Safety
///
/// There is one, with all that belongs to it.
pub unsafe fn read(image: *const u8) -> Option<(&'static [u8], Origin)> {
    // SAFETY: an ELF header is longer; the numbers in it and behind it say how much there is.
    unsafe {
        let header = std::slice::from_raw_parts(image, 64);
        let number = header[PADDING..PADDING + 4].try_into().ok()?;
        let length = u32::from_le_bytes(number) as usize;
        if !header.starts_with(b"\x7fELF") || length == 0 {
            return None;
        }
        let elf = std::slice::from_raw_parts(image, length);
        let number = std::slice::from_raw_parts(image.add(length), 8).try_into().ok()?;
        let behind = image.add(length + 8);
        let behind = std::slice::from_raw_parts(behind, u64::from_le_bytes(number) as usize);
        let (options, source) = std::str::from_utf8(behind).ok()?.split_once('\0')?;
        let options = options.lines().map(str::to_owned).collect();
        Some((elf, Origin { options, source: source.to_owned() }))
    }
}
