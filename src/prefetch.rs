//! Asks the processor for memory before it is needed. With hundreds of participants their state is far larger than the
//! caches: what a packet costs is mostly waiting for memory, and packets that are read together can wait together.
#![expect(unsafe_code, reason = "the prefetch instruction has no safe wrapper")]

const LINE: usize = 64;

/// The cache lines of a value's memory, up to the first `lines`. Does nothing where the processor offers nothing.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T, lines: usize) {
    let begin = (&raw const *value).cast::<i8>();
    let skew = begin.addr() % LINE;
    let len = (skew + size_of_val(value)).div_ceil(LINE).min(lines);
    for i in 0..len {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: prefetching reads nothing and may be given any address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(begin.wrapping_sub(skew).wrapping_add(i * LINE));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = i;
    }
}
