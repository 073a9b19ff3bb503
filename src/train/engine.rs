//! Everything that a run keeps on its device, allocated and planned before the first step.

use super::evaluate::{Evaluation, EvaluationConfig, Evaluator};
use super::feed::{Feed, Images};
use super::step::{StepConfig, TrainStep};
use crate::config::{Config, Method};
use crate::data::shots::Shot;
use crate::error::Result;
use crate::glmc::class_weights;
use crate::nn::model::HIDDEN;
use crate::nn::{HeadKind, Model, ModelConfig, ParameterStore};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing};
use crate::ops::sgd::SgdConfig;

/// Images of one evaluation batch.
pub const EVALUATION_BATCH: usize = 256;

/// What must stay free beside a run's own buffers for kernels, graphs and the driver, when it is decided whether the
/// images fit.
const RESERVE: usize = 512 << 20;

/// The data of a run, on the host.
pub struct Data<'a> {
    /// Training images of each class.
    pub counts: &'a [usize],
    /// Training images.
    pub train: Images<'a>,
    /// Test images.
    pub test: Images<'a>,
    /// Crops, flips, normalisation.
    pub augmentation: Augmentation,
}

/// A run's parameters, images, training step and evaluation on one device.
pub struct Engine<'a> {
    /// Parameters, their gradients and momenta.
    pub parameters: ParameterStore,
    /// The training images.
    pub feed: Feed<'a>,
    /// The training step.
    pub step: TrainStep,
    test_feed: Feed<'a>,
    evaluator: Evaluator,
}

/// The device memory of a run in bytes, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    /// Parameters with their gradients and momenta, and bf16 copies of them.
    #[serde(rename = "parameters_bytes")]
    pub parameters: usize,
    /// Activations, their gradients and scratch of a training step; an evaluation uses the same memory.
    #[serde(rename = "activations_bytes")]
    pub activations: usize,
    /// Training and test images with their labels, resident or staged.
    #[serde(rename = "images_bytes")]
    pub images: usize,
    /// Tables of the steps, logs, and an evaluation's activations if they need more than a step's.
    #[serde(rename = "other_bytes")]
    pub other: usize,
    /// All of it.
    #[serde(rename = "total_bytes")]
    pub total: usize,
}

impl<'a> Engine<'a> {
    /// Plans and allocates all that a run of `config` needs. Images that fit stay on the device; those that do not, or
    /// that are more than the configuration's limit, are sent step by step.
    ///
    /// # Errors
    /// When the configuration names no known model, shapes do not fit, a kernel does not compile, or the device has too
    /// little memory.
    pub fn new(backend: &dyn Backend, config: &Config, data: &Data<'a>) -> Result<Engine<'a>> {
        let mut room = match config.resident_limit {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => {
                let planner = backend.planner()?;
                let rest = Engine::with_room(planner.as_ref(), config, data, &mut 0)?.footprint(planner.as_ref()).total;
                backend.available()?.saturating_sub(rest.saturating_add(RESERVE))
            }
        };
        Engine::with_room(backend, config, data, &mut room)
    }

    /// As [`Engine::new`], with `room` bytes for resident images; what these take is subtracted from it.
    fn with_room(backend: &dyn Backend, config: &Config, data: &Data<'a>, room: &mut usize) -> Result<Engine<'a>> {
        let mut feed = |images: Images<'a>, batch: usize| -> Result<Feed<'a>> {
            let feed = Feed::new(backend, images, batch, *room)?;
            if feed.is_resident() {
                *room = room.saturating_sub(feed.bytes());
            }
            Ok(feed)
        };
        let model = model(config, data.counts.len(), backend)?;
        let parameters = ParameterStore::new(backend, model.specs().clone())?;
        let train = feed(data.train, config.batch)?;
        let step_config = step_config(config, data.counts, data.augmentation);
        let step = TrainStep::new(backend, &model, &parameters, &train, step_config)?;
        let batch = EVALUATION_BATCH.min(data.test.len());
        let test_feed = feed(data.test, batch)?;
        let evaluation = EvaluationConfig {
            augmentation: data.augmentation,
            head: head(config, data.counts),
            batch,
            groups: data.counts.iter().map(|&n| Shot::of(n, config.twenty_is_few)).collect(),
            arena: Some(step.arena()),
        };
        let evaluator = Evaluator::new(backend, &model, &parameters, &test_feed, evaluation)?;
        Ok(Engine { parameters, feed: train, step, test_feed, evaluator })
    }

    /// Evaluates the parameters as they are now on the test images.
    ///
    /// # Errors
    /// When the device fails.
    pub fn evaluate(&self, backend: &dyn Backend) -> Result<Evaluation> {
        self.evaluator.run(backend, &self.test_feed)
    }

    /// What this engine holds of `backend`, which must be the one that it was made on, with nothing else on it.
    pub fn footprint(&self, backend: &dyn Backend) -> Footprint {
        let (parameters, activations) = (self.parameters.bytes(), self.step.arena().bytes);
        let images = self.feed.bytes() + self.test_feed.bytes();
        let total = backend.allocated().1;
        Footprint { parameters, activations, images, other: total - parameters - activations - images, total }
    }
}

/// The classifier to evaluate with: what the configuration says, else `fc_cb` for GLMC on long-tailed data and `fc`
/// for everything else.
pub fn head(config: &Config, counts: &[usize]) -> HeadKind {
    let balanced = counts.iter().all(|n| *n == counts[0]);
    config.head.unwrap_or(match config.method {
        Method::Glmc if !balanced => HeadKind::FcCb,
        _ => HeadKind::Fc,
    })
}

/// The model that a configuration describes, for a backend.
///
/// # Errors
/// When the configuration names no known model.
pub fn model(config: &Config, classes: usize, backend: &dyn Backend) -> Result<Model> {
    let heads = config.method.heads();
    let description = ModelConfig { name: config.model.clone(), width: config.width, classes, heads, hidden: HIDDEN };
    Model::new(&description, backend.stem_channels())
}

/// What a step of this configuration needs.
pub(super) fn step_config(config: &Config, counts: &[usize], augmentation: Augmentation) -> StepConfig {
    let counts: Vec<u64> = counts.iter().map(|&n| n as u64).collect();
    StepConfig {
        batch: config.batch,
        mixing: if config.method == Method::Glmc { Mixing::Glmc } else { Mixing::Single },
        augmentation,
        sgd: SgdConfig { momentum: config.momentum as f32, weight_decay: config.weight_decay as f32 },
        class_weights: class_weights(&counts, config.k),
    }
}
