//! Reports: what runs have come to, as one HTML page, as tables and as event files for TensorBoard. Runs are read, never
//! changed; what a checkpoint makes of the test images is computed for the report and kept nowhere.

mod files;
mod page;
mod plot;
mod run;
mod seen;
mod series;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

pub use files::{check_folder, write_events, write_tables};
pub use run::{Run, folders, name};
pub use seen::Seen;

use run::Known;

use crate::error::{Error, Result};
use crate::files::write_atomically;

/// Pairs of classes that are shown where there are too many classes for a matrix.
const PAIRS: usize = 20;

/// Runs to be reported on.
pub struct Report {
    pub runs: Vec<Run>,
    /// When it was made.
    pub date: String,
}

impl Report {
    /// Writes the page.
    ///
    /// # Errors
    /// When the system refuses; an older file is then untouched.
    pub fn write_page(&self, at: &Path) -> Result<()> {
        let page = page::page(self);
        write_atomically(at, |file| file.write_all(page.as_bytes()).map_err(Error::io(at)))
    }

    /// The outcome as Markdown.
    pub fn markdown(&self) -> String {
        files::markdown(&self.runs)
    }
}

/// Classes from the most training images to the fewest; of equals the first.
fn classes_by_size(known: &Known) -> Vec<usize> {
    let mut order: Vec<usize> = (0..known.counts.len()).collect();
    order.sort_by_key(|&class| std::cmp::Reverse(known.counts[class]));
    order
}

/// The pairs of class and wrong guess that most images have, the most frequent first.
fn worst_pairs(confusion: &BTreeMap<(usize, usize), usize>) -> Vec<((usize, usize), usize)> {
    let mistakes = confusion.iter().filter(|((class, guess), _)| class != guess);
    let mut pairs: Vec<_> = mistakes.map(|(&pair, &count)| (pair, count)).collect();
    pairs.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    pairs.truncate(PAIRS);
    pairs
}
