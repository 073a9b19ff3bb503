//! What runs kernels: a CUDA GPU ([`cuda`]) or this machine's processor ([`emulator`]), behind one small trait. A third
//! driver ([`dry_run`]) only lists them.
//!
//! Everything goes through one stream, in the order of the calls. Device memory is an address ([`DevicePtr`]) that the
//! caller allocates, offsets and frees; sizes are in bytes throughout.

pub mod cache;
pub mod cuda;
pub mod dry_run;
pub mod emulator;
pub mod host_cache;
pub mod nvrtc;
pub mod occupancy;
mod outline;
mod pinned;
pub mod sources;
mod spec;
mod table;
pub mod watched;
mod work;

pub use outline::{Outline, Part};
pub use pinned::Pinned;
pub use spec::{Arg, Kernel, KernelSpec, Launch, Variant};
pub use work::Work;

use std::sync::Arc;
use std::time::Instant;

use crate::{Error, Result};

/// An address in device memory. Offsets are added to it in bytes.
pub type DevicePtr = u64;

/// What a device is.
#[derive(Clone, Debug)]
pub struct Properties {
    /// `cuda:0`, `emulator`.
    pub device: String,
    /// The product's name.
    pub product: String,
    /// What kernels are compiled for: `sm_90a`; `emulator` on the emulator.
    pub arch: String,
    /// Multiprocessors of a GPU; on the emulator, threads that run blocks.
    pub multiprocessors: u32,
    /// Dynamic shared memory that a block may ask for, in bytes.
    pub shared_bytes: u32,
    /// The device's memory, in bytes.
    pub memory_bytes: u64,
    /// The last cache before the memory, in bytes: a GPU's L2; 0 where nothing runs.
    pub cache_bytes: u64,
}

/// Device memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Allocated through this driver now.
    pub used: u64,
    /// The most that was ever allocated at once.
    pub peak: u64,
    /// Free on the device, other programs considered.
    pub free: u64,
    /// The device's whole memory.
    pub total: u64,
}

/// A point in the stream, set by [`Driver::mark`].
#[derive(Debug)]
pub struct Mark(pub(crate) MarkInner);

impl Mark {
    /// A mark of a device whose calls are done when they return.
    pub(crate) fn now() -> Mark {
        Mark(MarkInner::Host(Instant::now()))
    }
}

/// The two kinds of [`Mark`].
#[derive(Debug)]
pub(crate) enum MarkInner {
    /// Of a synchronous device: a time.
    Host(Instant),
    /// An event in the stream of a GPU.
    Cuda(cuda::Event),
}

/// Launches and copies that were captured once and are replayed as a whole.
pub trait Replay: Send {
    /// Puts the captured work into the stream once more.
    fn replay(&self) -> Result<()>;
    /// Number of captured operations.
    fn operations(&self) -> usize;
}

/// A device that runs kernels. What has a default here has that of a synchronous device, whose calls are done when they
/// return.
pub trait Driver: Send + Sync {
    /// What the device is.
    fn properties(&self) -> &Properties;

    /// `cuda:0`, `emulator`.
    fn name(&self) -> &str {
        &self.properties().device
    }

    /// Allocates `bytes` for `what` (named in errors), aligned to 256. The content is undefined.
    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr>;

    /// Gives back what [`Driver::alloc`] returned.
    fn free(&self, ptr: DevicePtr) -> Result<()>;

    /// Bytes that plans leave free behind each part of an allocation, so that [`Driver::outline`] can tell parts apart.
    fn padding(&self) -> usize {
        0
    }

    /// From here on in the stream, kernels may touch of the allocation at `ptr` only the parts of an outline that are alive
    /// at a time; with `None` all of it. Drivers without [`Driver::padding`] do not look.
    fn outline(&self, _ptr: DevicePtr, _outline: Option<(&Arc<Outline>, usize)>) -> Result<()> {
        Ok(())
    }

    /// Copies `from` to the device; `from` may be reused at once.
    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;

    /// Copies from the device, after everything before it in the stream, and waits for it.
    fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()>;

    /// Sets `bytes` bytes to zero, in the stream.
    fn zero(&self, ptr: DevicePtr, bytes: usize) -> Result<()>;

    /// Copies `bytes` within the device, in the stream. The ranges must not overlap.
    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()>;

    /// Page-locked host memory, zeroed.
    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::ordinary(bytes))
    }

    /// Copies `bytes` bytes from `offset` of `from` to the device, in the stream, without waiting.
    fn upload_async(&self, to: DevicePtr, from: &Pinned, offset: usize, bytes: usize) -> Result<()> {
        self.upload(to, from.range(offset, bytes)?)
    }

    /// Copies `bytes` bytes from the device to `offset` of `to`, in the stream, without waiting.
    fn download_async(&self, to: &mut Pinned, offset: usize, from: DevicePtr, bytes: usize) -> Result<()> {
        self.download(to.range_mut(offset, bytes)?, from)
    }

    /// Compiles (or finds in the cache) and loads a kernel; the same handle for the same specification.
    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel>;

    /// Launches `kernel` in the stream. A launch of no blocks does nothing.
    fn launch(&self, kernel: Kernel, launch: Launch, args: &[Arg]) -> Result<()>;

    /// Waits until the stream is empty, and reports what went wrong in it.
    fn synchronize(&self) -> Result<()>;

    /// Marks this point of the stream.
    fn mark(&self) -> Result<Mark> {
        Ok(Mark::now())
    }

    /// Marks this point with its time, which [`Driver::elapsed`] asks for and nothing else needs.
    fn stamp(&self) -> Result<Mark> {
        self.mark()
    }

    /// Whether the stream has passed `mark`; never waits.
    fn reached(&self, _mark: &Mark) -> Result<bool> {
        Ok(true)
    }

    /// Waits until the stream has passed `mark`.
    fn wait(&self, _mark: &Mark) -> Result<()> {
        Ok(())
    }

    /// Seconds from one [`Driver::stamp`] to another on the device; waits for `to`.
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        match (&from.0, &to.0) {
            (MarkInner::Host(from), MarkInner::Host(to)) => Ok(to.duration_since(*from).as_secs_f64()),
            _ => Err(Error::device(self.name(), "a mark of another driver")),
        }
    }

    /// Captures what `body` launches and copies, without running it. Inside `body` nothing may wait, allocate or copy
    /// from ordinary host memory, and every kernel must have been loaded before (see [`Driver::prepare`]).
    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Replay>>;

    /// Runs `body` for the kernels that it needs and nothing else: launches, [`Driver::zero`] and copies in the
    /// stream do nothing. Then compiles and loads all those kernels in parallel.
    fn prepare(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// Memory used and left.
    fn memory(&self) -> Result<MemoryInfo>;
}
