//! A small training step, ready to run on any device: for tests that look at whole steps.

use glmc_engine::backend;
use glmc_engine::glmc::{EpochPlan, PartnerSampler, PlanConfig};
use glmc_engine::memory::read_floats;
use glmc_engine::nn::{Heads, Model, ModelConfig, ParameterStore};
use glmc_engine::ops::Backend;
use glmc_engine::ops::augment_mix::{Augmentation, Mixing};
use glmc_engine::ops::sgd::SgdConfig;
use glmc_engine::tensor::Precision;
use glmc_engine::train::feed::{Feed, Images};
use glmc_engine::train::step::{StepConfig, TrainStep};

const CLASSES: usize = 5;

/// Square images of noise with a colour for each class.
pub struct Pictures {
    pixels: Vec<u8>,
    labels: Vec<i32>,
    size: usize,
}

/// `count` images of `size` x `size` pixels.
pub fn images(size: usize, count: usize) -> Pictures {
    let labels: Vec<i32> = (0..count as i32).map(|i| i % CLASSES as i32).collect();
    let pixel = |i: usize| {
        let class = labels[i / (size * size * 3)] as usize;
        (((i * 2654435761) >> 7) % 128 + class * (i % 3) * 12) as u8
    };
    Pictures { pixels: (0..count * size * size * 3).map(pixel).collect(), labels: labels.clone(), size }
}

/// One device with a ResNet-20 and an epoch's plan on it.
pub struct Rig<'a> {
    /// The device.
    pub backend: &'a dyn Backend,
    step: TrainStep,
    feed: Feed<'a>,
    plan: EpochPlan,
}

impl<'a> Rig<'a> {
    /// A step of `batch` samples on a device. Rigs live as long as the test's process.
    pub fn new(device: &str, precision: Precision, pictures: &'a Pictures, width: usize, batch: usize) -> Rig<'a> {
        let backend: &'a dyn Backend = Box::leak(backend::open(device, precision, 2).expect("a device"));
        let size = pictures.size;
        let images = Images { pixels: &pictures.pixels, labels: &pictures.labels, height: size, width: size };
        let description =
            ModelConfig { name: "resnet20".into(), width, classes: CLASSES, heads: Heads::Glmc, hidden: 32 };
        let model = Model::new(&description, backend.stem_channels()).expect("a model");
        let store = ParameterStore::new(backend, model.specs().clone()).expect("memory");
        store.initialise(backend, 1).expect("a start");
        let feed = Feed::new(backend, images, batch, usize::MAX).expect("memory");
        let config = StepConfig {
            batch,
            mixing: Mixing::Glmc,
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 2, flip: true },
            sgd: SgdConfig { momentum: 0.9, weight_decay: 5e-4 },
            class_weights: vec![0.5, 0.75, 1.0, 1.25, 1.5],
        };
        let plan = PlanConfig {
            seed: 1,
            epochs: 2,
            batch,
            lr: 0.01,
            warmup_epochs: 0,
            beta: Some(1.0),
            gamma: 1.0,
            supervised: 1.0,
            correct_labels: false,
            height: size,
            width: size,
        };
        let sampler = PartnerSampler::new(images.labels, CLASSES, 0.2).expect("a sampler");
        // The second epoch: alpha is 3/4 there, so that every loss counts.
        let plan = EpochPlan::draw(&plan, 1, images.len(), &sampler).expect("a plan");
        let step = TrainStep::new(backend, &model, &store, &feed, config).expect("a step");
        step.load(backend, &feed, &plan, 0).expect("a table");
        Rig { backend, step, feed, plan }
    }

    /// Runs a step.
    pub fn run(&self, step: usize) {
        self.feed.stage(self.backend, &self.plan, step).expect("images");
        self.step.run(self.backend, step).expect("a step");
    }

    /// L_c, L_cb, L_sim and the total of every step so far.
    #[allow(dead_code)] // not every test program looks at losses
    pub fn losses(&self) -> Vec<f64> {
        read_floats(self.backend, self.step.log).expect("a log")
    }
}
