//! Has the processor fetch what will be needed soon, while it works on something else.
#![expect(unsafe_code, reason = "the instruction is an intrinsic that takes a pointer")]

/// What one fetch brings, bytes.
const LINE: usize = 64;

/// Begins to fetch every line of `value` into the caches. Nothing waits for it, and nothing happens
/// on processors whose instruction Rust does not offer yet.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        for offset in (0..size_of::<T>()).step_by(LINE) {
            // SAFETY: the instruction changes no state but the caches' and faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
