//! What the driver handed out, given back when its owner is dropped: kernels, events, graphs.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use cudarc::driver::sys;

use super::calls::Calls;
use super::context::Context;
use crate::Result;
use crate::driver::Replay;
use crate::driver::pinned::HostMemory;
use crate::driver::table::KernelTable;

/// A loaded kernel.
pub(super) struct Loaded {
    pub(super) function: sys::CUfunction,
    /// Sizes of its parameters in bytes, where the driver tells (CUDA 12.4 and later).
    pub(super) sizes: Option<Vec<usize>>,
    /// Dynamic shared memory that it has been allowed so far.
    pub(super) shared: AtomicU32,
    /// ... and that a share of the first-level cache was asked for.
    pub(super) carved: AtomicU32,
    /// Registers of a thread.
    pub(super) registers: u32,
    pub(super) module: sys::CUmodule,
    pub(super) context: Arc<Context>,
}

// SAFETY: handles of the driver, which locks internally; any thread may use them with the context current.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the module was loaded by `Cuda::load`, and its function goes with it.
            let _ = unsafe { self.context.calls().unload_module(self.module) };
        }
    }
}

/// The sizes of a kernel's parameters; `None` where the driver is older than 12.4.
pub(super) fn parameter_sizes(calls: &Calls, function: sys::CUfunction) -> Option<Vec<usize>> {
    let mut sizes = Vec::new();
    loop {
        // SAFETY: the function was loaded just now; the driver answers an index past the last with "invalid value".
        match unsafe { calls.parameter_size(function, sizes.len()) }? {
            Ok(size) => sizes.push(size),
            Err(code) if code.is(sys::CUresult::CUDA_ERROR_INVALID_VALUE) => return Some(sizes),
            // Something else is wrong, which the launch will report: not that there are no more parameters.
            Err(_) => return None,
        }
    }
}

/// An event that goes away with its mark.
pub(crate) struct Event {
    pub(super) event: sys::CUevent,
    pub(super) context: Arc<Context>,
}

// SAFETY: a handle of the driver, which locks internally.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event({:?})", self.event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: created by `mark`, destroyed once; the driver lets a pending one finish.
            let _ = unsafe { self.context.calls().destroy_event(self.event) };
        }
    }
}

pub(super) struct CudaGraph {
    pub(super) executable: sys::CUgraphExec,
    pub(super) operations: usize,
    pub(super) context: Arc<Context>,
    /// Host memory that the captured copies use.
    pub(super) _held: Vec<Arc<HostMemory>>,
    /// The kernels that it launches: their code must stay loaded.
    pub(super) _kernels: Arc<KernelTable<Loaded>>,
}

// SAFETY: a handle of the driver, which locks internally.
unsafe impl Send for CudaGraph {}

impl Replay for CudaGraph {
    fn replay(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: executable and stream are alive.
        unsafe { self.context.calls().launch_graph(self.executable, self.context.stream()) }
            .map_err(|code| self.context.error("replaying a graph", code))
    }

    fn operations(&self) -> usize {
        self.operations
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: instantiated by `capture`, destroyed once; replays must be over before their memory goes.
            unsafe {
                let _ = self.context.calls().synchronize(self.context.stream());
                let _ = self.context.calls().destroy_executable(self.executable);
            }
        }
    }
}
