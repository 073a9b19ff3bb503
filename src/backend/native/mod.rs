//! The native backend: Rust on the CPU, in single precision, or in double as the oracle of the other backends.
//!
//! One file per op, each named as the op is. Ops get slices from `memory` and room for what they need meanwhile from
//! `workspace`, are written once for both precisions (`real`), run in parallel over chunks whose borders depend on shapes
//! alone (`parallel`) and with the best vectors that the machine has ([`cpu`]). Results depend neither on the number of
//! threads nor, but for convolutions in single precision, on the vectors.

mod augment_mix;
mod augment_photos;
mod batch_norm_apply;
mod batch_norm_apply_rows;
mod batch_norm_statistics;
mod ceilings;
mod checksum;
mod classify;
mod conv2d;
pub mod cpu;
mod global_avg_pool;
mod join_branches;
mod linear;
mod load_step;
mod matmul;
mod max_pool;
mod memory;
mod negative_cosine;
mod normalize_rows;
mod parallel;
mod project_rows;
mod real;
mod sam;
mod scale_columns;
mod sgd;
mod split_views;
mod supervised_loss;
mod total_loss;
mod workspace;

use crate::driver::host_cache::host_cache_bytes;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::ops::Backend;
use crate::tensor::{BufferId, Precision, Tensor};

/// The CPU as a device.
pub struct Native {
    precision: Precision,
    memory: memory::Allocations,
    /// The backend's own threads; ops enter it with `pool.install`.
    pool: rayon::ThreadPool,
}

impl Native {
    /// Opens the CPU with `threads` threads; 0 takes all.
    ///
    /// # Errors
    /// For bf16, which the CPU does not compute in, when `GLMC_CPU` asks for what the machine does not have, and when the
    /// system gives no threads.
    pub fn new(precision: Precision, threads: usize) -> Result<Native> {
        cpu::choice()?;
        if precision == Precision::Bf16 {
            return Err(Error::device("cpu", "computes in f32 (or f64); bf16 runs on cuda and on the emulator"));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| {
                Error::device(
                    "cpu",
                    format!("cannot start {threads} threads: too little memory, or more threads than allowed ({e})"),
                )
            })?;
        Ok(Native { precision, memory: memory::Allocations::default(), pool })
    }
}

impl Memory for Native {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<BufferId> {
        self.memory.alloc(bytes, what)
    }

    fn free(&self, buffer: BufferId) {
        self.memory.free(buffer);
    }

    fn allocated(&self) -> (usize, usize) {
        self.memory.allocated()
    }

    fn available(&self) -> Result<usize> {
        memory::available()
    }

    fn cache_bytes(&self) -> usize {
        host_cache_bytes() as usize
    }

    fn upload(&self, to: Tensor, bytes: &[u8]) -> Result<()> {
        self.memory.access()?.bytes(to).and_then(|to| copy(bytes, to))
    }

    fn download(&self, from: Tensor, bytes: &mut [u8]) -> Result<()> {
        self.memory.access()?.bytes(from).and_then(|from| copy(from, bytes))
    }

    fn zero(&self, tensor: Tensor) -> Result<()> {
        self.memory.access()?.bytes(tensor)?.fill(0);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Backend for Native {
    fn planner(&self) -> Result<Box<dyn Backend>> {
        // Memory that is never touched is never really taken.
        Ok(Box::new(Native { memory: memory::Allocations::unreserved(), ..Native::new(self.precision, 1)? }))
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::device("cpu", format!("a copy of {} bytes to a place of {}", from.len(), to.len())));
    }
    to.copy_from_slice(from);
    Ok(())
}
