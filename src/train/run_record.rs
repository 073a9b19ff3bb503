//! `run.json`: which processes worked on a run; everything about a run that may differ between it and its repeat.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::driver::sources::{self, Origin};
use crate::error::Result;
use crate::files;
use crate::ops::Backend;
use crate::tensor::Precision;
use crate::version;

/// The content of `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Whether a checkpoint was written: without one, a run that has this set has lost its files, and another was killed
    /// early.
    pub saved: bool,
    /// The run that this one goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The process that began the run, and those that went on with it.
    pub processes: Vec<Process>,
}

impl RunRecord {
    /// What a `run.json` says; nothing where there is none, or none that can be read: no run depends on it.
    pub fn read(path: &Path) -> RunRecord {
        files::read(path, 1 << 30).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

/// Where a run that extends another one, or is a further stage of it, began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The other run's folder.
    pub folder: PathBuf,
    /// The name of the checkpoint that a further stage began with; absent where the run was extended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The checksum in its last checkpoint, or in that one.
    pub checksum: String,
    /// How many epochs it was to have.
    pub epochs: usize,
    /// Epochs that it had finished.
    pub epoch: usize,
    /// Steps of the epoch after those.
    pub step: usize,
}

/// A process that trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// When it began, UTC.
    pub date: String,
    /// Version of the program.
    pub version: String,
    /// The commit that it was compiled from, where that is known.
    pub commit: Option<String>,
    /// The machine's name.
    pub host: String,
    /// `cpu`, `cuda:0`, `emulator`.
    pub device: String,
    /// The precision.
    pub precision: Precision,
    /// Where its kernels came from; absent on a device that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Origin>,
    /// The command line.
    pub command: Vec<String>,
}

impl Process {
    /// This one.
    ///
    /// # Errors
    /// When the folder of kernels cannot be read.
    pub fn this(backend: &dyn Backend) -> Result<Process> {
        let device = backend.name();
        Ok(Process {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: version::COMMIT.map(ToString::to_string),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            kernels: (device != "cpu").then(sources::origin).transpose()?.cloned(),
            device,
            precision: backend.precision(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        })
    }
}
