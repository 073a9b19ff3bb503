//! A store from JPEG and PNG files: decoded and resized in parallel, written as they come, never all in memory.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode::{Squarer, decode};
use super::listing::{self, Listing, MAX_NAMES};
use super::longtail::LongTail;
use super::meta::{FORMAT, Meta};
use super::store::{MAX_SIDE, Subset};
use super::summary::Summary;
use super::writer::StoreWriter;
use crate::{Error, Result, files};

/// ImageNet's mean and standard deviation, as torchvision's models have them.
pub const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Longest image file that is read.
const MAX_FILE: u64 = 1 << 28;
/// Pixels that are decoded before they are written; twice this is held, as one batch is written while the next is decoded.
const BATCH_BYTES: usize = 32 << 20;

/// Where the file names and labels come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// List files, with paths relative to `root`.
    Lists {
        /// Training list.
        train: PathBuf,
        /// Test list.
        test: PathBuf,
        /// What the paths are relative to.
        root: PathBuf,
        /// A file of class names, one a line.
        names: Option<PathBuf>,
    },
    /// Folders that hold a folder a class.
    Folders {
        /// Training folder.
        train: PathBuf,
        /// Test folder.
        test: PathBuf,
    },
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
    /// A long-tailed subset of the training images; all of them where absent.
    pub long_tail: Option<LongTail>,
    /// Mean and standard deviation.
    pub normalise: Normalise,
    /// Replace an existing store.
    pub force: bool,
}

/// Hears how far the work is: subset, images done, images in all. Called from any thread.
pub type Progress<'a> = &'a (dyn Fn(Subset, usize, usize) + Sync);

/// Sums over the pixels of a channel, exact in integers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    sum: [u64; 3],
    square: [u64; 3],
}

impl Sums {
    pub(super) fn of(pixels: &[u8]) -> Sums {
        let mut sums = Sums::default();
        // A row's worth at a time in 32 bits, which vectorises.
        for chunk in pixels.chunks(3 * 4096) {
            let (mut sum, mut square) = ([0u32; 3], [0u32; 3]);
            for p in chunk.chunks_exact(3) {
                for c in 0..3 {
                    sum[c] += u32::from(p[c]);
                    square[c] += u32::from(p[c]) * u32::from(p[c]);
                }
            }
            for c in 0..3 {
                sums.sum[c] += u64::from(sum[c]);
                sums.square[c] += u64::from(square[c]);
            }
        }
        sums
    }

    pub(super) fn add(&mut self, other: &Sums) {
        for c in 0..3 {
            self.sum[c] += other.sum[c];
            self.square[c] += other.square[c];
        }
    }

    /// Mean and (population) standard deviation of `n` pixels scaled to 0..1.
    pub(super) fn mean_std(&self, n: u64) -> ([f64; 3], [f64; 3]) {
        let n = n as f64;
        let mean = self.sum.map(|s| s as f64 / n / 255.0);
        let std = std::array::from_fn(|c| {
            let mean_of_squares = self.square[c] as f64 / n / (255.0 * 255.0);
            // A set of one colour must still be divisible.
            (mean_of_squares - mean[c] * mean[c]).max(0.0).sqrt().max(1.0 / 255.0)
        });
        (mean, std)
    }
}

/// Decodes all images and writes the store at `out`, on the current rayon pool.
///
/// # Errors
///
/// If a list is odd, if a label is missing, if files cannot be decoded (all of them are named, up to a limit), or if the store
/// cannot be written. Nothing is left behind then.
pub fn prepare(out: &Path, config: &ImagesConfig, progress: Progress) -> Result<Summary> {
    if !(1..=MAX_SIDE).contains(&config.size) {
        return Err(Error::Config(format!("size {}: must be 1 to {MAX_SIDE}", config.size)));
    }
    let mut writer = StoreWriter::create(out, config.force, &[])?;
    let (mut train, test, class_names, source, note) = list(&config.source)?;
    let mut short = Vec::new();
    if let Some(rule) = &config.long_tail {
        let chosen = rule.select(&train.labels, class_names.len())?;
        train.paths = chosen.indices.iter().map(|&i| train.paths[i].clone()).collect();
        train.labels = chosen.indices.iter().map(|&i| train.labels[i]).collect();
        short = chosen.short;
    }
    let mut counts = vec![0; class_names.len()];
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);

    let mut bad = Vec::new();
    let mut sums = Sums::default();
    for (subset, listing) in [(Subset::Train, &train), (Subset::Test, &test)] {
        let subset_sums = write_images(&mut writer, subset, listing, config.size, &mut bad, progress)?;
        if subset == Subset::Train {
            sums = subset_sums;
        }
    }
    if !bad.is_empty() {
        return Err(undecodable(&config.source, &bad, train.paths.len() + test.paths.len()));
    }
    let (mean, std) = match config.normalise {
        Normalise::Measured => sums.mean_std((train.paths.len() * config.size * config.size) as u64),
        Normalise::Imagenet => IMAGENET,
    };
    let meta = Meta {
        format: FORMAT,
        source,
        class_names,
        counts,
        mean,
        std,
        split: config.long_tail,
        seed: None,
        coarse: None,
        arrays: Default::default(),
    };
    let mut summary = Summary::new(out, &meta, test.labels.len(), short);
    if let Some(note) = note {
        summary = summary.note(note);
    }
    writer.finish(meta)?;
    Ok(summary)
}

/// Training files, test files, class names, the store's `source`, and a note for the user.
type Listed = (Listing, Listing, Vec<String>, String, Option<String>);

fn list(source: &Source) -> Result<Listed> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match source {
        Source::Lists { train, test, root, names } => {
            let train_files = listing::read_list(train, root)?;
            let classes = listing::count_classes(train, &train_files)?;
            let test_files = listing::read_list(test, root)?;
            let note = listing::check_test(test, &test_files, classes)?;
            let names = match names {
                Some(path) => listing::read_names(path, classes)?,
                None => listing::names_from_folders(&train_files, classes),
            };
            Ok((train_files, test_files, names, format!("images of {} and {}", name(train), name(test)), note))
        }
        Source::Folders { train, test } => {
            let (train_files, test_files, names) = listing::read_folders(train, test)?;
            let note = listing::check_test(test, &test_files, names.len())?;
            Ok((train_files, test_files, names, format!("images of {} and {}", name(train), name(test)), note))
        }
    }
}

/// A file and what is wrong with it.
type Bad = (PathBuf, String);

/// Decodes and writes one split; adds what cannot be decoded to `bad`, and then goes on only to find all of it.
fn write_images(
    writer: &mut StoreWriter,
    subset: Subset,
    listing: &Listing,
    size: usize,
    bad: &mut Vec<Bad>,
    progress: Progress,
) -> Result<Sums> {
    let image_bytes = size * size * 3;
    let per_batch = (BATCH_BYTES / image_bytes).max(rayon::current_num_threads());
    let total = listing.paths.len();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let decode_batch = |paths: &[PathBuf], pixels: &mut Vec<u8>| -> (Sums, Vec<Bad>) {
        pixels.resize(paths.len() * image_bytes, 0);
        let results: Vec<Result<Sums, Bad>> = paths
            .par_iter()
            .zip(pixels.par_chunks_mut(image_bytes))
            .map_init(Squarer::default, |squarer, (path, out)| {
                let outcome = files::read(path, MAX_FILE)
                    .map_err(|e| e.without_path())
                    .and_then(|bytes| squarer.square(&decode(&bytes)?, size, out))
                    .map(|()| Sums::of(out))
                    .map_err(|what| (path.clone(), what));
                progress(subset, 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed), total);
                outcome
            })
            .collect();
        let (mut sums, mut bad) = (Sums::default(), Vec::new());
        for result in results {
            match result {
                Ok(one) => sums.add(&one),
                Err(one) => bad.push(one),
            }
        }
        (sums, bad)
    };

    let mut file = writer.split(subset, &listing.labels, size, size)?;
    let mut sums = Sums::default();
    let (mut ready, mut spare) = (Vec::new(), Vec::new());
    for batch in listing.paths.chunks(per_batch) {
        // The batch that is ready is written while the next one is decoded.
        let write = || if bad.is_empty() { file.append(&ready) } else { Ok(()) };
        let (written, (batch_sums, batch_bad)) = rayon::join(write, || decode_batch(batch, &mut spare));
        written?;
        sums.add(&batch_sums);
        bad.extend(batch_bad);
        std::mem::swap(&mut ready, &mut spare);
    }
    if bad.is_empty() {
        file.append(&ready)?;
        writer.end_split(file)?;
    }
    Ok(sums)
}

/// One line about all files that could not be decoded.
fn undecodable(source: &Source, bad: &[Bad], total: usize) -> Error {
    let place = match source {
        Source::Lists { root, .. } => root,
        Source::Folders { train, .. } => train,
    };
    let mut what = format!("{} of {total} images cannot be decoded: ", bad.len());
    let names: Vec<String> =
        bad.iter().take(MAX_NAMES).map(|(path, why)| format!("{} ({why})", path.display())).collect();
    what.push_str(&names.join(", "));
    if bad.len() > MAX_NAMES {
        what.push_str(&format!(", and {} more", bad.len() - MAX_NAMES));
    }
    Error::file(place, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_mean_and_std() {
        let pixels: Vec<u8> = (0..10_000).flat_map(|i| [255, if i % 2 == 0 { 0 } else { 255 }, 51]).collect();
        let (mean, std) = Sums::of(&pixels).mean_std(10_000);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(mean[0], 1.0) && close(mean[1], 0.5) && close(mean[2], 0.2), "{mean:?}");
        assert!(close(std[1], 0.5) && close(std[0], 1.0 / 255.0) && close(std[2], 1.0 / 255.0), "{std:?}");
    }
}
