//! Which kernels the presets need: their training steps and evaluations, run over a driver that only lists them.

use std::collections::HashSet;

use super::super::stand_in::StandIn;
use crate::backend::launched::Launched;
use crate::config::{Config, PlacementSettings, Preset, Settings, presets};
use crate::driver::Variant;
use crate::driver::dry_run::DryRun;
use crate::error::Result;
use crate::memory::Memory;
use crate::method::METHODS;
use crate::ops::augment_mix::AugmentMixKernels;
use crate::ops::ceilings::CeilingKernels;
use crate::ops::checksum::ChecksumKernels;
use crate::ops::load_step::STEP_WORDS;
use crate::ops::sgd::SgdKernels;
use crate::tensor::{DType, Precision};
use crate::train::engine::{Data, Engine, model, step_config};
use crate::train::feed::{Feed, Images};
use crate::train::step::{Source, TrainStep};

/// The GPU that launches are noted for: an H100's multiprocessors, and the shared memory a block that every supported GPU
/// has.
const MULTIPROCESSORS: u32 = 132;
const SHARED_BYTES: u32 = 99 * 1024;

/// Every kernel, with its knobs and launch, that training and evaluating any preset launches on data of its shapes, by
/// GLMC and by plain cross-entropy, in f32 and bf16. The same on every GPU: no launcher asks what the device is, but for
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
    let mut planned = Vec::new();
    let mut known = HashSet::new();
    let mut variants = Vec::new();
    for (preset, &method) in presets.iter().flat_map(|preset| METHODS.iter().map(move |method| (preset, method))) {
        let placement = PlacementSettings::on("none");
        let settings = Settings { placement, method: Some(method), ..Settings::default() };
        let config = Config::resolve(settings.or(preset.settings()))?;
        let data = StandIn::of(preset.data)?;
        // Counts of the same classes differ in nothing that is launched.
        let key = (config.model.clone(), config.width, method.name(), config.batch, data.counts.len(), data.size);
        if planned.contains(&key) {
            continue;
        }
        planned.push(key);
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = DryRun::new(arch, multiprocessors, shared_bytes);
            let listing = driver.listing();
            run(&Launched::new(Box::new(driver), precision)?, &config, &data)?;
            variants.extend(listing.variants().into_iter().filter(|variant| known.insert(variant.clone())));
        }
    }
    Ok(variants)
}

/// Training steps of each size, an evaluation, what a checkpoint asks, and what only `verify`, `bench` and tests launch.
fn run(backend: &Launched, config: &Config, stand_in: &StandIn) -> Result<()> {
    stand_in.with_data(|data| steps(backend, config, data))?;
    let side = stand_in.size;
    let tensor = |shape: &[usize], dtype: DType, what: &str| backend.tensor(shape, dtype, what);
    let views = tensor(&[4 * config.batch, side, side, 3], DType::F32, "views")?;
    let scalars = tensor(&[STEP_WORDS], DType::I32, "step")?;
    let mixed = [2 * config.batch, side, side, backend.stem_channels()];
    backend.mix_views(views, scalars, tensor(&mixed, backend.precision().compute(), "mixtures")?)?;
    let values = tensor(&[backend.ceiling_values()], DType::F32, "values")?;
    backend.ceiling_math(values, 2)?;
    let [from, to] = [0, 1].map(|_| tensor(&[1 << 20], DType::U8, "copy"));
    backend.ceilings_copy(from?, to?)?;
    backend.checksum(views).map(|_| ())
}

/// A run's engine, and the step of a last batch of any size: other copies of the data leave other remainders.
fn steps(backend: &Launched, config: &Config, data: &Data<'_>) -> Result<()> {
    let engine = Engine::new(backend, config, data)?;
    if let Some(compute) = engine.parameters.compute {
        backend.cast_weights(engine.parameters.master, compute)?;
    }
    let model = model(config, data.counts.len(), backend)?;
    for count in 1..config.batch {
        let images = Images { labels: &data.train.labels[..count], ..data.train };
        let feed = Feed::new(backend, images, config.batch, usize::MAX)?;
        let config = step_config(config, data.counts, data.augmentation);
        TrainStep::new(backend, &model, &engine.parameters, Source::Feed(&feed), config)?.release(backend);
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
        let mixes = |mixing: &str| variants.iter().any(|v| v.spec.defines.contains(&("MIXING".into(), mixing.into())));
        assert!(["0", "1", "2"].into_iter().all(mixes), "GLMC, plain cross-entropy, evaluation");
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
