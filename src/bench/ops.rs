//! A table of the step's ops.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Bound, Ceilings, Samples, Setup, Workload};
use crate::error::Result;
use crate::method::Method;
use crate::ops::Backend;
use crate::tape::{Cost, OpTime, Pass};
use crate::tensor::Precision;

/// Share of the time that measuring the ceilings takes.
const CEILINGS: f64 = 0.2;

/// The ops of a step and what they could reach.
#[derive(Clone, Debug, Serialize)]
pub struct OpsBench {
    pub device: String,
    /// Arithmetic.
    pub precision: Precision,
    /// Network.
    pub model: String,
    /// Channels of the first stage.
    pub width: usize,
    /// What is trained.
    pub method: &'static Method,
    /// Samples per step.
    pub batch: usize,
    /// CPU threads.
    pub threads: usize,
    /// The most that the device does.
    pub ceilings: Ceilings,
    /// The device's last cache, in bytes: short ops are timed on copies of their operands that it does not hold.
    pub cache_bytes: usize,
    /// Slowest first.
    pub ops: Vec<OpBench>,
}

/// One row of the table of ops.
#[derive(Clone, Debug, Serialize)]
pub struct OpBench {
    pub op: &'static str,
    /// `forward` or `backward`.
    pub pass: &'static str,
    pub shape: String,
    /// How often it occurs in a step.
    pub count: usize,
    /// All occurrences in one step together, median.
    pub seconds: f64,
    /// Share of the step.
    pub share: f64,
    /// 10^12 floating-point operations per second, by the op's formula.
    pub tflops: f64,
    /// 10^9 bytes per second, each tensor counted once.
    pub gbytes: f64,
    /// The least time by the ceilings over the time. More than 1 where an op needs fewer operations than its formula has
    /// (Winograd), or finds some of its tensors in the caches: what the op before has just written, or what an op that is long
    /// enough to be timed by itself reads twice.
    pub of_peak: f64,
    /// The ceiling that sets the least time.
    pub bound: Bound,
    /// Copies of the operands that took turns, at least: see [`OpTime::copies`].
    pub copies: usize,
}

impl OpBench {
    fn new(op: &'static str, pass: &'static str, shape: &str) -> OpBench {
        OpBench {
            op,
            pass,
            shape: shape.into(),
            count: 0,
            seconds: 0.0,
            share: 0.0,
            tflops: 0.0,
            gbytes: 0.0,
            of_peak: 0.0,
            bound: Bound::Memory,
            copies: usize::MAX,
        }
    }
}

impl OpsBench {
    /// Seconds of all ops together.
    pub fn seconds(&self) -> f64 {
        self.ops.iter().map(|op| op.seconds).sum()
    }

    /// The least time of all ops together over their time.
    pub fn of_peak(&self) -> f64 {
        self.ops.iter().map(|op| op.of_peak * op.seconds).sum::<f64>() / self.seconds()
    }
}

/// Times every op of the training step by itself, and the device's ceilings, for about `seconds`.
///
/// # Errors
/// When the workload is invalid or the device fails.
pub fn bench_ops(backend: &dyn Backend, w: &Workload, threads: usize, seconds: f64) -> Result<OpsBench> {
    let samples = Samples::new(w)?;
    let ceilings = Ceilings::measure(backend, CEILINGS * seconds)?;
    let setup = Setup::new(backend, w, &samples)?;
    setup.round(1)?;
    let mut runs: Vec<Vec<OpTime>> = Vec::new();
    let begun = Instant::now();
    while runs.len() < 3 || begun.elapsed().as_secs_f64() < (1.0 - CEILINGS) * seconds {
        runs.push(setup.timed()?);
    }
    Ok(OpsBench {
        device: backend.name(),
        precision: backend.precision(),
        model: w.model.clone(),
        width: w.width,
        method: w.method,
        batch: w.batch,
        threads,
        ceilings,
        cache_bytes: backend.cache_bytes(),
        ops: table(&runs, &ceilings),
    })
}

/// Puts ops of one name, pass and shape into one row, with the medians of their times over the runs.
fn table(runs: &[Vec<OpTime>], ceilings: &Ceilings) -> Vec<OpBench> {
    let median = |index: usize| -> f64 {
        let mut times: Vec<Duration> = runs.iter().map(|run| run[index].time).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let mut rows: Vec<OpBench> = Vec::new();
    let mut costs: Vec<Cost> = Vec::new();
    for (index, op) in runs[0].iter().enumerate() {
        let pass = if op.pass == Pass::Forward { "forward" } else { "backward" };
        let same = |row: &OpBench| row.op == op.name && row.pass == pass && row.shape == op.label;
        let at = rows.iter().position(same).unwrap_or_else(|| {
            rows.push(OpBench::new(op.name, pass, &op.label));
            costs.push(Cost::default());
            rows.len() - 1
        });
        rows[at].count += 1;
        rows[at].seconds += median(index);
        rows[at].copies = runs.iter().map(|run| run[index].copies).fold(rows[at].copies, usize::min);
        costs[at].flops += op.cost.flops;
        costs[at].bytes += op.cost.bytes;
    }
    let total: f64 = rows.iter().map(|row| row.seconds).sum();
    for (row, cost) in rows.iter_mut().zip(&costs) {
        row.share = row.seconds / total;
        row.tflops = cost.flops / row.seconds / 1e12;
        row.gbytes = cost.bytes / row.seconds / 1e9;
        let (least, bound) = ceilings.least_seconds(cost);
        row.of_peak = least / row.seconds;
        row.bound = bound;
    }
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::open;
    use crate::nn::Field;

    /// Ops that are repeated leave parameters, running statistics and momentum as one step does.
    fn check_that_timing_is_a_step(device: &str) {
        let (model, method) = ("resnet20".to_string(), crate::method::METHODS[0]);
        let w = Workload { model, width: 2, method, batch: 3, classes: 3, size: 8, photos: false };
        let samples = Samples::new(&w).unwrap();
        let outcome = |is_timed: bool| {
            let backend = open(device, Precision::F32, 1).unwrap();
            let setup = Setup::new(backend.as_ref(), &w, &samples).unwrap();
            let mut copies = Vec::new();
            match is_timed {
                true => copies.extend(setup.timed().unwrap().into_iter().map(|op| op.copies)),
                false => setup.round(1).unwrap(),
            }
            let mut state = Vec::new();
            for field in [Field::Value, Field::Momentum] {
                let snapshot = setup.engine.parameters.snapshot(backend.as_ref(), field).unwrap();
                let specs = setup.engine.parameters.specs().iter().count();
                state.extend((0..specs).flat_map(|index| snapshot.get(index)).map(f64::to_bits));
            }
            (state, copies)
        };
        let ((step, _), (timed, copies)) = (outcome(false), outcome(true));
        assert!(step == timed, "{device}");
        let repeated = copies.iter().filter(|&&copies| copies > 1).count();
        assert!(repeated > copies.len() / 4, "{device}: {copies:?}");
    }

    #[test]
    fn timing_every_op_is_one_step_on_the_cpu() {
        check_that_timing_is_a_step("cpu");
    }

    #[test]
    fn timing_every_op_is_one_step_on_the_emulator() {
        check_that_timing_is_a_step("emulator");
    }

    #[test]
    fn rows_are_medians_of_equal_ops_and_shares_of_their_roofline() {
        let op = |label: &str, flops: f64, bytes: f64, millis: u64| OpTime {
            name: "conv2d",
            label: label.into(),
            pass: Pass::Forward,
            cost: Cost { flops, bytes },
            time: Duration::from_millis(millis),
            copies: millis as usize,
        };
        // Two equal ops of a fast arithmetic kind, one that is bound by memory; the third run is an outlier.
        let run = |a, b, c| vec![op("math", 1e9, 1e6, a), op("memory", 1e6, 1e9, b), op("math", 1e9, 1e6, c)];
        let runs = [run(4, 50, 6), run(4, 50, 6), run(900, 900, 900)];
        let table = table(&runs, &Ceilings { tflops: 0.4, gbytes: 40.0, copied_bytes: 0 });
        assert_eq!(table.len(), 2);
        let (memory, math) = (&table[0], &table[1]);
        assert_eq!((memory.shape.as_str(), memory.count, memory.bound), ("memory", 1, Bound::Memory));
        assert_eq!((math.shape.as_str(), math.count, math.bound), ("math", 2, Bound::Math));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{a} {b}");
        assert_eq!((math.copies, memory.copies), (4, 50), "the fewest");
        close(math.seconds, 0.010);
        close(math.tflops, 0.2);
        close(math.of_peak, 0.5);
        close(memory.gbytes, 20.0);
        close(memory.of_peak, 0.5);
        close(memory.share, 50.0 / 60.0);
    }
}
