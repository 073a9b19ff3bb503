//! The images of one subset on their way into a store.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::budget::Budget;
use super::{Broken, Progress, Step};
use crate::data::decode::{Options, decode, header, one_line};
use crate::data::listing::Listing;
use crate::data::longtail::LongTail;
use crate::data::square::Squarer;
use crate::data::store::Subset;
use crate::data::sums::Sums;
use crate::data::writer::{PixelWriter, StoreWriter};
use crate::{Error, Result, files, stop};

/// Longest image file that is read.
const MAX_FILE: u64 = 1 << 28;
/// Pixels that are decoded before they are written; twice this is held, as one batch is written while the next is decoded.
const BATCH_BYTES: usize = 32 << 20;

/// Half a checksum of a file: enough to tell any two of a billion files apart.
pub(super) type Hash = [u8; 16];

/// The files of one subset.
pub(super) struct Work {
    pub subset: Subset,
    pub paths: Vec<PathBuf>,
    pub labels: Vec<i32>,
    /// Bytes of memory that each takes to decode, once the headers were read.
    memory: Vec<u64>,
}

/// How images are decoded and what happens to those that cannot be.
pub(super) struct How<'b> {
    pub size: usize,
    pub options: Options,
    pub budget: &'b Budget,
    pub skip_broken: bool,
}

/// Reads the headers of all files, and takes those out that are no images.
pub(super) fn check(works: &mut [Work], options: &Options, progress: Progress) -> Result<Broken> {
    let total: usize = works.iter().map(|work| work.paths.len()).sum();
    let done = AtomicUsize::new(0);
    let mut broken = Vec::new();
    for work in works {
        let checked: Vec<Result<u64, String>> = work
            .paths
            .par_iter()
            .map(|path| {
                if stop::signal().is_some() {
                    return Ok(0);
                }
                let memory = files::open(path).and_then(|file| {
                    let length = file.metadata().map_err(Error::io(path))?.len();
                    if length > MAX_FILE {
                        return Err(Error::file(path, format!("is larger than {MAX_FILE} bytes")));
                    }
                    header(BufReader::new(file), options)
                        .map(|header| header.memory)
                        .map_err(|why| Error::file(path, why))
                });
                progress(Step::Check, 1 + done.fetch_add(1, Ordering::Relaxed), total);
                memory.map_err(|e| e.without_path())
            })
            .collect();
        stop::check()?;
        let good: Vec<bool> = checked.iter().map(Result::is_ok).collect();
        work.memory = checked.iter().map(|memory| *memory.as_ref().unwrap_or(&0)).collect();
        for (path, why) in work.paths.iter().zip(checked) {
            broken.extend(why.err().map(|why| (path.clone(), why)));
        }
        work.retain(&good);
    }
    Ok(broken)
}

impl Work {
    pub fn new(subset: Subset, listing: Listing) -> Work {
        Work { subset, paths: listing.paths, labels: listing.labels, memory: Vec::new() }
    }

    /// Keeps a long-tailed subset; returns the classes that had too few images for it.
    pub fn choose(&mut self, rule: &LongTail, classes: usize) -> Result<Vec<usize>> {
        let chosen = rule.select(&self.labels, classes)?;
        self.paths = chosen.indices.iter().map(|&i| self.paths[i].clone()).collect();
        self.labels = chosen.indices.iter().map(|&i| self.labels[i]).collect();
        Ok(chosen.short)
    }

    fn retain(&mut self, good: &[bool]) {
        let keep = |i: &mut usize| {
            *i += 1;
            good[*i - 1]
        };
        let [mut path, mut label, mut memory] = [0; 3];
        self.paths.retain(|_| keep(&mut path));
        self.labels.retain(|_| keep(&mut label));
        self.memory.retain(|_| keep(&mut memory));
    }

    /// Decodes and writes the images; adds what cannot be decoded to `broken`. Unless that is skipped, the rest is decoded only to find
    /// all of it.
    pub fn write(
        &mut self,
        writer: &mut StoreWriter,
        how: &How,
        broken: &mut Broken,
        progress: Progress,
    ) -> Result<(Sums, Vec<Hash>)> {
        self.check_left()?;
        let image_bytes = how.size * how.size * 3;
        // Each thread has an image to decode, as far as the finished ones may take a quarter of the memory.
        let memory = (how.budget.total() / 4) as usize / image_bytes;
        let per_batch = (BATCH_BYTES / image_bytes).max(rayon::current_num_threads().min(memory)).max(1);
        let done = AtomicUsize::new(0);
        let mut file = writer.split(self.subset, &self.labels, how.size, how.size)?;
        let (mut sums, mut hashes, mut good) = (Sums::default(), Vec::new(), Vec::new());
        let (mut ready, mut spare) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < self.paths.len() {
            let batch = from..self.paths.len().min(from + per_batch);
            // The batch that is ready is written while the next one is decoded.
            let wanted = how.skip_broken || broken.is_empty();
            let write = || if wanted { file.append(&ready) } else { Ok(()) };
            let decode = || self.decode(batch.clone(), how, &mut spare, &done, progress);
            let (written, decoded) = rayon::join(write, decode);
            written?;
            for (i, outcome) in batch.clone().zip(decoded?) {
                good.push(outcome.is_ok());
                match outcome {
                    Ok((image, hash)) => {
                        sums.add(&image);
                        hashes.push(hash);
                    }
                    Err(why) => broken.push((self.paths[i].clone(), why)),
                }
            }
            std::mem::swap(&mut ready, &mut spare);
            from = batch.end;
        }
        if !how.skip_broken && !broken.is_empty() {
            return Ok((sums, hashes));
        }
        file.append(&ready)?;
        if good.contains(&false) {
            file = self.write_again(writer, file, &good, how.size)?;
        }
        writer.end_split(file)?;
        Ok((sums, hashes))
    }

    /// Decodes a range of the images into `pixels`.
    #[allow(clippy::type_complexity, reason = "an outcome for each image")]
    fn decode(
        &self,
        batch: std::ops::Range<usize>,
        how: &How,
        pixels: &mut Vec<u8>,
        done: &AtomicUsize,
        progress: Progress,
    ) -> Result<Vec<Result<(Sums, Hash), String>>> {
        let image_bytes = how.size * how.size * 3;
        let bytes = batch.len() * image_bytes;
        if pixels.capacity() < bytes {
            *pixels = files::buffer(bytes).map_err(|what| Error::Config(format!("size {}: {what}", how.size)))?;
        }
        pixels.resize(bytes, 0);
        let total = self.paths.len();
        let outcomes = (self.paths[batch.clone()].par_iter())
            .zip(&self.memory[batch])
            .zip(pixels.par_chunks_mut(image_bytes))
            .map_init(Squarer::default, |squarer, ((path, &memory), out)| {
                if stop::signal().is_some() {
                    return Err(String::new());
                }
                let _granted = how.budget.take(memory);
                // More than the header said before is another file than it was.
                let options = Options { max_memory: memory, ..how.options };
                let bytes = files::read(path, MAX_FILE).map_err(|e| e.without_path());
                let outcome = bytes.and_then(|bytes| {
                    squarer.square(&decode(&bytes, &options)?, how.size, out)?;
                    let mut hash = Hash::default();
                    hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
                    Ok((Sums::of(out), hash))
                });
                progress(Step::Decode(self.subset), 1 + done.fetch_add(1, Ordering::Relaxed), total);
                outcome
            })
            .collect();
        stop::check()?;
        Ok(outcomes)
    }

    /// Writes the subset once more, without the images that could not be decoded.
    fn write_again(
        &mut self,
        writer: &mut StoreWriter,
        file: PixelWriter,
        good: &[bool],
        size: usize,
    ) -> Result<PixelWriter> {
        let mut old = writer.take_back(file)?;
        self.retain(good);
        self.check_left()?;
        let mut file = writer.split(self.subset, &self.labels, size, size)?;
        let mut image = vec![0; size * size * 3];
        for &good in good {
            old.read_exact(&mut image).map_err(|e| Error::Config(format!("cannot read back: {}", one_line(e))))?;
            if good {
                file.append(&image)?;
            }
        }
        Ok(file)
    }

    fn check_left(&self) -> Result<()> {
        match self.paths.is_empty() {
            false => Ok(()),
            true => Err(Error::Config(format!("no {} image is left that can be decoded", self.subset.name()))),
        }
    }
}
