//! A folder of a test's own, and the program run in it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::BIN;

/// Removed at the end.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Place {
        Place(TempDir::new().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program with these words as its arguments.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BIN);
        command.args(line.split_whitespace()).current_dir(self.0.path()).env_remove("COLUMNS").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn glmc(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }
}
