//! Memory of the host that nobody has touched yet.

use std::alloc::{Layout, alloc_zeroed};

/// `bytes` zeros, or `None` where the host has no room for them.
///
/// The allocator's zeros are pages that the system gives when they are touched: whoever fills them
/// does that, and that may be several cores.
pub(crate) fn zeroed(bytes: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(bytes).ok()?;
    if bytes == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout is not of no bytes.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: as many bytes as that, all zero, are there, from the allocator that a `Vec` frees with.
    let mut data = unsafe { Vec::from_raw_parts(start, bytes, bytes) };
    ask_for_large_pages(&mut data);
    Some(data)
}

/// Asks the system for large pages, of which touching a gigabyte takes less than half as long.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(data: &mut [u8]) {
    /// Of x86-64; elsewhere pages are larger, and this is a part of one, or several.
    const LARGE_PAGE: usize = 2 << 20;
    let before = data.as_ptr().align_offset(LARGE_PAGE);
    let bytes = data.len().saturating_sub(before) / LARGE_PAGE * LARGE_PAGE;
    if bytes > 0 {
        let pages = &mut data[before..][..bytes];
        // SAFETY: the range is borrowed exclusively, and the advice changes no byte of it. A system
        // that does not take it says so, and that is all.
        let _ = unsafe { libc::madvise(pages.as_mut_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_data: &mut [u8]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_zeros_or_nothing() {
        for bytes in [0, 3, 5 << 20] {
            assert!(
                zeroed(bytes)
                    .is_some_and(|data| data.len() == bytes && data.iter().all(|b| *b == 0))
            );
        }
        assert!(zeroed(isize::MAX as usize).is_none());
        assert!(zeroed(usize::MAX).is_none());
    }
}
