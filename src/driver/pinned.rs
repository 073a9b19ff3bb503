//! Host memory for asynchronous copies.

use std::sync::Arc;

use crate::{Error, Result};

/// A block of host memory that knows how to free itself.
pub(crate) struct HostMemory {
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
    pub(crate) release: Box<dyn Fn(*mut u8, usize) + Send + Sync>,
}

// SAFETY: the block is plain memory without ties to a thread; `Pinned` orders the accesses of the host.
unsafe impl Send for HostMemory {}
// SAFETY: as above; shared holders (captured graphs) only hand the address to the device.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Ordinary memory, zeroed.
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

/// Host memory that a GPU copies from and to directly. Made by
/// [`Driver::alloc_pinned`](super::Driver::alloc_pinned).
///
/// A copy that is still in the stream reads or writes the buffer: wait for a [`Mark`](super::Mark) set behind it before
/// touching the bytes, or they are a mixture of old and new.
pub struct Pinned(pub(crate) Arc<HostMemory>);

impl Pinned {
    /// Ordinary memory, zeroed: for devices that are done with a copy when the call returns.
    pub(crate) fn ordinary(bytes: usize) -> Pinned {
        Pinned(Arc::new(HostMemory::ordinary(bytes)))
    }

    /// `bytes` bytes from `offset`.
    ///
    /// # Errors
    /// When the buffer ends before.
    pub fn range(&self, offset: usize, bytes: usize) -> Result<&[u8]> {
        let end = offset.checked_add(bytes);
        end.and_then(|end| self.bytes().get(offset..end)).ok_or_else(|| self.outside(offset, bytes))
    }

    /// As [`Pinned::range`], to be written.
    ///
    /// # Errors
    /// When the buffer ends before.
    pub fn range_mut(&mut self, offset: usize, bytes: usize) -> Result<&mut [u8]> {
        let error = self.outside(offset, bytes);
        let end = offset.checked_add(bytes);
        end.and_then(|end| self.bytes_mut().get_mut(offset..end)).ok_or(error)
    }

    fn outside(&self, offset: usize, bytes: usize) -> Error {
        Error::device("host", format!("copy of {bytes} bytes at {offset} of a host buffer of {}", self.0.bytes))
    }

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
