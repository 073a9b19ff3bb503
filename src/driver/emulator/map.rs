//! Anonymous memory maps that take memory only where they are touched.

use std::io;
use std::ptr::{self, NonNull};

/// An owned range of addresses, readable and writable, zero until it is written.
pub struct Map {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a map is only a range of addresses; the code that dereferences them is responsible for the order of accesses.
unsafe impl Send for Map {}
// SAFETY: as above; no method writes to the memory except `discard`, whose callers exclude concurrent use.
unsafe impl Sync for Map {}

impl Map {
    /// Reserves `bytes` (rounded up to whole pages by the system).
    pub fn reserve(bytes: usize) -> io::Result<Map> {
        // SAFETY: a fresh private anonymous map at an address of the system's choice overlaps nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Map { start, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// First address.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the whole pages inside a range back; they read as zeros afterwards. They must not be in use.
    pub fn discard(&self, offset: usize, bytes: usize) {
        assert!(offset + bytes <= self.bytes);
        let page = page_bytes();
        let (first, last) = (offset.next_multiple_of(page), (offset + bytes) / page * page);
        if first < last {
            // SAFETY: the range lies in this map (asserted). A failure leaves the old content, which no caller minds.
            unsafe { libc::madvise(self.start().add(first).cast(), last - first, libc::MADV_DONTNEED) };
        }
    }

    /// Makes a page-aligned range inaccessible.
    pub fn guard(&self, offset: usize, bytes: usize) -> io::Result<()> {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: the range lies in this map (asserted), and its owner does not touch it any more.
        match unsafe { libc::mprotect(self.start().add(offset).cast(), bytes, libc::PROT_NONE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The system's page size.
pub fn page_bytes() -> usize {
    // SAFETY: sysconf takes no pointer and has no effect.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `reserve` and is owned by `self` alone.
        unsafe { libc::munmap(self.start().cast(), self.bytes) };
    }
}
