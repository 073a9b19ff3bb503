//! What a checkpoint says about itself: everything that using it takes besides the tensors.
//!
//! Nothing in it depends on when, where or by which command a run was made (`run.json` beside it has that), so that the
//! checkpoints of two equal runs are equal byte for byte.
//!
//! Format 1 has only `config`, `counts`, `store`, `progress` and the checksum, and counts the best epoch from 0.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::data::loader::Prepared;
use crate::data::shots::ShotRule;
use crate::data::store::{MAX_SIDE, Store};
use crate::error::{Error, Result};
use crate::version;

/// Version of the manifest.
const FORMAT: u32 = 2;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: usize,
    /// Finished steps of the epoch after those.
    pub step: usize,
    /// Steps of all epochs together.
    pub total_steps: u64,
    /// The epoch, counted from 1, whose top-1 was the highest so far (the first of them), and that top-1.
    pub best: Option<(usize, f64)>,
    /// [`crate::train::metrics::digest`] of the finished epochs' metrics.
    pub metrics: String,
}

/// The program that wrote a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The package's version.
    pub version: String,
    /// The commit that it was compiled from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a model must know of the data that it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// A name per class, in the order of the outputs.
    pub class_names: Vec<String>,
    /// Mean of red, green and blue that inputs were normalised by, of pixels scaled to 0..1.
    pub mean: [f64; 3],
    /// Standard deviation, likewise.
    pub std: [f64; 3],
    /// Rows of an image as the network sees it.
    pub height: usize,
    /// Columns likewise.
    pub width: usize,
    /// What was made of image files before they were stored; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
}

impl Subject {
    /// A store's training data; photographs are seen at a size.
    pub fn of(store: &Store, size: Option<usize>) -> Subject {
        let (meta, train) = (store.meta(), store.train());
        Subject {
            class_names: meta.class_names.clone(),
            mean: meta.mean,
            std: meta.std,
            height: size.unwrap_or(train.height()),
            width: size.unwrap_or(train.width()),
            prepared: meta.prepared,
        }
    }
}

/// The state dict that a checkpoint was made of. What its model was trained on is not known: counts are all 1, and the store on
/// which it is used says better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The file's name.
    pub file: String,
    /// BLAKE3 of the file.
    pub checksum: String,
    /// Whether the classes' names were said.
    pub named: bool,
}

/// What a checkpoint says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The program that wrote it; absent in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The run's whole configuration, preset and method included.
    pub config: Config,
    /// What it was trained on; absent in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Subject>,
    /// Training images per class.
    pub counts: Vec<usize>,
    /// Which classes count as many-, medium- and few-shot; absent in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shots: Option<ShotRule>,
    /// Identifies the store that it was trained on.
    pub store: String,
    /// How far the run had come.
    pub progress: Progress,
    /// Where its weights came from, if not from a run of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// What was done to the classifier after training: such a model is evaluated, no run goes on from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posthoc: Option<String>,
    /// BLAKE3 of everything else: tensors, configuration, progress.
    pub(super) checksum: String,
}

impl Manifest {
    /// A manifest for a checkpoint yet to be written, of a run on a store with this fingerprint.
    pub fn new(config: Config, store: &Store, fingerprint: String, progress: Progress) -> Manifest {
        let engine =
            Engine { version: env!("CARGO_PKG_VERSION").into(), commit: version::COMMIT.map(ToString::to_string) };
        Manifest {
            format: FORMAT,
            engine: Some(engine),
            shots: Some(config.shots(store.meta().counts.len())),
            data: Some(Subject::of(store, config.size)),
            config,
            counts: store.meta().counts.clone(),
            store: fingerprint,
            progress,
            imported: None,
            posthoc: None,
            checksum: String::new(),
        }
    }

    /// A manifest for a model of this configuration that was trained elsewhere.
    pub fn of_import(config: Config, data: Subject, imported: Imported) -> Manifest {
        let engine =
            Engine { version: env!("CARGO_PKG_VERSION").into(), commit: version::COMMIT.map(ToString::to_string) };
        let classes = data.class_names.len();
        Manifest {
            format: FORMAT,
            engine: Some(engine),
            shots: Some(config.shots(classes)),
            config,
            data: Some(data),
            counts: vec![1; classes],
            store: String::new(),
            progress: Progress::default(),
            imported: Some(imported),
            posthoc: None,
            checksum: String::new(),
        }
    }

    /// Whether the names of the classes are those that were trained on, not numbers in their place.
    pub fn knows_names(&self) -> bool {
        self.imported.as_ref().is_none_or(|imported| imported.named)
    }

    pub(super) fn to_json(&self) -> String {
        // A manifest is numbers and text.
        serde_json::to_string(self).expect("a manifest has a JSON form")
    }

    /// Reads a manifest; on failure says what is wrong with it.
    pub(super) fn from_json(json: &str) -> Result<Manifest, String> {
        /// Read first, so that a later format's other content is no obstacle to naming it.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |e: serde_json::Error| format!("damaged glmc_engine metadata ({e}); restore the file");
        let Version { format } = serde_json::from_str(json).map_err(damaged)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(format!("checkpoint format {format}, but this program reads formats 1 to {FORMAT}"));
        }
        let mut manifest: Manifest = serde_json::from_str(json).map_err(damaged)?;
        if let (1, Some((best, _))) = (format, &mut manifest.progress.best) {
            *best = best.saturating_add(1);
        }
        manifest.validate().map_err(|what| format!("impossible glmc_engine metadata: {what}; restore the file"))?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), String> {
        self.config.check().map_err(|e| e.to_string())?;
        let (classes, epochs) = (self.counts.len(), self.config.epochs);
        if self.is_old() {
            return self.progress.validate(epochs);
        }
        let (Some(_), Some(data), Some(_)) = (&self.engine, &self.data, &self.shots) else {
            return Err("engine, data or shots is missing".into());
        };
        if data.class_names.len() != classes {
            return Err(format!("{} class names for {classes} counts", data.class_names.len()));
        }
        if !data.mean.iter().all(|m| (0.0..=1.0).contains(m)) || !data.std.iter().all(|&s| s > 0.0 && s <= 1.0) {
            return Err(format!("mean {:?} or std {:?} is out of range", data.mean, data.std));
        }
        if ![data.height, data.width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(format!("images of {}x{}", data.height, data.width));
        }
        data.prepared.map_or(Ok(()), |prepared| prepared.resize.check_side())?;
        self.progress.validate(epochs)
    }

    /// Whether the checkpoint at `path` is of a run of this configuration. Where it computes may change between stop and
    /// resume; nothing else.
    ///
    /// # Errors
    /// When it is of another one.
    pub fn check_configuration(&self, path: &Path, config: &Config) -> Result<()> {
        if self.config.same_run(config) {
            return Ok(());
        }
        Err(Error::file(path, "belongs to a run with another configuration than config.toml beside it"))
    }

    /// Whether the checkpoint at `path` was trained on the store with this fingerprint, which is now at `data`.
    ///
    /// # Errors
    /// When it was trained on another one.
    pub fn check_store(&self, path: &Path, fingerprint: &str, data: &Path) -> Result<()> {
        if self.store == fingerprint {
            return Ok(());
        }
        Err(Error::file(path, format!("was trained on another store than what is now at {}", data.display())))
    }

    /// Whether it is of format 1.
    pub fn is_old(&self) -> bool {
        self.format == 1
    }

    /// Which classes count as many-, medium- and few-shot.
    pub fn shots(&self) -> ShotRule {
        self.shots.unwrap_or_else(|| self.config.shots(self.counts.len()))
    }
}

impl Progress {
    fn validate(&self, epochs: usize) -> Result<(), String> {
        let Progress { epoch, step, total_steps, best, .. } = *self;
        if epoch > epochs || (epoch == epochs && step > 0) {
            return Err(format!("{epoch} finished epochs and {step} steps of {epochs} epochs"));
        }
        if i64::try_from(total_steps).is_err() {
            return Err(format!("{total_steps} steps"));
        }
        match best {
            Some((best, _)) if !(1..=epoch).contains(&best) => Err(format!("the best epoch is {best} of {epoch}")),
            None if epoch > 0 => Err(format!("no epoch of {epoch} was the best")),
            _ => Ok(()),
        }
    }

    /// Whether a run of `steps` steps per epoch can be there.
    pub fn fits(&self, steps: usize) -> bool {
        let done = (self.epoch as u64).checked_mul(steps as u64).and_then(|n| n.checked_add(self.step as u64));
        self.step < steps && done == Some(self.total_steps)
    }
}
