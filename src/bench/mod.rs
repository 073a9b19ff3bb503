//! `glmc-engine bench`: how fast the training step is, whole and op by op, on images made up on the spot.
//!
//! - [`step`]: samples per second of the whole step;
//! - [`trace`]: its ops in their order, for a viewer of traces;
//! - [`ops`]: a table of its ops, each beside what the device could do at most;
//! - [`kernels`]: the ops by themselves, at the sizes of a step;
//! - [`ceilings`]: what the device could do at most, measured;
//! - [`plan`]: what a step would take on a GPU, by a model of it.

pub mod ceilings;
pub mod kernels;
pub mod ops;
pub mod plan;
pub mod step;
pub mod trace;

pub use ceilings::{Bound, Ceilings};
pub use kernels::{KernelTime, KernelsBench, bench_kernels};
pub use ops::{OpBench, OpsBench, bench_ops};
pub use step::{StepBench, bench_step};

use crate::config::{Config, PlacementSettings, Settings, usual_resize};
use crate::data::store::Entry;
use crate::error::{Error, Result};
use crate::method::photos::{Framing, Photos};
use crate::method::{EpochPlan, Method};
use crate::ops::Backend;
use crate::ops::augment_mix::Augmentation;
use crate::rng::philox::{Purpose, Stream};
use crate::tape::OpTime;
use crate::train::engine::{Data, Engine};
use crate::train::feed::Images;

/// What to time.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Network.
    pub model: String,
    /// Channels of its first stage.
    pub width: usize,
    /// What is trained.
    pub method: &'static Method,
    /// Samples per step.
    pub batch: usize,
    pub classes: usize,
    /// Rows and columns of an image.
    pub size: usize,
    /// Whether it is seen of photographs, whose shorter sides are an eighth longer and whose longer sides a third more.
    pub photos: bool,
}

impl Workload {
    /// Of a run that keeps its images on the device.
    fn config(&self) -> Result<Config> {
        Config::resolve(Settings {
            placement: PlacementSettings { resident_limit: Some(usize::MAX >> 20), ..PlacementSettings::on("none") },
            model: Some(self.model.clone()),
            width: Some(self.width),
            method: Some(self.method),
            batch: Some(self.batch),
            epochs: Some(1),
            lr: Some(1e-3),
            resample: Some(0.2),
            seed: Some(1),
            ..Settings::default()
        })
    }
}

/// Steps of the table that a bench goes through again and again.
pub const STEPS: usize = 16;

/// Random images and long-tailed labels, enough for [`STEPS`] steps.
pub struct Samples {
    pixels: Vec<u8>,
    labels: Vec<i32>,
    counts: Vec<usize>,
    size: usize,
    /// Of photographs, where each lies.
    index: Option<Vec<Entry>>,
}

impl Samples {
    /// For a workload.
    ///
    /// # Errors
    /// When the workload is invalid.
    pub fn new(w: &Workload) -> Result<Samples> {
        Samples::drawn(w, true)
    }

    /// As [`Samples::new`], without pixels: enough for [`Engine::planned`].
    fn unseen(w: &Workload) -> Result<Samples> {
        Samples::drawn(w, false)
    }

    fn drawn(w: &Workload, seen: bool) -> Result<Samples> {
        for (name, value, limits) in
            [("batch", w.batch, 1..=1 << 16), ("size", w.size, 4..=1024), ("classes", w.classes, 2..=1 << 20)]
        {
            if !limits.contains(&value) {
                return Err(Error::Config(format!("{name} {value} is not in {limits:?}")));
            }
        }
        let images = STEPS * w.batch;
        let mut words = Stream::new(1, 0, 0, Purpose::Initialise);
        let index: Option<Vec<Entry>> = w.photos.then(|| {
            let (shorter, mut offset) = (usual_resize(w.size), 0);
            let entries = (0..images).map(|image| {
                let sides = [shorter, shorter * 4 / 3];
                let (height, width) = if image % 3 == 0 { (sides[1], sides[0]) } else { (sides[0], sides[1]) };
                offset += height * width * 3;
                Entry { offset: offset - height * width * 3, height, width }
            });
            entries.collect()
        });
        let end = |entries: &Vec<Entry>| entries.iter().map(|entry| entry.height * entry.width * 3).sum();
        let bytes = index.as_ref().map_or(images * w.size * w.size * 3, end);
        let pixels = (0..if seen { bytes } else { 0 }).map(|_| words.word().to_le_bytes()[3]).collect();
        let labels: Vec<i32> = (0..images).map(|_| (words.unit().powi(3) * w.classes as f64) as i32).collect();
        // One more than there are: no class weight is infinite.
        let mut counts = vec![1; w.classes];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        Ok(Samples { pixels, labels, counts, size: w.size, index })
    }

    fn data(&self) -> Data<'_> {
        Data {
            counts: &self.counts,
            train: Images {
                pixels: &self.pixels,
                labels: &self.labels,
                height: self.size,
                width: self.size,
                index: self.index.as_deref(),
            },
            test: None,
            val: None,
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: self.size / 8, flip: true },
            framing: self.index.as_ref().map(|_| {
                let resize = usual_resize(self.size);
                Framing { size: self.size, resize, photos: Photos::GLMC }
            }),
        }
    }
}

/// A training step ready to run, with all that it needs.
pub struct Setup<'a> {
    backend: &'a dyn Backend,
    engine: Engine<'a>,
    plan: EpochPlan,
}

impl<'a> Setup<'a> {
    /// Builds the network and plans its step on `backend`; `samples` are the workload's.
    ///
    /// # Errors
    /// When the workload is invalid or the device fails.
    pub fn new(backend: &'a dyn Backend, w: &Workload, samples: &'a Samples) -> Result<Setup<'a>> {
        let config = w.config()?;
        let engine = Engine::new(backend, &config, &samples.data())?;
        engine.initialise(backend, config.seed)?;
        let plan = engine.draw(0)?;
        Ok(Setup { backend, engine, plan })
    }

    /// Runs the first `steps` of the [`STEPS`] and waits for the device.
    pub fn round(&self, steps: usize) -> Result<()> {
        self.engine.load(self.backend, &self.plan, 0)?;
        (0..steps).try_for_each(|step| self.engine.run(self.backend, &self.plan, step))?;
        self.backend.synchronize()
    }

    /// Runs one step op by op, each timed by itself.
    pub fn timed(&self) -> Result<Vec<OpTime>> {
        self.engine.load(self.backend, &self.plan, 0)?;
        // What is sent with a step must be there before its ops run by themselves.
        self.engine.feed.stage(self.backend, &self.plan, 0)?;
        self.engine.step.timed(self.backend)
    }

    /// Learned parameters.
    pub fn parameters(&self) -> usize {
        self.engine.parameters.specs().learned_elements()
    }
}
