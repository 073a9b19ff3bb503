//! Backends: who computes the ops.
//!
//! [`Backend`] is what ops, tape, model and training loop see; nothing above it knows which one runs. There are two
//! implementations: [`native`], Rust on the CPU, and [`launched`], hand-written kernels over a driver (CUDA, or the
//! emulator that runs the same kernels on any machine).

pub mod driver;
pub mod launched;
pub mod native;

use std::time::{Duration, Instant};

use self::driver::Driver;
use self::driver::cache::Cache;
use self::driver::cuda::{self, Cuda};
use self::driver::emulator::{self, Checks, Emulator};
use self::driver::recorder::Recorder;
pub use self::driver::{Mark, Pinned};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{BufferId, Precision, Tensor};

/// CPU threads that a backend may be asked for.
const MOST_THREADS: usize = 1024;

/// Memory and the passage of time, as every backend provides them.
pub trait Memory {
    /// The device's name: `cpu`, `cuda:0`, `emulator`.
    fn name(&self) -> String;

    /// In what arithmetic this backend was opened.
    fn precision(&self) -> Precision;

    /// Allocates zeroed memory, aligned to 256 bytes; `what` is for messages.
    ///
    /// # Errors
    /// When there is not that much.
    fn alloc(&self, bytes: usize, what: &str) -> Result<BufferId>;

    /// Gives an allocation back.
    fn free(&self, buffer: BufferId);

    /// Bytes allocated now, and the most that ever were.
    fn allocated(&self) -> (usize, usize);

    /// Bytes that could still be allocated, other programs considered.
    ///
    /// # Errors
    /// When the device does not tell.
    fn available(&self) -> Result<usize>;

    /// A backend that plans, allocates and launches as this one does, but without a device: to learn beforehand what
    /// something will take. What it computes is meaningless.
    ///
    /// # Errors
    /// When the system refuses.
    fn planner(&self) -> Result<Box<dyn Backend>>;

    /// Copies host bytes into a tensor of the same size.
    ///
    /// # Errors
    /// When the sizes differ or the device fails.
    fn upload(&self, to: Tensor, bytes: &[u8]) -> Result<()>;

    /// Copies a tensor into host bytes of the same size, after all work before it.
    ///
    /// # Errors
    /// When the sizes differ or the device fails.
    fn download(&self, from: Tensor, bytes: &mut [u8]) -> Result<()>;

    /// Zeroed host memory that [`Memory::upload_async`] and [`Memory::download_async`] copy from and to. Devices that
    /// compute behind the host's back give page-locked memory; what is said here is for those that do not.
    ///
    /// # Errors
    /// When there is not that much.
    fn alloc_host(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::ordinary(bytes))
    }

    /// Copies a tensor's size of bytes from `offset` of host memory into it, after all work before it, without waiting:
    /// `from` must not change before a [`Memory::mark`] set behind the copy is reached.
    ///
    /// # Errors
    /// When host memory ends before, or the device fails.
    fn upload_async(&self, to: Tensor, from: &Pinned, offset: usize) -> Result<()> {
        self.upload(to, from.range(offset, to.bytes())?)
    }

    /// Copies a tensor to `offset` of host memory, after all work before it, without waiting: `to` holds the bytes once
    /// a [`Memory::mark`] set behind the copy is reached.
    ///
    /// # Errors
    /// When host memory ends before, or the device fails.
    fn download_async(&self, from: Tensor, to: &mut Pinned, offset: usize) -> Result<()> {
        self.download(from, to.range_mut(offset, from.bytes())?)
    }

    /// Marks this point of the work.
    ///
    /// # Errors
    /// When the device fails.
    fn mark(&self) -> Result<Mark> {
        Ok(Mark::now())
    }

    /// Whether all work before a mark is done; never waits.
    ///
    /// # Errors
    /// When the device, or work before the mark, failed.
    fn reached(&self, _mark: &Mark) -> Result<bool> {
        Ok(true)
    }

    /// Waits until all work before a mark is done.
    ///
    /// # Errors
    /// When the device, or work before the mark, failed.
    fn wait(&self, _mark: &Mark) -> Result<()> {
        Ok(())
    }

    /// Sets a tensor's bytes to zero.
    fn zero(&self, tensor: Tensor) -> Result<()>;

    /// Waits until all work is done.
    fn synchronize(&self) -> Result<()>;

    /// Runs `work` and measures it on the device's clock.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        self.synchronize()?;
        let start = Instant::now();
        work()?;
        self.synchronize()?;
        Ok(start.elapsed())
    }

    /// Makes a sequence of calls repeatable at the lowest cost. A device with graphs compiles the kernels, records the
    /// calls once without running them, and replays them; others run `work` again each time, which is what `None` asks for.
    ///
    /// # Errors
    /// When a kernel does not compile or the device fails.
    fn capture(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Replay>>> {
        Ok(None)
    }
}

/// A captured sequence of calls.
pub trait Replay {
    /// Runs it once more.
    fn replay(&self) -> Result<()>;
}

/// Declares [`Backend`] as the sum of the ops' traits, so that the list stands in one place.
macro_rules! backend {
    ($($kernels:path),* $(,)?) => {
        /// Everything that a backend must provide: one trait an op, each declared beside its op.
        pub trait Backend: Memory $(+ $kernels)* {}

        impl<T: Memory $(+ $kernels)*> Backend for T {}
    };
}

backend! {
    ops::augment_mix::AugmentMixKernels,
    ops::batch_norm::BatchNormKernels,
    ops::ceilings::CeilingKernels,
    ops::classify::ClassifyKernels,
    ops::conv2d::Conv2dKernels,
    ops::global_avg_pool::GlobalAvgPoolKernels,
    ops::linear::LinearKernels,
    ops::negative_cosine::NegativeCosineKernels,
    ops::sgd::SgdKernels,
    ops::soft_label_cross_entropy::SoftLabelCrossEntropyKernels,
    ops::soft_labels::SoftLabelsKernels,
    ops::load_step::LoadStepKernels,
    ops::total_loss::TotalLossKernels,
}

/// Opens a device by its name: `cpu`, `cuda` or `cuda:N`, `emulator`, or `emulator:checked`, which looks at every memory
/// access. `threads` is the number of CPU threads, 0 for all.
///
/// # Errors
/// When there is no device of that name, it cannot be opened, or it does not compute in that precision.
pub fn open(device: &str, precision: Precision, threads: usize) -> Result<Box<dyn Backend>> {
    if threads > MOST_THREADS {
        return Err(Error::Config(format!("{threads} threads are more than {MOST_THREADS}; 0 takes one a core")));
    }
    let checks = match device {
        "cpu" => return Ok(Box::new(native::Native::new(precision, threads)?)),
        "emulator" => Checks::Fast,
        "emulator:checked" => Checks::Full,
        _ => {
            let Some(ordinal) = cuda_ordinal(device) else {
                return Err(Error::device(device, "no such device; there are: cpu, cuda, cuda:N, emulator"));
            };
            let driver = Cuda::new(ordinal, Cache::user())?;
            return Ok(Box::new(launched::Launched::new(Box::new(driver), precision)?));
        }
    };
    if threads > 0 {
        // The emulator runs blocks on the process's own pool. Where that is up already, it stays as it is.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let driver = Emulator::new(emulator::Options { checks, cache: Cache::user() })?;
    Ok(Box::new(launched::Launched::new(Box::new(driver), precision)?))
}

/// A backend that plans and counts memory as the device of that name does, whether this machine has it or not; see
/// [`Memory::planner`].
///
/// # Errors
/// When there is no device of that name, or it does not compute in that precision.
pub fn planner(device: &str, precision: Precision) -> Result<Box<dyn Backend>> {
    if device == "cpu" || cuda_ordinal(device).is_none() {
        return open(device, precision, 1)?.planner();
    }
    Ok(Box::new(launched::Launched::new(Box::new(Recorder::default()), precision)?))
}

/// The number in `cuda:N`; 0 for `cuda`.
fn cuda_ordinal(device: &str) -> Option<usize> {
    match device.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

/// Every kind of device, with what it is or why it cannot be used.
pub fn devices() -> Vec<(String, Result<String>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut devices = vec![("cpu".into(), Ok(format!("Rust on {threads} threads, f32 (and f64 as an oracle)")))];
    match cuda::devices() {
        Err(error) => devices.push(("cuda".into(), Err(error))),
        Ok(found) => devices.extend(found.into_iter().map(|gpu| {
            let name = format!("cuda:{}", gpu.ordinal);
            let (major, minor) = gpu.compute;
            let what = match gpu.problem {
                Some(problem) => Err(Error::device(&name, problem)),
                None => {
                    let memory = gpu.memory_bytes as f64 / (1u64 << 30) as f64;
                    Ok(format!("{}, compute capability {major}.{minor}, {memory:.0} GiB, f32 and bf16", gpu.product))
                }
            };
            (name, what)
        })),
    }
    let emulator = Emulator::new(emulator::Options { checks: Checks::Fast, cache: Cache::user() });
    let what = emulator.map(|emulator| format!("{}: the CUDA kernels, f32 and bf16", emulator.properties().product));
    devices.push(("emulator".into(), what));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_opened_by_name() {
        assert_eq!(open("cpu", Precision::F64, 1).unwrap().precision(), Precision::F64);
        let message = |device, precision| open(device, precision, 1).err().unwrap().to_string();
        assert_eq!(message("tpu", Precision::F32), "tpu: no such device; there are: cpu, cuda, cuda:N, emulator");
        assert!(message("cpu", Precision::Bf16).starts_with("cpu: computes in f32 (or f64)"));
        let many = open("cpu", Precision::F32, 100_000).err().unwrap().to_string();
        assert_eq!(many, "100000 threads are more than 1024; 0 takes one a core");
        assert!(message("emulator", Precision::F64).starts_with("emulator: kernels compute in f32 and bf16"));
        assert_eq!(["cuda", "cuda:3"].map(cuda_ordinal), [Some(0), Some(3)]);
        assert_eq!(["cuda:", "cuda3", "cuda:-1", "cuda:x", "emulator"].map(cuda_ordinal), [None; 5]);
    }
}
