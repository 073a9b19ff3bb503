//! The launched backend: every op as hand-written kernels, over a [`Driver`] that is a CUDA GPU or the emulator.
//!
//! A launcher per op (`conv2d`, `sgd`, ...) owns its kernels' geometry: it checks the tensors that it is given,
//! chooses the knobs (`-D`) and the grid, and launches. Nothing is computed on the host, and nothing depends on what the
//! driver is, so that the emulator runs just the launches that a GPU runs.

mod augment_mix;
mod augment_photos;
mod batch_norm_apply;
mod batch_norm_statistics;
mod ceilings;
mod checksum;
mod classify;
pub mod conv2d;
mod global_avg_pool;
mod grid;
mod join_branches;
mod linear;
mod load_step;
mod max_pool;
mod negative_cosine;
mod normalize_rows;
mod operands;
mod project_rows;
mod sam;
mod scale_columns;
mod sgd;
mod split_views;
mod supervised_loss;
mod total_loss;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use self::operands::Operands;
use crate::driver::dry_run::DryRun;
use crate::driver::{Arg, DevicePtr, Driver, KernelSpec, Launch};
use crate::memory::{Mark, Memory, Outline, Pinned, Replay};
use crate::ops::Backend;
use crate::tensor::Grad;
use crate::tensor::{BufferId, DType, Precision, Tensor};
use crate::{Error, Result};

/// The backend over one device.
pub struct Launched {
    driver: Box<dyn Driver>,
    precision: Precision,
    allocations: Mutex<Allocations>,
}

/// What was allocated and not yet freed; a [`BufferId`] is an index here and is never given out twice.
#[derive(Default)]
struct Allocations {
    slots: Vec<Option<Allocation>>,
    bytes: usize,
    peak: usize,
}

struct Allocation {
    ptr: DevicePtr,
    bytes: usize,
    what: String,
}

impl Launched {
    /// The backend over `driver`.
    ///
    /// # Errors
    /// In double precision: that is the CPU's.
    pub fn new(driver: Box<dyn Driver>, precision: Precision) -> Result<Launched> {
        if precision == Precision::F64 {
            let what = "kernels compute in f32 and bf16; f64 is for the cpu: take --precision f32";
            return Err(Error::device(driver.name(), what));
        }
        Ok(Launched { driver, precision, allocations: Mutex::default() })
    }

    /// What runs the kernels.
    pub fn driver(&self) -> &dyn Driver {
        self.driver.as_ref()
    }

    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `tensor` lies.
    ///
    /// # Errors
    /// When it is not inside an allocation of this backend.
    pub(crate) fn pointer(&self, tensor: Tensor) -> Result<DevicePtr> {
        let allocations = self.allocations();
        let Some(Some(allocation)) = allocations.slots.get(tensor.buffer.0 as usize) else {
            let what = format!("a tensor of shape {} lies in buffer {}, which is gone", tensor.shape, tensor.buffer.0);
            return Err(Error::device(self.driver.name(), what));
        };
        if tensor.offset.checked_add(tensor.bytes()).is_none_or(|end| end > allocation.bytes) {
            let what = format!(
                "a tensor of {} bytes at byte {} lies outside of \"{}\", which has {} bytes",
                tensor.bytes(),
                tensor.offset,
                allocation.what,
                allocation.bytes
            );
            return Err(Error::device(self.driver.name(), what));
        }
        Ok(allocation.ptr + tensor.offset as u64)
    }

    /// The kernel `entry` in `kernels/ENTRY.cu`, told how tensors are stored.
    pub(crate) fn spec(&self, entry: &'static str) -> KernelSpec {
        KernelSpec::new(entry).define("STORAGE_BF16", u32::from(self.precision == Precision::Bf16))
    }

    /// Elements of sixteen bytes: what kernels move at a time where sizes and addresses allow.
    pub(crate) fn storage_vector(&self) -> usize {
        16 / self.precision.compute().bytes()
    }

    /// Launches the kernel `spec`, compiled at its first use.
    pub(crate) fn launch(&self, spec: &KernelSpec, launch: Launch, args: &[Arg]) -> Result<()> {
        let kernel = self.driver.kernel(spec)?;
        self.driver.launch(kernel, launch, args)
    }

    fn size_mismatch(&self, action: &str, tensor: Tensor, bytes: usize) -> Error {
        let what = format!("{action} of {bytes} bytes, but the tensor {} has {}", tensor.shape, tensor.bytes());
        Error::device(self.driver.name(), what)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        for allocation in self.allocations().slots.drain(..).flatten() {
            // An error has nowhere to go; a driver that is dropped frees its memory anyway.
            let _ = self.driver.free(allocation.ptr);
        }
    }
}

impl Memory for Launched {
    fn name(&self) -> String {
        self.driver.name().to_string()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<BufferId> {
        let size = bytes.max(1);
        let ptr = self.driver.alloc(size, what)?;
        if let Err(error) = self.driver.zero(ptr, size) {
            let _ = self.driver.free(ptr);
            return Err(error);
        }
        let mut allocations = self.allocations();
        let id = u32::try_from(allocations.slots.len()).map_err(|_| Error::device(self.name(), "2^32 allocations"))?;
        allocations.slots.push(Some(Allocation { ptr, bytes, what: what.to_string() }));
        allocations.bytes += bytes;
        allocations.peak = allocations.peak.max(allocations.bytes);
        Ok(BufferId(id))
    }

    fn free(&self, buffer: BufferId) {
        let mut allocations = self.allocations();
        if let Some(allocation) = allocations.slots.get_mut(buffer.0 as usize).and_then(Option::take) {
            allocations.bytes -= allocation.bytes;
            // The trait has no way to say it; the next call on a broken device will.
            let _ = self.driver.free(allocation.ptr);
        }
    }

    fn allocated(&self) -> (usize, usize) {
        let allocations = self.allocations();
        (allocations.bytes, allocations.peak)
    }

    fn available(&self) -> Result<usize> {
        Ok(usize::try_from(self.driver.memory()?.free).unwrap_or(usize::MAX))
    }

    fn cache_bytes(&self) -> usize {
        self.driver.properties().cache_bytes as usize
    }

    fn padding(&self) -> usize {
        self.driver.padding()
    }

    fn outline(&self, buffer: BufferId, outline: Option<(&Arc<Outline>, usize)>) -> Result<()> {
        self.driver.outline(self.pointer(Tensor::at_start(buffer, &[0], DType::U8))?, outline)
    }

    fn upload(&self, to: Tensor, bytes: &[u8]) -> Result<()> {
        if to.bytes() != bytes.len() {
            return Err(self.size_mismatch("upload", to, bytes.len()));
        }
        self.driver.upload(self.pointer(to)?, bytes)
    }

    fn download(&self, from: Tensor, bytes: &mut [u8]) -> Result<()> {
        if from.bytes() != bytes.len() {
            return Err(self.size_mismatch("download", from, bytes.len()));
        }
        self.driver.download(bytes, self.pointer(from)?)
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        self.driver.alloc_pinned(bytes)
    }

    fn upload_async(&self, to: Tensor, from: &Pinned, offset: usize) -> Result<()> {
        self.driver.upload_async(self.pointer(to)?, from, offset, to.bytes())
    }

    fn download_async(&self, from: Tensor, to: &mut Pinned, offset: usize) -> Result<()> {
        self.driver.download_async(to, offset, self.pointer(from)?, from.bytes())
    }

    fn mark(&self) -> Result<Mark> {
        self.driver.mark()
    }

    fn reached(&self, mark: &Mark) -> Result<bool> {
        self.driver.reached(mark)
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        self.driver.wait(mark)
    }

    fn zero(&self, tensor: Tensor) -> Result<()> {
        self.driver.zero(self.pointer(tensor)?, tensor.bytes())
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let start = self.driver.stamp()?;
        work()?;
        let end = self.driver.stamp()?;
        Ok(Duration::from_secs_f64(self.driver.elapsed(&start, &end)?.max(0.0)))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Replay>>> {
        self.driver.prepare(work)?;
        self.driver.capture(work).map(Some)
    }
}

impl Backend for Launched {
    fn planner(&self) -> Result<Box<dyn Backend>> {
        let p = self.driver.properties();
        let dry_run = DryRun::new(&p.arch, p.multiprocessors, p.shared_bytes).padded(self.driver.padding());
        Ok(Box::new(Launched::new(Box::new(dry_run), self.precision)?))
    }
}

/// What tells a kernel to add to a gradient rather than to write it.
pub(crate) fn add_flag(grad: Option<Grad>) -> Arg<'static> {
    Arg::U32(u32::from(grad.is_some_and(|grad| grad.accumulate)))
}

/// Whether every address is a multiple of sixteen bytes.
pub(crate) fn aligned(pointers: &[DevicePtr]) -> bool {
    pointers.iter().all(|pointer| pointer % 16 == 0)
}

/// An optional pointer as kernels take it: null for none.
pub(crate) fn optional(pointer: Option<DevicePtr>) -> Arg<'static> {
    Arg::Ptr(pointer.unwrap_or(0))
}

/// The type of sums, statistics, parameters and losses.
pub(crate) const FLOAT: DType = DType::F32;
