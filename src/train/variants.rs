//! Which kernels the presets need: their training steps and evaluations, run over a driver that only takes notes.

use std::collections::HashSet;

use super::evaluate::Evaluator;
use super::feed::{Feed, Images};
use super::session::{EVALUATION_BATCH, head, model, step_config};
use super::step::TrainStep;
use crate::backend::Memory;
use crate::backend::driver::Variant;
use crate::backend::driver::recorder::Recorder;
use crate::backend::launched::Launched;
use crate::config::{Config, Method, PRESETS, Settings, preset};
use crate::data::longtail::{Profile, class_counts};
use crate::data::shots::Shot;
use crate::data::synthetic::SyntheticConfig;
use crate::error::Result;
use crate::nn::ParameterStore;
use crate::ops::augment_mix::{AugmentMixKernels, Augmentation};
use crate::ops::ceilings::CeilingKernels;
use crate::ops::sgd::SgdKernels;
use crate::ops::step::STEP_WORDS;
use crate::tensor::{DType, Precision, Tensor};

/// The GPU that launches are noted for: an H100's multiprocessors, and the shared memory a block that every supported GPU
/// has.
const MULTIPROCESSORS: u32 = 132;
const SHARED_BYTES: u32 = 99 * 1024;

/// A preset's data, as far as shapes depend on it.
struct Shapes {
    counts: Vec<usize>,
    test_images: usize,
    size: usize,
}

impl Shapes {
    /// CIFAR's from the preset's name (`cifar100-lt-if50`), the demo's from what draws it.
    fn of(name: &str) -> Result<Shapes> {
        let Some(rest) = name.strip_prefix("cifar") else {
            let demo = SyntheticConfig::default();
            let total = demo.classes * demo.per_class;
            let counts = class_counts(total, demo.classes, demo.imbalance, Profile::Exp)?;
            return Ok(Shapes { counts, test_images: demo.classes * demo.test_per_class, size: demo.size });
        };
        let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse();
        let classes = number(rest).unwrap_or(10);
        let imbalance = rest.split_once("-if").and_then(|(_, rest)| number(rest).ok()).unwrap_or(100);
        let counts = class_counts(50_000, classes, imbalance as f64, Profile::Exp)?;
        Ok(Shapes { counts, test_images: 10_000, size: 32 })
    }
}

/// Every kernel, with its knobs and launch, that training and evaluating any preset launches on data of its shapes, by
/// GLMC and by plain cross-entropy, in f32 and bf16. The same on every GPU: no launcher asks what the device is, but for
/// the number of blocks of the ceilings.
///
/// # Errors
/// When a preset cannot be planned: a bug that a test would show.
pub fn variants() -> Result<Vec<Variant>> {
    let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
    record(&names, ("sm_90a", MULTIPROCESSORS, SHARED_BYTES))
}

/// The variants of some presets on a GPU of this architecture, with that many multiprocessors and that much shared memory
/// a block.
fn record(presets: &[&str], (arch, multiprocessors, shared_bytes): (&str, u32, u32)) -> Result<Vec<Variant>> {
    let mut planned = Vec::new();
    let mut known = HashSet::new();
    let mut variants = Vec::new();
    for (name, method) in presets.iter().flat_map(|name| [(name, Method::Glmc), (name, Method::Ce)]) {
        let settings = Settings { data: Some("none".into()), method: Some(method), ..Settings::default() };
        let config = Config::resolve(settings.or(preset(name)?))?;
        let shapes = Shapes::of(name)?;
        // Counts of the same classes differ in nothing that is launched.
        let key = (config.model.clone(), config.width, method, config.batch, shapes.counts.len(), shapes.size);
        if planned.contains(&key) {
            continue;
        }
        planned.push(key);
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = Recorder::new(arch, multiprocessors, shared_bytes);
            let recording = driver.recording();
            run(&Launched::new(Box::new(driver), precision)?, &config, &shapes)?;
            variants.extend(recording.variants().into_iter().filter(|variant| known.insert(variant.clone())));
        }
    }
    Ok(variants)
}

/// A training step of each size, an evaluation, and what only `verify`, `bench` and tests launch.
fn run(backend: &Launched, config: &Config, shapes: &Shapes) -> Result<()> {
    let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 4, flip: true };
    let images = |count: usize| (vec![0u8; count * shapes.size * shapes.size * 3], vec![0i32; count]);
    let (pixels, labels) = images(config.batch);
    let (test_pixels, test_labels) = images(shapes.test_images);
    let side = shapes.size;
    let train = Images { pixels: &pixels, labels: &labels, height: side, width: side };
    let test = Images { pixels: &test_pixels, labels: &test_labels, height: side, width: side };

    let model = model(config, shapes.counts.len(), backend)?;
    let parameters = ParameterStore::new(backend, model.specs().clone())?;
    if let Some(compute) = parameters.compute {
        backend.cast_weights(parameters.master, compute)?;
    }
    // Whole batches, and a last one of any size: other copies of the data leave other remainders.
    for count in 1..=config.batch {
        let images = Images { pixels: &pixels[..count * side * side * 3], labels: &labels[..count], ..train };
        let feed = Feed::new(backend, images, config.batch, usize::MAX)?;
        let config = step_config(config, &shapes.counts, augmentation);
        TrainStep::new(backend, &model, &parameters, &feed, config)?.release(backend);
        feed.release(backend);
    }
    let test_feed = Feed::new(backend, test, EVALUATION_BATCH, usize::MAX)?;
    let shots = shapes.counts.iter().map(|&n| Shot::of(n, false)).collect();
    let how = (augmentation, head(config, &shapes.counts));
    let batch = EVALUATION_BATCH.min(test.len());
    let evaluator = Evaluator::new(backend, &model, &parameters, &test_feed, how, batch, shots)?;
    evaluator.release(backend);

    let tensor = |shape: &[usize], dtype: DType, what: &str| -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        Ok(Tensor::at_start(backend.alloc(bytes, what)?, shape, dtype))
    };
    let views = tensor(&[4 * config.batch, side, side, 3], DType::F32, "views")?;
    let scalars = tensor(&[STEP_WORDS], DType::I32, "step")?;
    let mixed = [2 * config.batch, side, side, backend.stem_channels()];
    backend.mix_views(views, scalars, tensor(&mixed, backend.precision().compute(), "mixtures")?)?;
    let values = tensor(&[backend.ceiling_values()], DType::F32, "values")?;
    backend.ceiling_math(values, 1)?;
    let [from, to] = [0, 1].map(|_| tensor(&[1 << 20], DType::U8, "copy"));
    backend.ceiling_copy(from?, to?)?;
    backend.checksum(views).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::driver::occupancy::limits;
    use crate::backend::driver::sources::kernel_files;

    #[test]
    fn every_kernel_is_used_and_listed() {
        let variants = variants().unwrap();
        let used: BTreeSet<&str> = variants.iter().map(|v| v.spec.file.as_ref()).collect();
        let there: BTreeSet<&str> = kernel_files().collect();
        assert_eq!(used, there, "a kernel that nothing launches is dead");
        let storage = |bf16: &str| {
            let define = ("STORAGE_BF16".into(), bf16.to_string());
            variants.iter().filter(|v| v.spec.defines.contains(&define)).count()
        };
        assert!(storage("0") > 20 && storage("1") > 20);
        let mixes = |mixing: &str| variants.iter().any(|v| v.spec.defines.contains(&("MIXING".into(), mixing.into())));
        assert!(["0", "1", "2"].into_iter().all(mixes), "GLMC, plain cross-entropy, evaluation");
    }

    #[test]
    fn every_gpu_launches_the_same() {
        // The smallest and the largest GPU that the architectures are made as.
        let gpus = [("sm_80", 108), ("sm_86", 6), ("sm_89", 144), ("sm_90a", 132), ("sm_100a", 160), ("sm_120", 188)];
        let recorded = gpus.map(|(arch, multiprocessors)| {
            let shared_bytes = limits(arch).unwrap().shared_per_block;
            record(&["demo", "cifar10-lt-if100"], (arch, multiprocessors, shared_bytes)).unwrap()
        });
        assert!(recorded[0].len() > 100);
        for (gpu, variants) in gpus.iter().zip(&recorded) {
            assert!(variants == &recorded[0], "{gpu:?} launches other kernels than {:?}", gpus[0]);
        }
    }
}
