//! What the parameters of a run start from, where that is not its seed alone: another run's.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::groups::matches;

/// The run that a further stage goes on from, and what it begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// A run folder, or a checkpoint file.
    pub from: PathBuf,
    /// Which checkpoint of a run folder; its last, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Which>,
    /// Patterns of the parameters that are drawn by the seed all the same: `fc.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reinit: Vec<String>,
}

/// A checkpoint of a run folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// After the last epoch so far.
    #[default]
    Last,
    /// Of the best epoch.
    Best,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Which::Last => "last",
            Which::Best => "best",
        })
    }
}

impl Init {
    /// Checks what can be checked without a network.
    ///
    /// # Errors
    /// When the path cannot stand in `config.toml`.
    pub(super) fn check(&self) -> Result<()> {
        match self.from.to_str() {
            Some(_) => Ok(()),
            None => Err(Error::file(&self.from, "its path is not UTF-8, as config.toml needs it: rename it")),
        }
    }

    /// Makes the path absolute, so that the run can be resumed from anywhere.
    ///
    /// # Errors
    /// When there is nothing there.
    pub fn locate(&mut self) -> Result<()> {
        let at = std::fs::canonicalize(&self.from).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::file(&self.from, "there is no run and no checkpoint here to start from")
            }
            _ => Error::io(&self.from)(e),
        });
        self.from = at?;
        Ok(())
    }

    /// The checkpoint file.
    ///
    /// # Errors
    /// When there is none, or a file is named and a run's checkpoint besides.
    pub fn file(&self) -> Result<PathBuf> {
        let from = &self.from;
        match (from.is_dir(), self.checkpoint) {
            (true, which) => {
                let which = which.unwrap_or_default();
                let file = from.join(format!("{which}.safetensors"));
                match file.exists() {
                    true => Ok(file),
                    false => Err(Error::file(from, format!("has no {which}.safetensors to start from"))),
                }
            }
            (false, Some(which)) if from.exists() => {
                let what = format!("is a checkpoint itself: leave {which} out, or name its run folder");
                Err(Error::file(from, what))
            }
            (false, _) if from.exists() => Ok(from.clone()),
            (false, _) => Err(Error::file(from, "there is no run and no checkpoint here to start from")),
        }
    }

    /// The run folder, or the one that the file lies in.
    pub fn folder(&self) -> &Path {
        match self.from.is_dir() {
            true => &self.from,
            false => self.from.parent().unwrap_or(&self.from),
        }
    }

    /// Whether a parameter of this name is drawn anew.
    pub fn redraws(&self, name: &str) -> bool {
        self.reinit.iter().any(|pattern| matches(pattern, name))
    }
}
