//! Samples per second of the whole training step.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{STEPS, Samples, Setup, Workload};
use crate::error::Result;
use crate::ops::Backend;
use crate::tape::OpTime;
use crate::tensor::Precision;

/// The speed of the whole step.
#[derive(Clone, Debug, Serialize)]
pub struct StepBench {
    pub device: String,
    /// Arithmetic.
    pub precision: Precision,
    /// Network.
    pub model: String,
    /// Channels of the first stage.
    pub width: usize,
    /// Samples per step.
    pub batch: usize,
    /// CPU threads.
    pub threads: usize,
    /// Median over the rounds. A sample is an original; GLMC sees two views of it.
    pub samples_per_second: f64,
    /// First and third quartile.
    pub quartiles: [f64; 2],
    /// Seconds per step, median.
    pub seconds_per_step: f64,
    /// Timed rounds, and steps in each.
    pub rounds: [usize; 2],
    /// Learned parameters.
    pub parameters: usize,
    /// Most bytes allocated on the device.
    pub peak_bytes: usize,
    /// Its ops in the order of a step, each timed by itself, if they were asked for.
    #[serde(skip)]
    pub ops: Vec<OpTime>,
}

/// Times of each op; the median counts.
const TIMES: usize = 5;

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Times the whole training step for about `seconds`, and then, with `ops`, each of its ops.
///
/// # Errors
/// When the workload is invalid or the device fails.
pub fn bench_step(backend: &dyn Backend, w: &Workload, threads: usize, seconds: f64, ops: bool) -> Result<StepBench> {
    let samples = Samples::new(w)?;
    let setup = Setup::new(backend, w, &samples)?;
    // The first step touches all memory for the first time; the second tells how many fit into a round.
    setup.round(1)?;
    let start = Instant::now();
    setup.round(1)?;
    let once = start.elapsed().as_secs_f64();
    let steps = ((seconds / 20.0 / once) as usize).clamp(1, STEPS);
    let mut rates = Vec::new();
    let begun = Instant::now();
    while rates.len() < 3 || begun.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        setup.round(steps)?;
        rates.push((steps * w.batch) as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let median = quantile(&rates, 0.5);
    // Before the ops are timed: captures of theirs may take memory that no step needs.
    let peak_bytes = backend.allocated().1;
    Ok(StepBench {
        device: backend.name(),
        precision: backend.precision(),
        model: w.model.clone(),
        width: w.width,
        batch: w.batch,
        threads,
        samples_per_second: median,
        quartiles: [quantile(&rates, 0.25), quantile(&rates, 0.75)],
        seconds_per_step: w.batch as f64 / median,
        rounds: [rates.len(), steps],
        parameters: setup.parameters(),
        peak_bytes,
        ops: if ops { op_times(&setup)? } else { Vec::new() },
    })
}

/// Each op's median over some steps.
fn op_times(setup: &Setup<'_>) -> Result<Vec<OpTime>> {
    let runs = (0..TIMES).map(|_| setup.timed()).collect::<Result<Vec<_>>>()?;
    let median = |index: usize| {
        let mut times: Vec<Duration> = runs.iter().map(|run| run[index].time).collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let ops = runs[0].iter().enumerate();
    Ok(ops.map(|(index, op)| OpTime { time: median(index), ..op.clone() }).collect())
}
