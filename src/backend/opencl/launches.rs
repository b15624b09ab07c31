//! Launches: arguments, and grids that are cut where launches are limited.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cl3::command_queue::enqueue_nd_range_kernel;
use cl3::error_codes::{CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY};
use cl3::kernel::{CL_KERNEL_ARG_NAME, CL_KERNEL_NUM_ARGS};
use cl3::types::cl_mem;

use super::handle::{ClKernel, ClProgram, ClTimer, Event, failed, failed_with_memory};
use super::{OpenCl, memory};
use crate::Result;
use crate::backend::parts::{Paces, Parts};
use crate::backend::{Argument, Launch, Value};

/// A compiled kernel.
pub struct Compiled {
    pub program: ClProgram,
    /// Setting arguments and launching is one step: a kernel object has one set of arguments.
    kernel: Mutex<ClKernel>,
    /// The kernel's own argument names, where the driver tells them.
    names: Option<Vec<String>>,
    names_checked: AtomicBool,
    /// Whether its work-groups know where they are when a grid is cut.
    in_parts: bool,
    /// What is known of how long they take.
    paces: Paces<ClTimer>,
}

impl Compiled {
    pub fn new(program: ClProgram, kernel: ClKernel, in_parts: bool) -> Self {
        let names = argument_names(&kernel);
        let (kernel, names_checked) = (Mutex::new(kernel), AtomicBool::new(false));
        Self { program, kernel, names, names_checked, in_parts, paces: Paces::default() }
    }
}

impl OpenCl {
    /// Queues a kernel, in parts where launches are limited and it would take longer.
    pub fn launch_all(&self, compiled: &Compiled, launch: &Launch) -> Result<Vec<ClTimer>> {
        if let Some(names) = &compiled.names
            && !compiled.names_checked.load(Ordering::Relaxed)
        {
            check_names(names, launch.arguments);
            compiled.names_checked.store(true, Ordering::Relaxed);
        }
        // A launch that panicked has left some arguments set, and all are set again here.
        let kernel = compiled.kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (index, argument) in launch.arguments.iter().enumerate() {
            set_argument(&kernel, index as u32, argument.value)?;
        }
        let queue = Launching { device: self, kernel: &kernel, launch };
        match &self.limit {
            Some(limit) if compiled.in_parts => compiled.paces.launch(&queue, launch, limit),
            _ => {
                let part = queue.enqueue([0; 3], launch.groups)?;
                self.launched();
                Ok(vec![part])
            }
        }
    }
}

/// A launch whose arguments are set.
struct Launching<'a> {
    device: &'a OpenCl,
    kernel: &'a ClKernel,
    launch: &'a Launch<'a>,
}

impl Parts for Launching<'_> {
    type Part = ClTimer;

    fn enqueue(&self, start: [usize; 3], groups: [usize; 3]) -> Result<ClTimer> {
        let Self { device, kernel, launch } = self;
        let items = |groups: [usize; 3]| -> [usize; 3] {
            std::array::from_fn(|axis| groups[axis] * launch.local[axis])
        };
        let (offset, global) = (items(start), items(groups));
        // SAFETY: the sizes have three elements each, all arguments are set, and the driver
        // keeps the buffers until the command is done.
        let event = unsafe {
            enqueue_nd_range_kernel(
                device.queue.raw(),
                kernel.raw(),
                3,
                offset.as_ptr(),
                global.as_ptr(),
                launch.local.as_ptr(),
                0,
                ptr::null(),
            )
        };
        let event = event.map_err(|code| match code {
            // Buffers that the driver has put off allocating. CL_OUT_OF_RESOURCES is not here:
            // at a launch it is about registers and local memory.
            CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_HOST_MEMORY => {
                let bytes = buffer_bytes(launch.arguments);
                failed_with_memory("clEnqueueNDRangeKernel", code, bytes)
            }
            code => failed("clEnqueueNDRangeKernel", code),
        })?;
        Ok(ClTimer { event: Arc::new(Event::new(event)), has_clock: device.has_clock })
    }

    fn submit(&self, is_of_several: bool) -> Result<()> {
        if is_of_several {
            return self.device.flush();
        }
        self.device.launched();
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        self.device.drain()
    }
}

fn argument_names(kernel: &ClKernel) -> Option<Vec<String>> {
    let count = cl3::kernel::get_kernel_info(kernel.raw(), CL_KERNEL_NUM_ARGS).ok()?;
    let name = |index| {
        let name = cl3::kernel::get_kernel_arg_info(kernel.raw(), index, CL_KERNEL_ARG_NAME);
        name.ok().map(String::from).filter(|name| !name.is_empty())
    };
    (0..u32::from(count)).map(name).collect()
}

/// The arguments have the kernel's names in the kernel's order.
fn check_names(names: &[String], arguments: &[Argument]) {
    let given: Vec<&str> = arguments.iter().map(|argument| argument.name).collect();
    assert_eq!(given, names, "the op's arguments are the kernel's");
}

fn set_argument(kernel: &ClKernel, index: u32, value: Value) -> Result<()> {
    let set = |size: usize, address: *const c_void| {
        // SAFETY: `address` is null or points to `size` bytes, which the driver copies; the
        // caller holds the kernel's lock.
        unsafe { cl3::kernel::set_kernel_arg(kernel.raw(), index, size, address) }
            .map_err(|code| failed("clSetKernelArg", code))
    };
    match value {
        Value::Input(buffer) | Value::Output(buffer) => {
            let memory = memory(buffer);
            set(size_of::<cl_mem>(), (&raw const memory).cast())
        }
        Value::Absent => set(size_of::<cl_mem>(), ptr::null()),
        Value::U32(number) => set(size_of::<u32>(), (&raw const number).cast()),
        Value::I32(number) => set(size_of::<i32>(), (&raw const number).cast()),
        Value::F32(number) => set(size_of::<f32>(), (&raw const number).cast()),
    }
}

fn buffer_bytes(arguments: &[Argument]) -> u64 {
    let bytes = |argument: &Argument| match argument.value {
        Value::Input(buffer) | Value::Output(buffer) => buffer.bytes(),
        _ => 0,
    };
    arguments.iter().map(bytes).sum()
}
