//! Copies between host and device: through pinned memory, and those beside launches in a stream of
//! their own.

use std::mem;
use std::sync::{Arc, Mutex};

use super::driver::{Direction, Pointer};
use super::handle::{Card, Event, Pinned, Registered, Stream, lock};
use crate::Result;

/// Bytes of each piece of pinned memory: a copy of so many keeps a PCIe link busy for a millisecond,
/// which is long next to what starting it takes.
const SLOT_BYTES: usize = 8 << 20;

/// Pinned memory that copies go through, a slot at a time: while one is copied by the device, the
/// other is by the host.
#[derive(Debug, Default)]
pub struct Staging {
    slots: Option<[Pinned; 2]>,
}

impl Staging {
    /// The slots, if the driver has memory for them.
    fn slots(&mut self, card: &Arc<Card>) -> Result<Option<&[Pinned; 2]>> {
        if self.slots.is_none() {
            let (first, second) =
                (Pinned::allocate(card, SLOT_BYTES)?, Pinned::allocate(card, SLOT_BYTES)?);
            self.slots = first.zip(second).map(|(first, second)| [first, second]);
        }
        Ok(self.slots.as_ref())
    }

    /// Copies to the device after all that is queued, and waits.
    ///
    /// # Safety
    ///
    /// There are so many bytes at `target`.
    pub unsafe fn write(
        &mut self,
        card: &Arc<Card>,
        stream: &Stream,
        target: Pointer,
        data: &[u8],
    ) -> Result<()> {
        let mut copy = || -> Result<()> {
            let Some(slots) = self.slots(card)? else {
                // SAFETY: the caller's; `data` stays until the stream is done, below.
                return unsafe {
                    stream.copy(target, data.as_ptr().cast(), data.len(), Direction::ToDevice)
                };
            };
            let mut copied: [Option<Event>; 2] = [None, None];
            for (index, piece) in data.chunks(SLOT_BYTES).enumerate() {
                let slot = slots[index % 2].raw();
                if let Some(event) = copied[index % 2].take() {
                    event.synchronize()?;
                }
                // SAFETY: a slot has room for a piece, and the device has let go of it; the
                // caller has put all pieces inside the target.
                unsafe {
                    slot.cast::<u8>().copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                    let target = target.byte_add(index * SLOT_BYTES);
                    stream.copy(target, slot, piece.len(), Direction::ToDevice)?;
                }
                if data.len() > (index + 2) * SLOT_BYTES {
                    copied[index % 2] = Some(Event::record(card, stream)?);
                }
            }
            Ok(())
        };
        // Waited for even if one has failed: what was queued before it reads the slots.
        let copied = copy();
        copied.and(stream.synchronize())
    }

    /// Copies from the device after all that is queued, and waits.
    ///
    /// # Safety
    ///
    /// There are so many bytes at `source`.
    pub unsafe fn read(
        &mut self,
        card: &Arc<Card>,
        stream: &Stream,
        source: Pointer,
        data: &mut [u8],
    ) -> Result<()> {
        let bytes = data.len();
        let mut copy = || -> Result<()> {
            let Some(slots) = self.slots(card)? else {
                // SAFETY: the caller's; `data` stays until the stream is done, below.
                return unsafe {
                    stream.copy(data.as_mut_ptr().cast(), source, bytes, Direction::ToHost)
                };
            };
            let count = bytes.div_ceil(SLOT_BYTES);
            let start = |index: usize| -> Result<Event> {
                let (from, slot) = (index * SLOT_BYTES, slots[index % 2].raw());
                let length = SLOT_BYTES.min(bytes - from);
                // SAFETY: a slot has room for a piece, and the caller has put all pieces inside
                // the source.
                unsafe { stream.copy(slot, source.byte_add(from), length, Direction::ToHost)? };
                Event::record(card, stream)
            };
            let mut pending = Some(start(0)?);
            for (index, piece) in data.chunks_mut(SLOT_BYTES).enumerate() {
                let event = pending.take();
                if index + 1 < count {
                    pending = Some(start(index + 1)?);
                }
                event.map_or(Ok(()), |event| event.synchronize())?;
                let slot = slots[index % 2].raw().cast::<u8>();
                // SAFETY: the device has written the slot, which has room for a piece.
                unsafe { piece.as_mut_ptr().copy_from_nonoverlapping(slot, piece.len()) };
            }
            Ok(())
        };
        // Waited for even if one has failed: the device may still write to the host's memory.
        let copied = copy();
        copied.and(stream.synchronize())
    }
}

/// The stream of copies beside launches, and what it still reads of the host's memory.
#[derive(Debug)]
pub struct Transfers {
    stream: Stream,
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    event: Arc<Event>,
    // Dropped in this order.
    pinned: Option<Arc<Registered>>,
    /// The driver reads it until the event is over.
    data: Arc<Vec<u8>>,
}

/// A transfer that was started; none if there was nothing to copy.
#[derive(Debug, Default)]
pub struct Started(pub Option<Arc<Event>>);

impl Transfers {
    pub fn new(stream: Stream) -> Self {
        Self { stream, running: Mutex::default() }
    }

    /// Starts to copy `data` to `target` once `before` is over. Gives when it starts and ends.
    ///
    /// # Safety
    ///
    /// There are so many bytes at `target`, until the copy is over.
    pub unsafe fn start(
        &self,
        card: &Arc<Card>,
        target: Pointer,
        data: &Arc<Vec<u8>>,
        before: &Event,
    ) -> Result<(Event, Arc<Event>)> {
        let mut running = lock(&self.running);
        running.retain(|transfer| !transfer.event.is_over());
        self.stream.wait_for(before)?;
        let start = Event::record(card, &self.stream)?;
        let same = running.iter().find(|transfer| Arc::ptr_eq(&transfer.data, data));
        let pinned = match same.and_then(|transfer| transfer.pinned.clone()) {
            Some(pinned) => Some(pinned),
            // SAFETY: `data` is kept with it until the copy is over, and is dropped after it.
            None => unsafe { Registered::new(card, data)? }.map(Arc::new),
        };
        // SAFETY: the caller's; nobody can change `data`, which is kept below.
        let copied = unsafe {
            self.stream.copy(target, data.as_ptr().cast(), data.len(), Direction::ToDevice)
        };
        let end = copied.and_then(|()| Event::record(card, &self.stream));
        let event = match end {
            Ok(event) => Arc::new(event),
            Err(error) => {
                // Nobody will know of the copy: its target and its source are the caller's again.
                let _ = self.stream.synchronize();
                return Err(error);
            }
        };
        let data = Arc::clone(data);
        running.push(Running { event: Arc::clone(&event), pinned, data });
        Ok((start, event))
    }

    /// Waits for every copy.
    pub fn finish(&self) -> Result<()> {
        let mut running = lock(&self.running);
        if running.is_empty() {
            return Ok(());
        }
        let waited = self.stream.synchronize();
        running.retain(|transfer| !transfer.event.is_over());
        waited
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        if self.finish().is_err() {
            // Whether the driver has let go of what is not over, nobody can tell.
            for transfer in lock(&self.running).drain(..) {
                mem::forget((transfer.pinned, transfer.data));
            }
        }
    }
}
