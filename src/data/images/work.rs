//! The images of one subset on their way into a store.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::journal::{Chunk, Journal};
use super::{Broken, Progress, Step};
use crate::data::listing::Listing;
use crate::data::loader::{Loader, Plan};
use crate::data::longtail::LongTail;
use crate::data::sizes::{self, Sizes};
use crate::data::store::Subset;
use crate::data::sums::Sums;
use crate::data::writer::{PixelWriter, StoreWriter};
use crate::{Error, Result, files, stop};

/// Pixels that are decoded before they are written; twice this is held, as one chunk is written while the next is decoded.
const CHUNK_BYTES: usize = 32 << 20;
/// Images of a chunk, for each thread, at most: what a kill may cost, and enough that threads seldom wait for the last image.
const CHUNK_IMAGES: usize = 64;

/// Half a checksum of a file: enough to tell any two of a billion files apart.
pub(super) type Hash = [u8; 16];

/// The files of one subset.
pub(super) struct Work {
    pub subset: Subset,
    pub paths: Vec<PathBuf>,
    pub labels: Vec<i32>,
    /// One for each, once the headers were read.
    plans: Vec<Plan>,
}

/// How images are decoded and what happens to those that cannot be.
pub(super) struct How<'b> {
    pub loader: &'b Loader,
    pub skip_broken: bool,
    /// Images of all subsets, and how many of them are done.
    pub total: usize,
    pub done: AtomicUsize,
}

/// What is known of a subset's images once they are decoded.
#[derive(Default)]
pub(super) struct Outcome {
    pub sums: Sums,
    /// Of the files.
    pub hashes: Vec<Hash>,
    /// Whether each image of the list could be decoded.
    good: Vec<bool>,
}

/// Reads the headers of all files, and takes those out that are no images.
pub(super) fn check(works: &mut [Work], how: &How, progress: Progress) -> Result<Broken> {
    let done = AtomicUsize::new(0);
    let mut broken = Vec::new();
    for work in works {
        let plan = |path: &PathBuf| {
            if stop::signal().is_some() {
                return Err(String::new());
            }
            let plan = how.loader.plan(path).map_err(|e| e.without_path());
            progress(Step::Check, 1 + done.fetch_add(1, Ordering::Relaxed), how.total);
            plan
        };
        let plans: Vec<Result<Plan, String>> = work.paths.par_iter().map(plan).collect();
        stop::check()?;
        let good: Vec<bool> = plans.iter().map(Result::is_ok).collect();
        let mut kept = Vec::with_capacity(plans.len());
        for (path, plan) in work.paths.iter().zip(plans) {
            match plan {
                Ok(plan) => kept.push(plan),
                Err(why) => broken.push((path.clone(), why)),
            }
        }
        retain(&mut work.paths, &good);
        retain(&mut work.labels, &good);
        work.plans = kept;
    }
    Ok(broken)
}

fn retain<T>(items: &mut Vec<T>, good: &[bool]) {
    let mut good = good.iter();
    // As many as there are items.
    items.retain(|_| *good.next().unwrap_or(&false));
}

impl Work {
    pub fn new(subset: Subset, listing: Listing) -> Work {
        Work { subset, paths: listing.paths, labels: listing.labels, plans: Vec::new() }
    }

    /// Keeps a long-tailed subset; returns the classes that had too few images for it.
    pub fn choose(&mut self, rule: &LongTail, classes: usize) -> Result<Vec<usize>> {
        let chosen = rule.select(&self.labels, classes)?;
        self.paths = chosen.indices.iter().map(|&i| self.paths[i].clone()).collect();
        self.labels = chosen.indices.iter().map(|&i| self.labels[i]).collect();
        Ok(chosen.short)
    }

    /// Sizes of the images as they are stored.
    pub fn sizes(&self) -> Sizes {
        Sizes::of(self.plans.iter().map(|plan| (plan.height, plan.width)).collect())
    }

    /// Adds to `hasher` all that the subset's arrays depend on, save the content of the files, which stands for itself by length and
    /// date.
    pub fn identify(&self, hasher: &mut blake3::Hasher) {
        hasher.update(format!("{} {}\n", self.subset.name(), self.paths.len()).as_bytes());
        for ((path, label), plan) in self.paths.iter().zip(&self.labels).zip(&self.plans) {
            let (path, (length, seconds, nanoseconds)) = (path.as_os_str().as_encoded_bytes(), plan.stamp);
            hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
            let rest = format!("{label} {}x{} {length} {seconds}.{nanoseconds}\n", plan.height, plan.width);
            hasher.update(rest.as_bytes());
        }
    }

    /// Decodes and writes the images, those that the journal does not know to be done; adds what cannot be decoded to `broken`.
    /// Unless that is skipped, the rest is decoded only to find all of it.
    pub fn write(
        &mut self,
        writer: &mut StoreWriter,
        journal: &mut Journal,
        how: &How,
        broken: &mut Broken,
        progress: Progress,
    ) -> Result<Outcome> {
        self.check_left()?;
        let mut outcome = Outcome::default();
        let mut file = self.recall(writer, journal, how, &mut outcome, broken, progress)?;
        let mut ready: Option<(Vec<u8>, Chunk)> = None;
        let mut spare = Vec::new();
        while outcome.good.len() < self.paths.len() {
            let range = self.next_chunk(outcome.good.len(), how);
            // The chunk that is ready is written while the next one is decoded.
            let wanted = how.skip_broken || broken.is_empty();
            let write = || match &ready {
                Some((pixels, chunk)) if wanted => append(&mut file, journal, pixels, chunk),
                _ => Ok(()),
            };
            let decode = || self.decode(range.clone(), how, &mut spare, progress);
            let (written, decoded) = rayon::join(write, decode);
            written?;
            let mut pixels = std::mem::replace(&mut spare, ready.take().map_or_else(Vec::new, |(pixels, _)| pixels));
            let chunk = self.take(range, decoded?, &mut pixels, &mut outcome, broken);
            ready = Some((pixels, chunk));
        }
        if !how.skip_broken && !broken.is_empty() {
            return Ok(outcome);
        }
        if let Some((pixels, chunk)) = &ready {
            append(&mut file, journal, pixels, chunk)?;
        }
        stop::check()?;
        if outcome.good.contains(&false) {
            retain(&mut self.paths, &outcome.good);
            retain(&mut self.labels, &outcome.good);
            retain(&mut self.plans, &outcome.good);
            self.check_left()?;
            file = writer.leave_out(file, &self.labels, &self.sizes())?;
        }
        writer.end_split(file)?;
        Ok(outcome)
    }

    /// The subset's pixels, as far as an interrupted process wrote them and they are still what it wrote.
    fn recall(
        &self,
        writer: &mut StoreWriter,
        journal: &mut Journal,
        how: &How,
        outcome: &mut Outcome,
        broken: &mut Broken,
        progress: Progress,
    ) -> Result<PixelWriter> {
        let sizes = self.sizes();
        let again = match journal.next(self.subset) {
            Some(_) => writer.pixels_again(self.subset, &self.labels, &sizes)?,
            None => None,
        };
        let recalls = again.is_some();
        let mut file = match again {
            Some(file) => file,
            None => writer.pixels(self.subset, &self.labels, &sizes)?,
        };
        let mut pixels = Vec::new();
        while let Some(chunk) = journal.next(self.subset).filter(|_| recalls) {
            stop::check()?;
            let from = outcome.good.len();
            let Some(decoded) = self.decoded_of(chunk, from) else { break };
            let plans = self.plans[from..].iter().zip(&decoded).filter(|(_, image)| image.is_ok());
            let bytes = plans.map(|(plan, _)| plan.bytes()).sum();
            pixels.clear();
            pixels.try_reserve_exact(bytes).map_err(|_| Error::Config("there is not enough memory".into()))?;
            pixels.resize(bytes, 0);
            if !file.reread(&mut pixels)? || checksum(&pixels) != chunk.pixels {
                break;
            }
            file.count(&pixels)?;
            let sums = pixels.par_chunks(3 << 18).map(Sums::of);
            outcome.sums.add(&sums.reduce(Sums::default, |mut all, sums| {
                all.add(&sums);
                all
            }));
            for (i, image) in decoded.into_iter().enumerate() {
                outcome.good.push(image.is_ok());
                match image {
                    Ok(hash) => outcome.hashes.push(hash),
                    Err(why) => broken.push((self.paths[from + i].clone(), why)),
                }
            }
            let done = chunk.images + how.done.fetch_add(chunk.images, Ordering::Relaxed);
            progress(Step::Recall, done, how.total);
            journal.accept();
        }
        if outcome.good.len() < self.paths.len() {
            let lost = journal.reject()?;
            if lost > 0 {
                progress(Step::Lost, lost, how.total);
            }
        }
        file.cut()?;
        Ok(file)
    }

    /// What came of the images of a chunk that begins at image `from`; `None` where it does not fit this subset.
    fn decoded_of(&self, chunk: &Chunk, from: usize) -> Option<Vec<Result<Hash, String>>> {
        if chunk.images > self.paths.len() - from || !chunk.files.is_ascii() {
            return None;
        }
        let mut hashes = chunk.files.as_bytes().chunks_exact(2 * size_of::<Hash>());
        let mut broken = chunk.broken.iter().peekable();
        let image = |i: usize| match broken.next_if(|(at, _)| *at == i) {
            Some((_, why)) => Some(Err(why.clone())),
            None => {
                let digits = std::str::from_utf8(hashes.next()?).ok()?;
                let number = u128::from_str_radix(digits, 16).ok()?;
                Some(Ok(number.to_be_bytes()))
            }
        };
        let decoded: Option<Vec<_>> = (0..chunk.images).map(image).collect();
        decoded.filter(|_| broken.next().is_none() && hashes.next().is_none())
    }

    /// The next images to be decoded together.
    fn next_chunk(&self, from: usize, how: &How) -> Range<usize> {
        let threads = rayon::current_num_threads();
        // Each thread has an image to decode, as far as the finished ones may take a quarter of the memory.
        let memory = (how.loader.memory() / 4) as usize;
        let (mut to, mut bytes) = (from, 0);
        while to < self.plans.len() && to - from < CHUNK_IMAGES * threads {
            bytes += self.plans[to].bytes();
            let fits = bytes <= CHUNK_BYTES || (to - from < threads && bytes <= memory);
            if to > from && !fits {
                break;
            }
            to += 1;
        }
        from..to
    }

    /// Decodes a range of the images into `pixels`.
    #[allow(clippy::type_complexity, reason = "an outcome for each image")]
    fn decode(
        &self,
        range: Range<usize>,
        how: &How,
        pixels: &mut Vec<u8>,
        progress: Progress,
    ) -> Result<Vec<Result<(Sums, Hash), String>>> {
        let plans = &self.plans[range.clone()];
        let bytes = plans.iter().map(Plan::bytes).sum();
        if pixels.capacity() < bytes {
            *pixels = Vec::new();
            let no_room = |what| Error::Config(format!("resize {}: {what}", how.loader.prepared.resize));
            *pixels = files::buffer(bytes.max(CHUNK_BYTES.min(bytes * 5 / 4))).map_err(no_room)?;
        }
        pixels.resize(bytes, 0);
        let outs = sizes::parts(pixels, plans.iter().map(Plan::bytes));
        let outcomes = (self.paths[range].par_iter())
            .zip(plans)
            .zip(outs)
            .map(|((path, plan), out)| {
                if stop::signal().is_some() {
                    return Err(String::new());
                }
                let outcome = decode_one(path, plan, how, out);
                let done = 1 + how.done.fetch_add(1, Ordering::Relaxed);
                progress(Step::Decode(self.subset), done, how.total);
                outcome
            })
            .collect();
        stop::check()?;
        Ok(outcomes)
    }

    /// Notes what came of a range of images, and takes the room of those that cannot be decoded out of their `pixels`.
    fn take(
        &self,
        range: Range<usize>,
        decoded: Vec<Result<(Sums, Hash), String>>,
        pixels: &mut Vec<u8>,
        outcome: &mut Outcome,
        broken: &mut Broken,
    ) -> Chunk {
        let mut files = String::with_capacity(2 * size_of::<Hash>() * range.len());
        let (mut bad, mut from, mut to) = (Vec::new(), 0, 0);
        for (i, image) in decoded.into_iter().enumerate() {
            let bytes = self.plans[range.start + i].bytes();
            outcome.good.push(image.is_ok());
            match image {
                Ok((sums, hash)) => {
                    outcome.sums.add(&sums);
                    outcome.hashes.push(hash);
                    files.push_str(&format!("{:032x}", u128::from_be_bytes(hash)));
                    if from != to {
                        pixels.copy_within(from..from + bytes, to);
                    }
                    to += bytes;
                }
                Err(why) => {
                    broken.push((self.paths[range.start + i].clone(), why.clone()));
                    bad.push((i, why));
                }
            }
            from += bytes;
        }
        pixels.truncate(to);
        let subset = self.subset.name().to_string();
        Chunk { subset, images: range.len(), pixels: String::new(), files, broken: bad }
    }

    fn check_left(&self) -> Result<()> {
        match self.paths.is_empty() {
            false => Ok(()),
            true => Err(Error::Config(format!("no {} image is left that can be decoded", self.subset.name()))),
        }
    }
}

/// Appends the pixels of a chunk, and then notes it.
fn append(file: &mut PixelWriter, journal: &mut Journal, pixels: &[u8], chunk: &Chunk) -> Result<()> {
    file.append(pixels)?;
    journal.add(&Chunk { pixels: checksum(pixels), ..chunk.clone() })
}

fn checksum(pixels: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_rayon(pixels).finalize().to_hex().to_string()
}

/// Decodes one file into `out`.
fn decode_one(path: &Path, plan: &Plan, how: &How, out: &mut [u8]) -> Result<(Sums, Hash), String> {
    let bytes = how.loader.load(path, plan, out)?;
    let mut hash = Hash::default();
    hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    Ok((Sums::of(out), hash))
}
