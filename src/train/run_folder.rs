//! The run folder: `config.toml`, `metrics.jsonl`, `last.safetensors`, `best.safetensors`, and a lock that keeps a second
//! process out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{self, sync_folder, write_atomically};
use crate::train::metrics::{EpochMetrics, digest};

/// An open, locked run folder.
pub struct RunFolder {
    path: PathBuf,
    /// Locked as long as it is open; the system lets go of it however the process ends.
    _lock: File,
}

impl RunFolder {
    /// Makes a new run folder.
    ///
    /// # Errors
    /// When there is a run already, another process has it, or the system refuses.
    pub fn create(path: &Path, config: &Config) -> Result<RunFolder> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let folder = RunFolder::lock(path)?;
        if folder.config().exists() {
            let what = format!(
                "there is a run here already: continue it with --resume {}, or give another --out",
                path.display()
            );
            return Err(Error::file(path, what));
        }
        folder.write_config(config)?;
        Ok(folder)
    }

    /// Writes `config.toml`, or replaces it when the run has moved.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write_config(&self, config: &Config) -> Result<()> {
        let at = self.config();
        write_atomically(&at, |file| file.write_all(config.to_toml().as_bytes()).map_err(Error::io(&at)))
    }

    /// Opens the folder of a run that began earlier.
    ///
    /// # Errors
    /// When there is no run, or another process has it.
    pub fn open(path: &Path) -> Result<RunFolder> {
        if !path.join("config.toml").exists() {
            return Err(Error::file(path, "there is no run here to resume (no config.toml)"));
        }
        RunFolder::lock(path)
    }

    fn lock(path: &Path) -> Result<RunFolder> {
        let at = path.join(".lock");
        let lock = files::open_to_write(&at, OpenOptions::new().append(true))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunFolder { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(path, "another process is training in this folder: wait for it, or give another --out"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(&at)(e)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `last.safetensors`.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// `best.safetensors`.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// Appends one line of metrics and makes sure that it is on the disk.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append_metrics(&self, line: &impl serde::Serialize) -> Result<()> {
        let at = self.metrics();
        let is_new = !at.exists();
        let mut text = serde_json::to_string(line).map_err(|e| Error::file(&at, e.to_string()))?;
        text.push('\n');
        let mut file = files::open_to_write(&at, OpenOptions::new().append(true))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&at))?;
        if is_new { sync_folder(&self.path) } else { Ok(()) }
    }

    /// The metrics of the first `epochs` epochs, whose digest the checkpoint knows; whatever follows them (an epoch that
    /// the checkpoint does not know, a line cut short by a kill) is dropped from the file.
    ///
    /// # Errors
    /// When one of those lines is missing or damaged.
    pub fn rewind_metrics(&self, epochs: usize, expected: &str) -> Result<Vec<EpochMetrics>> {
        let at = self.metrics();
        let text = match files::read(&at, 1 << 32) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && epochs == 0 => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        let mut lines = text.lines();
        let mut kept: Vec<EpochMetrics> = Vec::with_capacity(epochs);
        let mut whole = String::new();
        for epoch in 0..epochs {
            let line = lines.next().unwrap_or_default();
            match serde_json::from_str::<EpochMetrics>(line) {
                Ok(metrics) if metrics.epoch == epoch => kept.push(metrics),
                _ => {
                    let what = format!(
                        "line {} should hold the metrics of epoch {epoch}, but is missing or damaged",
                        epoch + 1
                    );
                    return Err(Error::file(&at, what));
                }
            }
            whole.push_str(line);
            whole.push('\n');
        }
        if digest(&kept) != expected {
            return Err(Error::file(&at, "these are not the metrics of the checkpoint beside them: restore the file"));
        }
        if whole != text {
            write_atomically(&at, |file| file.write_all(whole.as_bytes()).map_err(Error::io(&at)))?;
        }
        Ok(kept)
    }
}

/// A run folder's name that is still free: `NAME`, `NAME-2`, `NAME-3`, ...
pub fn free_name(parent: &Path, name: &str) -> PathBuf {
    let taken = |path: &PathBuf| path.join("config.toml").exists();
    let mut path = parent.join(name);
    let mut number = 2;
    while taken(&path) {
        path = parent.join(format!("{name}-{number}"));
        number += 1;
    }
    path
}
