//! The driver's objects, released when dropped, and its errors by name.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, create_command_queue};
use cl3::error_codes::{
    CL_INVALID_BUFFER_SIZE, CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY,
    CL_OUT_OF_RESOURCES, error_text,
};
use cl3::event::{
    CL_COMPLETE, CL_EVENT_COMMAND_EXECUTION_STATUS, CL_PROFILING_COMMAND_END,
    CL_PROFILING_COMMAND_START, get_event_info, get_event_profiling_info,
};

use crate::backend::parts::Timed;
use crate::{Error, Result};

/// A driver call that failed, by the call's name and the code's.
pub fn failed(call: &'static str, code: i32) -> Error {
    Error::Device { call, detail: described(code) }
}

/// A code as messages have it: `CL_INVALID_WORK_GROUP_SIZE (-54)`.
pub fn described(code: i32) -> String {
    format!("{} ({code})", error_text(code))
}

/// As [`failed`] for a call that may be the first to touch `bytes` bytes: drivers allocate lazily.
pub fn failed_with_memory(call: &'static str, code: i32, bytes: u64) -> Error {
    match code {
        CL_MEM_OBJECT_ALLOCATION_FAILURE
        | CL_OUT_OF_HOST_MEMORY
        | CL_OUT_OF_RESOURCES
        | CL_INVALID_BUFFER_SIZE => {
            Error::OutOfMemory { requested_bytes: bytes, held_bytes: 0, budget_bytes: 0 }
        }
        code => failed(call, code),
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $release:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(*mut c_void);

        impl $name {
            /// Takes over the reference that the call which made `raw` has given.
            pub fn new(raw: *mut c_void) -> Self {
                Self(raw)
            }

            /// For calls of the driver; valid while `self` lives.
            pub fn raw(&self) -> *mut c_void {
                self.0
            }
        }

        // SAFETY: the standard makes every call safe from any thread, `clSetKernelArg` apart,
        // which is only called under the lock that holds the kernel.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the reference is ours and is released once. A failure leaks it.
                let _ = unsafe { $release(self.0) };
            }
        }
    };
}

handle!(
    /// `cl_context`
    Context,
    cl3::context::release_context
);
handle!(
    /// `cl_command_queue`
    Queue,
    cl3::command_queue::release_command_queue
);
handle!(
    /// `cl_mem`. Released by the driver after the last queued command that uses it.
    Memory,
    cl3::memory::release_mem_object
);
handle!(
    /// `cl_program`
    ClProgram,
    cl3::program::release_program
);
handle!(
    /// `cl_kernel`
    ClKernel,
    cl3::kernel::release_kernel
);
handle!(
    /// `cl_event`
    Event,
    cl3::event::release_event
);

impl Queue {
    /// An in-order queue; with `has_clock`, its commands are timed.
    pub fn create(context: &Context, device: *mut c_void, has_clock: bool) -> Result<Self> {
        let properties = if has_clock { CL_QUEUE_PROFILING_ENABLE } else { 0 };
        // SAFETY: the caller has made the context for this device.
        let queue = unsafe { create_command_queue(context.raw(), device, properties) };
        queue.map(Self::new).map_err(|code| failed("clCreateCommandQueue", code))
    }
}

impl Event {
    /// Whether its command is complete or has failed.
    pub fn is_over(&self) -> bool {
        let status = get_event_info(self.raw(), CL_EVENT_COMMAND_EXECUTION_STATUS);
        // Below zero are the codes of what went wrong.
        status.is_ok_and(|status| i32::from(status) <= CL_COMPLETE)
    }

    /// From when to when its command ran, of a queue that has a clock.
    fn span(&self) -> Option<Range<Duration>> {
        let at = |what| get_event_profiling_info(self.raw(), what).ok().map(u64::from);
        let (start, end) = (at(CL_PROFILING_COMMAND_START)?, at(CL_PROFILING_COMMAND_END)?);
        let span = || Duration::from_nanos(start)..Duration::from_nanos(end);
        (start != 0 && end > start).then(span)
    }
}

/// A part of a launch, or a transfer.
#[derive(Clone)]
pub struct ClTimer {
    pub event: Arc<Event>,
    /// Whether its times mean anything.
    pub has_clock: bool,
}

impl Timed for ClTimer {
    fn is_over(&self) -> bool {
        self.event.is_over()
    }

    fn elapsed(&self) -> Option<Duration> {
        self.span().map(|span| span.end - span.start)
    }

    fn span(&self) -> Option<Range<Duration>> {
        if self.has_clock { self.event.span() } else { None }
    }
}
