//! The house in order: what the pages promise about the layout, and what a reader would otherwise have to watch by eye.
//!
//! `cargo test --release --test house` takes a second to run; each failure says what to change.

mod callers;
mod floors;
mod map;
mod ops;
mod paths;
mod sizes;
mod text;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is not part of the project: build output and runs.
const LEFT_OUT: [&str; 2] = ["target", "runs"];

/// Entries of the ledger tell of their own day: what they name may be gone.
const LEDGER: &str = "benches/runs/2";

/// A file of the project, by its path from the root with `/` between the parts.
struct File {
    path: String,
    text: String,
}

impl File {
    fn has_ending(&self, endings: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
    }

    fn lines(&self) -> usize {
        self.text.lines().count()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder of the project").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = relative(&path);
        let hidden = name.rsplit('/').next().is_some_and(|part| part.starts_with('.') && part != ".ci");
        if hidden || LEFT_OUT.contains(&name.as_str()) || name.ends_with("__pycache__") {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("a path of the project");
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The paths of all files.
fn paths() -> BTreeSet<String> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.iter().map(|path| relative(path)).collect()
}

/// The files of text whose paths begin so, without the ledger.
fn files(start: &str) -> Vec<File> {
    let text = |path: String| Some(File { text: fs::read_to_string(root().join(&path)).ok()?, path });
    let wanted = paths().into_iter().filter(|path| path.starts_with(start) && !path.starts_with(LEDGER));
    wanted.filter_map(text).collect()
}

/// Fails with one line for each of `wrong`, under what is to be done about them.
#[track_caller]
fn none(wrong: &[String], what_to_do: &str) {
    assert!(wrong.is_empty(), "{what_to_do}:\n  {}\n", wrong.join("\n  "));
}
