//! Exported files as other programs take them: ONNX by onnx's checker and onnxruntime, weights by torchvision. `GLMC_PYTHON` names the
//! Python that has these, `python3` otherwise; trials whose packages it lacks are listed as ignored, with the reason.

#[path = "../common/mod.rs"]
mod common;
mod networks;
mod page;
mod weights;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use common::python::{TORCH, lacking, python};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

/// What reads ONNX files.
const RUNTIME: &str = "onnx, onnxruntime, numpy";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let reasons = [lacking(RUNTIME), lacking(TORCH)];
    for reason in reasons.iter().flatten() {
        eprintln!("ignored: {reason}");
    }
    let [runtime, torch] = reasons.map(|reason| reason.is_some());
    let mut trials: Vec<Trial> = networks::trials().into_iter().chain(page::trials()).collect();
    trials = trials.into_iter().map(|trial| trial.with_ignored_flag(runtime)).collect();
    trials.extend(weights::trials().into_iter().map(|trial| trial.with_ignored_flag(torch)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs the program; one argument for each word, then those that may have spaces.
fn glmc(words: &str, paths: &[&Path]) -> Output {
    let mut command = Command::new(BIN);
    command.args(words.split_whitespace()).args(paths).stdin(Stdio::null());
    command.output().expect("the program starts")
}

fn ok(output: Output) -> Result<String, Failed> {
    if !output.status.success() {
        return Err(format!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn json(output: Output) -> Result<Value, Failed> {
    Ok(serde_json::from_str(&ok(output)?)?)
}

/// A folder of a trial.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(TempDir::new().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A store of images of one size.
    fn store(&self, size: usize) -> Result<PathBuf, Failed> {
        let store = self.path("data.lt");
        let words = format!("prepare synthetic --classes 5 --per-class 24 --imbalance 4 --size {size} --seed 3 --out");
        ok(glmc(&words, &[&store]))?;
        Ok(store)
    }

    /// A run on a store.
    fn train(&self, store: &Path, words: &str) -> Result<PathBuf, Failed> {
        let run = self.path("run");
        let fixed = "train --epochs 1 --batch 8 --lr 0.05 --seed 1 --threads 1 --device cpu --width 2";
        ok(glmc(&format!("{fixed} {words} --data"), &[store, Path::new("--out"), &run]))?;
        Ok(run)
    }
}
