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
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{BufferId, Precision, Tensor};

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

/// Everything that a backend must provide: one trait an op, each declared beside its op.
pub trait Backend:
    Memory
    + ops::augment_mix::AugmentMixKernels
    + ops::batch_norm::BatchNormKernels
    + ops::ceilings::CeilingKernels
    + ops::classify::ClassifyKernels
    + ops::conv2d::Conv2dKernels
    + ops::global_avg_pool::GlobalAvgPoolKernels
    + ops::linear::LinearKernels
    + ops::negative_cosine::NegativeCosineKernels
    + ops::sgd::SgdKernels
    + ops::soft_label_cross_entropy::SoftLabelCrossEntropyKernels
    + ops::soft_labels::SoftLabelsKernels
    + ops::step::StepKernels
    + ops::total_loss::TotalLossKernels
{
}

impl<T> Backend for T where
    T: Memory
        + ops::augment_mix::AugmentMixKernels
        + ops::batch_norm::BatchNormKernels
        + ops::ceilings::CeilingKernels
        + ops::classify::ClassifyKernels
        + ops::conv2d::Conv2dKernels
        + ops::global_avg_pool::GlobalAvgPoolKernels
        + ops::linear::LinearKernels
        + ops::negative_cosine::NegativeCosineKernels
        + ops::sgd::SgdKernels
        + ops::soft_label_cross_entropy::SoftLabelCrossEntropyKernels
        + ops::soft_labels::SoftLabelsKernels
        + ops::step::StepKernels
        + ops::total_loss::TotalLossKernels
{
}

/// Opens a device by its name: `cpu`, `cuda` or `cuda:N`, `emulator`, or `emulator:checked`, which looks at every memory
/// access. `threads` is the number of CPU threads, 0 for all.
///
/// # Errors
/// When there is no device of that name, it cannot be opened, or it does not compute in that precision.
pub fn open(device: &str, precision: Precision, threads: usize) -> Result<Box<dyn Backend>> {
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
        assert!(message("emulator", Precision::F64).starts_with("emulator: kernels compute in f32 and bf16"));
        assert_eq!(["cuda", "cuda:3"].map(cuda_ordinal), [Some(0), Some(3)]);
        assert_eq!(["cuda:", "cuda3", "cuda:-1", "cuda:x", "emulator"].map(cuda_ordinal), [None; 5]);
    }
}
