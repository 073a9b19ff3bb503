//! A device's memory, and the passage of time on it, as every backend provides them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use half::bf16;

pub use crate::driver::{Mark, Outline, Part, Pinned, Replay};
use crate::error::{Error, Result};
use crate::tensor::{BufferId, DType, Precision, Tensor};

/// Memory and the passage of time, as every backend provides them.
pub trait Memory {
    /// The device's name: `cpu`, `cuda:0`, `emulator`.
    fn name(&self) -> String;

    /// The precision that this backend computes in.
    fn precision(&self) -> Precision;

    /// Allocates zeroed memory, aligned to 256 bytes; `what` is for messages.
    ///
    /// # Errors
    /// When there is not that much.
    fn alloc(&self, bytes: usize, what: &str) -> Result<BufferId>;

    /// Allocates a zeroed tensor; `what` is for messages.
    ///
    /// # Errors
    /// When there is not that much memory.
    fn tensor(&self, shape: &[usize], dtype: DType, what: &str) -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        Ok(Tensor::at_start(self.alloc(bytes, what)?, shape, dtype))
    }

    /// Gives an allocation back.
    fn free(&self, buffer: BufferId);

    /// Bytes allocated now, and the most that ever were.
    fn allocated(&self) -> (usize, usize);

    /// Bytes that could still be allocated, other programs considered.
    ///
    /// # Errors
    /// When the device does not tell.
    fn available(&self) -> Result<usize>;

    /// Bytes of the last cache before the memory; 0 where there is none.
    fn cache_bytes(&self) -> usize;

    /// Bytes, a multiple of 256, that a plan leaves free behind each tensor of a shared allocation: none but where the device
    /// watches them, see [`Memory::outline`].
    fn padding(&self) -> usize {
        0
    }

    /// From here on, work may touch of this allocation only what is alive in an outline at a time; with `None` all of it.
    ///
    /// # Errors
    /// When it is no allocation.
    fn outline(&self, _buffer: BufferId, _outline: Option<(&Arc<Outline>, usize)>) -> Result<()> {
        Ok(())
    }

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

    /// Zeroed host memory that [`Memory::upload_async`] and [`Memory::download_async`] copy from and to: page-locked where
    /// a device copies while the host computes. The defaults from here on are for devices that do not.
    ///
    /// # Errors
    /// When there is not that much.
    fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
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

    /// Makes a sequence of calls repeatable at the lowest cost. A device with graphs compiles the kernels, captures the
    /// calls once without running them, and replays them; others run `work` again each time, which is what `None` asks for.
    ///
    /// # Errors
    /// When a kernel does not compile or the device fails.
    fn capture(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Replay>>> {
        Ok(None)
    }
}

/// Copies a floating-point tensor to the host.
pub fn read_floats(memory: &(impl Memory + ?Sized), tensor: Tensor) -> Result<Vec<f64>> {
    let mut bytes = vec![0; tensor.bytes()];
    memory.download(tensor, &mut bytes)?;
    floats(tensor.dtype, &bytes)
}

/// The numbers in an array's bytes, which need not be aligned.
///
/// # Errors
/// When they are integers.
pub fn floats(dtype: DType, bytes: &[u8]) -> Result<Vec<f64>> {
    Ok(match dtype {
        DType::F64 => bytemuck::pod_collect_to_vec(bytes),
        DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes).into_iter().map(f64::from).collect(),
        DType::Bf16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).into_iter().map(f64::from).collect(),
        other => return Err(Error::op("floats", format!("{other:?} is no floating-point type"))),
    })
}

/// Copies numbers into a floating-point tensor, rounding to its type.
///
/// # Errors
/// When the device fails, the tensor holds integers or the sizes differ.
pub fn write_floats(memory: &(impl Memory + ?Sized), tensor: Tensor, values: &[f64]) -> Result<()> {
    match tensor.dtype {
        DType::F64 => memory.upload(tensor, bytemuck::cast_slice(values)),
        DType::F32 => {
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            memory.upload(tensor, bytemuck::cast_slice(&narrow))
        }
        DType::Bf16 => {
            let narrow: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v as f32)).collect();
            memory.upload(tensor, bytemuck::cast_slice(&narrow))
        }
        other => Err(Error::op("write_floats", format!("{other:?} is no floating-point type"))),
    }
}
