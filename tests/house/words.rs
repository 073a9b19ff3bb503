//! Plain English: what a reader would have to decode is said in other words.

use crate::text::Parts;
use crate::{File, files, none};

/// What once stood here, and what says it better.
const BETTER: &[(&str, &str)] = &[
    ("originals a step", "samples per step"),
    ("seed of everything random", "random seed"),
    ("every so many epochs", "every N epochs"),
    ("show the presets and leave", "list the presets and exit"),
    ("the demo when nothing is said", "without options: the built-in demo"),
    ("as far as they take at most so many mib", "if they fit in this many MiB"),
    ("why one is not usable", "why a device cannot be used"),
    ("share of what the device was measured to reach", "as a share of the device's measured peak"),
    ("a sign of a relu that changes", "a ReLU input near zero changes sign"),
    ("only looks at the losses now and then", "reads the losses back only occasionally"),
    ("a command line that makes no sense", "an invalid command line"),
    ("several loads are started before the first is used", "loads are issued ahead of their use"),
    ("in an arena of somebody", "reuses `arena`; its owner must never run at the same time"),
    ("does it serve these shapes, and pay?", "whether it handles these shapes, and is faster there"),
    ("when they have not.", "fails if they differ in size"),
];

/// Words that more often than not can be said better.
const RECONSIDER: &[&str] = &["so many", "nobody", "somebody", "goes on", "in what arithmetic", "now and then"];

/// What there is one of per something.
const UNITS: &[&str] = &[
    "epoch",
    "step",
    "class",
    "thread",
    "device",
    "op",
    "channel",
    "row",
    "block",
    "second",
    "run",
    "warp",
    "sample",
    "pixel",
    "view",
    "store",
    "line",
    "file",
    "image",
    "layer",
    "filter",
    "part",
    "kernel",
    "head",
    "call",
    "lane",
    "chunk",
    "stage",
    "precision",
    "backend",
    "table",
    "batch",
    "group",
    "tensor",
    "buffer",
    "round",
    "CUDA",
];

/// Plurals and verbs in -s before "a" that are no measure.
const NO_MEASURE: &[&str] = &[
    "has",
    "was",
    "this",
    "its",
    "does",
    "takes",
    "gives",
    "makes",
    "needs",
    "names",
    "runs",
    "reads",
    "writes",
    "keeps",
    "holds",
    "adds",
    "gets",
    "says",
    "leaves",
    "computes",
    "launches",
    "loads",
    "finds",
    "returns",
    "asks",
    "starts",
    "waits",
    "opens",
    "copies",
    "covers",
    "compiles",
    "means",
    "frees",
    "records",
    "wants",
    "sees",
    "counts",
    "allocates",
    "uses",
    "changes",
    "stops",
    "shows",
    "calls",
    "tells",
    "fills",
    "becomes",
    "begins",
    "draws",
    "ends",
    "times",
    "builds",
    "resumes",
    "marks",
    "appends",
    "refuses",
    "plans",
    "identifies",
    "always",
    "across",
    "unless",
    "less",
    "as",
    "is",
];

/// Words before "a" that lead to no unit.
const NO_NOUN: &[&str] = &[
    "of", "in", "to", "for", "with", "at", "by", "on", "from", "than", "be", "such", "like", "into", "and", "or",
    "but", "that", "which", "if", "not", "only", "half", "whole", "over", "per", "way", "where", "when", "as", "is",
];

/// A file's prose in one line, small, one blank between words: pages and scripts whole, of code comments and strings.
fn prose(file: &File) -> Option<String> {
    if file.path.starts_with("tests/house/") {
        return None;
    }
    let text = match file.has_ending(&["rs", "cu", "cuh", "h"]) {
        true => {
            let parts = Parts::of(&file.text);
            parts.comments + &parts.quoted
        }
        false if file.has_ending(&["md", "sh", "py", "toml"]) => file.text.clone(),
        false => return None,
    };
    let words = text.split_whitespace().filter(|word| !["//", "///", "//!", "#", "|"].contains(word));
    Some(words.collect::<Vec<_>>().join(" ").to_lowercase())
}

/// A hit with the words around it.
fn around(prose: &str, at: usize, length: usize) -> String {
    let (before, after) = (&prose[..at], &prose[at + length..]);
    let start = before.rmatch_indices(' ').nth(3).map_or(0, |(at, _)| at + 1);
    let end = after.match_indices(' ').nth(3).map_or(after.len(), |(at, _)| at);
    format!("... {}{}{} ...", &before[start..], &prose[at..at + length], &after[..end])
}

#[test]
fn what_was_put_better_stays_so() {
    let mut wrong = Vec::new();
    for file in files("") {
        let Some(prose) = prose(&file) else { continue };
        for (phrase, better) in BETTER {
            for (at, _) in prose.match_indices(phrase) {
                wrong.push(format!("{}: {}; better: {better}", file.path, around(&prose, at, phrase.len())));
            }
        }
    }
    none(&wrong, "say it in plainer words");
}

/// `a line an epoch`, `3 samples a second`: the words before and behind the second article.
fn distributives(prose: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = 0;
    for word in prose.split(' ') {
        words.push((start, word));
        start += word.len() + 1;
    }
    let mut found = Vec::new();
    for at in 0..words.len().saturating_sub(3) {
        let [first, noun, article, unit] = [0, 1, 2, 3].map(|k| words[at + k].1);
        let unit = unit.trim_matches(|c: char| !c.is_alphanumeric());
        let number = ["a", "an", "one", "two", "three", "four", "each", "its", "every"].contains(&first)
            || first.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',');
        let plural = noun.ends_with('s') && noun.len() > 3 && !NO_MEASURE.contains(&noun);
        let articled = article == "a" || article == "an";
        let in_a_sentence = noun.chars().all(char::is_alphanumeric) && !NO_NOUN.contains(&noun);
        if articled && in_a_sentence && (number || plural) && UNITS.contains(&unit) {
            found.push((words[at].0, words[at + 3].0 + words[at + 3].1.len() - words[at].0));
        }
    }
    found
}

/// No failure: a list for who looks for what to put better.
#[test]
#[ignore = "a list to read: cargo test --release --test house -- --ignored --nocapture"]
fn words_to_reconsider() {
    for file in files("") {
        let Some(prose) = prose(&file) else { continue };
        let listed = RECONSIDER.iter().flat_map(|w| prose.match_indices(w).map(|(at, w)| (at, w.len())));
        for (at, length) in listed.chain(distributives(&prose)).collect::<std::collections::BTreeSet<_>>() {
            println!("{}: {}", file.path, around(&prose, at, length));
        }
    }
}

#[test]
fn distributives_are_told_from_other_articles() {
    let hits = |prose: &str| distributives(prose).len();
    assert_eq!(
        [hits("writes a line an epoch."), hits("997 photographs a second on it"), hits("one trait an op")],
        [1; 3]
    );
    assert_eq!([hits("a row of a table"), hits("the name of a file"), hits("a step takes a row")], [0; 3]);
}
