//! A store from image files: headers checked, decoded and resized in parallel, written as they come, never all in memory.
//!
//! What is held for each image is its path, label, size and a checksum, some 200 bytes; of pixels, two chunks. An interruption, of
//! whatever kind, leaves what is done and a journal of it in the working folder. The next process that is asked for the same store (the
//! same settings, lists, files by length and date, and program) reads those pixels again, which is much faster than decoding, and goes
//! on behind them. Since images are appended in the order of their list whatever the threads, the store has the same bytes then.

mod journal;
mod work;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use self::journal::Journal;
use self::work::{Hash, How, Work};
use super::decode::Exif;
use super::listing::{self, Listing, MAX_NAMES};
use super::loader::{Loader, Prepared};
use super::longtail::{LongTail, hold_out};
use super::meta::{FORMAT, Meta};
use super::published::Published;
use super::resize::Resize;
use super::store::Subset;
use super::summary::Summary;
use super::sums::Sums;
use super::writer::StoreWriter;
use crate::error::shown;
use crate::version::VERSION;
use crate::{Error, Result, files, stop};

/// ImageNet's mean and standard deviation, as torchvision's models have them.
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// iNaturalist 2018's, as the published code has them.
const INAT2018: ([f64; 3], [f64; 3]) = ([0.466, 0.471, 0.380], [0.195, 0.194, 0.192]);

/// Where the file names and labels come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// List files, with paths relative to `root`.
    Lists {
        /// Training list.
        train: PathBuf,
        /// Validation list.
        val: Option<PathBuf>,
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

    fn val(&self) -> Option<&Path> {
        match self {
            Source::Lists { val, .. } => val.as_deref(),
            Source::Folders { .. } => None,
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
    /// Those that published code has for iNaturalist 2018.
    Inat2018,
}

/// How [`prepare`] makes a store.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// The files.
    pub source: Source,
    /// What the lists must be, where they are published ones.
    pub published: Option<&'static Published>,
    /// Size of the stored images.
    pub resize: Resize,
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
    /// An interrupted process did images already; goes on with them.
    Resume,
    /// Reading those again.
    Recall,
    /// The images that are not what was written and are decoded again.
    Lost,
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
/// if nothing of a class is left), if the disk has too little room, or if the store cannot be written. Nothing is left behind then. A
/// signal leaves what is done in the working folder.
pub fn prepare(out: &Path, config: &ImagesConfig, progress: Progress) -> Result<Summary> {
    check_config(config)?;
    let mut writer = StoreWriter::take(out, config.force, &config.source.folders())?;
    let mut interrupted = None;
    match make(out, config, &mut writer, &mut interrupted, progress) {
        Ok((meta, summary)) => {
            writer.finish(meta)?;
            Ok(summary)
        }
        Err(Error::Interrupted(_)) if interrupted.is_some() => {
            writer.leave();
            Err(Error::Interrupted(interrupted.unwrap_or_default()))
        }
        Err(error) => Err(error),
    }
}

fn check_config(config: &ImagesConfig) -> Result<()> {
    config.resize.check_side().map_err(Error::Config)?;
    match (config.source.test(), config.test_fraction) {
        (Some(_), Some(_)) => return Err(Error::Usage("give a test set or --test-fraction, not both".into())),
        (None, None) => return Err(Error::Usage("give a test set or --test-fraction".into())),
        _ => {}
    }
    if config.source.val().is_some() && config.val_fraction.is_some() {
        return Err(Error::Usage("give a validation list or --val-fraction, not both".into()));
    }
    for (flag, share) in [("test-fraction", config.test_fraction), ("val-fraction", config.val_fraction)] {
        if share.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
            let share = share.unwrap_or_default();
            return Err(Error::Config(format!("{flag} {share}: must be between 0 and 1")));
        }
    }
    Ok(())
}

/// Writes all arrays; `interrupted` is what to say once there is something to go on with.
fn make(
    out: &Path,
    config: &ImagesConfig,
    writer: &mut StoreWriter,
    interrupted: &mut Option<String>,
    progress: Progress,
) -> Result<(Meta, Summary)> {
    let Listed { train, val, test, names, mut notes } = list(config)?;
    if let Source::Lists { .. } = config.source {
        // Of lists, what holds their images counts: their root may be that of the whole file system.
        let folders: Vec<PathBuf> =
            [Some(&train), val.as_ref(), test.as_ref()].into_iter().flatten().filter_map(Listing::folder).collect();
        writer.stay_out_of(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    }
    let (mut works, held_out) = divide(config, train, val, test, names.len())?;
    notes.extend(held_out);
    let mut short = Vec::new();
    if let Some(rule) = &config.long_tail {
        short = works[0].choose(rule, names.len())?;
    }
    let images: usize = works.iter().map(|work| work.paths.len()).sum();

    let prepared = Prepared { resize: config.resize, exif: config.exif };
    let loader = Loader::new(prepared, config.max_pixels, config.decode_memory);
    let skip_broken = config.skip_broken;
    let mut how = How { loader: &loader, skip_broken, total: images, done: AtomicUsize::new(0) };
    let mut broken = work::check(&mut works, &how, progress)?;
    if !broken.is_empty() && !config.skip_broken {
        return Err(undecodable(&config.source, &broken, images));
    }
    how.total -= broken.len();

    let mut journal = begin(out, writer, &works, &how, progress)?;
    let (mut sums, mut hashes) = (Sums::default(), Vec::new());
    for work in &mut works {
        let outcome = work.write(writer, &mut journal, &how, &mut broken, progress);
        if journal.done() > 0 {
            let (done, kept) = (journal.done(), writer.journal());
            let kept = kept.parent().map(shown).unwrap_or_default();
            let what = format!("stopped with {done} of {} images done, kept in {kept}", how.total);
            *interrupted = Some(format!("{what}; the same command continues from there"));
        }
        let outcome = outcome?;
        if work.subset == Subset::Train {
            sums = outcome.sums;
        }
        hashes.push(outcome.hashes);
    }
    if !broken.is_empty() && !config.skip_broken {
        return Err(undecodable(&config.source, &broken, images));
    }
    stop::check()?;
    let train = &works[0];
    let mut counts = vec![0; names.len()];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    if let Some(class) = counts.iter().position(|&n| n == 0) {
        let what = format!("no training image of class {class} ({}) is left that can be decoded", names[class]);
        return Err(Error::file(config.source.train(), what));
    }
    let (mean, std) = match config.normalise {
        Normalise::Measured => sums.mean_std(train.sizes().bytes() / 3),
        Normalise::Imagenet => IMAGENET,
        Normalise::Inat2018 => INAT2018,
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
        prepared: Some(prepared),
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
    Ok((meta, summary))
}

/// Opens the journal of a process that was interrupted when it made this very store, or begins one.
fn begin(out: &Path, writer: &mut StoreWriter, works: &[Work], how: &How, progress: Progress) -> Result<Journal> {
    let mut hasher = blake3::Hasher::new();
    let Loader { prepared: Prepared { resize, exif }, max_pixels, .. } = how.loader;
    let settings = format!("{VERSION} {resize} {exif:?} {max_pixels} {}\n", how.skip_broken);
    hasher.update(settings.as_bytes());
    works.iter().for_each(|work| work.identify(&mut hasher));
    let fingerprint = hasher.finalize().to_hex();

    let path = writer.journal();
    let going_on = Journal::read(&path, &fingerprint)?;
    if going_on.is_none() {
        writer.start_anew()?;
    }
    // Labels, index and checksums are small beside the pixels, but a set of tiny images has little else.
    let needed: u64 = works.iter().map(|work| work.sizes().bytes() + 64 * work.paths.len() as u64).sum();
    let done = match &going_on {
        Some(_) => writer.bytes_there(),
        None => 0,
    };
    let folder = out.parent().unwrap_or(Path::new("."));
    if let Some(free) = files::free_space(folder)
        && needed.saturating_sub(done) > free
    {
        let size = |bytes: u64| match bytes >> 30 {
            ..10 => format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
            _ => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        };
        let more = if done > 0 { format!(", of which {} are there", size(done)) } else { String::new() };
        let what = format!("the store takes {}{more}, its disk has {} free", size(needed), size(free));
        return Err(Error::file(out, format!("{what}; make room, or choose another place or size")));
    }
    match going_on {
        Some(journal) => {
            writer.go_on()?;
            progress(Step::Resume, journal.done(), how.total);
            Ok(journal)
        }
        None => Journal::create(&path, &fingerprint),
    }
}

/// What a source holds.
struct Listed {
    train: Listing,
    val: Option<Listing>,
    test: Option<Listing>,
    /// Of the classes.
    names: Vec<String>,
    /// For the user.
    notes: Vec<String>,
}

fn list(config: &ImagesConfig) -> Result<Listed> {
    match &config.source {
        Source::Lists { train, val, test, root, names } => {
            let read = |subset: Subset, list: &Path| {
                let files = listing::read_list(list, root)?;
                config.published.map_or(Ok(()), |published| published.check(subset, list, &files))?;
                Ok(files)
            };
            let train_files = read(Subset::Train, train)?;
            let classes = listing::count_classes(train, &train_files)?;
            let mut notes = listing::repeated(train, &train_files);
            let mut others = [None, None];
            for (files, (subset, list)) in others.iter_mut().zip([(Subset::Val, val), (Subset::Test, test)]) {
                if let Some(list) = list {
                    let read = read(subset, list)?;
                    notes.extend(listing::check_labels(list, subset, &read, classes)?);
                    notes.extend(listing::repeated(list, &read));
                    *files = Some(read);
                }
            }
            if let (Some(published), None, Some(test)) = (config.published, val, test) {
                let name = test.file_name().map(shown).unwrap_or_default();
                notes.push(format!("{} has no test list with labels: {name} is the test set", published.title));
            }
            let names = match names {
                Some(path) => listing::read_names(path, classes)?,
                None => listing::names_from_folders(&train_files, classes),
            };
            let [val, test] = others;
            Ok(Listed { train: train_files, val, test, names, notes })
        }
        Source::Folders { train, test } => {
            let folders = listing::read_folders(train, test.as_deref())?;
            let mut notes = folders.notes;
            if let (Some(path), Some(files)) = (test, &folders.test) {
                notes.extend(listing::check_labels(path, Subset::Test, files, folders.names.len())?);
            }
            Ok(Listed { train: folders.train, val: None, test: folders.test, names: folders.names, notes })
        }
    }
}

/// Training images first, then validation images where there are any, then test images; and a note on classes that are too small
/// to be held out of.
fn divide(
    config: &ImagesConfig,
    train: Listing,
    val: Option<Listing>,
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
    works.extend(val.map(|val| Work::new(Subset::Val, val)));
    works.extend(test.map(|test| Work::new(Subset::Test, test)));
    Ok((works, (!notes.is_empty()).then(|| notes.join("; "))))
}

/// The store's `source`.
fn describe(config: &ImagesConfig) -> String {
    let name = |path: &Path| path.file_name().map(shown).unwrap_or_default();
    let mut text = match config.published {
        Some(published) => format!("{}: images of {}", published.title, name(config.source.train())),
        None => format!("images of {}", name(config.source.train())),
    };
    match (config.source.val(), config.source.test()) {
        (Some(val), Some(test)) => text.push_str(&format!(", {} and {}", name(val), name(test))),
        (None, Some(test)) => text.push_str(&format!(" and {}", name(test))),
        (Some(val), None) => text.push_str(&format!(" and {}", name(val))),
        (None, None) => {}
    }
    // Of squares, the arrays say the same.
    if !matches!(config.resize, Resize::Square(_)) {
        text.push_str(&format!(", resize {}", config.resize));
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
