//! AMD's driver library and compiler library, as far as the HIP backend uses them, on top of PoCL.
//!
//! Programs open this file in place of both: `ELLESMERE_HIP_LIBRARY` and `ELLESMERE_COMGR_LIBRARY`
//! name it. Code objects and their metadata are real: the compiler's functions are forwarded to the
//! real `libamd_comgr`, and the OpenCL C that a code object came from is carried along behind it,
//! so that loading it builds the same source for PoCL. A launch unpacks its arguments as a real
//! driver does, by the metadata. What a real driver may do at any time, such as reading memory late,
//! this one does; what it leaves undefined, such as an address outside its memory, is an error.
//!
//! | variable | what | default |
//! |---|---|---|
//! | `FAKE_HIP_ARCHITECTURE` | of the one device | `gfx906:sramecc+:xnack-` |
//! | `FAKE_HIP_MEMORY` | bytes | 8 GiB |
//! | `FAKE_HIP_WAVE` | work-items in step | 64 |
//! | `FAKE_HIP_PCI` | `domain:bus:device` in hexadecimal | `0000:0b:00` |
//! | `FAKE_HIP_VERSION` | as `hipRuntimeGetVersion` has it | `60032831` |
//! | `FAKE_HIP_DEVICES` | 0 or 1 | 1 |
//!
//! A test that has opened it finds three functions more: `fake_hip_fail`, `fake_hip_calls` and
//! `fake_hip_held`.

#![allow(clippy::missing_safety_doc, reason = "the functions are those of C headers")]
#![allow(non_snake_case, reason = "the names are those of C headers")]

use std::env;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

mod cl;
mod comgr;
mod hip;
mod metadata;

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAIL_AT: AtomicU64 = AtomicU64::new(0);
static FAIL_TIMES: AtomicU64 = AtomicU64::new(0);
static FAIL_CODE: AtomicI32 = AtomicI32::new(0);

/// What callers hold: bytes on the device, bytes of pinned memory, and objects: streams, modules
/// and registered memory.
static HELD: Mutex<[u64; 3]> = Mutex::new([0; 3]);
const DEVICE: usize = 0;
const PINNED: usize = 1;
const OBJECTS: usize = 2;

/// Has the calls from the `at`-th on fail, so many of them, with a code; none if `at` is 0. Counts
/// from 1, from now on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_hip_fail(at: u64, times: u64, code: i32) {
    CALLS.store(0, SeqCst);
    FAIL_AT.store(at, SeqCst);
    FAIL_TIMES.store(times, SeqCst);
    FAIL_CODE.store(code, SeqCst);
}

/// Calls that could have failed since the last [`fake_hip_fail`].
#[unsafe(no_mangle)]
pub extern "C" fn fake_hip_calls() -> u64 {
    CALLS.load(SeqCst)
}

/// What is held: bytes of the device, bytes of pinned memory, objects.
#[unsafe(no_mangle)]
pub extern "C" fn fake_hip_held(which: u32) -> u64 {
    lock(&HELD)[which as usize]
}

/// Counts a call. The code with which it fails, if it does.
fn pass() -> Result<(), i32> {
    let count = CALLS.fetch_add(1, SeqCst) + 1;
    let at = FAIL_AT.load(SeqCst);
    let fails = at != 0 && count >= at && count - at < FAIL_TIMES.load(SeqCst);
    if fails { Err(FAIL_CODE.load(SeqCst)) } else { Ok(()) }
}

fn hold(what: usize, more: u64) {
    lock(&HELD)[what] += more;
}

fn let_go(what: usize, less: u64) {
    lock(&HELD)[what] -= less;
}

/// Held while either compiler works: AMD's and PoCL's may share one LLVM, whose options are those of
/// the process, and two that set them at once end it.
static COMPILING: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A setting, or what holds where it is not set.
fn setting<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} cannot be {text:?}")),
        Err(_) => default,
    }
}

fn architecture() -> String {
    setting("FAKE_HIP_ARCHITECTURE", "gfx906:sramecc+:xnack-".to_owned())
}
