//! Whether this process may use the tile registers of Intel's AMX.

use std::sync::OnceLock;

/// Whether the host multiplies tiles of bf16, and its system lets this process do so.
///
/// Tile registers are 8 KiB that a thread's state grows by, so Linux gives them to a process that
/// asks for them alone; the first call does. Elsewhere the answer is no: Windows has a call of its own
/// for that, which nobody has tried with this crate.
///
/// Source: <https://docs.kernel.org/arch/x86/xstate.html>.
pub fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| has_tiles_of_bf16() && asks())
}

#[cfg(target_arch = "x86_64")]
fn has_tiles_of_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const FEATURES: u32 = 7;
    /// Bits of EDX: products of bf16, tile registers.
    const TILES_OF_BF16: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= FEATURES && __cpuid_count(FEATURES, 0).edx & TILES_OF_BF16 == TILES_OF_BF16
}

#[cfg(not(target_arch = "x86_64"))]
fn has_tiles_of_bf16() -> bool {
    false
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn asks() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what the process may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn asks() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_tiles_is_not_asked() {
        assert!(has_tiles_of_bf16() || !is_usable());
        assert_eq!(is_usable(), is_usable());
    }
}
