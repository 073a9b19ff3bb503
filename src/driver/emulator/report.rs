//! Describes a stopped block in one sentence: kernel, block, thread, what happened, address, source line.

use std::ffi::{CStr, c_void};

use super::abi::{Failure, failure};
use super::arena::Arena;
use super::schedule::{Cause, Stop, text};
use crate::Error;
use crate::driver::Launch;

/// The error of a launch that ended with `stop`.
pub fn explain(label: &str, launch: &Launch, stop: &Stop, arena: &Arena) -> Error {
    let [gx, gy, _] = launch.grid.map(u64::from);
    let block = |n: u64| format!("block ({},{},{})", n % gx, n / gx % gy, n / gx / gy);
    let (thread, story) = match &stop.cause {
        Cause::Stuck(thread, story) => (*thread, story.clone()),
        Cause::Failure(failure) => (failure.thread, describe(failure, launch, &block, arena)),
    };
    let what = format!("kernel {label}, {}, {}: {story}", block(stop.block), thread_name(thread, launch));
    Error::device("emulator", what)
}

fn thread_name(n: u32, launch: &Launch) -> String {
    let [dx, dy, _] = launch.block;
    format!("thread ({},{},{})", n % dx, n / dx % dy, n / dx / dy)
}

fn describe(f: &Failure, launch: &Launch, block: &dyn Fn(u64) -> String, arena: &Arena) -> String {
    let access =
        || format!("{} of {} bytes at {:#x}", if f.is_write != 0 { "write" } else { "read" }, f.size, f.address);
    let other = || match f.other {
        failure::SEVERAL => "several threads".to_string(),
        n => thread_name(n, launch),
    };
    let place = place(f);
    match f.kind {
        failure::GLOBAL_BOUNDS => {
            format!("out of bounds: {}, {}, at {place}", access(), arena.describe(f.address))
        }
        failure::SHARED_BOUNDS => format!(
            "out of bounds: {}, outside the {} bytes of shared memory that the launch asked for, at {place}",
            access(),
            launch.shared_bytes
        ),
        failure::UNKNOWN_ADDRESS => {
            format!("out of bounds: {}, which is neither device nor shared memory, at {place}", access())
        }
        failure::MISALIGNED => format!("misaligned: {}, which is no multiple of {}, at {place}", access(), f.size),
        failure::SHARED_UNINITIALISED => {
            format!("uninitialised: {} of shared memory that no thread of the block has written, at {place}", access())
        }
        failure::SHARED_RACE => format!(
            "race: {} of shared memory that {} touches too with no barrier between them, at {place}",
            access(),
            other()
        ),
        failure::COPY_IN_FLIGHT => format!(
            "asynchronous copy in flight: {} of shared memory that a cp_async of {} has yet to fill \
             (cp_async_wait and __syncthreads come first), at {place}",
            access(),
            other()
        ),
        failure::BLOCKS_WRITE => format!(
            "two blocks write one address: {}, {}, which {} has written in the same launch, at {place}",
            access(),
            arena.describe(f.address),
            block(u64::from(f.other))
        ),
        failure::BLOCKS_READ => format!(
            "read across blocks: {}, {}, which {} writes in the same launch, at {place}",
            access(),
            arena.describe(f.address),
            block(u64::from(f.other))
        ),
        failure::STATIC_WRITE => format!("{} of a static variable, which kernels may only read, at {place}", access()),
        failure::MASK => {
            format!("warp-wide function with mask {:#010x}, which does not fit this thread's warp, at {place}", f.size)
        }
        failure::DIVERGED => format!(
            "lanes of one warp meet in different warp-wide functions: this one at {place}, {} at line {}",
            other(),
            f.size
        ),
        failure::COPIES => format!("more asynchronous copies than the emulator keeps (64) without a wait, at {place}"),
        failure::TRAP => format!("__trap at {place}"),
        kind => format!("failure {kind} at {place}"),
    }
}

/// `file:line` of a failure, or the address in the library where that is all there is.
fn place(f: &Failure) -> String {
    if !f.file.is_null() {
        return format!("{}:{}", text(f.file), f.line);
    }
    locate(f.pc).unwrap_or_else(|| format!("instruction {:#x}", f.pc))
}

/// The source line of a return address, with the lines it was inlined into.
fn locate(pc: u64) -> Option<String> {
    // SAFETY: a zeroed Dl_info is a valid one for dladdr to fill in: pointers and nothing else.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr only looks the address up; `info` is a valid target.
    if unsafe { libc::dladdr(pc as *const c_void, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded, so that the name is a string of the loader, which lives as long as the library.
    let path = unsafe { CStr::from_ptr(info.dli_fname) }.to_str().ok()?;
    let loader = addr2line::Loader::new(path).ok()?;
    // One back: a return address may belong to the next line.
    let probe = pc - info.dli_fbase as u64 - 1;
    let mut frames = loader.find_frames(probe).ok()?;
    let mut places: Vec<String> = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        if let Some(location) = frame.location
            && let (Some(file), Some(line)) = (location.file, location.line)
            && !file.contains("/emulator/")
        {
            // The folder it was compiled in is gone; what counts is the path under kernels/.
            let file = file.rsplit_once("kernels/").map_or(file, |(_, name)| name);
            places.push(format!("kernels/{file}:{line}"));
        }
    }
    let first = places.first()?.clone();
    match places.iter().find(|place| place.contains(".cu:")) {
        Some(kernel) if *kernel != first => Some(format!("{first} (in {kernel})")),
        _ => Some(first),
    }
}
