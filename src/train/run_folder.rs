//! The run folder: `config.toml` (every setting), `run.json` (when, where and how), `metrics.jsonl` (one line per epoch),
//! `last.safetensors`, `best.safetensors` and at the end `result.json`; and a lock that keeps a second process out.
//!
//! The lock is on the folder itself: a lock file could be removed under the process that holds it, and let a second one in.
//!
//! Epochs count from 1. A run whose checkpoint is of format 1 has lines that count from 0, and a last line that is no epoch's;
//! when it is resumed its lines are counted anew, once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::config::{Config, Which};
use crate::error::{Error, Result, word};
use crate::files::{self, sync_folder, write_atomically};
use crate::train::events;
use crate::train::logs;
use crate::train::metrics::{EpochMetrics, Outcome, digest};
use crate::train::run_record::{Parent, Process, RunRecord};

/// What may lie in a folder that a new run begins in: the demo's images, and what a kill before the run's first file leaves.
const BEFORE_A_RUN: [&str; 5] = ["data.lt", ".data.lt.partial", ".lock", "config.toml.partial", "run.json.partial"];

/// What else may lie in a folder in which `--extend` was killed before it had become a run.
const BEFORE_AN_EXTENSION: [&str; 7] = [
    "run.json",
    "best.safetensors",
    "best.safetensors.partial",
    "metrics.jsonl",
    "metrics.jsonl.partial",
    "last.safetensors",
    "last.safetensors.partial",
];

/// An open, locked run folder.
pub struct RunFolder {
    path: PathBuf,
    /// Locked as long as it is open; the system lets go of it however the process ends.
    _lock: File,
}

/// Refuses a folder that a new run cannot begin in: one that has a run, or anything else that is not ours.
///
/// # Errors
/// When there is such a thing in it, or the system refuses.
pub fn check_new(path: &Path) -> Result<()> {
    check_holds_only(path, &BEFORE_A_RUN)
}

/// As [`check_new`], for a run that goes on from another: what a kill has left of such a beginning is no obstacle.
///
/// # Errors
/// When there is anything else in it, or the system refuses.
pub fn check_new_extension(path: &Path) -> Result<()> {
    if RunRecord::read(&path.join("run.json")).parent.is_none() {
        return check_new(path);
    }
    check_holds_only(path, &[&BEFORE_A_RUN[..], &BEFORE_AN_EXTENSION].concat())
}

fn check_holds_only(path: &Path, known: &[&str]) -> Result<()> {
    let names = files::names_in(path)?;
    if names.iter().any(|name| name == "config.toml") {
        let what =
            format!("there is a run here already: continue it with --resume {}, or give another --out", word(path));
        return Err(Error::file(path, what));
    }
    match names.iter().find(|name| !known.iter().any(|known| name == known)) {
        None => Ok(()),
        Some(name) => {
            let what =
                format!("is neither empty nor a run (it holds {}): give another --out", Path::new(name).display());
            Err(Error::file(path, what))
        }
    }
}

/// The run folder that `--resume` or `--extend`, the flag, means: a folder, or the one that a `last.safetensors` lies in.
///
/// # Errors
/// For any other file.
pub fn to_go_on(flag: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        return Ok(path.to_path_buf());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.file_name() {
        Some(name) if name == "last.safetensors" => Ok(folder.to_path_buf()),
        Some(name) if name == "best.safetensors" => {
            let what = "is the best epoch's model, and a run goes on from its last";
            Err(Error::Usage(format!("{}: {what}: give {flag} {}", path.display(), word(folder))))
        }
        _ => Err(Error::file(path, format!("is not a run: {flag} takes a run folder or its last.safetensors"))),
    }
}

/// The checkpoint that a path means: a file, or one of a run folder, whose last is meant if nothing else is said.
///
/// # Errors
/// When a folder does not have it, or a checkpoint is chosen of what is no folder.
pub fn checkpoint_file(path: &Path, which: Option<Which>) -> Result<PathBuf> {
    match (path.is_dir(), which) {
        (false, None) => Ok(path.to_path_buf()),
        (false, Some(_)) => {
            let what = "--checkpoint chooses between those of a run folder";
            Err(Error::Usage(format!("{}: {what}", path.display())))
        }
        (true, which) => {
            let name = format!("{}.safetensors", which.unwrap_or_default());
            let file = path.join(&name);
            let lacking = format!("has no {name}: give a run folder that has one, or a checkpoint file");
            if file.exists() { Ok(file) } else { Err(Error::file(path, lacking)) }
        }
    }
}

impl RunFolder {
    /// Makes a new run folder.
    ///
    /// # Errors
    /// When there is a run already, or anything else, another process has it, or the system refuses.
    pub fn create(path: &Path, config: &Config) -> Result<RunFolder> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let folder = RunFolder::lock(path)?;
        check_new(path)?;
        folder.write_config(config)?;
        Ok(folder)
    }

    /// Makes the folder of a run that goes on from `parent`. It becomes a run when its `config.toml` is written, which must be
    /// the last of its files: one without a checkpoint would begin at the first epoch.
    ///
    /// # Errors
    /// As for [`RunFolder::create`].
    pub fn create_extension(path: &Path, parent: Parent) -> Result<RunFolder> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let folder = RunFolder::lock(path)?;
        check_new_extension(path)?;
        let record = RunRecord { saved: true, parent: Some(parent), processes: Vec::new() };
        write_json(&folder.record(), &record)?;
        Ok(folder)
    }

    /// Writes `config.toml`, or replaces it when the run has moved.
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
            return Err(Error::file(path, "there is no run here (no config.toml)"));
        }
        RunFolder::lock(path)
    }

    fn lock(path: &Path) -> Result<RunFolder> {
        let lock = File::open(path).map_err(Error::io(path))?;
        let lock = match lock.try_lock() {
            // Network file systems lock only what is open for writing, which a folder never is.
            Err(TryLockError::Error(_)) => {
                let lock = files::open_to_write(&path.join(".lock"), OpenOptions::new().append(true))?;
                lock.try_lock().map(|()| lock)
            }
            other => other.map(|()| lock),
        };
        match lock {
            Ok(lock) => Ok(RunFolder { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(path, "another process is training in this folder: wait for it, or give another --out"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(path)(e)),
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

    /// `run.json`.
    pub fn record(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// `result.json`.
    pub fn result(&self) -> PathBuf {
        self.path.join("result.json")
    }

    fn read_record(&self) -> RunRecord {
        RunRecord::read(&self.record())
    }

    /// Adds a process to `run.json`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_process(&self, process: Process) -> Result<()> {
        let mut record = self.read_record();
        record.processes.push(process);
        write_json(&self.record(), &record)
    }

    /// The run that `run.json` says this one goes on from.
    pub fn parent(&self) -> Option<Parent> {
        self.read_record().parent
    }

    /// Notes in `run.json` which run this one is a further stage of.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn note_parent(&self, parent: Parent) -> Result<()> {
        write_json(&self.record(), &RunRecord { parent: Some(parent), ..self.read_record() })
    }

    /// Notes in `run.json` that the run has a checkpoint now.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn note_saved(&self) -> Result<()> {
        let record = self.read_record();
        if record.saved { Ok(()) } else { write_json(&self.record(), &RunRecord { saved: true, ..record }) }
    }

    /// Refuses a run that has no last checkpoint although it had one. A run that was killed before its first, after up to
    /// `checkpoint_every` epochs, has lost nothing that it does not make again, bit for bit.
    ///
    /// # Errors
    /// When the run has lost its checkpoint.
    pub fn check_not_lost(&self, checkpoint_every: usize) -> Result<()> {
        let lines = files::read(&self.metrics(), 1 << 32)
            .map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count());
        let record = self.read_record();
        if !record.saved && lines <= checkpoint_every {
            return Ok(());
        }
        if let Some(Parent { folder, checkpoint: None, .. }) = record.parent {
            let what = format!("is missing: restore it, or extend {} again", folder.display());
            return Err(Error::file(self.last(), what));
        }
        let what =
            format!("is missing, though the run had come to epoch {lines} or further: restore it, or begin again");
        Err(Error::file(self.last(), format!("{what} with --restart, which discards what the run left")))
    }

    /// Discards everything but `config.toml` and the list of processes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn restart(&self) -> Result<()> {
        if let Some(Parent { folder, checkpoint: None, .. }) = self.read_record().parent {
            let what = format!("extends {}: to begin again, extend that once more", folder.display());
            return Err(Error::file(&self.path, what));
        }
        events::remove(&self.path)?;
        let table = self.path.join(logs::TABLE);
        for file in [self.last(), self.best(), self.metrics(), self.result(), table] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(&file)(e)),
                _ => {}
            }
        }
        write_json(&self.record(), &RunRecord { saved: false, ..self.read_record() })
    }

    /// Writes `result.json`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write_result(&self, outcome: &Outcome<'_>) -> Result<()> {
        write_json(&self.result(), outcome)
    }

    /// Appends an epoch's line to the metrics and makes sure that it is on the disk.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append_metrics(&self, line: &EpochMetrics) -> Result<()> {
        let at = self.metrics();
        let is_new = !at.exists();
        let mut text = serde_json::to_string(line).map_err(|e| Error::file(&at, e.to_string()))?;
        text.push('\n');
        let mut file = files::open_to_write(&at, OpenOptions::new().append(true))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&at))?;
        if is_new { sync_folder(&self.path) } else { Ok(()) }
    }

    /// Writes the metrics of a run that begins with another's.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write_metrics(&self, lines: &[EpochMetrics]) -> Result<()> {
        let at = self.metrics();
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line).map_err(|e| Error::file(&at, e.to_string()))?);
            text.push('\n');
        }
        write_atomically(&at, |file| file.write_all(text.as_bytes()).map_err(Error::io(&at)))
    }

    /// The metrics of the first `epochs` epochs, whose digest the checkpoint knows. `is_old`: the checkpoint is of format 1.
    ///
    /// # Errors
    /// When one of those lines is missing or damaged.
    pub fn read_metrics(&self, epochs: usize, expected: &str, is_old: bool) -> Result<Vec<EpochMetrics>> {
        self.known_metrics(epochs, expected, is_old).map(|(kept, _)| kept)
    }

    /// As [`RunFolder::read_metrics`]; whatever follows those lines (an epoch that the checkpoint does not know, a line cut
    /// short by a kill) is dropped from the file.
    ///
    /// # Errors
    /// When one of those lines is missing or damaged, or the system refuses.
    pub fn rewind_metrics(&self, epochs: usize, expected: &str, is_old: bool) -> Result<Vec<EpochMetrics>> {
        let (kept, whole) = self.known_metrics(epochs, expected, is_old)?;
        if let Some(whole) = whole {
            let at = self.metrics();
            write_atomically(&at, |file| file.write_all(whole.as_bytes()).map_err(Error::io(&at)))?;
        }
        Ok(kept)
    }

    /// The metrics that a checkpoint knows, and what the file should hold where it holds anything else.
    fn known_metrics(
        &self,
        epochs: usize,
        expected: &str,
        is_old: bool,
    ) -> Result<(Vec<EpochMetrics>, Option<String>)> {
        let at = self.metrics();
        let bytes = match files::read(&at, 1 << 32) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && epochs == 0 => {
                return Ok((Vec::new(), None));
            }
            Err(e) => return Err(e),
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut kept: Vec<EpochMetrics> = Vec::new();
        let (mut whole, mut first) = (String::new(), 1);
        for (index, line) in text.lines().chain(std::iter::repeat("")).take(epochs).enumerate() {
            let metrics = serde_json::from_str::<EpochMetrics>(line).ok();
            if is_old && index == 0 && metrics.as_ref().is_some_and(|metrics| metrics.epoch == 0) {
                first = 0;
            }
            let Some(mut metrics) = metrics.filter(|metrics| metrics.epoch == first + index) else {
                let epoch = index + 1;
                let what = format!("line {epoch} should hold the metrics of epoch {epoch}, but is missing or damaged");
                return Err(Error::file(&at, what));
            };
            if first == 0 {
                metrics.epoch += 1;
            }
            // As it was written, not as it was found: a damaged name of an empty field changes no figure, but stays no JSON.
            whole.push_str(&serde_json::to_string(&metrics).map_err(|e| Error::file(&at, e.to_string()))?);
            whole.push('\n');
            kept.push(metrics);
        }
        let found = if is_old {
            let as_written = kept.iter().map(|metrics| EpochMetrics { epoch: metrics.epoch - 1, ..metrics.clone() });
            digest(&as_written.collect::<Vec<_>>())
        } else {
            digest(&kept)
        };
        if found != expected {
            return Err(Error::file(&at, "these are not the metrics of the checkpoint beside them: restore the file"));
        }
        Ok((kept, (whole.as_bytes() != bytes).then_some(whole)))
    }
}

fn write_json(at: &Path, content: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(content).map_err(|e| Error::file(at, e.to_string()))?;
    text.push('\n');
    write_atomically(at, |file| file.write_all(text.as_bytes()).map_err(Error::io(at)))
}

/// A run folder's name that is still free: `NAME`, `NAME-2`, `NAME-3`, ...
pub fn free_name(parent: &Path, name: &str) -> PathBuf {
    let mut path = parent.join(name);
    let mut number = 2;
    while check_new(&path).is_err() && path.exists() {
        path = parent.join(format!("{name}-{number}"));
        number += 1;
    }
    path
}
