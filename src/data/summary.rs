//! What `prepare` says at its end.

use std::path::{Path, PathBuf};

use super::meta::Meta;
use super::shots::{Shot, Shots};
use crate::console::{self, Column, Stream, Table, say, tell};
use crate::error::{one_line, shown};

/// A store that was just written, or opened.
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
/// Least and most columns of the largest class's bar.
const SHORTEST_BAR: usize = 10;
const LONGEST_BAR: usize = 80;

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

impl Summary {
    /// Prints it, as a result.
    pub fn print(&self) {
        let total: usize = self.counts.iter().sum();
        let largest = self.counts.iter().copied().max().unwrap_or(0);
        let smallest = self.counts.iter().copied().min().unwrap_or(0);
        let ratio = largest as f64 / smallest.max(1) as f64;
        let classes = self.counts.len();
        tell!("{}: {} ({classes} classes)", shown(&self.path), one_line(&self.source, 300));
        let val = if self.val > 0 { format!(", {} validation images", self.val) } else { String::new() };
        tell!("  {total} training images{val}, {} test images", self.test);
        tell!("  largest class {largest}, smallest {smallest}, imbalance {ratio:.1}");
        // The rule of most papers; `train --shots` has others.
        let rule = Shots::Oltr.rule(self.counts.len());
        let groups = rule.groups(&self.counts);
        let sizes = Shot::ALL.map(|shot| {
            let n = groups.iter().filter(|group| **group == shot).count();
            format!("{} {n} ({})", shot.name(), rule.range(shot))
        });
        tell!("  classes by shots: {}", sizes.join(", "));
        self.print_counts(largest);
        self.notes.iter().for_each(|note| tell!("  note: {}", one_line(note, MAX_NOTE)));
        for warning in &self.warnings {
            tell!("  warning: {}", one_line(warning, MAX_NOTE));
        }
    }

    /// A bar for each class, as long as there is room for.
    fn print_counts(&self, largest: usize) {
        let names: Vec<String> = self.class_names.iter().take(MAX_LINES).map(|name| one_line(name, MAX_NAME)).collect();
        let longest = names.iter().map(|name| console::columns(name)).max().unwrap_or(0);
        let numbered = "  12345    1234567  ".len();
        let room = console::width(Stream::Out).saturating_sub(numbered + longest).clamp(SHORTEST_BAR, LONGEST_BAR);
        say!("  training images per class:");
        let mut table =
            Table::new([Column::number("", 0), Column::text("", 0), Column::number("", 0), Column::text("", 1)]);
        for (class, (name, count)) in names.into_iter().zip(&self.counts).enumerate() {
            // A class never disappears from the picture, however small beside the largest.
            let bar = "#".repeat(1 + (room - 1) * count / largest.max(1));
            table.row([format!("  {class:>5}"), name, format!("{count:>7}"), bar]);
        }
        table.print();
        if self.counts.len() > MAX_LINES {
            tell!("         ... and {} more classes (counts are in meta.json)", self.counts.len() - MAX_LINES);
        }
    }
}
