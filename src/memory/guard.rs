//! Zones of a pattern around a block, by which a write outside it is found.

use std::sync::{Arc, Weak};

use crate::backend::{Argument, Backend, Buffer, PART_ALIGNMENT, Value};
use crate::{Error, Result};

/// Bytes before and behind a block: more than a kernel's tile is off by. Where a block starts is
/// aligned as an allocation's own start is.
const ZONE_BYTES: u64 = 64 << 10;

const _: () = assert!(ZONE_BYTES.is_multiple_of(PART_ALIGNMENT));

/// What a zone holds at a distance from its start. It changes from byte to byte, so that no kernel
/// that stores one value all over is overlooked.
fn pattern(distance: usize) -> u8 {
    (distance as u8).wrapping_mul(31) ^ 0xA5
}

/// A buffer in the middle of a larger one.
pub fn allocate(
    backend: &dyn Backend,
    bytes: u64,
    guarded: &mut Vec<Weak<Buffer>>,
) -> Result<Buffer> {
    let whole = Arc::new(backend.allocate(bytes + 2 * ZONE_BYTES)?);
    let zone: Vec<u8> = (0..ZONE_BYTES as usize).map(pattern).collect();
    backend.write(&whole, 0, &zone)?;
    backend.write(&whole, ZONE_BYTES + bytes, &zone)?;
    guarded.push(Arc::downgrade(&whole));
    backend.part(&whole, ZONE_BYTES, bytes)
}

/// Whether the zones of an allocation are as they were written.
pub fn check(
    backend: &dyn Backend,
    whole: &Arc<Buffer>,
    kernel: &str,
    arguments: &[Argument],
) -> Result<()> {
    let bytes = whole.bytes() - 2 * ZONE_BYTES;
    let changed = |offset| {
        let mut zone = vec![0; ZONE_BYTES as usize];
        backend.read(whole, offset, &mut zone)?;
        let mut changed = (0..zone.len()).filter(|&at| zone[at] != pattern(at));
        // The first distance and how many.
        let first = changed.next();
        Ok::<_, Error>(first.map(|first| (first, 1 + changed.count())))
    };
    let name = || name(whole, bytes, arguments);
    let detail = if let Some((first, count)) = changed(ZONE_BYTES + bytes)? {
        format!("{count} B past the end of {}, from {first} B behind it on", name())
    } else if let Some((first, count)) = changed(0)? {
        let before = ZONE_BYTES as usize - first;
        format!("{count} B before the start of {}, from {before} B before it on", name())
    } else {
        return Ok(());
    };
    Err(Error::Guard { kernel: kernel.to_owned(), detail })
}

/// The argument that is the block in an allocation.
fn name(whole: &Arc<Buffer>, bytes: u64, arguments: &[Argument]) -> String {
    let argument = arguments.iter().find(|argument| match argument.value {
        Value::Input(buffer) | Value::Output(buffer) => {
            buffer.part_of().is_some_and(|(other, _)| Arc::ptr_eq(other, whole))
        }
        _ => false,
    });
    match argument {
        Some(argument) => argument.name.to_owned(),
        None => format!("a block of {bytes} B that is no argument"),
    }
}
