//! `run.json`: which processes worked on a run; everything about a run that may differ between it and its repeat.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::ops::Backend;
use crate::tensor::Precision;
use crate::version;

/// The content of `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Whether a checkpoint was written: without one, a run that has this set has lost its files, and another was killed
    /// early.
    pub saved: bool,
    /// The process that began the run, and those that went on with it.
    pub processes: Vec<Process>,
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
    /// The command line.
    pub command: Vec<String>,
}

impl Process {
    /// This one.
    pub fn this(backend: &dyn Backend) -> Process {
        Process {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: version::COMMIT.map(ToString::to_string),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            device: backend.name(),
            precision: backend.precision(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        }
    }
}
