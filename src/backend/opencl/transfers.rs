//! Copies to the device in a queue of their own.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use cl3::command_queue::enqueue_write_buffer;
use cl3::types::{CL_FALSE, cl_command_queue, cl_mem};

use super::handle::{Event, Queue, failed, failed_with_memory};
use crate::Result;

/// The queue, and what it still reads of the host's memory.
#[derive(Debug)]
pub struct Transfers {
    queue: Queue,
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    event: Arc<Event>,
    /// The driver reads it until the event is complete.
    data: Arc<Vec<u8>>,
}

/// A transfer that was started; none if there was nothing to copy.
#[derive(Debug, Default)]
pub struct Started(pub Option<Arc<Event>>);

impl Transfers {
    pub fn new(queue: Queue) -> Self {
        Self { queue, running: Mutex::default() }
    }

    /// The driver's handle of the queue.
    pub fn raw(&self) -> cl_command_queue {
        self.queue.raw()
    }

    /// Starts to copy `data` to the beginning of `target` once `before` is complete.
    pub fn start(&self, target: cl_mem, data: &Arc<Vec<u8>>, before: &Event) -> Result<Arc<Event>> {
        let mut running = self.running();
        running.retain(|transfer| !transfer.event.is_over());
        let events = [before.raw()];
        // SAFETY: the caller has put the range inside the buffer; `data` is kept below until the
        // copy is over, and nobody can change it; the wait list is one event.
        let event = unsafe {
            enqueue_write_buffer(
                self.queue.raw(),
                target,
                CL_FALSE,
                0,
                data.len(),
                data.as_ptr().cast(),
                1,
                events.as_ptr(),
            )
        };
        let bytes = data.len() as u64;
        let event = event
            .map_err(|code| failed_with_memory("clEnqueueWriteBuffer", code, bytes))
            .map(|event| Arc::new(Event::new(event)))?;
        running.push(Running { event: Arc::clone(&event), data: Arc::clone(data) });
        drop(running);
        // The other queue is to wait for it.
        cl3::command_queue::flush(self.queue.raw()).map_err(|code| {
            // Nobody will know of the copy: its target is the caller's again.
            let _ = self.finish();
            failed("clFlush", code)
        })?;
        Ok(event)
    }

    /// Waits for every copy.
    pub fn finish(&self) -> Result<()> {
        let mut running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let events: Vec<_> = running.iter().map(|transfer| transfer.event.raw()).collect();
        let waited = cl3::event::wait_for_events(&events);
        running.retain(|transfer| !transfer.event.is_over());
        waited.map_err(|code| failed("clWaitForEvents", code))
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        // Every change of the list is complete before anything can panic.
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        if self.finish().is_err() {
            // Whether the driver has let go of what is not over, nobody can tell.
            let mut running = self.running();
            running.retain(|transfer| !transfer.event.is_over());
            running.drain(..).for_each(|transfer| mem::forget(transfer.data));
        }
    }
}
