//! Images and labels on the device: all of them when they fit, else those of the coming step.
//!
//! A step's images are gathered from the store into one of two page-locked buffers while the device computes the step before,
//! and copied behind that step: the host waits only when it is two steps ahead. Whatever is read of a store is verified on its
//! way: damaged pixels end the run before a step sees them.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::data::pixels::PixelSource;
use crate::data::store::{ImageSet, Store};
use crate::error::{Error, Result};
use crate::memory::{Mark, Pinned};
use crate::method::EpochPlan;
use crate::ops::Backend;
use crate::ops::load_step::{STEP_WORDS, row_words};
use crate::tensor::{DType, Tensor};

/// Bytes of resident images that are read, verified and uploaded at a time.
const UPLOAD_BYTES: usize = 16 << 20;

/// A set of images of one size, on the host: a store's subset, or what a bench made up.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// (images, height, width, 3), bytes.
    pub pixels: &'a dyn PixelSource,
    /// (images).
    pub labels: &'a [i32],
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

impl<'a> Images<'a> {
    /// The images of one of a store's subsets.
    ///
    /// # Errors
    /// When they differ in size.
    pub fn of(store: &Store, set: &'a ImageSet) -> Result<Images<'a>> {
        if set.index().is_some() {
            let what = "holds images of several sizes; training needs one: prepare it again with --size";
            return Err(Error::file(store.path(), what));
        }
        Ok(Images { pixels: set, labels: set.labels(), height: set.height(), width: set.width() })
    }
}

impl Images<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn image_bytes(&self) -> usize {
        self.height * self.width * 3
    }

    fn read(&self, first: usize, into: &mut [u8]) -> Result<()> {
        self.pixels.read(first * self.image_bytes(), into)
    }
}

/// Room on the host for one step's images, and behind them its labels; originals first, partners after a batch.
struct Slot {
    memory: Pinned,
    /// Set behind the copy of what the slot held last.
    copied: Option<Mark>,
}

/// How the images of a step get to a device that does not hold them all.
struct Staging {
    batch: usize,
    /// Filled in turn.
    slots: RefCell<[Slot; 2]>,
}

/// Where the device finds a step's images.
pub struct Feed<'a> {
    images: Images<'a>,
    /// U8 (images or 2 * batch, height, width, 3).
    pub pixels: Tensor,
    /// I32 (images or 2 * batch).
    pub labels: Tensor,
    /// `None` when all images are resident.
    staging: Option<Staging>,
}

impl<'a> Feed<'a> {
    /// Makes room for all images if they take at most `limit` bytes, otherwise for the originals and partners of one step of
    /// up to `batch`. Nothing is read before [`Feed::fill`].
    ///
    /// # Errors
    /// When there are no images, or device or host have too little memory.
    pub fn new(backend: &dyn Backend, images: Images<'a>, batch: usize, limit: usize) -> Result<Feed<'a>> {
        if images.is_empty() {
            return Err(Error::Config("the data set has no images".into()));
        }
        let resident = images.len() * images.image_bytes() <= limit;
        let count = if resident { images.len() } else { 2 * batch };
        let shape = [count, images.height, images.width, 3];
        let pixels = backend.tensor(&shape, DType::U8, "images")?;
        let labels = backend.tensor(&[count], DType::I32, "labels")?;
        if resident {
            return Ok(Feed { images, pixels, labels, staging: None });
        }
        let slot = || -> Result<Slot> {
            Ok(Slot { memory: backend.alloc_pinned(pixels.bytes() + labels.bytes())?, copied: None })
        };
        let staging = Staging { batch, slots: RefCell::new([slot()?, slot()?]) };
        Ok(Feed { images, pixels, labels, staging: Some(staging) })
    }

    /// Uploads the images, if all of them are to be on the device. Needed before the first step.
    ///
    /// # Errors
    /// When the images cannot be read or are damaged, or the device fails.
    pub fn fill(&self, backend: &dyn Backend) -> Result<()> {
        if !self.is_resident() {
            return Ok(());
        }
        backend.upload(self.labels, bytemuck::cast_slice(self.images.labels))?;
        if let Some(pixels) = self.images.pixels.in_memory() {
            return backend.upload(self.pixels, &pixels[..self.pixels.bytes()]);
        }
        let (count, image_bytes) = (self.images.len(), self.images.image_bytes());
        let at_once = (UPLOAD_BYTES / image_bytes).clamp(1, count);
        let mut bytes = vec![0; at_once * image_bytes];
        for first in (0..count).step_by(at_once) {
            let images = at_once.min(count - first);
            let bytes = &mut bytes[..images * image_bytes];
            self.images.read(first, bytes)?;
            backend.upload(self.pixels.rows(first, images), bytes)?;
        }
        Ok(())
    }

    /// The host's images.
    pub fn images(&self) -> &Images<'a> {
        &self.images
    }

    /// Whether all images are on the device.
    pub fn is_resident(&self) -> bool {
        self.staging.is_none()
    }

    /// Bytes that it holds on the device.
    pub fn bytes(&self) -> usize {
        self.pixels.bytes() + self.labels.bytes()
    }

    /// Rows of the step table for `steps` of one size. Staged images are numbered as they lie on the device: originals
    /// from 0, partners from the batch size; a step that has no partners of its own finds them among the originals.
    pub fn table(&self, plan: &EpochPlan, steps: std::ops::Range<usize>) -> Vec<u32> {
        let Some(Staging { batch, .. }) = self.staging else { return plan.table(steps) };
        let mut words = plan.table(steps.clone());
        for step in steps.clone() {
            let (originals, partners) = plan.indices(step);
            let size = originals.len();
            let row = (step - steps.start) * row_words(size) + STEP_WORDS;
            let first = if partners == originals { 0 } else { batch };
            for n in 0..size {
                words[row + n] = n as u32;
                words[row + size + n] = (first + n) as u32;
            }
        }
        words
    }

    /// Sends a step's images to the device, if they are not all there: behind the steps started so far, without waiting
    /// for them unless the step before the last has not begun.
    ///
    /// # Errors
    /// When the images cannot be read or are damaged, or the device fails.
    pub fn stage(&self, backend: &dyn Backend, plan: &EpochPlan, step: usize) -> Result<()> {
        let Some(Staging { batch, slots }) = &self.staging else { return Ok(()) };
        let slots = &mut *slots.borrow_mut();
        slots.swap(0, 1);
        let slot = &mut slots[0];
        if let Some(copied) = slot.copied.take() {
            backend.wait(&copied)?;
        }
        let (originals, partners) = plan.indices(step);
        let parts = if partners == originals { &[(0, originals)][..] } else { &[(0, originals), (*batch, partners)] };
        let (images, image_bytes, pixels_bytes) = (self.images, self.images.image_bytes(), self.pixels.bytes());
        for &(start, indices) in parts {
            let (pixels, labels) = slot.memory.bytes_mut().split_at_mut(pixels_bytes);
            let pixels = &mut pixels[start * image_bytes..][..indices.len() * image_bytes];
            let each = pixels.par_chunks_exact_mut(image_bytes).zip(indices);
            each.try_for_each(|(to, &index)| images.read(index as usize, to))?;
            let labels = &mut labels[4 * start..][..4 * indices.len()];
            for (to, &index) in labels.chunks_exact_mut(4).zip(indices) {
                to.copy_from_slice(&images.labels[index as usize].to_ne_bytes());
            }
            let rows = |tensor: Tensor| tensor.rows(start, indices.len());
            backend.upload_async(rows(self.pixels), &slot.memory, start * image_bytes)?;
            backend.upload_async(rows(self.labels), &slot.memory, pixels_bytes + 4 * start)?;
        }
        slot.copied = Some(backend.mark()?);
        Ok(())
    }

    /// Gives the memory back.
    pub fn release(&self, backend: &dyn Backend) {
        backend.free(self.pixels.buffer);
        backend.free(self.labels.buffer);
    }
}
