//! What a device reaches at most, measured: the roofline (Williams, Waterman and Patterson 2009) that ops are held
//! against.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::memory::read_floats;
use crate::ops::Backend;
use crate::tape::Cost;
use crate::tensor::{BufferId, DType, Tensor};

/// A measured call takes at least this long, if buffers and rounds may grow that far: far above the clock's grain and the
/// cost of a launch.
const LONG_ENOUGH: Duration = Duration::from_millis(20);
/// Bytes of each of the two buffers of the copy, at first and at most: the latter are some times the caches of GPUs and of
/// most processors.
const COPY_BYTES: [usize; 2] = [4 << 20, 512 << 20];
/// Rounds of arithmetic at first and at most: sums over more than this are not exact.
const ROUNDS: [u32; 2] = [16, 1 << 18];
/// Calls that are timed at least.
const CALLS: usize = 5;

/// The two ceilings of a device in the precision that its backend was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// 10^12 floating-point operations per second, all of them multiply-adds in registers, in the arithmetic of the
    /// convolutions.
    pub tflops: f64,
    /// 10^9 bytes per second, read and written, of a copy.
    pub gbytes: f64,
    /// Bytes of each of the copy's two buffers.
    pub copied_bytes: usize,
}

/// Which ceiling an op meets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Math,
    Memory,
}

impl Ceilings {
    /// Measures them, each for about half of `seconds`; the best call counts.
    ///
    /// # Errors
    /// When the device fails, has too little memory, or computes something else.
    pub fn measure(backend: &dyn Backend, seconds: f64) -> Result<Ceilings> {
        let tflops = math(backend, seconds / 2.0)? / 1e12;
        let (rate, copied_bytes) = memory(backend, seconds / 2.0)?;
        Ok(Ceilings { tflops, gbytes: rate / 1e9, copied_bytes })
    }

    /// The least seconds that work of this cost takes, and what keeps it from taking less.
    pub fn least_seconds(&self, cost: &Cost) -> (f64, Bound) {
        let (math, memory) = (cost.flops / (self.tflops * 1e12), cost.bytes / (self.gbytes * 1e9));
        if math > memory { (math, Bound::Math) } else { (memory, Bound::Memory) }
    }
}

/// Floating-point operations per second.
fn math(backend: &dyn Backend, seconds: f64) -> Result<f64> {
    let dtype = backend.precision().accumulate();
    let count = backend.ceiling_values();
    let values = backend.tensor(&[count], dtype, "values of the ceiling")?;
    let best = best_math(backend, values, seconds);
    backend.free(values.buffer);
    best
}

fn best_math(backend: &dyn Backend, values: Tensor, seconds: f64) -> Result<f64> {
    let mut rounds = ROUNDS[0];
    let call = |rounds: u32| -> Result<(f64, Duration)> {
        let mut flops = 0.0;
        backend.zero(values)?;
        let time = backend.time(&mut || {
            flops = backend.ceiling_math(values, rounds)?;
            Ok(())
        })?;
        Ok((flops, time))
    };
    // The first call compiles.
    call(rounds)?;
    while call(rounds)?.1 < LONG_ENOUGH && rounds < ROUNDS[1] {
        rounds *= 2;
    }
    let best = best_rate(seconds, || call(rounds))?;
    // A compiler that saw through the loop would show here, and so would a device that errs.
    let wrong = read_floats(backend, values)?.into_iter().find(|&v| v != f64::from(rounds));
    match wrong {
        None => Ok(best),
        Some(value) => {
            let what = format!("{rounds} rounds of multiply-adds gave {value}: its ceiling cannot be measured");
            Err(Error::device(backend.name(), what))
        }
    }
}

/// Bytes per second, and the bytes of a buffer.
fn memory(backend: &dyn Backend, seconds: f64) -> Result<(f64, usize)> {
    let mut bytes = COPY_BYTES[0];
    loop {
        let result = copies(backend, bytes, seconds)?;
        match result {
            Some(rate) => return Ok((rate, bytes)),
            None => bytes *= 2,
        }
    }
}

/// `None` where a copy of this size is too short to be measured and a larger one is allowed.
fn copies(backend: &dyn Backend, bytes: usize, seconds: f64) -> Result<Option<f64>> {
    let mut buffers: Vec<BufferId> = Vec::new();
    let mut run = || -> Result<Option<f64>> {
        for _ in 0..2 {
            buffers.push(backend.alloc(bytes, "the copy of the ceiling")?);
        }
        let [from, to] = [0, 1].map(|i| Tensor::at_start(buffers[i], &[bytes], DType::U8));
        // Memory never written may be a single page of zeros.
        backend.ceilings_copy(to, from)?;
        let call = || Ok((2.0 * bytes as f64, backend.time(&mut || backend.ceilings_copy(from, to))?));
        call()?;
        if call()?.1 < LONG_ENOUGH && bytes < COPY_BYTES[1] {
            return Ok(None);
        }
        best_rate(seconds, call).map(Some)
    };
    let result = run();
    buffers.into_iter().for_each(|buffer| backend.free(buffer));
    result
}

/// The best rate of repeated calls, each of which says how much it did in what time.
fn best_rate(seconds: f64, mut call: impl FnMut() -> Result<(f64, Duration)>) -> Result<f64> {
    let (begun, mut calls, mut best) = (Instant::now(), 0, 0.0f64);
    while calls < CALLS || begun.elapsed().as_secs_f64() < seconds {
        let (amount, time) = call()?;
        best = best.max(amount / time.as_secs_f64().max(1e-9));
        calls += 1;
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_of_two_times_binds() {
        let ceilings = Ceilings { tflops: 2.0, gbytes: 100.0, copied_bytes: 0 };
        let least = |flops, bytes| ceilings.least_seconds(&Cost { flops, bytes });
        assert_eq!(least(4e12, 100e9), (2.0, Bound::Math));
        assert_eq!(least(4e12, 300e9), (3.0, Bound::Memory));
        assert_eq!(least(0.0, 50e9), (0.5, Bound::Memory));
    }
}
