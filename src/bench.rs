//! `glmc-engine bench`: how fast the training step is, whole and op by op, on images made up on the spot.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::Backend;
use crate::config::Method;
use crate::error::{Error, Result};
use crate::glmc::{EpochPlan, PartnerSampler, PlanConfig, class_weights};
use crate::nn::model::HIDDEN;
use crate::nn::{Model, ModelConfig, ParameterStore};
use crate::ops::augment_mix::{Augmentation, Mixing};
use crate::ops::sgd::SgdConfig;
use crate::rng::philox::{Purpose, Stream};
use crate::tape::{OpTime, Pass};
use crate::tensor::Precision;
use crate::train::feed::{Feed, Images};
use crate::train::step::{StepConfig, TrainStep};

/// What to time.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Network.
    pub model: String,
    /// Channels of its first stage.
    pub width: usize,
    /// GLMC or plain cross-entropy.
    pub method: Method,
    /// Samples a step.
    pub batch: usize,
    /// Classes.
    pub classes: usize,
    /// Rows and columns of an image.
    pub size: usize,
}

/// A training step ready to run, with all that it needs.
struct Setup<'a> {
    backend: &'a dyn Backend,
    step: TrainStep,
    feed: Feed<'a>,
    plan: EpochPlan,
    model: Model,
}

/// Steps of the table that a bench goes through again and again.
const STEPS: usize = 16;

/// Random images and long-tailed labels.
fn make_images(w: &Workload) -> (Vec<u8>, Vec<i32>) {
    let images = STEPS * w.batch;
    let mut words = Stream::new(1, 0, 0, Purpose::Initialise);
    let pixels: Vec<u8> = (0..images * w.size * w.size * 3).map(|_| words.word().to_le_bytes()[3]).collect();
    let labels = (0..images).map(|_| (words.unit().powi(3) * w.classes as f64) as i32).collect();
    (pixels, labels)
}

impl<'a> Setup<'a> {
    fn new(backend: &'a dyn Backend, w: &Workload, images: Images<'a>) -> Result<Setup<'a>> {
        let description = ModelConfig {
            name: w.model.clone(),
            width: w.width,
            classes: w.classes,
            heads: w.method.heads(),
            hidden: HIDDEN,
        };
        let model = Model::new(&description, backend.stem_channels())?;
        let store = ParameterStore::new(backend, model.specs().clone())?;
        store.initialise(backend, 1)?;
        let feed = Feed::new(backend, images, w.batch, usize::MAX)?;
        let mut counts = vec![1u64; w.classes];
        images.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let config = StepConfig {
            batch: w.batch,
            mixing: if w.method == Method::Glmc { Mixing::Glmc } else { Mixing::Single },
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: w.size / 8, flip: true },
            sgd: SgdConfig { momentum: 0.9, weight_decay: 5e-3 },
            class_weights: class_weights(&counts, 1.2),
        };
        let sampler = PartnerSampler::new(images.labels, w.classes, 0.2)?;
        let plan = PlanConfig {
            seed: 1,
            epochs: 1,
            batch: w.batch,
            lr: 1e-3,
            warmup_epochs: 0,
            beta: (w.method == Method::Glmc).then_some(1.0),
            gamma: 1.0,
            supervised: 1.0,
            correct_labels: false,
            height: w.size,
            width: w.size,
        };
        let plan = EpochPlan::draw(&plan, 0, images.len(), &sampler)?;
        let step = TrainStep::new(backend, &model, &store, &feed, config)?;
        Ok(Setup { backend, step, feed, plan, model })
    }

    /// Runs all steps of the table once and waits for the device.
    fn round(&self, steps: usize) -> Result<()> {
        self.step.load(self.backend, &self.feed, &self.plan, 0)?;
        (0..steps).try_for_each(|step| self.step.run(self.backend, step))?;
        self.backend.synchronize()
    }
}

/// The speed of the whole step.
#[derive(Clone, Debug, Serialize)]
pub struct StepBench {
    /// Device.
    pub device: String,
    /// Arithmetic.
    pub precision: Precision,
    /// Network.
    pub model: String,
    /// Channels of the first stage.
    pub width: usize,
    /// Samples a step.
    pub batch: usize,
    /// CPU threads.
    pub threads: usize,
    /// Median over the rounds. A sample is an original; GLMC sees two views of it.
    pub samples_per_second: f64,
    /// First and third quartile.
    pub quartiles: [f64; 2],
    /// Seconds a step, median.
    pub seconds_per_step: f64,
    /// Timed rounds, and steps in each.
    pub rounds: [usize; 2],
    /// Learned parameters.
    pub parameters: usize,
    /// Most bytes allocated on the device.
    pub peak_bytes: usize,
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Times the whole training step for about `seconds`.
///
/// # Errors
/// When the workload makes no sense or the device fails.
pub fn bench_step(backend: &dyn Backend, w: &Workload, threads: usize, seconds: f64) -> Result<StepBench> {
    let (pixels, labels) = check(w)?;
    let images = Images { pixels: &pixels, labels: &labels, height: w.size, width: w.size };
    let setup = Setup::new(backend, w, images)?;
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
        parameters: setup.model.specs().learned_elements(),
        peak_bytes: backend.allocated().1,
    })
}

fn check(w: &Workload) -> Result<(Vec<u8>, Vec<i32>)> {
    if w.batch == 0 || w.batch > 1 << 16 || w.size < 4 || w.size > 1024 || w.classes < 2 {
        let what = "a bench takes a batch in 1..=65536, images of 4 to 1024 pixels and at least 2 classes";
        return Err(Error::Config(what.into()));
    }
    Ok(make_images(w))
}

/// One row of the table of ops.
#[derive(Clone, Debug, Serialize)]
pub struct OpBench {
    /// Op.
    pub op: &'static str,
    /// `forward` or `backward`.
    pub pass: &'static str,
    /// Shapes.
    pub shape: String,
    /// How often it occurs in a step.
    pub count: usize,
    /// All occurrences in one step together, median.
    pub seconds: f64,
    /// Share of the step.
    pub share: f64,
    /// 10^9 floating-point operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second, each tensor counted once.
    pub gbytes: f64,
}

/// Times every op of the training step by itself for about `seconds`; slowest first.
///
/// # Errors
/// When the workload makes no sense or the device fails.
pub fn bench_ops(backend: &dyn Backend, w: &Workload, seconds: f64) -> Result<Vec<OpBench>> {
    let (pixels, labels) = check(w)?;
    let images = Images { pixels: &pixels, labels: &labels, height: w.size, width: w.size };
    let setup = Setup::new(backend, w, images)?;
    setup.round(1)?;
    let mut runs: Vec<Vec<OpTime>> = Vec::new();
    let begun = Instant::now();
    while runs.len() < 3 || begun.elapsed().as_secs_f64() < seconds {
        setup.step.load(backend, &setup.feed, &setup.plan, 0)?;
        runs.push(setup.step.timed(backend)?);
    }
    let median = |index: usize| -> Duration {
        let mut times: Vec<Duration> = runs.iter().map(|run| run[index].time).collect();
        times.sort();
        times[times.len() / 2]
    };
    let mut rows: Vec<(OpBench, f64, f64)> = Vec::new();
    let mut total = 0.0;
    for (index, op) in runs[0].iter().enumerate() {
        let time = median(index).as_secs_f64();
        total += time;
        let pass = if op.pass == Pass::Forward { "forward" } else { "backward" };
        let same = rows.iter_mut().find(|(r, ..)| r.op == op.name && r.pass == pass && r.shape == op.label);
        let row = match same {
            Some(row) => row,
            None => {
                let (shape, zero) = (op.label.clone(), 0.0);
                let row = OpBench {
                    op: op.name,
                    pass,
                    shape,
                    count: 0,
                    seconds: zero,
                    share: zero,
                    gflops: zero,
                    gbytes: zero,
                };
                rows.push((row, 0.0, 0.0));
                // Just pushed.
                rows.last_mut().expect("a row")
            }
        };
        row.0.count += 1;
        row.0.seconds += time;
        row.1 += op.cost.flops;
        row.2 += op.cost.bytes;
    }
    let mut table: Vec<OpBench> = rows
        .into_iter()
        .map(|(row, flops, bytes)| OpBench {
            share: row.seconds / total,
            gflops: flops / row.seconds / 1e9,
            gbytes: bytes / row.seconds / 1e9,
            ..row
        })
        .collect();
    table.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(table)
}
