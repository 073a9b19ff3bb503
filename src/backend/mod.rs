//! Backends: who computes the ops.
//!
//! [`Backend`] is what ops, tape, model and training loop see; nothing above it knows which one runs. There are two
//! implementations: [`native`], Rust on the CPU, and `launched`, hand-written kernels over a driver (CUDA, or the
//! emulator that runs the same kernels on any machine).

pub mod driver;
pub mod launched;
pub mod native;

use std::time::{Duration, Instant};

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

/// Opens a device by its name: `cpu`. `threads` is the number of CPU threads, 0 for all.
///
/// # Errors
/// When there is no device of that name, it cannot be opened, or it does not compute in that precision.
pub fn open(device: &str, precision: Precision, threads: usize) -> Result<Box<dyn Backend>> {
    match device {
        "cpu" => Ok(Box::new(native::Native::new(precision, threads)?)),
        _ => Err(Error::device(device, "no such device; there is: cpu")),
    }
}

/// Every kind of device, with what it is or why it cannot be used.
pub fn devices() -> Vec<(String, Result<String>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    vec![("cpu".into(), Ok(format!("Rust on {threads} threads, f32 (and f64 as an oracle)")))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_opened_by_name() {
        assert_eq!(open("cpu", Precision::F64, 1).unwrap().precision(), Precision::F64);
        let message = |device, precision| open(device, precision, 1).err().unwrap().to_string();
        assert_eq!(message("tpu", Precision::F32), "tpu: no such device; there is: cpu");
        assert!(message("cpu", Precision::Bf16).starts_with("cpu: computes in f32 (or f64)"));
    }
}
