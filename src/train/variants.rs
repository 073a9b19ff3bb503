//! Which kernels the presets need: their training steps and evaluations, run over a driver that only takes notes.

use std::collections::HashSet;

use super::engine::Engine;
use super::stand_in::StandIn;
use crate::backend::Memory;
use crate::backend::driver::Variant;
use crate::backend::driver::recorder::Recorder;
use crate::backend::launched::Launched;
use crate::config::{Config, PRESETS, Settings, preset};
use crate::error::Result;
use crate::ops::augment_mix::AugmentMixKernels;
use crate::ops::step::STEP_WORDS;
use crate::tensor::{DType, Precision, Tensor};

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
        let data = StandIn::of(name)?;
        let key = (config.model.clone(), config.width, config.method, config.batch, data.clone());
        if planned.contains(&key) {
            continue;
        }
        planned.push(key);
        for precision in [Precision::F32, Precision::Bf16] {
            let driver = Recorder::default();
            let recording = driver.recording();
            run(&Launched::new(Box::new(driver), precision)?, &config, &data)?;
            variants.extend(recording.variants().into_iter().filter(|variant| known.insert(variant.clone())));
        }
    }
    Ok(variants)
}

/// A training step of each size, an evaluation, and what only `verify` and tests launch.
fn run(backend: &Launched, config: &Config, data: &StandIn) -> Result<()> {
    data.with_data(|data| Engine::new(backend, config, data)?.parameters.initialise(backend, 0))?;
    let side = data.size;
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
