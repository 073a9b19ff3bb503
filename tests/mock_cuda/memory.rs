//! Device memory, page-locked host memory, and copies.
#![allow(non_snake_case)]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::hash_map::DefaultHasher;
use std::ffi::c_void;
use std::hash::Hasher;
use std::ops::Range;

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use glmc_engine::driver::Driver;

use crate::gpu::{Answer, Gpu, emulator, give, in_context};
use crate::settings::SETTINGS;
use crate::stream::Operation;

/// What undefined memory holds: NaN as a float, -1 as an integer.
const POISON: u8 = 0xff;
const PAGE: usize = 4096;

/// Page-locked memory.
pub struct HostBlock {
    bytes: usize,
}

impl HostBlock {
    fn layout(&self) -> Layout {
        Layout::from_size_align(self.bytes, PAGE).expect("it was allocated with this layout")
    }
}

/// The bytes of page-locked memory, as a copy to the device reads them.
pub fn read_host(range: &Range<usize>) -> &[u8] {
    // SAFETY: `host_range` and `node_is_sound` found the range in a block that is alive, and blocks are freed only when
    // nothing waits that uses them. The program may not write there meanwhile; that it does not is what `fingerprint` is
    // there to find out.
    unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) }
}

/// The same for a copy from the device.
#[allow(clippy::mut_from_ref)] // of a range of addresses, not of the bytes there
pub fn write_host(range: &Range<usize>) -> &mut [u8] {
    // SAFETY: as in `read_host`; the program may neither read nor write there before the copy is done.
    unsafe { std::slice::from_raw_parts_mut(range.start as *mut u8, range.len()) }
}

/// Tells whether page-locked memory was changed.
pub fn fingerprint(range: &Range<usize>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(read_host(range));
    hasher.finish()
}

/// Makes the target of a copy undefined, which it is until the copy is done.
pub fn poison(range: &Range<usize>) {
    write_host(range).fill(POISON);
}

/// Whether it is untouched since.
pub fn poisoned(range: &Range<usize>) -> bool {
    read_host(range).iter().all(|byte| *byte == POISON)
}

impl Gpu {
    fn used(&self) -> u64 {
        self.device.values().map(|bytes| *bytes as u64).sum()
    }

    fn total(&self) -> Answer<u64> {
        Ok(match SETTINGS.memory {
            Some(bytes) => bytes,
            None => emulator()?.memory().map_err(|_| CUDA_ERROR_UNKNOWN)?.total,
        })
    }

    /// Gives device memory back to the emulator, which says whether a kernel wrote beside it.
    pub fn give_back(&mut self, ptr: u64) {
        if let Ok(emulator) = emulator()
            && let Err(error) = emulator.free(ptr)
        {
            self.report.problems.push(error.to_string());
        }
    }

    /// Refuses a range that is not in one allocation.
    fn device_range(&mut self, name: &str, ptr: u64, bytes: usize) -> Answer {
        let found = self.device.range(..=ptr).next_back();
        if found.is_some_and(|(&start, &length)| ptr - start + bytes as u64 <= length as u64) {
            return Ok(());
        }
        let what = format!("{bytes} bytes at {ptr:#x} are in no allocation that is alive");
        Err(self.misuse(name, CUDA_ERROR_INVALID_VALUE, what))
    }

    /// Whether a range is in a block of page-locked memory.
    pub fn is_page_locked(&self, range: &Range<usize>) -> bool {
        let found = self.host.range(..=range.start).next_back();
        found.is_some_and(|(&start, block)| range.end <= start + block.bytes)
    }

    /// The range of host memory of a copy, if it is page-locked; `None` for ordinary memory.
    fn host_range(&mut self, name: &str, ptr: usize, bytes: usize) -> Answer<Option<Range<usize>>> {
        let range = ptr..ptr + bytes;
        if self.is_page_locked(&range) {
            return Ok(Some(range));
        }
        let touches = self.host.iter().any(|(&start, block)| start < range.end && ptr < start + block.bytes);
        match touches {
            true => {
                Err(self.misuse(name, CUDA_ERROR_INVALID_VALUE, "the copy runs over the end of page-locked memory"))
            }
            false => Ok(None),
        }
    }
}

/// The memory is undefined: never zeros here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(ptr: *mut CUdeviceptr, bytes: usize) -> CUresult {
    in_context("cuMemAlloc", |gpu| {
        gpu.potentially_unsafe("cuMemAlloc")?;
        if bytes == 0 {
            return Err(gpu.misuse("cuMemAlloc", CUDA_ERROR_INVALID_VALUE, "no bytes"));
        }
        if bytes as u64 > gpu.total()?.saturating_sub(gpu.used()) {
            return Err(CUDA_ERROR_OUT_OF_MEMORY);
        }
        let emulator = emulator()?;
        let start = emulator.alloc(bytes, "cuMemAlloc").map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        gpu.device.insert(start, bytes);
        let garbage = vec![POISON; bytes.min(1 << 20)];
        for at in (0..bytes).step_by(garbage.len()) {
            let part = &garbage[..garbage.len().min(bytes - at)];
            emulator.upload(start + at as u64, part).map_err(|_| CUDA_ERROR_UNKNOWN)?;
        }
        give(gpu, "cuMemAlloc", ptr, start)
    })
}

/// Programming guide, "Implicit Synchronization": device memory goes when the work before is done.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(ptr: CUdeviceptr) -> CUresult {
    in_context("cuMemFree", |gpu| {
        gpu.potentially_unsafe("cuMemFree")?;
        if !gpu.device.contains_key(&ptr) {
            return Err(gpu.misuse("cuMemFree", CUDA_ERROR_INVALID_VALUE, format!("{ptr:#x} is no allocation")));
        }
        gpu.drain_all()?;
        gpu.device.remove(&ptr);
        gpu.give_back(ptr);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    in_context("cuMemGetInfo", |gpu| {
        let all = gpu.total()?;
        let left = all.saturating_sub(gpu.used());
        give(gpu, "cuMemGetInfo", free, left as usize)?;
        give(gpu, "cuMemGetInfo", total, all as usize)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(ptr: *mut *mut c_void, bytes: usize, _flags: u32) -> CUresult {
    in_context("cuMemHostAlloc", |gpu| {
        gpu.potentially_unsafe("cuMemHostAlloc")?;
        let block = HostBlock { bytes };
        if bytes == 0 || Layout::from_size_align(bytes, PAGE).is_err() {
            return Err(gpu.misuse("cuMemHostAlloc", CUDA_ERROR_INVALID_VALUE, format!("{bytes} bytes")));
        }
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(block.layout()) };
        if start.is_null() {
            return Err(CUDA_ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: just allocated, with this many bytes.
        unsafe { start.write_bytes(POISON, bytes) };
        gpu.host.insert(start as usize, block);
        give(gpu, "cuMemHostAlloc", ptr, start.cast())
    })
}

/// The manual does not say that it waits for copies, so a program must.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(ptr: *mut c_void) -> CUresult {
    in_context("cuMemFreeHost", |gpu| {
        gpu.potentially_unsafe("cuMemFreeHost")?;
        let start = ptr as usize;
        let Some(block) = gpu.host.get(&start) else {
            let what = format!("{ptr:?} is no page-locked memory that is alive");
            return Err(gpu.misuse("cuMemFreeHost", CUDA_ERROR_INVALID_VALUE, what));
        };
        let range = start..start + block.bytes;
        if gpu.streams.values().any(|stream| stream.uses(&range)) {
            gpu.misuse("cuMemFreeHost", CUDA_SUCCESS, "freed while a copy with it waits");
            gpu.drain_all()?;
        }
        if let Some(block) = gpu.host.remove(&start) {
            // SAFETY: allocated by cuMemHostAlloc with this layout, and out of the table, so freed once.
            unsafe { dealloc(ptr.cast(), block.layout()) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream) -> CUresult {
    in_context("cuMemsetD8Async", |gpu| {
        gpu.device_range("cuMemsetD8Async", to, bytes)?;
        let stream = gpu.stream("cuMemsetD8Async", stream)?;
        gpu.submit("cuMemsetD8Async", stream, Operation::Fill { to, value, bytes })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyDtoDAsync", |gpu| {
        gpu.device_range("cuMemcpyDtoDAsync", to, bytes)?;
        gpu.device_range("cuMemcpyDtoDAsync", from, bytes)?;
        let stream = gpu.stream("cuMemcpyDtoDAsync", stream)?;
        gpu.submit("cuMemcpyDtoDAsync", stream, Operation::Copy { to, from, bytes })
    })
}

/// "API synchronization behavior": from page-locked memory the copy is asynchronous. From ordinary memory the stream is
/// waited for, and the source may be reused when the call returns.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyHtoDAsync", |gpu| {
        let name = "cuMemcpyHtoDAsync";
        gpu.device_range(name, to, bytes)?;
        let stream = gpu.stream(name, stream)?;
        if let Some(from) = gpu.host_range(name, from as usize, bytes)? {
            gpu.report.pinned_bytes += bytes as u64;
            return gpu.submit(name, stream, Operation::Upload { to, from });
        }
        // What a graph would copy from ordinary memory, and when, the manual leaves open: a program must not.
        gpu.not_captured(name, stream)?;
        gpu.report.pageable_bytes += bytes as u64;
        gpu.drain(stream)?;
        // SAFETY: the API asks the caller for this many readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
        gpu.submit(name, stream, Operation::Staged { to, bytes })
    })
}

/// The same, the other way: to ordinary memory "the function will return only once the copy has completed".
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyDtoHAsync", |gpu| {
        let name = "cuMemcpyDtoHAsync";
        gpu.device_range(name, from, bytes)?;
        let stream = gpu.stream(name, stream)?;
        if let Some(to) = gpu.host_range(name, to as usize, bytes)? {
            gpu.report.pinned_bytes += bytes as u64;
            return gpu.submit(name, stream, Operation::Download { to, from });
        }
        gpu.not_captured(name, stream)?;
        gpu.report.pageable_bytes += bytes as u64;
        gpu.drain(stream)?;
        // SAFETY: the API asks the caller for this many writable bytes.
        let target = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        emulator()?.download(target, from).map_err(|_| CUDA_ERROR_UNKNOWN)
    })
}
