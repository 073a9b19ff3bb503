//! Image files to pixels of a size that their headers say beforehand: what a preparation stores of them, and what a prediction sees.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::budget::{self, Budget};
use super::decode::{Exif, Options, decode, header};
use super::pixels::PixelSource;
use super::resize::{Resize, Scaler};
use super::store::Entry;
use crate::{Error, Result, files, stop};

/// Longest image file that is read.
const MAX_FILE: u64 = 1 << 28;

/// What is made of image files on their way to pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Size that they get.
    pub resize: Resize,
    /// Whether they are turned upright.
    pub exif: Exif,
}

/// What a file's header says will be made of it, and which file that was.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Bytes of memory that decoding and resizing it take.
    memory: u64,
    /// The file's length, and when it was changed: seconds, nanoseconds.
    pub(super) stamp: (u64, i64, i64),
}

impl Plan {
    /// Bytes of its pixels.
    pub fn bytes(&self) -> usize {
        3 * self.height as usize * self.width as usize
    }
}

/// Decodes and resizes image files, as many at a time as its memory allows.
pub struct Loader {
    /// What is made of them.
    pub prepared: Prepared,
    /// Most pixels of a file.
    pub max_pixels: u64,
    budget: Budget,
}

impl Loader {
    /// One that uses `memory` bytes, half of what is free where nothing is said.
    pub fn new(prepared: Prepared, max_pixels: u64, memory: Option<u64>) -> Loader {
        Loader { prepared, max_pixels, budget: Budget::new(memory.unwrap_or_else(budget::default_bytes)) }
    }

    /// Bytes of memory for all images that are being decoded.
    pub fn memory(&self) -> u64 {
        self.budget.total()
    }

    fn options(&self) -> Options {
        Options { exif: self.prepared.exif, max_pixels: self.max_pixels, max_memory: self.memory() }
    }

    /// Reads a file's header.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no image, or is too large.
    pub fn plan(&self, path: &Path) -> Result<Plan> {
        let file = files::open(path)?;
        let stat = file.metadata().map_err(Error::io(path))?;
        if stat.len() > MAX_FILE {
            return Err(Error::file(path, format!("is larger than {MAX_FILE} bytes")));
        }
        let options = self.options();
        let header = header(BufReader::new(file), &options).map_err(|why| Error::file(path, why))?;
        let target = self.prepared.resize.target(header.height, header.width, options.max_pixels);
        let (height, width, more) = target.map_err(|why| Error::file(path, why))?;
        let memory = header.memory + more;
        if memory > options.max_memory {
            let [needed, limit] = [memory, options.max_memory].map(|bytes| bytes.div_ceil(1 << 20));
            let what = format!("takes up to {needed} MiB of memory, more than {limit} (see --decode-memory)");
            return Err(Error::file(path, format!("{}x{} to {width}x{height} {what}", header.width, header.height)));
        }
        // A side is at most 2^16.
        let stamp = (stat.len(), stat.mtime(), stat.mtime_nsec());
        Ok(Plan { height: height as u32, width: width as u32, memory, stamp })
    }

    /// Decodes a file into `out`, as it was planned, and returns the file's bytes; waits while other images have the memory.
    ///
    /// # Errors
    ///
    /// Says in a few words why the file is no such image, or not the one that was planned.
    pub fn load(&self, path: &Path, plan: &Plan, out: &mut [u8]) -> Result<Vec<u8>, String> {
        thread_local! {
            /// Its buffers are as good for the next image.
            static SCALER: RefCell<Scaler> = RefCell::default();
        }
        let _granted = self.budget.take(plan.memory);
        // More than the header said before is another file than it was.
        let options = Options { max_memory: plan.memory, ..self.options() };
        let bytes = files::read(path, MAX_FILE).map_err(|e| e.without_path())?;
        let image = decode(&bytes, &options)?;
        let size = (plan.height as usize, plan.width as usize);
        match self.prepared.resize.target(image.height, image.width, options.max_pixels) {
            Ok((height, width, _)) if (height, width) == size => {}
            _ => return Err("has another size than its header said before".into()),
        }
        SCALER.with_borrow_mut(|scaler| scaler.scale(&image, size, out))?;
        Ok(bytes)
    }
}

/// Image files as a source of pixels: each is decoded when it is read. What cannot be decoded is black, and told.
pub struct Planned<'a> {
    loader: Loader,
    paths: &'a [PathBuf],
    /// Which of the paths each image is, and what is made of it.
    plans: Vec<(usize, Plan)>,
    index: Vec<Entry>,
    /// Paths that are no images, with the cause.
    broken: Mutex<BTreeMap<usize, String>>,
}

impl<'a> Planned<'a> {
    /// Reads the headers of files, on the current rayon pool; `done` is told of every one.
    ///
    /// # Errors
    ///
    /// If a signal asks for it.
    pub fn new(loader: Loader, paths: &'a [PathBuf], done: &(dyn Fn() + Sync)) -> Result<Planned<'a>> {
        let plan = |path: &PathBuf| {
            stop::check().map_err(|_| String::new())?;
            let plan = loader.plan(path).map_err(|e| e.without_path());
            done();
            plan
        };
        let all: Vec<Result<Plan, String>> = paths.par_iter().map(plan).collect();
        stop::check()?;
        let (mut plans, mut broken, mut index, mut offset) = (Vec::new(), BTreeMap::new(), Vec::new(), 0);
        for (at, plan) in all.into_iter().enumerate() {
            match plan {
                Ok(plan) => {
                    index.push(Entry { offset, height: plan.height as usize, width: plan.width as usize });
                    offset += plan.bytes();
                    plans.push((at, plan));
                }
                Err(why) => drop(broken.insert(at, why)),
            }
        }
        Ok(Planned { loader, paths, plans, index, broken: Mutex::new(broken) })
    }

    /// Where each image lies.
    pub fn index(&self) -> &[Entry] {
        &self.index
    }

    /// All files, in their order.
    pub fn paths(&self) -> &'a [PathBuf] {
        self.paths
    }

    /// Which of the paths image `image` is.
    pub fn path_of(&self, image: usize) -> usize {
        self.plans[image].0
    }

    /// Why the file at `path` among the paths is no image, as far as that is known by now. Said once.
    pub fn take_broken(&self, path: usize) -> Option<String> {
        // A map is whole even where a thread panicked while it held it.
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(&path)
    }
}

impl PixelSource for Planned<'_> {
    /// Reads one whole image.
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        stop::check()?;
        let image = self.index.partition_point(|entry| entry.offset < at);
        let (path, plan) = &self.plans[image];
        debug_assert_eq!((self.index[image].offset, plan.bytes()), (at, into.len()), "images are read one by one");
        if let Err(why) = self.loader.load(&self.paths[*path], plan, into) {
            into.fill(0);
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(*path, why);
        }
        Ok(())
    }
}
