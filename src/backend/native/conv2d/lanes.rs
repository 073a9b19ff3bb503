//! Sixteen single-precision lanes on whatever the processor has.
//!
//! Kernels are written once over [`Lanes`] and instantiated inside functions that enable the features of one
//! [`Level`](crate::backend::native::cpu::Level); everything on the way is `#[inline(always)]`, so that it is compiled
//! with those features.

/// Floats in a vector.
pub(in crate::backend::native) const LANES: usize = 16;

/// Operations on vectors of [`LANES`] floats.
///
/// # Safety
/// Every method may be called only where the implementation's processor features are present, and pointers must be
/// valid for the lanes that the method reads or writes; no alignment is needed.
pub(in crate::backend::native) trait Lanes: Copy {
    /// A vector.
    type V: Copy;
    /// How many vectors the processor's registers hold.
    const REGISTERS: usize;
    unsafe fn zero() -> Self::V;
    /// Reads [`LANES`] floats.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes [`LANES`] floats.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a` halved.
    unsafe fn half(a: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The float at `x` in every lane, times `b`, plus `c`.
    unsafe fn mul_add_scalar(x: *const f32, b: Self::V, c: Self::V) -> Self::V;
}

#[cfg(target_arch = "x86_64")]
pub(in crate::backend::native) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// See [`Level::Avx512`](crate::backend::native::cpu::Level::Avx512).
    #[derive(Clone, Copy)]
    pub(in crate::backend::native) struct Avx512;

    impl Lanes for Avx512 {
        type V = __m512;
        const REGISTERS: usize = 32;
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: the trait's contract: AVX-512F is present.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: the trait's contract: 16 floats are readable at `from`.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: the trait's contract: 16 floats are writable at `to`.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract: AVX-512F is present.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract: AVX-512F is present.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn half(a: __m512) -> __m512 {
            // SAFETY: the trait's contract: AVX-512F is present.
            unsafe { _mm512_mul_ps(a, _mm512_set1_ps(0.5)) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the trait's contract: AVX-512F is present.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul_add_scalar(x: *const f32, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the trait's contract: one float is readable at `x`.
            unsafe { _mm512_fmadd_ps(_mm512_set1_ps(*x), b, c) }
        }
    }

    /// See [`Level::Avx2`](crate::backend::native::cpu::Level::Avx2).
    #[derive(Clone, Copy)]
    pub(in crate::backend::native) struct Avx2;

    impl Lanes for Avx2 {
        type V = (__m256, __m256);
        const REGISTERS: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self::V {
            // SAFETY: the trait's contract: AVX2 is present.
            unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            // SAFETY: the trait's contract: 16 floats are readable at `from`.
            unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            // SAFETY: the trait's contract: 16 floats are writable at `to`.
            unsafe {
                _mm256_storeu_ps(to, v.0);
                _mm256_storeu_ps(to.add(8), v.1);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: the trait's contract: AVX2 is present.
            unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: the trait's contract: AVX2 is present.
            unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn half(a: Self::V) -> Self::V {
            // SAFETY: the trait's contract: AVX2 is present.
            unsafe {
                let half = _mm256_set1_ps(0.5);
                (_mm256_mul_ps(a.0, half), _mm256_mul_ps(a.1, half))
            }
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: the trait's contract: AVX2 and FMA are present.
            unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn mul_add_scalar(x: *const f32, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: the trait's contract: AVX2 and FMA are present and one float is readable at `x`.
            unsafe {
                let x = _mm256_set1_ps(*x);
                (_mm256_fmadd_ps(x, b.0, c.0), _mm256_fmadd_ps(x, b.1, c.1))
            }
        }
    }
}

/// See [`Level::Portable`](crate::backend::native::cpu::Level::Portable). Multiplies and adds with two roundings: a fused
/// multiply-add is a library call where the processor has none.
#[derive(Clone, Copy)]
pub(in crate::backend::native) struct Portable;

impl Lanes for Portable {
    type V = [f32; LANES];
    /// Of x86-64: sixteen, of four floats each.
    const REGISTERS: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the trait's contract: 16 floats are readable at `from`.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the trait's contract: 16 floats are writable at `to`.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn half(a: Self::V) -> Self::V {
        a.map(|v| 0.5 * v)
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn mul_add_scalar(x: *const f32, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the trait's contract: one float is readable at `x`.
        let x = unsafe { *x };
        std::array::from_fn(|i| x * b[i] + c[i])
    }
}

/// `instantiate!(name, body, Args)`: a function `name(level)` that gives `body::<L>`, an `unsafe fn(&Args)` over
/// [`Lanes`] that is `#[inline(always)]`, compiled with the features of a level. Needs the module [`self`] in scope.
macro_rules! instantiate {
    ($name:ident, $body:ident, $args:ty) => {
        /// The kernel for a level; see its body.
        pub(super) fn $name(level: $crate::backend::native::cpu::Level) -> unsafe fn(&$args) {
            use $crate::backend::native::cpu::Level;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512(args: &$args) {
                // SAFETY: the body's contract; the features are enabled here.
                unsafe { $body::<lanes::Avx512>(args) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2(args: &$args) {
                // SAFETY: the body's contract; the features are enabled here.
                unsafe { $body::<lanes::Avx2>(args) }
            }
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512,
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2,
                Level::Portable => $body::<lanes::Portable>,
            }
        }
    };
}
pub(in crate::backend::native) use instantiate;

/// Asks for the cache line of an address, which may be anyone's.
#[inline(always)]
pub(super) fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address does nothing but move memory, if there is some, towards the processor.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for memory that will be read next, a little at a time, while arithmetic keeps the processor busy: what follows
/// a slice, which is what the same thread mostly needs next. Nothing is read, so it may be anyone's memory.
pub(super) struct Ahead {
    next: *const f32,
    lines: usize,
    at_once: usize,
}

impl Ahead {
    /// As many floats after `slice` as it has itself, in `steps` steps.
    pub(super) fn of(slice: &[f32], steps: usize) -> Ahead {
        let lines = slice.len().div_ceil(LANES);
        Ahead { next: slice.as_ptr_range().end, lines, at_once: lines.div_ceil(steps.max(1)) }
    }

    /// One step.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        let lines = self.at_once.min(self.lines);
        for _ in 0..lines {
            prefetch(self.next);
            self.next = self.next.wrapping_add(LANES);
        }
        self.lines -= lines;
    }
}
