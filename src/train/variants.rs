//! Which kernels the presets need: their training steps and evaluations, run over a driver that only takes notes.

use std::collections::HashSet;

use super::evaluate::Evaluator;
use super::feed::{Feed, Images};
use super::session::{EVALUATION_BATCH, model, step_config};
use super::step::TrainStep;
use crate::backend::Memory;
use crate::backend::driver::Variant;
use crate::backend::driver::recorder::Recorder;
use crate::backend::launched::Launched;
use crate::config::{Config, PRESETS, Settings, preset};
use crate::data::longtail::{Profile, class_counts};
use crate::data::shots::Shot;
use crate::data::synthetic::SyntheticConfig;
use crate::error::Result;
use crate::nn::{HeadKind, ParameterStore};
use crate::ops::augment_mix::{AugmentMixKernels, Augmentation};
use crate::ops::step::STEP_WORDS;
use crate::tensor::{DType, Precision, Tensor};

/// The GPU that launch geometry is noted for: an H100's multiprocessors, and the shared memory a block that every
/// supported GPU has.
const MULTIPROCESSORS: u32 = 132;
const SHARED_BYTES: u32 = 99 * 1024;

/// A preset's data, as far as shapes depend on it.
#[derive(Clone, PartialEq)]
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

/// Every kernel, with its knobs and launch, that training and evaluating any preset launches, in f32 and bf16.
///
/// # Errors
/// When a preset cannot be planned: a bug that a test would show.
pub fn variants() -> Result<Vec<Variant>> {
    let mut planned = Vec::new();
    let mut known = HashSet::new();
    let mut variants = Vec::new();
    for (name, _) in PRESETS {
        let settings = Settings { data: Some("none".into()), ..Settings::default() };
        let config = Config::resolve(settings.or(preset(name)?))?;
        let shapes = Shapes::of(name)?;
        let key = (config.model.clone(), config.width, config.method, config.batch, shapes.clone());
        if planned.contains(&key) {
            continue;
        }
        planned.push(key);
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = Recorder::new("sm_90a", MULTIPROCESSORS, SHARED_BYTES);
            let recording = driver.recording();
            run(&Launched::new(Box::new(driver), precision)?, &config, &shapes)?;
            variants.extend(recording.variants().into_iter().filter(|variant| known.insert(variant.clone())));
        }
    }
    Ok(variants)
}

/// A training step of each size, an evaluation, and what only `verify` and tests launch.
fn run(backend: &Launched, config: &Config, shapes: &Shapes) -> Result<()> {
    let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 4, flip: true };
    let images = |count: usize| (vec![0u8; count * shapes.size * shapes.size * 3], vec![0i32; count]);
    let (pixels, labels) = images(shapes.counts.iter().sum());
    let (test_pixels, test_labels) = images(shapes.test_images);
    let side = shapes.size;
    let train = Images { pixels: &pixels, labels: &labels, height: side, width: side };
    let test = Images { pixels: &test_pixels, labels: &test_labels, height: side, width: side };

    let model = model(config, shapes.counts.len(), backend)?;
    let parameters = ParameterStore::new(backend, model.specs().clone())?;
    parameters.initialise(backend, 0)?;
    let feed = Feed::new(backend, train, config.batch, usize::MAX)?;
    let step = TrainStep::new(backend, &model, &parameters, &feed, step_config(config, &shapes.counts, augmentation))?;
    let test_feed = Feed::new(backend, test, EVALUATION_BATCH, usize::MAX)?;
    let shots = shapes.counts.iter().map(|&n| Shot::of(n, false)).collect();
    let how = (augmentation, HeadKind::FcCb);
    let batch = EVALUATION_BATCH.min(test.len());
    let evaluator = Evaluator::new(backend, &model, &parameters, &test_feed, how, batch, shots)?;
    evaluator.release(backend);
    step.release(backend);

    let tensor = |shape: &[usize], dtype: DType, what: &str| -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        Ok(Tensor::at_start(backend.alloc(bytes, what)?, shape, dtype))
    };
    let views = tensor(&[4 * config.batch, side, side, 3], DType::F32, "views")?;
    let scalars = tensor(&[STEP_WORDS], DType::I32, "step")?;
    let mixed = [2 * config.batch, side, side, backend.stem_channels()];
    backend.mix_views(views, scalars, tensor(&mixed, backend.precision().compute(), "mixtures")?)?;
    backend.checksum(views).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
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
    }
}
