//! A store from image files: headers checked, decoded and resized in parallel, written as they come, never all in memory.

mod budget;
mod work;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use self::budget::Budget;
use self::work::{Hash, Work};
use super::decode::{Exif, Options};
use super::listing::{self, Listing, MAX_NAMES};
use super::longtail::{LongTail, hold_out};
use super::meta::{FORMAT, Meta};
use super::store::{MAX_SIDE, Subset};
use super::summary::Summary;
use super::sums::Sums;
use super::writer::StoreWriter;
use crate::error::shown;
use crate::{Error, Result};

/// ImageNet's mean and standard deviation, as torchvision's models have them.
pub const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Where the file names and labels come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// List files, with paths relative to `root`.
    Lists {
        /// Training list.
        train: PathBuf,
        /// Test list; where there is none, a share of the training images is held out.
        test: Option<PathBuf>,
        /// What the paths are relative to.
        root: PathBuf,
        /// A file of class names, one a line.
        names: Option<PathBuf>,
    },
    /// Folders that hold a folder per class.
    Folders {
        /// Training folder.
        train: PathBuf,
        /// Test folder; where there is none, a share of the training images is held out.
        test: Option<PathBuf>,
    },
}

impl Source {
    fn train(&self) -> &Path {
        match self {
            Source::Lists { train, .. } | Source::Folders { train, .. } => train,
        }
    }

    fn test(&self) -> Option<&Path> {
        match self {
            Source::Lists { test, .. } | Source::Folders { test, .. } => test.as_deref(),
        }
    }

    /// The folders that hold the images, as far as they are known before the lists are read.
    fn folders(&self) -> Vec<&Path> {
        match self {
            Source::Lists { .. } => Vec::new(),
            Source::Folders { train, test } => {
                [Some(train), test.as_ref()].into_iter().flatten().map(|p| &**p).collect()
            }
        }
    }
}

/// Where mean and standard deviation come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Normalise {
    /// Measured on the training pixels.
    Measured,
    /// ImageNet's published ones.
    Imagenet,
}

/// How [`prepare`] makes a store.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// The files.
    pub source: Source,
    /// Side of the stored images.
    pub size: usize,
    /// Share of each class's images that is held out for testing, where the source has no test set.
    pub test_fraction: Option<f64>,
    /// Share of each class's images that is held out for validation.
    pub val_fraction: Option<f64>,
    /// Seed of what is held out.
    pub seed: u64,
    /// A long-tailed subset of the training images that are left; all of them where absent.
    pub long_tail: Option<LongTail>,
    /// Mean and standard deviation.
    pub normalise: Normalise,
    /// Whether images are turned upright.
    pub exif: Exif,
    /// Leave out what cannot be decoded instead of refusing the set.
    pub skip_broken: bool,
    /// Most pixels of an image file.
    pub max_pixels: u64,
    /// Bytes of memory for all images that are being decoded; by default, half of what is free.
    pub decode_memory: Option<u64>,
    /// Replace an existing store.
    pub force: bool,
}

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading the headers of all files.
    Check,
    /// Decoding the images of a subset.
    Decode(Subset),
}

/// Hears how far the work is: step, images done, images in all. Called from any thread.
pub type Progress<'a> = &'a (dyn Fn(Step, usize, usize) + Sync);

/// Files and what is wrong with them.
pub(super) type Broken = Vec<(PathBuf, String)>;

/// Decodes all images and writes the store at `out`, on the current rayon pool.
///
/// # Errors
///
/// If a list is odd, if a label is missing, if files cannot be decoded (all of them are named, up to a limit; with `skip_broken`:
/// if nothing of a class is left), or if the store cannot be written. Nothing is left behind then.
pub fn prepare(out: &Path, config: &ImagesConfig, progress: Progress) -> Result<Summary> {
    if !(1..=MAX_SIDE).contains(&config.size) {
        return Err(Error::Config(format!("size {}: must be 1 to {MAX_SIDE}", config.size)));
    }
    match (config.source.test(), config.test_fraction) {
        (Some(_), Some(_)) => return Err(Error::Usage("give a test set or --test-fraction, not both".into())),
        (None, None) => return Err(Error::Usage("give a test set or --test-fraction".into())),
        _ => {}
    }
    for (flag, share) in [("test-fraction", config.test_fraction), ("val-fraction", config.val_fraction)] {
        if share.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
            let share = share.unwrap_or_default();
            return Err(Error::Config(format!("{flag} {share}: must be between 0 and 1")));
        }
    }
    let mut writer = StoreWriter::create(out, config.force, &config.source.folders())?;
    let Listed { train, test, names, mut notes } = list(&config.source)?;
    if let Source::Lists { .. } = config.source {
        // Of lists, what holds their images counts: their root may be that of the whole file system.
        let folders: Vec<PathBuf> =
            [Some(&train), test.as_ref()].into_iter().flatten().filter_map(Listing::folder).collect();
        writer.stay_out_of(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    }
    let (mut works, held_out) = divide(config, train, test, names.len())?;
    notes.extend(held_out);
    let mut short = Vec::new();
    if let Some(rule) = &config.long_tail {
        short = works[0].choose(rule, names.len())?;
    }
    let images: usize = works.iter().map(|work| work.paths.len()).sum();

    let budget = Budget::new(config.decode_memory.unwrap_or_else(budget::default_bytes));
    let options = Options { exif: config.exif, max_pixels: config.max_pixels, max_memory: budget.total() };
    let mut broken = work::check(&mut works, &options, progress)?;
    if !broken.is_empty() && !config.skip_broken {
        return Err(undecodable(&config.source, &broken, images));
    }
    let (mut sums, mut hashes) = (Sums::default(), Vec::new());
    for work in &mut works {
        let how = work::How { size: config.size, options, budget: &budget, skip_broken: config.skip_broken };
        let (subset_sums, subset_hashes) = work.write(&mut writer, &how, &mut broken, progress)?;
        if work.subset == Subset::Train {
            sums = subset_sums;
        }
        hashes.push(subset_hashes);
    }
    if !broken.is_empty() && !config.skip_broken {
        return Err(undecodable(&config.source, &broken, images));
    }
    let train = &works[0];
    let mut counts = vec![0; names.len()];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    if let Some(class) = counts.iter().position(|&n| n == 0) {
        let what = format!("no training image of class {class} ({}) is left that can be decoded", names[class]);
        return Err(Error::file(config.source.train(), what));
    }
    let (mean, std) = match config.normalise {
        Normalise::Measured => sums.mean_std((train.paths.len() * config.size * config.size) as u64),
        Normalise::Imagenet => IMAGENET,
    };
    let meta = Meta {
        format: FORMAT,
        source: describe(config),
        class_names: names,
        counts,
        mean,
        std,
        split: config.long_tail,
        seed: None,
        coarse: None,
        arrays: Default::default(),
    };
    let count = |subset| works.iter().find(|work| work.subset == subset).map_or(0, |work| work.labels.len());
    let mut summary = Summary::new(out, &meta, count(Subset::Test), short);
    summary.val = count(Subset::Val);
    summary.notes.append(&mut notes);
    if !broken.is_empty() {
        summary.notes.push(format!("{} of {images} images cannot be decoded and were left out", broken.len()));
    }
    summary.warnings = shared(&works, &hashes);
    summary.broken = broken;
    writer.finish(meta)?;
    Ok(summary)
}

/// What a source holds.
struct Listed {
    train: Listing,
    test: Option<Listing>,
    /// Of the classes.
    names: Vec<String>,
    /// For the user.
    notes: Vec<String>,
}

fn list(source: &Source) -> Result<Listed> {
    match source {
        Source::Lists { train, test, root, names } => {
            let train_files = listing::read_list(train, root)?;
            let classes = listing::count_classes(train, &train_files)?;
            let mut notes = listing::repeated(train, &train_files);
            let mut test_files = None;
            if let Some(test) = test {
                let files = listing::read_list(test, root)?;
                notes.extend(listing::check_test(test, &files, classes)?);
                notes.extend(listing::repeated(test, &files));
                test_files = Some(files);
            }
            let names = match names {
                Some(path) => listing::read_names(path, classes)?,
                None => listing::names_from_folders(&train_files, classes),
            };
            Ok(Listed { train: train_files, test: test_files, names, notes })
        }
        Source::Folders { train, test } => {
            let folders = listing::read_folders(train, test.as_deref())?;
            let mut notes = folders.notes;
            if let (Some(path), Some(files)) = (test, &folders.test) {
                notes.extend(listing::check_test(path, files, folders.names.len())?);
            }
            Ok(Listed { train: folders.train, test: folders.test, names: folders.names, notes })
        }
    }
}

/// Training images first, then validation images where there are any, then test images; and a note on classes that are too small
/// to be held out of.
fn divide(
    config: &ImagesConfig,
    train: Listing,
    test: Option<Listing>,
    classes: usize,
) -> Result<(Vec<Work>, Option<String>)> {
    let wanted = [(Subset::Test, config.test_fraction), (Subset::Val, config.val_fraction)];
    let shares = wanted.map(|(subset, share)| (subset, share.unwrap_or(0.0)));
    let subsets = hold_out(&train.labels, classes, shares, config.seed)?;
    let part = |subset: Subset| {
        let mut part = Listing::default();
        for i in (0..subsets.len()).filter(|&i| subsets[i] == subset) {
            part.paths.push(train.paths[i].clone());
            part.labels.push(train.labels[i]);
        }
        part
    };
    let mut works = vec![Work::new(Subset::Train, part(Subset::Train))];
    let mut notes = Vec::new();
    for (subset, share) in [(Subset::Val, config.val_fraction), (Subset::Test, config.test_fraction)] {
        if share.is_some() {
            let part = part(subset);
            if part.paths.is_empty() {
                let what = format!("every class has too few images to hold {} images out", subset.name());
                return Err(Error::file(config.source.train(), what));
            }
            let mut seen = vec![false; classes];
            part.labels.iter().for_each(|&label| seen[label as usize] = true);
            let without = seen.iter().filter(|&&seen| !seen).count();
            if without > 0 {
                notes.push(format!("{without} class(es) are too small to give {} images", subset.name()));
            }
            works.push(Work::new(subset, part));
        }
    }
    works.extend(test.map(|test| Work::new(Subset::Test, test)));
    Ok((works, (!notes.is_empty()).then(|| notes.join("; "))))
}

/// The store's `source`.
fn describe(config: &ImagesConfig) -> String {
    let name = |path: &Path| path.file_name().map(shown).unwrap_or_default();
    let mut text = format!("images of {}", name(config.source.train()));
    if let Some(test) = config.source.test() {
        text.push_str(&format!(" and {}", name(test)));
    }
    for (subset, share) in [("test", config.test_fraction), ("val", config.val_fraction)] {
        if let Some(share) = share {
            text.push_str(&format!(", {subset} fraction {share} by seed {}", config.seed));
        }
    }
    text
}

/// Warnings about images that are in the training set and in another subset as well.
fn shared(works: &[Work], hashes: &[Vec<Hash>]) -> Vec<String> {
    let train: HashSet<&Hash> = hashes[0].iter().collect();
    let mut warnings = Vec::new();
    for (work, hashes) in works.iter().zip(hashes).skip(1) {
        let mut both = hashes.iter().zip(&work.paths).filter(|(hash, _)| train.contains(hash)).map(|(_, path)| path);
        if let Some(first) = both.next() {
            let (n, all, subset) = (1 + both.count(), work.paths.len(), work.subset.name());
            let what = format!("{n} of {all} {subset} images are training images too, the same file or a copy of it");
            warnings.push(format!("{what}; the first is {}", shown(first)));
        }
    }
    warnings
}

/// One line about all files that could not be decoded.
fn undecodable(source: &Source, broken: &Broken, total: usize) -> Error {
    let place = match source {
        Source::Lists { root, .. } => root,
        Source::Folders { train, .. } => train,
    };
    let mut what = format!("{} of {total} images cannot be decoded: ", broken.len());
    let names: Vec<String> =
        broken.iter().take(MAX_NAMES).map(|(path, why)| format!("{} ({why})", shown(path))).collect();
    what.push_str(&names.join(", "));
    if broken.len() > MAX_NAMES {
        what.push_str(&format!(", and {} more", broken.len() - MAX_NAMES));
    }
    what.push_str("; --skip-broken leaves them out");
    Error::file(place, what)
}
