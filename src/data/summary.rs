//! What `prepare` says at its end.

use std::fmt;
use std::path::{Path, PathBuf};

use super::meta::Meta;
use super::shots::Shot;
use crate::error::{one_line, shown};

/// A store that was just written, or opened; `Display` is the text for the user.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Where the store is.
    pub path: PathBuf,
    /// Training images per class.
    pub counts: Vec<usize>,
    /// Number of test images.
    pub test: usize,
    /// A line each about what the user may not expect.
    pub notes: Vec<String>,
    /// A line each about what makes the set doubtful.
    pub warnings: Vec<String>,
    /// Images that were left out as they cannot be decoded, and why.
    pub broken: Vec<(PathBuf, String)>,
    /// Number of validation images.
    pub val: usize,
    class_names: Vec<String>,
    source: String,
}

/// Classes that a summary prints in full.
const MAX_LINES: usize = 20;
/// Most characters of a class's name and of a note.
const MAX_NAME: usize = 40;
const MAX_NOTE: usize = 2000;

impl Summary {
    /// The summary of a store described by `meta`; `short` are classes that had fewer images than their profile asks for.
    pub fn new(path: &Path, meta: &Meta, test: usize, short: Vec<usize>) -> Summary {
        let mut notes = Vec::new();
        if let Some(&first) = short.first() {
            let name = &meta.class_names[first];
            let n = short.len();
            notes.push(format!(
                "{n} class(es) have fewer images than the profile asks for and keep all, the first is {first} ({name})"
            ));
        }
        Summary {
            path: path.to_path_buf(),
            counts: meta.counts.clone(),
            test,
            notes,
            warnings: Vec::new(),
            broken: Vec::new(),
            val: 0,
            class_names: meta.class_names.clone(),
            source: meta.source.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.counts.iter().sum();
        let largest = self.counts.iter().copied().max().unwrap_or(0);
        let smallest = self.counts.iter().copied().min().unwrap_or(0);
        let ratio = largest as f64 / smallest.max(1) as f64;
        let classes = self.counts.len();
        writeln!(f, "{}: {} ({classes} classes)", shown(&self.path), one_line(&self.source, 300))?;
        let val = if self.val > 0 { format!(", {} validation images", self.val) } else { String::new() };
        writeln!(f, "  {total} training images{val}, {} test images", self.test)?;
        writeln!(f, "  largest class {largest}, smallest {smallest}, imbalance {ratio:.1}")?;
        let groups = Shot::ALL.map(|shot| {
            let n = self.counts.iter().filter(|&&n| Shot::of(n, false) == shot).count();
            format!("{} {n}", shot.name())
        });
        writeln!(f, "  classes by shots: {}", groups.join(", "))?;
        let names: Vec<String> = self.class_names.iter().take(MAX_LINES).map(|name| one_line(name, MAX_NAME)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "  training images per class:")?;
        for (class, (name, count)) in names.iter().zip(&self.counts).enumerate() {
            // A class never disappears from the picture, however small beside the largest.
            let bar = "#".repeat(1 + 39 * count / largest.max(1));
            writeln!(f, "  {class:>5}  {name:<width$}  {count:>7}  {bar}")?;
        }
        if classes > MAX_LINES {
            writeln!(f, "         ... and {} more classes (counts are in meta.json)", classes - MAX_LINES)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {}", one_line(note, MAX_NOTE)))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {}", one_line(warning, MAX_NOTE)))
    }
}
