//! The run that another one goes on from: read whole and checked, never changed.

use super::checkpoint::Checkpoint;
use super::manifest::Progress;
use super::metrics::EpochMetrics;
use super::run_folder::RunFolder;
use super::run_record::Parent;
use super::session::rates;
use crate::config::Config;
use crate::error::{Error, Result, word};
use crate::method::Recipe;

/// A run to extend, locked as long as it is read.
pub struct ParentRun {
    folder: RunFolder,
    /// Its configuration.
    pub config: Config,
    /// Its last checkpoint.
    pub last: Checkpoint,
    /// That of its best epoch, if it has finished any.
    pub best: Option<Checkpoint>,
    /// Its finished epochs.
    pub history: Vec<EpochMetrics>,
}

impl ParentRun {
    /// Reads the run in `folder`, which is to be extended to `epochs` epochs.
    ///
    /// # Errors
    /// When it has no checkpoint, has come as far already, or its files are damaged or do not belong together.
    pub fn read(folder: RunFolder, epochs: usize) -> Result<ParentRun> {
        let config = Config::read(&folder.config())?;
        let file = folder.last();
        if !file.exists() {
            let what = "there is no checkpoint here to go on from (no last.safetensors)";
            return Err(Error::file(folder.path(), what));
        }
        let last = Checkpoint::read(&file)?;
        last.manifest.check_configuration(&file, &config)?;
        let Progress { epoch, best, metrics, .. } = &last.manifest.progress;
        if *epoch >= epochs {
            let what = format!("has finished {epoch} epochs: --extend needs --epochs above that, not {epochs}");
            return Err(Error::file(folder.path(), what));
        }
        let history = folder.read_metrics(*epoch, metrics, last.manifest.is_old())?;
        let best = best.map(|(epoch, _)| read_best(&folder, &config, epoch)).transpose()?;
        Ok(ParentRun { folder, config, last, best, history })
    }

    /// Whether it was trained on the store with this fingerprint.
    ///
    /// # Errors
    /// When it was not.
    pub fn check_store(&self, fingerprint: &str, config: &Config) -> Result<()> {
        for (file, checkpoint) in [(self.folder.last(), Some(&self.last)), (self.folder.best(), self.best.as_ref())] {
            if let Some(checkpoint) = checkpoint {
                checkpoint.manifest.check_store(&file, fingerprint, &config.placement.data)?;
            }
        }
        Ok(())
    }

    /// What the new run's `run.json` says of it.
    ///
    /// # Errors
    /// When the system does not say where it lies.
    pub fn record(&self) -> Result<Parent> {
        let path = self.folder.path();
        let manifest = &self.last.manifest;
        let Progress { epoch, step, .. } = manifest.progress;
        let folder = std::fs::canonicalize(path).map_err(Error::io(path))?;
        let (checksum, epochs) = (manifest.checksum.clone(), self.config.epochs);
        Ok(Parent { folder, checkpoint: None, checksum, epochs, epoch, step })
    }

    /// How the rates jump where a run of `config` goes on from it; both train this recipe.
    pub fn jump(&self, config: &Config, recipe: &Recipe) -> String {
        let Progress { epoch, step, .. } = self.last.manifest.progress;
        let shown = |(lr, alpha): (f64, f64)| format!("lr {lr:.6}, alpha {alpha:.4}");
        let (at, old) = (epoch + 1, self.config.epochs);
        let of = format!("{} of {old} epochs", self.folder.path().display());
        let now = shown(rates(config, recipe, epoch));
        if epoch == old {
            let ended = shown(rates(&self.config, recipe, old - 1));
            return format!("extending {of} to {}: it ended with {ended}; epoch {at} has {now}", config.epochs);
        }
        let from = if step == 0 { String::new() } else { format!(", from step {step} on,") };
        let before = shown(rates(&self.config, recipe, epoch));
        let has = if step == 0 { "would have had" } else { "had" };
        format!("extending {of} to {}: epoch {at}{from} has {now}; there it {has} {before}", config.epochs)
    }
}

/// The checkpoint of the best epoch. The file may be of a later epoch than the last checkpoint knows, after a kill.
fn read_best(folder: &RunFolder, config: &Config, epoch: usize) -> Result<Checkpoint> {
    let file = folder.best();
    let best = Checkpoint::read(&file)?;
    best.manifest.check_configuration(&file, config)?;
    let found = best.manifest.progress.epoch;
    if found != epoch {
        let what = format!(
            "is of epoch {found}, but the last checkpoint knows epoch {epoch} as the best: go on with train --resume {} \
             until its next checkpoint, then extend it",
            word(folder.path())
        );
        return Err(Error::file(file, what));
    }
    Ok(best)
}
