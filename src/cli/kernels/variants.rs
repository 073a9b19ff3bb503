//! Which kernels the presets need: their training steps and evaluations, run over a driver that only lists them.

use std::collections::HashSet;

use super::super::stand_in::StandIn;
use crate::backend::launched::Launched;
use crate::config::{
    Config, Every, OptimizerConfig, PlacementSettings, Preset, Projection, Sam, Settings, Sides, presets,
};
use crate::driver::Variant;
use crate::driver::dry_run::DryRun;
use crate::error::Result;
use crate::memory::Memory;
use crate::nn::{Mode, Model, ModelConfig, ParameterStore, Recorder, Rules, Stem};
use crate::ops::augment_mix::{AugmentMixKernels, Mixing, View};
use crate::ops::augment_photos::{AugmentPhotos, AugmentPhotosKernels, DRAW_WORDS, INDEX_WORDS, PhotoConfig};
use crate::ops::ceilings::CeilingKernels;
use crate::ops::checksum::{ChecksumKernels, SCRATCH};
use crate::ops::load_step::STEP_WORDS;
use crate::ops::max_pool::{self, MaxPoolKernels};
use crate::ops::sgd::SgdKernels;
use crate::ops::supervised_loss::{
    ClassVector, Form, Head, Reduction, SupervisedLoss, SupervisedLossKernels, ViewLabels,
};
use crate::tensor::{DType, Grad, Precision};
use crate::train::engine::{Data, Engine, model, step_config};
use crate::train::feed::{Feed, Images};
use crate::train::optimizer::Optimizer;
use crate::train::step::{Source, TrainStep};
use crate::verify::self_test::HEADS;

/// The GPU that launches are noted for: an H100's multiprocessors, and the shared memory a block that every supported GPU
/// has.
const MULTIPROCESSORS: u32 = 132;
const SHARED_BYTES: u32 = 99 * 1024;

/// What heads read here that are trained in second stages alone.
const HIDDEN: usize = 128;

/// Every kernel, with its knobs and launch, that training and evaluating any preset launches on data of its shapes, in f32
/// and bf16. The same on every GPU: no launcher asks what the device is, but for
/// the number of blocks of the ceilings.
///
/// # Errors
/// When a preset cannot be planned: a bug that a test would show.
pub fn variants() -> Result<Vec<Variant>> {
    list(&presets(), ("sm_90a", MULTIPROCESSORS, SHARED_BYTES))
}

/// The variants of some presets on a GPU of this architecture, with that many multiprocessors and that much shared memory
/// a block.
fn list(presets: &[Preset], (arch, multiprocessors, shared_bytes): (&str, u32, u32)) -> Result<Vec<Variant>> {
    let (mut planned, mut split, mut networks) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut known = HashSet::new();
    let mut variants = Vec::new();
    for preset in presets {
        let settings = Settings { placement: PlacementSettings::on("none"), ..Settings::default() };
        let mut config = Config::resolve(settings.or(preset.settings()))?;
        let data = StandIn::of(preset.data)?;
        config.settle_shapes(Sides::One([data.size; 2]))?;
        // Of networks on photographs one preset's step: the others' batches and last batches cut their products no further.
        let large = config.size.is_some();
        if large && !networks.insert(config.model.clone()) {
            continue;
        }
        let recipe = config.recipe(&data.counts)?;
        // Counts of the same classes differ in nothing that is launched, and methods in views and heads alone.
        let heads: Vec<_> = recipe.classifiers().into_iter().map(|(_, head)| (head.shape, head.loss)).collect();
        let shapes = (config.model.clone(), config.width, config.batch, data.counts.len(), data.size);
        let of_recipe = format!("{:?} {heads:?} {}", recipe.views, recipe.similarity.is_some());
        if !planned.insert((shapes.clone(), of_recipe)) {
            continue;
        }
        // Only the number of views decides how a last batch of any size is cut, before branches and in them.
        let every_size = split.insert((shapes, recipe.views.len(), recipe.branches)) && !large;
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = DryRun::new(arch, multiprocessors, shared_bytes);
            let listing = driver.listing();
            run(&Launched::new(Box::new(driver), precision)?, &config, &data, every_size)?;
            variants.extend(listing.variants().into_iter().filter(|variant| known.insert(variant.clone())));
        }
    }
    Ok(variants)
}

/// Training steps of each size, an evaluation, heads of every shape, what a checkpoint asks, and what only `verify`, `bench`
/// and tests launch.
fn run(backend: &Launched, config: &Config, stand_in: &StandIn, every_size: bool) -> Result<()> {
    stand_in.with_data(|data| steps(backend, config, data, every_size))?;
    heads(backend, config, stand_in.counts.len())?;
    let side = stand_in.size;
    let tensor = |shape: &[usize], dtype: DType, what: &str| backend.tensor(shape, dtype, what);
    let scalars = tensor(&[STEP_WORDS], DType::I32, "step")?;
    for mixing in [Mixing::GLMC, Mixing::One(View::Mixup)] {
        let images = tensor(&[mixing.image_sets() * config.batch, side, side, 3], DType::F32, "images")?;
        let shape = [mixing.views() * config.batch, side, side, backend.stem_channels()];
        backend.mix_views(mixing, images, scalars, tensor(&shape, backend.precision().compute(), "views")?)?;
    }
    photographs(backend)?;
    let values = tensor(&[backend.ceiling_values()], DType::F32, "values")?;
    backend.ceiling_math(values, 2)?;
    let [from, to] = [0, 1].map(|_| tensor(&[1 << 20], DType::U8, "copy"));
    backend.ceilings_copy(from?, to?)?;
    losses(backend)?;
    pooling(backend)?;
    let scratch = tensor(&[SCRATCH], DType::U8, "parts of a checksum")?;
    backend.checksum(scalars, scratch).map(|_| ())
}

/// Photographs, whose size no kernel is compiled for.
fn photographs(backend: &Launched) -> Result<()> {
    let tensor = |shape: &[usize], dtype: DType| backend.tensor(shape, dtype, "photographs");
    let (mixing, size) = (Mixing::One(View::Plain), 2);
    let config = PhotoConfig { size, stride: 1, mean: [0.5; 3], std: [0.25; 3] };
    let samples = tensor(&[1], DType::I32)?;
    let photos = AugmentPhotos {
        pixels: tensor(&[3], DType::U8)?,
        index: tensor(&[1, INDEX_WORDS], DType::I32)?,
        draws: tensor(&[1, DRAW_WORDS], DType::I32)?,
        originals: samples,
        partners: samples,
        scalars: tensor(&[STEP_WORDS], DType::I32)?,
        out: tensor(&[1, size, size, 3], DType::F32)?,
        scratch: Some(tensor(&[backend.augment_photos_scratch(1, size)], DType::U8)?),
    };
    backend.augment_photos(mixing, &config, &photos)
}

/// Heads of every shape, forward and backward, on the vectors of a step with two views and of one with one.
fn heads(backend: &Launched, config: &Config, classes: usize) -> Result<()> {
    let (name, hidden) = (config.model.clone(), Some(HIDDEN));
    let model = ModelConfig {
        name,
        width: config.width,
        classes,
        heads: HEADS.to_vec(),
        hidden,
        branches: false,
        stem: Stem::Cifar,
    };
    let model = Model::new(&model, backend.stem_channels())?;
    let store = ParameterStore::new(backend, model.specs().clone())?;
    for views in [1, 2] {
        let mut r = Recorder::new(backend, &store, Mode::Train { views });
        let [x, dx] = [0; 2].map(|_| backend.tensor(&[views * config.batch, HIDDEN], DType::F32, "vectors"));
        let x = r.tape.parameter(x?, dx?);
        for head in HEADS {
            model.record_head(&mut r, head.name, x)?;
        }
        let program = r.tape.plan(backend, true)?;
        program.forward(backend)?;
        program.backward(backend)?;
    }
    Ok(())
}

/// What stands behind the stem of the ImageNet ResNets, whatever their width.
fn pooling(backend: &Launched) -> Result<()> {
    let config = max_pool::Config::IMAGENET;
    for channels in [64, 1] {
        let compute =
            |side: usize, what: &str| backend.tensor(&[2, side, side, channels], backend.precision().compute(), what);
        let (x, y) = (compute(16, "x")?, compute(8, "y")?);
        let taps = backend.tensor(&[2, 8, 8, channels], DType::U8, "taps")?;
        backend.max_pool_forward(x, y, Some(taps), config)?;
        backend.max_pool_backward(y, taps, Grad::write(x), config)?;
    }
    Ok(())
}

/// Each form of the supervised loss, whichever the presets' methods use.
fn losses(backend: &Launched) -> Result<()> {
    let float = |shape: &[usize], what: &str| backend.tensor(shape, DType::F32, what);
    let whole = |shape: &[usize], what: &str| backend.tensor(shape, DType::I32, what);
    let (logits, vectors) = (float(&[2, 10], "logits")?, float(&[ClassVector::COUNT, 10], "class vectors")?);
    let [labels, originals, partners, scalars] =
        [(2, "labels"), (2, "originals"), (2, "partners"), (STEP_WORDS, "step")].map(|(n, what)| whole(&[n], what));
    let (labels, originals, partners, scalars) = (labels?, originals?, partners?, scalars?);
    let (shares, rows) = (float(&[2], "shares")?, float(&[1, 2], "rows")?);
    let focal = 1.0;
    for form in
        [Form::Softmax { focal: 0.0 }, Form::Softmax { focal }, Form::BceOnSoftmax, Form::SigmoidFocal { focal }]
    {
        let heads = [Head { logits, vectors, form, reduction: Reduction::N, scale: 1.0, dlogits: None }];
        backend.supervised_loss(&SupervisedLoss {
            heads: &heads,
            labels,
            originals,
            partners,
            shares,
            views: [ViewLabels::Mixed; 2],
            scalars,
            rows,
        })?;
    }
    Ok(())
}

/// A run's engine, and the step of a last batch of any size: other copies of the data leave other remainders.
fn steps(backend: &Launched, config: &Config, data: &Data<'_>, every_size: bool) -> Result<()> {
    let engine = Engine::planned(backend, config, &Data { framing: config.framing(), ..*data })?;
    if let Some(compute) = engine.parameters.compute {
        backend.cast_weights(engine.parameters.master, compute)?;
    }
    let recipe = config.recipe(data.counts)?;
    let model = model(config, &recipe, data.counts.len(), backend)?;
    // What no preset asks for launches the same kernels whatever the network is.
    let project = Projection { max_norm: Some(0.1), l2_norm: None, pattern: "fc.weight".into(), every: Every::Epoch };
    let sam = Sam { ascent: [1.0, 1.0, 0.0], ..Sam::new(0.05) };
    let settings = OptimizerConfig { sam: Some(sam), project: Some(project), ..config.optimizer() };
    let rules = Rules::new(model.specs(), settings.weight_decay, &[])?;
    let optimizer = Optimizer::new(backend, &engine.parameters, &rules, &settings)?;
    optimizer.begin(backend)?;
    optimizer.prepare(backend, backend.tensor(&[STEP_WORDS], DType::I32, "step")?)?;
    optimizer.climb(backend)?;
    optimizer.restore(backend)?;
    optimizer.end_epoch(backend)?;
    for count in (1..config.batch).filter(|_| every_size) {
        let images = Images { labels: &data.train.labels[..count], ..data.train };
        let feed = Feed::new(backend, images, config.batch, usize::MAX, None)?;
        let config = step_config(config, recipe.clone(), data.counts.len(), data.augmentation);
        TrainStep::new(backend, &model, &engine.parameters, Source::Feed(&feed, count), config)?.release(backend);
        feed.release(backend);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::preset;
    use crate::driver::occupancy::limits;
    use crate::driver::sources::kernel_files;

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
        let shown = |views: &str| variants.iter().any(|v| v.spec.defines.contains(&("VIEWS".into(), views.into())));
        assert!(["0", "1", "2"].into_iter().all(shown), "evaluation, plain cross-entropy, GLMC");
    }

    #[test]
    fn deeper_networks_launch_what_resnet50_does() {
        for name in ["imagenet-lt", "imagenet-lt-cmo-bs"] {
            let of = |model: &'static str| {
                let mut preset = preset(name).unwrap();
                preset.model = model;
                list(&[preset], ("sm_90a", MULTIPROCESSORS, SHARED_BYTES)).unwrap().into_iter().collect::<HashSet<_>>()
            };
            let known = of("resnet50");
            let more = |model| of(model).into_iter().filter(|variant| !known.contains(variant)).collect::<Vec<_>>();
            for model in ["resnet101", "resnet152"] {
                assert!(more(model).is_empty(), "{model}, {name}: {:?}", more(model));
            }
            assert!(!more("resnext50_32x4d").is_empty(), "convolutions in groups are others");
        }
    }

    #[test]
    fn every_gpu_launches_the_same() {
        // The smallest and the largest GPU that the architectures are made as.
        let gpus = [("sm_80", 108), ("sm_86", 6), ("sm_89", 144), ("sm_90a", 132), ("sm_100a", 160), ("sm_120", 188)];
        let presets = ["demo", "cifar10-lt-if100"].map(|name| preset(name).unwrap());
        let listed = gpus.map(|(arch, multiprocessors)| {
            let shared_bytes = limits(arch).unwrap().shared_per_block;
            list(&presets, (arch, multiprocessors, shared_bytes)).unwrap()
        });
        assert!(listed[0].len() > 100);
        for (gpu, variants) in gpus.iter().zip(&listed) {
            assert!(variants == &listed[0], "{gpu:?} launches other kernels than {:?}", gpus[0]);
        }
    }
}
