//! The parameters that a run starts from: those of another run's checkpoint, which is read and never changed, or those of a plain
//! state dict.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::engine::model;
use super::manifest::Progress;
use super::run_record::Parent;
use super::state_dict::StateDict;
use crate::backend::native::Native;
use crate::config::{Config, Init};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::nn::parameters::{Kind, Spec, Specs};
use crate::nn::{Field, ParameterStore, groups};
use crate::ops::Backend;
use crate::tensor::Precision;

/// What to start from, read whole and checked.
pub struct Origin<'a> {
    init: &'a Init,
    file: PathBuf,
    source: Source,
}

enum Source {
    /// All of a run: a further stage goes on from it.
    Run(Box<Checkpoint>),
    /// Weights alone.
    Plain(StateDict),
}

impl<'a> Origin<'a> {
    /// Reads what a run of `config` starts from, if that is another run.
    ///
    /// # Errors
    /// When it is not there, is damaged, or is of another network.
    pub fn of(config: &'a Config) -> Result<Option<Origin<'a>>> {
        let Some(init) = &config.init else { return Ok(None) };
        let file = init.file()?;
        let plain = if init.from.is_dir() { None } else { StateDict::read(&file)? };
        let source = match plain {
            Some(plain) => Source::Plain(plain),
            None => {
                let checkpoint = Checkpoint::read(&file)?;
                check_network(&checkpoint.manifest.config, config, &file)?;
                Source::Run(Box::new(checkpoint))
            }
        };
        Ok(Some(Origin { init, file, source }))
    }

    /// Whether a network of these parameters, trained on this store, can start from it.
    ///
    /// # Errors
    /// When the classes differ, a pattern matches nothing, or a parameter is missing or has another shape.
    pub fn check(&self, store: &Store, specs: &Specs) -> Result<()> {
        let checkpoint = match &self.source {
            Source::Run(checkpoint) => checkpoint,
            Source::Plain(plain) => {
                check_patterns(self.init, specs)?;
                return plain.fit(specs, |name| self.init.redraws(name)).map(drop);
            }
        };
        let manifest = &checkpoint.manifest;
        let (names, count) = (&store.meta().class_names, store.meta().counts.len());
        if manifest.counts.len() != count {
            let known = manifest.counts.len();
            let what = format!("knows {known} classes, and the store {} has {count}", store.path().display());
            return Err(Error::file(&self.file, what));
        }
        if let Some(data) = manifest.data.as_ref().filter(|_| manifest.knows_names())
            && let Some((old, new)) = data.class_names.iter().zip(names).find(|(old, new)| old != new)
        {
            let what = format!("knows a class {old:?}, which the store {} calls {new:?}", store.path().display());
            return Err(Error::file(&self.file, what));
        }
        check_parameters(self.init, specs, &|name| checkpoint.shape(name).map(<[usize]>::to_vec), &self.file)
    }

    /// Puts its values over a start that was drawn; the momentum stays zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn load(&self, backend: &dyn Backend, parameters: &ParameterStore) -> Result<()> {
        let mut values = parameters.snapshot(backend, Field::Value)?;
        let specs = parameters.specs();
        match &self.source {
            Source::Run(checkpoint) => {
                for (index, spec) in specs.iter().enumerate() {
                    if is_taken(self.init, spec, checkpoint.shape(&spec.name).is_some()) {
                        values.set(index, checkpoint.tensor(&spec.name, &spec.shape)?);
                    }
                }
            }
            Source::Plain(plain) => {
                let loaded = plain.fit(specs, |name| self.init.redraws(name))?.loaded;
                for (index, spec) in specs.iter().enumerate().filter(|(index, _)| loaded.contains(index)) {
                    plain.values(&spec.name).into_iter().for_each(|found| values.set(index, found));
                }
            }
        }
        parameters.restore(backend, Field::Value, &values)
    }

    /// What the new run's `run.json` says of it.
    ///
    /// # Errors
    /// When the system does not say where it lies.
    pub fn record(&self) -> Result<Parent> {
        let path = self.init.folder();
        let folder = fs::canonicalize(path).map_err(Error::io(path))?;
        let file = self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let (epochs, epoch, step) = match &self.source {
            Source::Run(checkpoint) => {
                let Progress { epoch, step, .. } = checkpoint.manifest.progress;
                (checkpoint.manifest.config.epochs, epoch, step)
            }
            Source::Plain(_) => (0, 0, 0),
        };
        Ok(Parent { folder, checkpoint: file, checksum: self.checksum().into(), epochs, epoch, step })
    }

    fn checksum(&self) -> &str {
        match &self.source {
            Source::Run(checkpoint) => &checkpoint.manifest.checksum,
            Source::Plain(plain) => &plain.checksum,
        }
    }

    /// Whether a run that began with `parent` would begin with this again.
    ///
    /// # Errors
    /// When the checkpoint is another one by now.
    pub fn check_unchanged(&self, parent: &Parent) -> Result<()> {
        if parent.checksum == self.checksum() {
            return Ok(());
        }
        let what = "has changed since this stage began with it: begin a new one in another folder";
        Err(Error::file(&self.file, what))
    }

    /// What is taken from where, and what is not, in a line.
    pub fn describe(&self, specs: &Specs) -> String {
        let checkpoint = match &self.source {
            Source::Run(checkpoint) => checkpoint,
            Source::Plain(plain) => {
                let fit = plain.fit(specs, |name| self.init.redraws(name));
                return fit.map_or_else(|e| e.to_string(), |fit| plain.describe(specs, &fit));
            }
        };
        let progress = &checkpoint.manifest.progress;
        let is_taken = |spec: &Spec| is_taken(self.init, spec, checkpoint.shape(&spec.name).is_some());
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
        let anew: Vec<&str> = specs.iter().filter(|spec| !is_taken(spec)).map(|spec| spec.name.as_str()).collect();
        if !anew.is_empty() {
            line += &format!("; new: {}", anew.join(", "));
        }
        let left: Vec<&str> = checkpoint.model().filter(|name| !specs.iter().any(|spec| spec.name == *name)).collect();
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

fn check_patterns(init: &Init, specs: &Specs) -> Result<()> {
    let wrong = |e: Error| Error::Config(format!("init.reinit: {e}"));
    init.reinit.iter().try_for_each(|pattern| groups::require_match(specs, pattern).map_err(wrong))
}

/// Whether a network of these parameters can start from one with parameters of the shapes that `known` says.
fn check_parameters(init: &Init, specs: &Specs, known: &dyn Fn(&str) -> Option<Vec<usize>>, from: &Path) -> Result<()> {
    check_patterns(init, specs)?;
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
