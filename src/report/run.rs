//! A run as a report finds it: finished, stopped or still going on. It is read without its lock, and nothing in its folder is
//! changed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::seen::Seen;
use crate::config::{Config, Which};
use crate::data::shots::{Shot, ShotRule};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::files;
use crate::train::checkpoint::Checkpoint;
use crate::train::manifest::Manifest;
use crate::train::metrics::{EpochMetrics, digest};
use crate::train::run_folder::checkpoint_file;
use crate::train::run_record::RunRecord;

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 32;

/// What a report needs of `result.json`, which only finished runs have.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Outcome {
    pub peak_bytes: Option<u64>,
    pub waited_for_images_seconds: Option<f64>,
}

/// What a run was trained on, as its checkpoint says or, without one, its store.
#[derive(Clone, Debug)]
pub struct Known {
    /// Identifies the store.
    pub store: String,
    pub class_names: Vec<String>,
    /// Training images of each class.
    pub counts: Vec<usize>,
    pub rule: ShotRule,
}

impl Known {
    fn of_manifest(manifest: &Manifest) -> Known {
        let numbers = || (0..manifest.counts.len()).map(|class| class.to_string()).collect();
        Known {
            store: manifest.store.clone(),
            class_names: manifest.data.as_ref().map_or_else(numbers, |subject| subject.class_names.clone()),
            counts: manifest.counts.clone(),
            rule: manifest.shots(),
        }
    }

    fn of_store(store: &Store, config: &Config) -> Result<Known> {
        let meta = store.meta();
        Ok(Known {
            store: store.fingerprint()?,
            class_names: meta.class_names.clone(),
            counts: meta.counts.clone(),
            rule: config.shots(meta.counts.len()),
        })
    }

    /// Each class's shots.
    pub fn groups(&self) -> Vec<Shot> {
        self.rule.groups(&self.counts)
    }
}

/// A run.
#[derive(Debug)]
pub struct Run {
    pub path: PathBuf,
    /// Its folder's name, with as many of the folders above as tell it from the others.
    pub name: String,
    pub config: Config,
    pub record: RunRecord,
    /// Its finished epochs.
    pub epochs: Vec<EpochMetrics>,
    pub outcome: Option<Outcome>,
    pub known: Option<Known>,
    /// What a checkpoint of it makes of the test images.
    pub seen: Option<Seen>,
    /// What is missing, and why.
    pub notes: Vec<String>,
}

impl Run {
    /// Reads a run, and the checkpoint of it that is wanted, if it has that. What is missing is noted.
    ///
    /// # Errors
    /// When there is no run, or its configuration or metrics are damaged.
    pub fn read(path: &Path, which: Which) -> Result<(Run, Option<(PathBuf, Checkpoint)>)> {
        let config = Config::read(&path.join("config.toml"))?;
        let mut notes = Vec::new();
        let epochs = match read_epochs(&path.join("metrics.jsonl"))? {
            Some(epochs) => epochs,
            None => {
                notes.push("has no metrics.jsonl: no epoch is known".into());
                Vec::new()
            }
        };
        let checkpoint = checkpoint_file(path, Some(which)).and_then(|file| Ok((Checkpoint::read(&file)?, file)));
        let checkpoint = match checkpoint {
            Ok((checkpoint, _)) if !checkpoint.manifest.config.same_run(&config) => {
                notes.push(format!("{which}.safetensors belongs to another run than config.toml beside it"));
                None
            }
            Ok((checkpoint, file)) => {
                check_epochs(path, &epochs, &checkpoint.manifest)?;
                Some((file, checkpoint))
            }
            Err(error) => {
                notes.push(error.without_path());
                None
            }
        };
        let known = match &checkpoint {
            Some((_, checkpoint)) => Some(Known::of_manifest(&checkpoint.manifest)),
            None => Store::open(&config.placement.data).and_then(|store| Known::of_store(&store, &config)).ok(),
        };
        // Figures of another number of classes than the names have belong to something else.
        let known = known.filter(|known| epochs.iter().all(|epoch| epoch.test.per_class.len() == known.counts.len()));
        let outcome = files::read(&path.join("result.json"), MAX_BYTES).ok();
        let run = Run {
            path: path.to_path_buf(),
            name: path.display().to_string(),
            record: RunRecord::read(&path.join("run.json")),
            outcome: outcome.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            epochs,
            known,
            config,
            seen: None,
            notes,
        };
        Ok((run, checkpoint))
    }

    /// The last finished epoch.
    pub fn last(&self) -> Option<&EpochMetrics> {
        self.epochs.last()
    }

    /// The first epoch with the highest top-1 on the images by which the run chooses.
    pub fn best(&self) -> Option<&EpochMetrics> {
        let select = self.config.select();
        let better = |best: &'_ EpochMetrics, epoch: &EpochMetrics| epoch.selecting(select) > best.selecting(select);
        self.epochs.iter().reduce(|best, epoch| if better(best, epoch) { epoch } else { best })
    }

    /// What tells apart the data of runs: the store, by its checksum or, where that is not known, by its place.
    pub fn data(&self) -> String {
        match &self.known {
            Some(known) if !known.store.is_empty() => known.store.clone(),
            _ => self.config.placement.data.display().to_string(),
        }
    }

    /// Whether all its epochs are finished.
    pub fn is_finished(&self) -> bool {
        self.epochs.len() >= self.config.epochs
    }
}

/// Whether these are the metrics of the checkpoint beside them, as far as it knows them.
fn check_epochs(path: &Path, epochs: &[EpochMetrics], manifest: &Manifest) -> Result<()> {
    let (at, known) = (path.join("metrics.jsonl"), manifest.progress.epoch);
    // Of older versions' digests the run itself takes care; without a file there are no figures to be wrong.
    if manifest.is_old() || epochs.is_empty() {
        return Ok(());
    }
    match epochs.get(..known) {
        None => {
            let what = format!("ends after epoch {}, but the checkpoint beside it has {known}", epochs.len());
            Err(Error::file(at, format!("{what}: restore the file")))
        }
        Some(epochs) if digest(epochs) != manifest.progress.metrics => {
            Err(Error::file(at, "these are not the metrics of the checkpoint beside them: restore the file"))
        }
        Some(_) => Ok(()),
    }
}

/// The epochs in a file of metrics; `None` where there is no file. A last line that is cut short, as a run that is writing it or
/// was killed leaves it, is no epoch yet.
fn read_epochs(at: &Path) -> Result<Option<Vec<EpochMetrics>>> {
    let bytes = match files::read(at, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]);
    let mut epochs: Vec<EpochMetrics> = Vec::new();
    let mut first = 1;
    for (index, line) in text.lines().enumerate() {
        let metrics = serde_json::from_str::<EpochMetrics>(line).ok();
        // Runs of format 1 count from 0, and have a last line that is no epoch's.
        match &metrics {
            Some(metrics) if index == 0 && metrics.epoch == 0 => first = 0,
            None if first == 0 && index + 1 == text.lines().count() => break,
            _ => {}
        }
        let damaged = || {
            let what = format!("line {} should hold the metrics of epoch {}, but is damaged", index + 1, index + 1);
            Error::file(at, format!("{what}: restore the file"))
        };
        let metrics = metrics.filter(|metrics| metrics.epoch == first + index).ok_or_else(damaged)?;
        let classes = epochs.first().map_or(metrics.test.per_class.len(), |epoch| epoch.test.per_class.len());
        if metrics.test.per_class.len() != classes {
            return Err(damaged());
        }
        epochs.push(EpochMetrics { epoch: index + 1, ..metrics });
    }
    Ok(Some(epochs))
}

/// The run folders that a path means: a run, or (of a folder of stages or of a sweep) those in it, in the order of their names;
/// of a checkpoint file, the folder that it lies in.
///
/// # Errors
/// When there is none.
pub fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let is_run = |path: &Path| path.join("config.toml").is_file();
    let path = match path.parent() {
        Some(folder) if path.is_file() => folder,
        _ => path,
    };
    if is_run(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let names = files::names_in(path)?;
    let mut found: Vec<PathBuf> = names.into_iter().map(|name| path.join(name)).filter(|path| is_run(path)).collect();
    found.sort();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::file(path, "there is no run here (no config.toml), nor in the folders in it")),
    }
}

/// Gives each run the shortest name that no other has: the last parts of its path.
pub fn name(runs: &mut [Run]) {
    let paths: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let path = std::fs::canonicalize(&run.path).unwrap_or_else(|_| run.path.clone());
            path.iter().map(|part| part.to_string_lossy().into_owned()).filter(|part| part != "/").collect()
        })
        .collect();
    let end = |path: &[String], parts: usize| path[path.len().saturating_sub(parts)..].join("/");
    for (run, path) in runs.iter_mut().zip(&paths) {
        let is_own = |parts: &usize| paths.iter().filter(|other| end(other, *parts) == end(path, *parts)).count() == 1;
        run.name = end(path, (1..path.len()).find(is_own).unwrap_or(path.len()));
    }
}
