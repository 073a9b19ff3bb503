//! Everything that a run keeps on its device, allocated and planned before the first step.

use std::time::Duration;

use super::evaluate::{Evaluation, EvaluationConfig, Evaluator};
use super::feed::{Feed, Images};
use super::fit;
use super::passes::{Look, evaluation};
use super::photo_feed::Shown;
use super::step::{Source, StepConfig, TrainStep};
use crate::config::Config;
use crate::data::store::Store;
use crate::error::Result;
use crate::method::photos::Framing;
use crate::method::{EpochPlan, Members, PlanConfig, Recipe};
use crate::nn::encoder;
use crate::nn::{Model, ModelConfig, ParameterStore};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing};

/// Images of one evaluation batch.
const EVALUATION_BATCH: usize = 256;
/// Photographs of one, whose activations are larger.
const EVALUATION_PHOTOS: usize = 64;

/// What must stay free beside a run's own buffers for kernels, graphs and the driver, when it is decided whether the
/// images fit.
const RESERVE: usize = 512 << 20;

/// The data of a run, on the host.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// Training images of each class.
    pub counts: &'a [usize],
    /// Training images.
    pub train: Images<'a>,
    /// Test images; without them nothing is evaluated.
    pub test: Option<Images<'a>>,
    /// Validation images, where the store has any.
    pub val: Option<Images<'a>>,
    /// Normalisation, and the crops and flips of images that are no photographs.
    pub augmentation: Augmentation,
    /// How photographs are seen; `None` where images of one size are cropped from a border.
    pub framing: Option<Framing>,
}

impl<'a> Data<'a> {
    /// A store's images, normalised by its statistics: photographs in a framing, or cropped from a border of an eighth of the
    /// side (4 pixels for CIFAR).
    pub fn of(store: &'a Store, framing: Option<Framing>) -> Data<'a> {
        let (train, test) = (Images::of(store.train()), Images::of(store.test()));
        let val = store.val().map(Images::of);
        let meta = store.meta();
        let padding = train.height.min(train.width) / 8;
        let augmentation = Augmentation { mean: [0.0; 3], std: [1.0; 3], padding, flip: true };
        let augmentation = normalisation(augmentation, meta.mean, meta.std);
        Data { counts: &meta.counts, train, test: Some(test), val, augmentation, framing }
    }
}

/// A run's parameters, images, training step and evaluation on one device.
pub struct Engine<'a> {
    /// Parameters, their gradients and momenta.
    pub parameters: ParameterStore,
    /// The training images.
    pub feed: Feed<'a>,
    /// The training step.
    pub step: TrainStep,
    plan: PlanConfig,
    members: Members,
    test: Option<Evaluated<'a>>,
    val: Option<Evaluated<'a>>,
}

/// Images that are evaluated on, and how.
type Evaluated<'a> = (Feed<'a>, Evaluator);

/// The device memory of a run in bytes, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    /// Parameters with their gradients and momenta, and bf16 copies of them.
    #[serde(rename = "parameters_bytes")]
    pub parameters: usize,
    /// Activations, their gradients and scratch of a training step; an evaluation uses the same memory.
    #[serde(rename = "activations_bytes")]
    pub activations: usize,
    /// Training, test and validation images with their labels, resident or staged.
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
    /// Plans and allocates all that a run of `config` needs, and uploads the images. Images that fit stay on the device;
    /// those that do not, or that are more than the configuration's limit, are sent step by step.
    ///
    /// # Errors
    /// When the configuration names no known model, shapes do not fit, a kernel does not compile, the device has too
    /// little memory, or the images are damaged.
    pub fn new(backend: &dyn Backend, config: &Config, data: &Data<'a>) -> Result<Engine<'a>> {
        let engine = Engine::planned(backend, config, data)?;
        engine.feed.fill(backend)?;
        for (feed, _) in engine.evaluated() {
            feed.fill(backend)?;
        }
        Ok(engine)
    }

    /// As [`Engine::new`], but without a look at the images: enough to know what a run will take, not to run it.
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn planned(backend: &dyn Backend, config: &Config, data: &Data<'a>) -> Result<Engine<'a>> {
        let streamed = |config: &Config| -> Result<usize> {
            let planner = backend.planner()?;
            Ok(Engine::with_room(planner.as_ref(), config, data, &mut 0)?.footprint(planner.as_ref()).total)
        };
        let (rest, available) = (streamed(config)?, backend.available()?);
        if rest > available {
            fit::check(config, available, &|config| streamed(config).ok())?;
        }
        let mut room = match config.placement.resident_limit {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => available.saturating_sub(rest.saturating_add(RESERVE)),
        };
        Engine::with_room(backend, config, data, &mut room)
    }

    /// As [`Engine::planned`], with `room` bytes for resident images; what these take is subtracted from it.
    fn with_room(backend: &dyn Backend, config: &Config, data: &Data<'a>, room: &mut usize) -> Result<Engine<'a>> {
        let recipe = config.recipe(data.counts)?;
        let trained = recipe.views()?;
        let mut feed = |images: Images<'a>, batch: usize, mixing: Mixing| -> Result<Feed<'a>> {
            let accumulate = if mixing == trained { config.accumulate } else { 1 };
            let shown = data.framing.map(|framing| Shown { framing, mixing, accumulate });
            let feed = Feed::new(backend, images, batch, *room, shown)?;
            if feed.is_resident() {
                *room = room.saturating_sub(feed.bytes());
            }
            Ok(feed)
        };
        let side = data.framing.map_or(data.train.height.min(data.train.width), |framing| framing.size);
        let of = Config { stem: encoder::stem(&config.model, config.stem, side)?, ..config.clone() };
        let model = model(&of, &recipe, data.counts.len(), backend)?;
        let parameters = ParameterStore::new(backend, model.specs().clone())?;
        let train = feed(data.train, config.batch, trained)?;
        let step_config = step_config(config, recipe.clone(), data.counts.len(), data.augmentation);
        let images = recipe.originals.length.images(data.train.labels.len(), data.counts, config.batch)?;
        let source = Source::Feed(&train, images);
        let step = TrainStep::new(backend, &model, &parameters, source, step_config)?;
        let mut evaluated = |images: Option<Images<'a>>| -> Result<Option<Evaluated<'a>>> {
            let Some(images) = images else { return Ok(None) };
            let batch = evaluation_batch(&images, data.framing);
            let feed = feed(images, batch, evaluation(config.eval_flip))?;
            let look =
                Look { augmentation: data.augmentation, flip: config.eval_flip, batch, arena: Some(step.arena()) };
            let head = config.head.unwrap_or(recipe.evaluate);
            let how = EvaluationConfig {
                look,
                head,
                groups: config.shots(data.counts.len()).groups(data.counts),
                answers: false,
            };
            let evaluator = Evaluator::new(backend, &model, &parameters, &feed, how)?;
            Ok(Some((feed, evaluator)))
        };
        let (test, val) = (evaluated(data.test)?, evaluated(data.val)?);
        let plan = plan_config(config, data)?;
        let members = Members::new(data.train.labels, data.counts.len())?;
        Ok(Engine { parameters, feed: train, step, plan, members, test, val })
    }

    /// Starts a run: draws the parameters, and measures what the optimiser wants to know of them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn initialise(&self, backend: &dyn Backend, seed: u64) -> Result<()> {
        self.parameters.initialise(backend, seed)?;
        self.step.optimizer.begin(backend)
    }

    /// Draws the steps of 0-based epoch `epoch`.
    ///
    /// # Errors
    /// When a setting of the recipe is out of range.
    pub fn draw(&self, epoch: usize) -> Result<EpochPlan> {
        EpochPlan::draw(&self.plan, epoch, self.feed.images().labels, &self.members)
    }

    /// What is trained.
    pub fn recipe(&self) -> &Recipe {
        &self.plan.recipe
    }

    /// Loads an epoch's plan, to continue at step `start`.
    pub fn load(&self, backend: &dyn Backend, plan: &EpochPlan, start: usize) -> Result<()> {
        self.step.load(backend, &self.feed, plan, start)
    }

    /// Starts step `step` of the loaded plan; steps are run in order.
    pub fn run(&self, backend: &dyn Backend, plan: &EpochPlan, step: usize) -> Result<()> {
        self.feed.stage(backend, plan, step)?;
        self.step.run(backend, step)
    }

    fn evaluated(&self) -> impl Iterator<Item = &Evaluated<'a>> {
        self.test.iter().chain(&self.val)
    }

    /// Evaluates the parameters as they are now on the test and on the validation images; `None` where there are none.
    pub fn evaluate(&self, backend: &dyn Backend) -> Result<[Option<Evaluation>; 2]> {
        let on = |images: &Option<Evaluated<'a>>| {
            images.as_ref().map(|(feed, evaluator)| evaluator.run(backend, feed)).transpose()
        };
        Ok([on(&self.test)?, on(&self.val)?])
    }

    /// How long the device has waited for images so far: see [`Feed::waited`].
    pub fn waited(&self) -> Duration {
        self.feed.waited() + self.evaluated().map(|(feed, _)| feed.waited()).sum::<Duration>()
    }

    /// What this engine holds of `backend`, which must be the one that it was made on, with nothing else on it.
    pub fn footprint(&self, backend: &dyn Backend) -> Footprint {
        let (parameters, activations) = (self.parameters.bytes(), self.step.arena().bytes);
        let images = self.feed.bytes() + self.evaluated().map(|(feed, _)| feed.bytes()).sum::<usize>();
        let total = backend.allocated().1;
        Footprint { parameters, activations, images, other: total - parameters - activations - images, total }
    }
}

/// What an epoch's plan depends on in a run of this configuration.
///
/// # Errors
/// When the recipe is none of these classes.
pub fn plan_config(config: &Config, data: &Data<'_>) -> Result<PlanConfig> {
    Ok(PlanConfig {
        recipe: config.recipe(data.counts)?,
        seed: config.seed,
        epochs: config.epochs,
        batch: config.batch,
        accumulate: config.accumulate,
        lr: config.learning_rate(),
        counts: data.counts.to_vec(),
        height: data.framing.map_or(data.train.height, |framing| framing.size),
        width: data.framing.map_or(data.train.width, |framing| framing.size),
    })
}

/// How many images are evaluated at a time.
pub fn evaluation_batch(images: &Images<'_>, framing: Option<Framing>) -> usize {
    batch_of_evaluation(framing).min(images.len())
}

/// How many images are evaluated at a time, where there are as many.
pub fn batch_of_evaluation(framing: Option<Framing>) -> usize {
    if framing.is_some() { EVALUATION_PHOTOS } else { EVALUATION_BATCH }
}

/// An augmentation with another mean and standard deviation.
pub fn normalisation(augmentation: Augmentation, mean: [f64; 3], std: [f64; 3]) -> Augmentation {
    Augmentation { mean: mean.map(|v| v as f32), std: std.map(|v| v as f32), ..augmentation }
}

/// The model that a configuration describes, with the heads of its recipe, for a backend.
///
/// # Errors
/// When the configuration names no known model.
pub fn model(config: &Config, recipe: &Recipe, classes: usize, backend: &dyn Backend) -> Result<Model> {
    let (name, heads) = (config.model.clone(), recipe.head_specs());
    let (branches, stem) = (recipe.branches, config.stem.unwrap_or_default());
    let description = ModelConfig { name, width: config.width, classes, heads, hidden: config.hidden, branches, stem };
    Model::new(&description, backend.stem_channels())
}

/// What a step of this configuration needs.
pub fn step_config(config: &Config, recipe: Recipe, classes: usize, augmentation: Augmentation) -> StepConfig {
    let (batch, accumulate) = (config.batch, config.accumulate);
    StepConfig { recipe, classes, batch, accumulate, augmentation, optimizer: config.optimizer() }
}
