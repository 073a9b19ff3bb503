//! Host memory for asynchronous copies.

use std::sync::Arc;

/// A block of host memory that knows how to free itself.
pub(crate) struct HostMemory {
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
    pub(crate) release: Box<dyn Fn(*mut u8, usize) + Send + Sync>,
}

// SAFETY: the block is plain memory without ties to a thread; `Pinned` orders the accesses of the host.
unsafe impl Send for HostMemory {}
// SAFETY: as above; shared holders (recorded graphs) only hand the address to the device.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Memory of the ordinary kind, zeroed.
    pub(crate) fn ordinary(bytes: usize) -> HostMemory {
        let start = Box::into_raw(vec![0u8; bytes].into_boxed_slice()).cast::<u8>();
        let release = |start: *mut u8, bytes: usize| {
            // SAFETY: exactly what Box::into_raw gave, once, by the last holder.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, bytes)) });
        };
        HostMemory { start, bytes, release: Box::new(release) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        (self.release)(self.start, self.bytes);
    }
}

/// Host memory that a GPU copies from and to without a detour. Made by
/// [`Driver::alloc_pinned`](super::Driver::alloc_pinned).
///
/// A copy that is still in the stream reads or writes the buffer: wait for a [`Mark`](super::Mark) set behind it before
/// touching the bytes, or they are a mixture of old and new.
pub struct Pinned(pub(crate) Arc<HostMemory>);

impl Pinned {
    /// The buffer.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `bytes` bytes, initialised by the allocation, until the last holder is gone.
        unsafe { std::slice::from_raw_parts(self.0.start, self.0.bytes) }
    }

    /// The buffer, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; there is one `Pinned` per block, and other holders make no references.
        unsafe { std::slice::from_raw_parts_mut(self.0.start, self.0.bytes) }
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({} bytes)", self.0.bytes)
    }
}
