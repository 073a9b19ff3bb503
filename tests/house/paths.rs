//! What a comment, a page or a script names is there.

use std::collections::BTreeSet;

use crate::text::{Parts, line};
use crate::{File, files, none, paths};

/// Folders at the root: whatever begins with one is a path from there.
const FOLDERS: [&str; 6] = ["src/", "kernels/", "tests/", "tools/", "benches/", ".ci/"];

/// Endings that make a word a path from anywhere: some file's path must end in it.
const ENDINGS: [&str; 6] = [".rs", ".cu", ".cuh", ".sh", ".py", ".md"];

/// The example in CONTRIBUTING.md, and files of others.
const NOT_OURS: &[&str] = &["swish", "imbalance_cifar.py", "Imbanlance.py"];

/// Whether a part of a path stands for any name, as in `src/ops/OP.rs`: it is written in capitals, as only pages are.
fn is_placeholder(path: &str) -> bool {
    let capitals = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    path.split('/').any(|part| capitals(part.split('.').next().unwrap_or(part)) && !part.ends_with(".md"))
}

/// Whether `name` fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|&at| tail.is_char_boundary(at)).any(|at| fits(rest, &tail[at..]))
        }),
    }
}

/// `a{b,c}d` as `abd` and `acd`.
fn expanded(path: &str) -> Vec<String> {
    let group = path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)));
    let Some((start, (choices, end))) = group else { return vec![path.to_owned()] };
    choices.split(',').flat_map(|choice| expanded(&format!("{start}{choice}{end}"))).collect()
}

/// The words of a text that may be paths, each with the byte where it starts.
fn candidates(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (None, 0);
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        let part = c.is_ascii_alphanumeric() || "_./*-{}".contains(c) || (c == ',' && depth == 1);
        match start {
            None if part => start = Some(at),
            Some(from) if !part => {
                let word = text[from..at].trim_end_matches(['.', ',', '-']);
                found.extend((!word.is_empty()).then_some((from, word)));
                (start, depth) = (None, 0);
            }
            _ => {}
        }
    }
    found
}

/// What of a file is read: pages and scripts whole, of code the comments.
fn prose(file: &File) -> Option<String> {
    if file.path.starts_with("tests/house/") {
        return None;
    }
    match file.has_ending(&["rs", "cu", "cuh", "h"]) {
        true => Some(Parts::of(&file.text).comments),
        false if file.has_ending(&["md", "sh", "py", "toml"]) || file.path == ".ci/run" => Some(file.text.clone()),
        false => None,
    }
}

/// All files and folders.
fn places() -> BTreeSet<String> {
    let files = paths();
    let above = |path: &String| -> Vec<String> {
        path.match_indices('/').map(|(at, _)| path[..at].to_owned()).chain([path.clone()]).collect()
    };
    files.iter().flat_map(above).collect()
}

#[test]
fn every_path_that_is_named_exists() {
    let places = places();
    let mut wrong = Vec::new();
    for file in files("") {
        let Some(text) = prose(&file) else { continue };
        for (at, word) in candidates(&text) {
            let word = word.trim_start_matches("./").trim_start_matches("../");
            let rooted = FOLDERS.iter().any(|folder| word.starts_with(folder) && word.len() > folder.len());
            let ending = ENDINGS.iter().any(|ending| word.ends_with(ending) && word.len() > ending.len());
            let ours = !is_placeholder(word) && !NOT_OURS.iter().any(|name| word.contains(name));
            if !(rooted || ending) || !ours {
                continue;
            }
            for path in expanded(word.trim_end_matches('/')) {
                let anywhere = format!("*/{path}");
                let here = |place: &String| fits(&path, place) || (!rooted && fits(&anywhere, place));
                if !places.iter().any(here) {
                    wrong.push(format!("{}:{}: there is no {path}", file.path, line(&text, at)));
                }
            }
        }
    }
    none(&wrong, "name what there is (or say in NOT_OURS, tests/house/paths.rs, whose file it is)");
}

/// Commands that name a test program or a bench.
#[test]
fn every_program_that_a_command_names_exists() {
    let places = places();
    let mut wrong = Vec::new();
    for file in files("") {
        let Some(text) = prose(&file) else { continue };
        for (flag, folder) in [("--test ", "tests"), ("--bench ", "benches")] {
            for (at, _) in text.match_indices(flag) {
                let name: String =
                    text[at + flag.len()..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let there = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/main.rs")];
                if !name.is_empty() && !is_placeholder(&name) && !there.iter().any(|path| places.contains(path)) {
                    wrong.push(format!("{}:{}: there is no {}", file.path, line(&text, at), there.join(" or ")));
                }
            }
        }
    }
    none(&wrong, "name a program that there is");
}

#[test]
fn globs_and_braces_are_understood() {
    assert!(fits("step_*.safe*", "step_w2.safetensors") && !fits("step_*.md", "step_w2.safetensors"));
    assert_eq!(expanded("a/{b,c}.rs"), ["a/b.rs", "a/c.rs"]);
    let found: Vec<&str> =
        candidates("see `src/{a,b}.rs`, c.rs, and (d/e.md).").into_iter().map(|(_, word)| word).collect();
    assert_eq!(found, ["see", "src/{a,b}.rs", "c.rs", "and", "d/e.md"]);
}
