//! Which image files make up a set, and their labels: from list files or from a folder a class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::meta::MAX_CLASSES;
use crate::{Error, Result, files};

/// Longest list file: 10 million lines.
const MAX_LIST: u64 = 2 << 30;
/// Most names that an error spells out.
pub(super) const MAX_NAMES: usize = 20;

/// Image files and their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Paths, as they are opened.
    pub paths: Vec<PathBuf>,
    /// A label per path.
    pub labels: Vec<i32>,
}

/// Reads a list of lines `relative/path label`; the path may contain spaces, empty lines are skipped.
///
/// # Errors
///
/// If the file is no text, is empty, or a line has no label of 0 or more (named).
pub fn read_list(list: &Path, root: &Path) -> Result<Listing> {
    let bytes = files::read(list, MAX_LIST)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::file(list, format!("line {line}: is not UTF-8 text; lines must read `relative/path label`"))
    })?;
    let mut listing = Listing::default();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let odd =
            |what: String| Error::file(list, format!("line {}: {what}; lines must read `relative/path label`", i + 1));
        let (path, label) =
            line.rsplit_once(char::is_whitespace).ok_or_else(|| odd(format!("{:?} has no label", short(line))))?;
        let label: i64 = label.parse().map_err(|_| odd(format!("{:?} is not a label", short(label))))?;
        if !(0..MAX_CLASSES as i64).contains(&label) {
            return Err(odd(format!("label {label} is not in 0..{MAX_CLASSES}")));
        }
        listing.paths.push(root.join(path.trim_end()));
        listing.labels.push(label as i32);
    }
    match listing.paths.is_empty() {
        true => Err(Error::file(list, "lists no image; lines must read `relative/path label`")),
        false => Ok(listing),
    }
}

/// Text from a file, short enough for a message.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// The number of classes of the training labels, all of which must occur.
///
/// # Errors
///
/// Names the classes between 0 and the largest label that have no image.
pub fn count_classes(list: &Path, train: &Listing) -> Result<usize> {
    let classes = train.labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut seen = vec![false; classes];
    train.labels.iter().for_each(|&label| seen[label as usize] = true);
    let missing: Vec<String> = (0..classes).filter(|&c| !seen[c]).map(|c| c.to_string()).collect();
    if !missing.is_empty() {
        let what = format!("labels run to {}, but no image has {}", classes - 1, some_of("label", &missing));
        return Err(Error::file(list, format!("{what}; labels must be 0, 1, 2 ... without gaps")));
    }
    if classes < 2 {
        return Err(Error::file(list, "has one class; a training set needs at least 2"));
    }
    Ok(classes)
}

/// Checks that the test set knows no class that the training set has not; returns a note on classes without test image.
///
/// # Errors
///
/// Names the first label that is out of range.
pub fn check_test(list: &Path, test: &Listing, classes: usize) -> Result<Option<String>> {
    if let Some(i) = test.labels.iter().position(|&label| label as usize >= classes) {
        let what =
            format!("{} has label {}, the training set has {classes} classes", test.paths[i].display(), test.labels[i]);
        return Err(Error::file(list, what));
    }
    let mut seen = vec![false; classes];
    test.labels.iter().for_each(|&label| seen[label as usize] = true);
    let missing: Vec<String> = (0..classes).filter(|&c| !seen[c]).map(|c| c.to_string()).collect();
    Ok((!missing.is_empty()).then(|| format!("no test image has {}", some_of("label", &missing))))
}

/// `label 3`, `labels 3, 5`, or `labels 3, 5, ... (40 in all)`.
pub(super) fn some_of(noun: &str, names: &[String]) -> String {
    match names {
        [one] => format!("{noun} {one}"),
        _ if names.len() <= MAX_NAMES => format!("{noun}s {}", names.join(", ")),
        _ => format!("{noun}s {}, ... ({} in all)", names[..MAX_NAMES].join(", "), names.len()),
    }
}

/// Names for the classes of a list: the folder that all images of a class lie in where each class has its own, else `class 0`...
pub fn names_from_folders(train: &Listing, classes: usize) -> Vec<String> {
    let mut names: Vec<Option<String>> = vec![None; classes];
    let mut distinct = true;
    for (path, &label) in train.paths.iter().zip(&train.labels) {
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        match (&names[label as usize], folder) {
            (None, Some(folder)) => names[label as usize] = Some(folder),
            (Some(name), Some(folder)) if *name == folder => {}
            _ => distinct = false,
        }
    }
    let names: Vec<String> = names.into_iter().flatten().collect();
    let unique: std::collections::BTreeSet<&String> = names.iter().collect();
    if distinct && unique.len() == classes { names } else { (0..classes).map(|c| format!("class {c}")).collect() }
}

/// Reads class names, one a line.
///
/// # Errors
///
/// If there are not `classes` lines.
pub fn read_names(path: &Path, classes: usize) -> Result<Vec<String>> {
    let text = String::from_utf8(files::read(path, MAX_LIST)?).map_err(|_| Error::file(path, "is not UTF-8 text"))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect();
    match names.len() {
        n if n == classes => Ok(names),
        n => Err(Error::file(path, format!("names {n} classes, the training set has {classes}"))),
    }
}

/// Lists a folder that has a folder a class; classes are numbered by name, hidden and other files are skipped.
///
/// # Errors
///
/// If a folder cannot be read or holds no JPEG or PNG file.
pub fn read_folder(root: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut classes = BTreeMap::new();
    for (name, path) in sorted_entries(root)? {
        if path.is_dir() {
            let is_image = |name: &str| {
                let end = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
                matches!(end.as_deref(), Some("jpg" | "jpeg" | "png"))
            };
            let files: Vec<PathBuf> =
                sorted_entries(&path)?.into_iter().filter(|(name, _)| is_image(name)).map(|(_, path)| path).collect();
            if files.is_empty() {
                return Err(Error::file(path, "holds no .jpg, .jpeg or .png file; each class needs images"));
            }
            classes.insert(name, files);
        }
    }
    match classes.is_empty() {
        true => Err(Error::file(root, "holds no folder; it must hold one folder of images per class")),
        false => Ok(classes),
    }
}

fn sorted_entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

/// The training and the test set of two folders, and the class names.
///
/// # Errors
///
/// Those of [`read_folder`]; a class of the test folder that the training folder has not; fewer than two classes.
pub fn read_folders(train: &Path, test: &Path) -> Result<(Listing, Listing, Vec<String>)> {
    let train_classes = read_folder(train)?;
    let names: Vec<String> = train_classes.keys().cloned().collect();
    if names.len() < 2 {
        return Err(Error::file(train, "has one class; a training set needs at least 2"));
    }
    let test_classes = read_folder(test)?;
    let unknown: Vec<String> = test_classes.keys().filter(|name| !train_classes.contains_key(*name)).cloned().collect();
    if !unknown.is_empty() {
        let what =
            format!("{} has no folder in {}", some_of("class", &unknown).replace("classs", "classes"), train.display());
        return Err(Error::file(test, what));
    }
    let listing = |classes: BTreeMap<String, Vec<PathBuf>>| {
        let mut listing = Listing::default();
        for (name, files) in classes {
            // Every test class was just found among the names, which are sorted.
            let label = names.binary_search(&name).expect("a known class") as i32;
            listing.labels.extend(files.iter().map(|_| label));
            listing.paths.extend(files);
        }
        listing
    };
    Ok((listing(train_classes), listing(test_classes), names))
}
