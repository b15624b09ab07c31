//! Which words a device's compiler has instructions for.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, Mutex};

use super::handle::{ClKernel, ClProgram, Context};
use super::info::DeviceId;
use crate::backend::words::{TRIAL, Words};

/// What was found of each device: a driver's compiler does not change while it is loaded.
static FOUND: Mutex<BTreeMap<usize, Arc<Words>>> = Mutex::new(BTreeMap::new());

/// The words of a device, by trials the first time.
pub fn words(context: &Context, device: DeviceId) -> Arc<Words> {
    // Every change is complete before anything can panic.
    let mut found = FOUND.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let of_device = found.entry(device.0 as usize).or_insert_with(|| {
        let words = Words::find(|program| takes(context, device, program));
        if !words.names().is_empty() {
            tracing::debug!("words that compile: {}", words.names().join(", "));
        }
        Arc::new(words)
    });
    Arc::clone(of_device)
}

fn takes(context: &Context, device: DeviceId, program: &str) -> bool {
    let program = cl3::program::create_program_with_source(context.raw(), &[program]);
    let Ok(program) = program.map(ClProgram::new) else { return false };
    let name = CString::new(TRIAL).expect("a kernel's name has no zero byte");
    let options = c"-cl-std=CL1.2 -cl-fast-relaxed-math -D DTYPE_F16";
    let devices = [device.0];
    let built =
        cl3::program::build_program(program.raw(), &devices, options, None, ptr::null_mut());
    let kernel = |()| cl3::kernel::create_kernel(program.raw(), &name);
    built.and_then(kernel).map(ClKernel::new).is_ok()
}
