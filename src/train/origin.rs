//! The parameters that a further stage starts from: those of another run's checkpoint, which is read and never changed.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::engine::model;
use super::run_record::Parent;
use crate::backend::native::Native;
use crate::config::{Config, Init};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::nn::parameters::{Kind, Spec, Specs};
use crate::nn::{Field, ParameterStore, groups};
use crate::ops::Backend;
use crate::tensor::Precision;

/// A checkpoint to start from, read whole and checked.
pub struct Origin<'a> {
    init: &'a Init,
    file: PathBuf,
    checkpoint: Checkpoint,
}

impl<'a> Origin<'a> {
    /// Reads what a run of `config` starts from, if that is another run.
    ///
    /// # Errors
    /// When it is not there, is damaged, or is of another network.
    pub fn of(config: &'a Config) -> Result<Option<Origin<'a>>> {
        let Some(init) = &config.init else { return Ok(None) };
        let file = init.file()?;
        let checkpoint = Checkpoint::read(&file)?;
        check_network(&checkpoint.manifest.config, config, &file)?;
        Ok(Some(Origin { init, file, checkpoint }))
    }

    /// Whether a network of these parameters, trained on this store, can start from it.
    ///
    /// # Errors
    /// When the classes differ, a pattern matches nothing, or a parameter is missing or has another shape.
    pub fn check(&self, store: &Store, specs: &Specs) -> Result<()> {
        let manifest = &self.checkpoint.manifest;
        let (names, count) = (&store.meta().class_names, store.meta().counts.len());
        if manifest.counts.len() != count {
            let known = manifest.counts.len();
            let what = format!("knows {known} classes, and the store {} has {count}", store.path().display());
            return Err(Error::file(&self.file, what));
        }
        if let Some(data) = &manifest.data
            && let Some((old, new)) = data.class_names.iter().zip(names).find(|(old, new)| old != new)
        {
            let what = format!("knows a class {old:?}, which the store {} calls {new:?}", store.path().display());
            return Err(Error::file(&self.file, what));
        }
        check_parameters(self.init, specs, &|name| self.checkpoint.shape(name).map(<[usize]>::to_vec), &self.file)
    }

    fn is_taken(&self, spec: &Spec) -> bool {
        is_taken(self.init, spec, self.checkpoint.shape(&spec.name).is_some())
    }

    /// Puts its values over a start that was drawn; the momentum stays zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn load(&self, backend: &dyn Backend, parameters: &ParameterStore) -> Result<()> {
        let mut values = parameters.snapshot(backend, Field::Value)?;
        for (index, spec) in parameters.specs().iter().enumerate() {
            if self.is_taken(spec) {
                values.set(index, self.checkpoint.tensor(&spec.name, &spec.shape)?);
            }
        }
        parameters.restore(backend, Field::Value, &values)
    }

    /// What the new run's `run.json` says of it.
    ///
    /// # Errors
    /// When the system does not say where it lies.
    pub fn record(&self) -> Result<Parent> {
        let manifest = &self.checkpoint.manifest;
        let path = self.init.folder();
        let folder = fs::canonicalize(path).map_err(Error::io(path))?;
        let file = self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let (epochs, epoch, step) = (manifest.config.epochs, manifest.progress.epoch, manifest.progress.step);
        Ok(Parent { folder, checkpoint: file, checksum: manifest.checksum.clone(), epochs, epoch, step })
    }

    /// Whether a run that began with `parent` would begin with this again.
    ///
    /// # Errors
    /// When the checkpoint is another one by now.
    pub fn check_unchanged(&self, parent: &Parent) -> Result<()> {
        if parent.checksum == self.checkpoint.manifest.checksum {
            return Ok(());
        }
        let what = "has changed since this stage began with it: begin a new one in another folder";
        Err(Error::file(&self.file, what))
    }

    /// What is taken from where, and what is not, in a line.
    pub fn describe(&self, specs: &Specs) -> String {
        let progress = &self.checkpoint.manifest.progress;
        let heads = |names: Vec<&str>| {
            let mut heads: Vec<&str> = Vec::new();
            for name in names {
                let head = name.split('.').next().unwrap_or(name);
                if !heads.contains(&head) {
                    heads.push(head);
                }
            }
            heads.join(", ")
        };
        let mut line = format!("starting from {} (epoch {}", self.file.display(), progress.epoch);
        if progress.step > 0 {
            line += &format!(" and {} steps", progress.step);
        }
        line.push(')');
        let anew: Vec<&str> = specs.iter().filter(|spec| !self.is_taken(spec)).map(|spec| spec.name.as_str()).collect();
        if !anew.is_empty() {
            line += &format!("; new: {}", anew.join(", "));
        }
        let left: Vec<&str> =
            self.checkpoint.model().filter(|name| !specs.iter().any(|spec| spec.name == *name)).collect();
        if !left.is_empty() {
            line += &format!("; left out: {}", heads(left));
        }
        line
    }
}

/// Learned scales start at 1 where the first stage has none.
fn is_taken(init: &Init, spec: &Spec, is_there: bool) -> bool {
    !init.redraws(&spec.name) && (spec.kind != Kind::HeadScale || is_there)
}

/// Whether a run of `next` trains the network of the run `before`, which `from` is of.
fn check_network(before: &Config, next: &Config, from: &Path) -> Result<()> {
    if (&before.model, before.width, before.stem) == (&next.model, next.width, next.stem) {
        return Ok(());
    }
    if let (Some(old), Some(new), true) =
        (before.stem, next.stem, before.model == next.model && before.stem != next.stem)
    {
        let what = format!("is a {} with {old} stem, and this stage's has {new}: give it --stem {old}", before.model);
        return Err(Error::file(from, what));
    }
    let what = format!(
        "is a {} of width {}, and this stage trains a {} of width {}: give it the same --model and --width",
        before.model, before.width, next.model, next.width
    );
    Err(Error::file(from, what))
}

/// Whether a network of these parameters can start from one with parameters of the shapes that `known` says.
fn check_parameters(init: &Init, specs: &Specs, known: &dyn Fn(&str) -> Option<Vec<usize>>, from: &Path) -> Result<()> {
    for pattern in &init.reinit {
        groups::require_match(specs, pattern).map_err(|e| Error::Config(format!("init.reinit: {e}")))?;
    }
    for spec in specs.iter() {
        let shape = known(&spec.name);
        if !is_taken(init, spec, shape.is_some()) || shape.as_ref() == Some(&spec.shape) {
            continue;
        }
        let layer = spec.name.rsplit_once('.').map_or(spec.name.as_str(), |(layer, _)| layer);
        let has = match shape {
            None => format!("has no {}", spec.name),
            Some(shape) => format!("has {} of shape {shape:?}, and this stage's is {:?}", spec.name, spec.shape),
        };
        return Err(Error::file(from, format!("{has}: init.reinit = [\"{layer}.*\"] draws it anew")));
    }
    Ok(())
}

/// Whether a stage of `next`, on data with these training images per class, can follow one of `before` that is yet to be
/// trained.
///
/// # Errors
/// As for [`Origin::check`], and when the recipe of either does not fit.
pub fn check_follows(before: &Config, next: &Config, counts: &[usize]) -> Result<()> {
    let new = next.recipe(counts)?;
    let Some(init) = &next.init else { return Ok(()) };
    check_network(before, next, &init.from)?;
    // Names and shapes are the same on every device.
    let any = Native::new(Precision::F32, 1)?;
    let old = model(before, &before.recipe(counts)?, counts.len(), &any)?;
    let new = model(next, &new, counts.len(), &any)?;
    let known = |name: &str| old.specs().iter().find(|spec| spec.name == name).map(|spec| spec.shape.clone());
    check_parameters(init, new.specs(), &known, &init.from)
}
