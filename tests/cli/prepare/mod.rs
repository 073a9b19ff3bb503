//! `glmc-engine prepare`, run as a program and through the library: every way into a store, and every way a store can be bad.

mod archives;
mod cifar;
mod corruption;
mod format;
mod hostile;
pub mod images;
mod listed;
mod photos;
mod place;
mod published;
mod synthetic;

use std::path::Path;
use std::process::Output;

use crate::{glmc, ok, text};

/// Runs `glmc-engine prepare` with these arguments.
fn prepare(args: &[&str]) -> Output {
    glmc(&[&["prepare"], args].concat())
}

/// Runs `prepare`, which must succeed, and returns what it printed.
fn prepared(args: &[&str]) -> String {
    ok(prepare(args))
}

/// Runs `prepare`, which must fail with status 1 and one line on stderr that begins with `error: `; returns that line.
fn refused(args: &[&str]) -> String {
    let output = prepare(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "prepare {args:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| !line.contains(" images/s")).collect();
    assert!(errors.len() == 1 && errors[0].starts_with("error: "), "prepare {args:?}: {stderr}");
    errors[0].to_string()
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The files of a store, relative to it.
const FILES: [&str; 7] = [
    "meta.json",
    "train/pixels.npy",
    "train/labels.npy",
    "test/pixels.npy",
    "test/labels.npy",
    "train/blocks.npy",
    "test/blocks.npy",
];
