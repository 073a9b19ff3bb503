//! Which image files make up a set, and their labels: from list files or from a folder per class.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::path::{Component, Path, PathBuf};

use super::meta::MAX_CLASSES;
use super::store::Subset;
use crate::error::{escaped, one_line, shown};
use crate::{Error, Result, files};

/// Longest list file: 10 million lines.
pub(super) const MAX_LIST: u64 = 2 << 30;
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

impl Listing {
    /// The deepest folder that holds all images.
    pub fn folder(&self) -> Option<PathBuf> {
        let mut folder = self.paths.first()?.parent()?;
        for path in &self.paths {
            while !path.starts_with(folder) {
                folder = folder.parent()?;
            }
        }
        Some(folder.to_path_buf())
    }
}

/// Reads a list of lines `relative/path label`; the path may contain spaces, empty lines are skipped.
///
/// # Errors
///
/// If the file is no text, is empty, or a line (named) has no label of 0 or more or a path that leads out of `root`.
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
        let (path, label) = line
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| odd(format!("\"{}\" has no label", one_line(line, 60))))?;
        let label: i64 = label.parse().map_err(|_| odd(format!("\"{}\" is not a label", one_line(label, 60))))?;
        if !(0..MAX_CLASSES as i64).contains(&label) {
            return Err(odd(format!("label {label} is not in 0..{MAX_CLASSES}")));
        }
        let path = Path::new(path.trim_end());
        let full = root.join(path);
        // Whether a path with `..` stays within depends on links, and no list needs one.
        if path.components().any(|part| part == Component::ParentDir) || !full.starts_with(root) {
            return Err(odd(format!("{} leads out of {}", shown(path), shown(root))));
        }
        listing.paths.push(full);
        listing.labels.push(label as i32);
    }
    match listing.paths.is_empty() {
        true => Err(Error::file(list, "lists no image; lines must read `relative/path label`")),
        false => Ok(listing),
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

/// Checks that a subset knows no class that the training set has not; returns a note on classes without an image in it.
///
/// # Errors
///
/// Names the first label that is out of range.
pub fn check_labels(list: &Path, subset: Subset, listing: &Listing, classes: usize) -> Result<Option<String>> {
    if let Some(i) = listing.labels.iter().position(|&label| label as usize >= classes) {
        let (path, label) = (shown(&listing.paths[i]), listing.labels[i]);
        return Err(Error::file(list, format!("{path} has label {label}, the training set has {classes} classes")));
    }
    let mut seen = vec![false; classes];
    listing.labels.iter().for_each(|&label| seen[label as usize] = true);
    let missing: Vec<String> = (0..classes).filter(|&c| !seen[c]).map(|c| c.to_string()).collect();
    Ok((!missing.is_empty()).then(|| format!("no {} image has {}", subset.name(), some_of("label", &missing))))
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
    let unique: BTreeSet<&String> = names.iter().collect();
    if distinct && unique.len() == classes { names } else { (0..classes).map(|c| format!("class {c}")).collect() }
}

/// Reads class names, one a line.
///
/// # Errors
///
/// If there are not `classes` lines.
pub fn read_names(path: &Path, classes: usize) -> Result<Vec<String>> {
    let text = files::read_text(path, MAX_LIST)?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect();
    match names.len() {
        n if n == classes => Ok(names),
        n => Err(Error::file(path, format!("names {n} classes, the training set has {classes}"))),
    }
}

/// What a class folder's images are called.
pub(super) const IMAGES: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// A folder that has a folder per class.
#[derive(Debug, Default)]
pub struct Folder {
    /// The image files of each class, by the class folder's name.
    pub classes: BTreeMap<OsString, Vec<PathBuf>>,
    /// What was passed over.
    pub skipped: Skipped,
}

/// Files that were passed over: by cause, how many and the first of them.
#[derive(Debug, Default)]
pub struct Skipped(BTreeMap<String, (usize, PathBuf)>);

impl Skipped {
    pub(super) fn add(&mut self, why: impl Into<String>, path: PathBuf) {
        self.0.entry(why.into()).or_insert((0, path)).0 += 1;
    }

    /// A note for the user, where there is anything to say.
    pub fn note(&self, folder: &Path) -> Option<String> {
        let total: usize = self.0.values().map(|(n, _)| n).sum();
        let causes: Vec<String> =
            self.0.iter().map(|(why, (n, first))| format!("{n} {why} (as {})", shown(first))).collect();
        (total > 0).then(|| format!("skipped in {}: {}", shown(folder), causes.join(", ")))
    }
}

/// Lists a folder that has a folder per class; classes are numbered by name, hidden and other files are skipped.
///
/// # Errors
///
/// If a folder cannot be read or holds no image file.
pub fn read_folder(root: &Path) -> Result<Folder> {
    let mut found = Folder::default();
    for entry in sorted_entries(root)? {
        let path = entry.path();
        if is_hidden(&entry) {
            found.skipped.add("hidden", path);
        } else if is_folder(&entry) {
            let files = read_class(&path, &mut found.skipped)?;
            found.classes.insert(entry.file_name(), files);
        } else {
            found.skipped.add("beside the class folders", path);
        }
    }
    match found.classes.is_empty() {
        true => Err(Error::file(root, "holds no folder; it must hold one folder of images per class")),
        false => Ok(found),
    }
}

fn read_class(folder: &Path, skipped: &mut Skipped) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut deeper = 0;
    for entry in sorted_entries(folder)? {
        let path = entry.path();
        if is_hidden(&entry) {
            skipped.add("hidden", path);
        } else if is_folder(&entry) {
            deeper += add_deeper(&path, skipped)?;
        } else if is_image(&path) {
            files.push(path);
        } else {
            skipped.add("of another kind than images", path);
        }
    }
    if files.is_empty() {
        let hint = if deeper > 0 { format!(" (the {deeper} in subfolders are not looked at)") } else { String::new() };
        let kinds = IMAGES.map(|end| format!(".{end}")).join(", ");
        return Err(Error::file(folder, format!("holds no image{hint}; each class needs files named {kinds}")));
    }
    Ok(files)
}

/// Counts the images below a class folder's subfolder, which are not taken.
fn add_deeper(folder: &Path, skipped: &mut Skipped) -> Result<usize> {
    let mut images = 0;
    for entry in sorted_entries(folder)? {
        let path = entry.path();
        // Links are not followed here: they may lead in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            images += add_deeper(&path, skipped)?;
        } else if is_image(&path) {
            images += 1;
            skipped.add("in subfolders of a class folder", path);
        }
    }
    Ok(images)
}

pub(super) fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Whether this is a folder, or a link to one.
pub(super) fn is_folder(entry: &DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => entry.path().is_dir(),
        Ok(kind) => kind.is_dir(),
        Err(_) => false,
    }
}

pub(super) fn is_image(path: &Path) -> bool {
    let end = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    end.is_some_and(|end| IMAGES.contains(&end.as_str()))
}

pub(super) fn sorted_entries(folder: &Path) -> Result<Vec<DirEntry>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut entries: Vec<DirEntry> = entries.collect::<Result<_, _>>().map_err(Error::io(folder))?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// The training and, where there is one, the test set of folders.
#[derive(Debug)]
pub struct Folders {
    /// Training images.
    pub train: Listing,
    /// Test images.
    pub test: Option<Listing>,
    /// The classes' names.
    pub names: Vec<String>,
    /// A line each about what the user may not expect.
    pub notes: Vec<String>,
}

/// Reads the folders of a set.
///
/// # Errors
///
/// Those of [`read_folder`]; a class of the test folder that the training folder has not; fewer than two classes.
pub fn read_folders(train: &Path, test: Option<&Path>) -> Result<Folders> {
    let train_folder = read_folder(train)?;
    let keys: Vec<OsString> = train_folder.classes.keys().cloned().collect();
    if keys.len() < 2 {
        return Err(Error::file(train, "has one class; a training set needs at least 2"));
    }
    let mut notes: Vec<String> = train_folder.skipped.note(train).into_iter().collect();
    let names = class_names(train, &keys, &mut notes)?;
    let listing = |classes: BTreeMap<OsString, Vec<PathBuf>>| {
        let mut listing = Listing::default();
        for (name, files) in classes {
            // Every class of a test folder was found among the keys, which are sorted as the map is.
            let label = keys.binary_search(&name).expect("a known class") as i32;
            listing.labels.extend(files.iter().map(|_| label));
            listing.paths.extend(files);
        }
        listing
    };
    let test = match test {
        None => None,
        Some(test) => {
            let folder = read_folder(test)?;
            let known = |name: &&OsString| keys.binary_search(name).is_err();
            let unknown: Vec<String> = folder.classes.keys().filter(known).map(shown).collect();
            if !unknown.is_empty() {
                let classes = some_of("class", &unknown).replace("classs", "classes");
                return Err(Error::file(test, format!("{classes} has no folder in {}", shown(train))));
            }
            notes.extend(folder.skipped.note(test));
            Some(listing(folder.classes))
        }
    };
    Ok(Folders { train: listing(train_folder.classes), test, names, notes })
}

/// The folders' names as text. Those that are not UTF-8 (of an archive from another system, say) are written with escapes, so that
/// no two of them become one.
fn class_names(root: &Path, keys: &[OsString], notes: &mut Vec<String>) -> Result<Vec<String>> {
    let names: Vec<String> = keys.iter().map(|key| key.to_str().map_or_else(|| escaped(key), String::from)).collect();
    let odd: Vec<&String> = keys.iter().zip(&names).filter(|(key, _)| key.to_str().is_none()).map(|(_, n)| n).collect();
    if let Some(first) = odd.first() {
        notes.push(format!("{} class folders have names that are not UTF-8, such as {first}", odd.len()));
    }
    let unique: BTreeSet<&String> = names.iter().collect();
    match unique.len() == names.len() {
        true => Ok(names),
        false => Err(Error::file(root, "two class folders have the same name once it is written as text; rename one")),
    }
}

/// Notes on files that are listed more than once.
pub fn repeated(list: &Path, listing: &Listing) -> Vec<String> {
    let mut first: HashMap<&Path, i32> = HashMap::with_capacity(listing.paths.len());
    let (mut twice, mut two_labels) = ((0, String::new()), (0, String::new()));
    for (path, &label) in listing.paths.iter().zip(&listing.labels) {
        match first.insert(path, label) {
            None => {}
            Some(before) => {
                let (count, example) = if before == label { &mut twice } else { &mut two_labels };
                *count += 1;
                if *count == 1 {
                    *example =
                        if before == label { shown(path) } else { format!("{} ({before} and {label})", shown(path)) };
                }
            }
        }
    }
    let mut notes = Vec::new();
    for ((count, example), what) in [(two_labels, "again with another label"), (twice, "twice")] {
        if count > 0 {
            notes.push(format!("{} lists {count} image(s) {what}, the first is {example}", shown(list)));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_list() {
        let folder = |paths: &[&str]| {
            let listing = Listing { paths: paths.iter().map(PathBuf::from).collect(), labels: vec![0; paths.len()] };
            listing.folder()
        };
        assert_eq!(folder(&["/data/set/a/1", "/data/set/b/2"]), Some("/data/set".into()));
        assert_eq!(folder(&["/data/set/a/1", "/data/set/a/2"]), Some("/data/set/a".into()));
        assert_eq!(folder(&["/data/set/a/1", "/data/settle/a/2"]), Some("/data".into()));
        assert_eq!(folder(&["a/1", "1"]), Some("".into()));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn what_is_listed_more_than_once() {
        let paths = ["a", "b", "a", "c", "b", "b"].map(PathBuf::from).to_vec();
        let listing = Listing { paths, labels: vec![0, 1, 0, 2, 3, 3] };
        let notes = repeated(Path::new("l.txt"), &listing);
        assert_eq!(notes[0], "l.txt lists 1 image(s) again with another label, the first is b (1 and 3)");
        assert_eq!(notes[1], "l.txt lists 2 image(s) twice, the first is a");
    }
}
