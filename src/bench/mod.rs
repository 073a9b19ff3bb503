//! `glmc-engine bench`: how fast the training step is, whole and op by op, on images made up on the spot.
//!
//! - [`step`]: samples a second of the whole step;
//! - [`ops`]: a table of its ops, each beside what the device could do at most;
//! - [`ceilings`]: what that is, measured.

pub mod ceilings;
pub mod ops;
pub mod step;

pub use ceilings::{Bound, Ceilings};
pub use ops::{OpBench, OpsBench, bench_ops};
pub use step::{StepBench, bench_step};

use crate::config::Method;
use crate::error::{Error, Result};
use crate::glmc::{EpochPlan, PartnerSampler, PlanConfig, class_weights};
use crate::nn::model::HIDDEN;
use crate::nn::{Model, ModelConfig, ParameterStore};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing};
use crate::ops::sgd::SgdConfig;
use crate::rng::philox::{Purpose, Stream};
use crate::tape::OpTime;
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

/// Steps of the table that a bench goes through again and again.
pub const STEPS: usize = 16;

/// Random images and long-tailed labels, enough for [`STEPS`] steps.
pub struct Samples {
    pixels: Vec<u8>,
    labels: Vec<i32>,
    size: usize,
}

impl Samples {
    /// For a workload.
    ///
    /// # Errors
    /// When the workload makes no sense.
    pub fn new(w: &Workload) -> Result<Samples> {
        if w.batch == 0 || w.batch > 1 << 16 || w.size < 4 || w.size > 1024 || w.classes < 2 {
            let what = "a bench takes a batch in 1..=65536, images of 4 to 1024 pixels and at least 2 classes";
            return Err(Error::Config(what.into()));
        }
        let images = STEPS * w.batch;
        let mut words = Stream::new(1, 0, 0, Purpose::Initialise);
        let pixels = (0..images * w.size * w.size * 3).map(|_| words.word().to_le_bytes()[3]).collect();
        let labels = (0..images).map(|_| (words.unit().powi(3) * w.classes as f64) as i32).collect();
        Ok(Samples { pixels, labels, size: w.size })
    }

    fn images(&self) -> Images<'_> {
        Images { pixels: &self.pixels, labels: &self.labels, height: self.size, width: self.size }
    }
}

/// A training step ready to run, with all that it needs.
pub struct Setup<'a> {
    backend: &'a dyn Backend,
    step: TrainStep,
    feed: Feed<'a>,
    plan: EpochPlan,
    model: Model,
}

impl<'a> Setup<'a> {
    /// Builds the network and plans its step on `backend`; `samples` are the workload's.
    ///
    /// # Errors
    /// When the workload makes no sense or the device fails.
    pub fn new(backend: &'a dyn Backend, w: &Workload, samples: &'a Samples) -> Result<Setup<'a>> {
        let images = samples.images();
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

    /// Runs the first `steps` of the [`STEPS`] and waits for the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn round(&self, steps: usize) -> Result<()> {
        self.step.load(self.backend, &self.feed, &self.plan, 0)?;
        (0..steps).try_for_each(|step| self.step.run(self.backend, step))?;
        self.backend.synchronize()
    }

    /// Runs one step op by op, each timed by itself.
    ///
    /// # Errors
    /// When the device fails.
    pub fn timed(&self) -> Result<Vec<OpTime>> {
        self.step.load(self.backend, &self.feed, &self.plan, 0)?;
        self.step.timed(self.backend)
    }

    /// Learned parameters.
    pub fn parameters(&self) -> usize {
        self.model.specs().learned_elements()
    }
}
