//! A small training step, ready to run on any device: for tests that look at whole steps.

use glmc_engine::backend;
use glmc_engine::config::{Config, PlacementSettings, Settings};
use glmc_engine::data::store::Entry;
use glmc_engine::memory::read_floats;
use glmc_engine::method::EpochPlan;
use glmc_engine::method::photos::{Framing, Photos};
use glmc_engine::nn::Field;
use glmc_engine::ops::Backend;
use glmc_engine::ops::augment_mix::Augmentation;
use glmc_engine::tensor::Precision;
use glmc_engine::train::engine::{Data, Engine};
use glmc_engine::train::feed::Images;

const CLASSES: usize = 5;

/// Classes of images one after another: 4, 3, 2, 2 and 1 of twelve.
const LABELS: [i32; 12] = [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 3];

/// Images of noise with a colour for each class.
pub struct Pictures {
    pixels: Vec<u8>,
    labels: Vec<i32>,
    counts: [usize; CLASSES],
    size: usize,
    /// Of photographs, where each lies.
    index: Option<Vec<Entry>>,
}

impl Pictures {
    /// As a run has them; photographs are seen at the size of [`photographs`].
    pub fn data(&self) -> Data<'_> {
        let size = self.size;
        let index = self.index.as_deref();
        Data {
            counts: &self.counts,
            train: Images { pixels: &self.pixels, labels: &self.labels, height: size, width: size, index },
            test: None,
            val: None,
            augmentation: Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 2, flip: true },
            framing: index.map(|_| Framing { size, resize: size + 2, photos: Photos::GLMC }),
        }
    }
}

/// The labels of `count` images, twelve at least, and how many each class has.
fn labels(count: usize) -> (Vec<i32>, [usize; CLASSES]) {
    let labels: Vec<i32> = LABELS.into_iter().cycle().take(count).collect();
    let mut counts = [0; CLASSES];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    (labels, counts)
}

/// `count` images of `size` x `size` pixels.
pub fn images(size: usize, count: usize) -> Pictures {
    let (labels, counts) = labels(count);
    let pixel = |i: usize| {
        let class = labels[i / (size * size * 3)] as usize;
        (((i * 2654435761) >> 7) % 128 + class * (i % 3) * 12) as u8
    };
    let pixels = (0..count * size * size * 3).map(pixel).collect();
    Pictures { pixels, labels: labels.clone(), counts, size, index: None }
}

/// `count` photographs of up to one and a half times `size` pixels a side, some smaller than that.
#[allow(dead_code)] // not every test program looks at photographs
pub fn photographs(size: usize, count: usize) -> Pictures {
    let (labels, counts) = labels(count);
    let (mut index, mut pixels) = (Vec::new(), Vec::new());
    for (i, label) in labels.iter().enumerate() {
        let [height, width] = [i * 7, i * 11].map(|n| size / 2 + n % (size + 1));
        index.push(Entry { offset: pixels.len(), height, width });
        let noise = |at: usize| (((at + 131 * i) * 2654435761) >> 7) % 128 + *label as usize * (at % 3) * 12;
        pixels.extend((0..height * width * 3).map(|at| noise(at) as u8));
    }
    Pictures { pixels, labels, counts, size, index: Some(index) }
}

/// One device with a ResNet-20 and an epoch's plan on it.
pub struct Rig<'a> {
    /// The device.
    pub backend: &'a dyn Backend,
    /// What runs on it.
    pub engine: Engine<'a>,
    plan: EpochPlan,
}

impl<'a> Rig<'a> {
    /// A step of `batch` samples on a device. Rigs live as long as the test's process.
    #[allow(dead_code)] // not every test program asks for nothing more
    pub fn new(device: &str, precision: Precision, pictures: &'a Pictures, width: usize, batch: usize) -> Rig<'a> {
        Rig::with(device, precision, pictures, (width, batch), Settings::default())
    }

    /// As [`Rig::new`], with more settings.
    pub fn with(
        device: &str,
        precision: Precision,
        pictures: &'a Pictures,
        (width, batch): (usize, usize),
        settings: Settings,
    ) -> Rig<'a> {
        let backend: &'a dyn Backend = Box::leak(backend::open(device, precision, 2).expect("a device"));
        let config = Config::resolve(settings.or(Settings {
            placement: PlacementSettings { resident_limit: Some(usize::MAX >> 20), ..PlacementSettings::on("none") },
            model: Some("resnet20".into()),
            width: Some(width),
            epochs: Some(2),
            batch: Some(batch),
            lr: Some(0.01),
            weight_decay: Some(5e-4),
            k: Some(1.0),
            resample: Some(0.2),
            seed: Some(1),
            ..Settings::default()
        }));
        let config = config.expect("a configuration");
        let engine = Engine::new(backend, &config, &pictures.data()).expect("memory");
        engine.initialise(backend, 1).expect("a start");
        // The second epoch: alpha is 3/4 there, so that every loss counts.
        let plan = engine.draw(1).expect("a plan");
        engine.load(backend, &plan, 0).expect("a table");
        Rig { backend, engine, plan }
    }

    /// Runs a step.
    pub fn run(&self, step: usize) {
        self.engine.run(self.backend, &self.plan, step).expect("a step");
    }

    /// A field of every parameter, by its name.
    #[allow(dead_code)] // not every test program looks at parameters
    pub fn parameters(&self, field: Field) -> Vec<(String, Vec<f64>)> {
        let snapshot = self.engine.parameters.snapshot(self.backend, field).expect("parameters");
        let specs = self.engine.parameters.specs().iter().enumerate();
        specs.map(|(index, spec)| (spec.name.clone(), snapshot.get(index))).collect()
    }

    /// L_c, L_cb, L_sim and the total of every step so far.
    #[allow(dead_code)] // not every test program looks at losses
    pub fn losses(&self) -> Vec<f64> {
        read_floats(self.backend, self.engine.step.log).expect("a log")
    }
}
