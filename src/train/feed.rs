//! Images and labels on the device: all of them when they fit, else those of the coming step. Images of one size lie in one
//! array; photographs lie one after another (`photo_feed`).
//!
//! A step's images are gathered from the store into one of two page-locked buffers while the device computes the step before,
//! and copied behind that step: the host waits only when it is two steps ahead. Whatever is read of a store is verified on its
//! way: damaged pixels end the run before a step sees them.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use rayon::prelude::*;

use super::photo_feed::{self, Idle, PhotoFeed, Shown};
use crate::data::pixels::PixelSource;
use crate::data::store::{Entry, ImageSet};
use crate::error::{Error, Result};
use crate::memory::{Mark, Pinned};
use crate::method::EpochPlan;
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing, augment_mix};
use crate::ops::load_step::{STEP_WORDS, StepVars, row_words};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Bytes of resident images that are read, verified and uploaded at a time.
const UPLOAD_BYTES: usize = 16 << 20;

/// Which word of a step's scalars is the step's number.
const STEP_WORD: usize = 3;

/// A set of images on the host: a store's subset, or what a bench made up.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// (images, height, width, 3), bytes; where sizes differ, one image after another.
    pub pixels: &'a dyn PixelSource,
    /// (images).
    pub labels: &'a [i32],
    /// Rows of an image; of the tallest where sizes differ.
    pub height: usize,
    /// Columns of an image; of the widest where sizes differ.
    pub width: usize,
    /// Where each image lies; `None` where all have one size.
    pub index: Option<&'a [Entry]>,
}

impl<'a> Images<'a> {
    /// The images of one of a store's subsets.
    pub fn of(set: &'a ImageSet) -> Images<'a> {
        let (height, width) = (set.height(), set.width());
        Images { pixels: set, labels: set.labels(), height, width, index: set.index() }
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

    /// Where image `image` lies, and its size.
    pub(super) fn entry(&self, image: usize) -> Entry {
        match self.index {
            Some(index) => index[image],
            None => Entry { offset: image * self.image_bytes(), height: self.height, width: self.width },
        }
    }

    fn image_bytes(&self) -> usize {
        self.height * self.width * 3
    }
}

/// Room on the host for one step's images, and behind them its labels; originals first, partners after a batch.
struct Slot {
    memory: Pinned,
    /// Set behind the copy of what the slot held last.
    copied: Option<Mark>,
}

/// How what belongs to a step gets to the device.
struct Staging {
    batch: usize,
    /// Filled in turn.
    slots: RefCell<[Slot; 2]>,
}

/// Where the device finds a step's images.
pub struct Feed<'a> {
    images: Images<'a>,
    /// U8 (images or 2 * batch, height, width, 3); of photographs (bytes).
    pixels: Tensor,
    /// I32 (images or those of a step).
    pub labels: Tensor,
    photos: Option<PhotoFeed>,
    /// Whether all images are on the device.
    resident: bool,
    /// `None` where nothing has to be sent between steps.
    staging: Option<Staging>,
    idle: Idle,
}

impl<'a> Feed<'a> {
    /// Makes room for all images if they take at most `limit` bytes, otherwise for the originals and partners of one step of
    /// up to `batch`: of photographs, which are to be `shown` in one size, for the largest that there are. Nothing is read
    /// before [`Feed::fill`].
    ///
    /// # Errors
    /// When there are no images, they differ in size and are no photographs, or device or host have too little memory.
    pub fn new(
        backend: &dyn Backend,
        images: Images<'a>,
        batch: usize,
        limit: usize,
        shown: Option<Shown>,
    ) -> Result<Feed<'a>> {
        if images.is_empty() {
            return Err(Error::Config("the data set has no images".into()));
        }
        let (resident, count, pixels) = match shown {
            None if images.index.is_some() => {
                return Err(Error::Config(
                    "images of several sizes need a --size at which the network sees them".into(),
                ));
            }
            None => {
                let resident = images.len() * images.image_bytes() <= limit;
                let count = if resident { images.len() } else { 2 * batch };
                let shape = [count, images.height, images.width, 3];
                (resident, count, backend.tensor(&shape, DType::U8, "images")?)
            }
            Some(shown) => {
                let of_step = shown.images(batch);
                let (all, most) = photo_feed::bytes(&images, of_step);
                let resident = all <= limit;
                let (count, bytes) = if resident { (images.len(), all) } else { (of_step, most) };
                (resident, count, backend.tensor(&[bytes], DType::U8, "images")?)
            }
        };
        let labels = backend.tensor(&[count], DType::I32, "labels")?;
        let photos = shown.map(|shown| PhotoFeed::new(backend, shown, count, batch, resident)).transpose()?;
        let sent = if resident { 0 } else { pixels.bytes() + labels.bytes() };
        let drawn = photos.as_ref().map_or(0, |photos| if resident { photos.draws.bytes() } else { photos.bytes() });
        let slot = || -> Result<Slot> { Ok(Slot { memory: backend.alloc_pinned(sent + drawn)?, copied: None }) };
        let staging = match sent + drawn {
            0 => None,
            _ => Some(Staging { batch, slots: RefCell::new([slot()?, slot()?]) }),
        };
        Ok(Feed { images, pixels, labels, photos, resident, staging, idle: Idle::default() })
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
        self.photos.as_ref().map_or(Ok(()), |photos| photos.fill(backend, &self.images))?;
        if let Some(pixels) = self.images.pixels.in_memory() {
            return backend.upload(self.pixels, &pixels[..self.pixels.bytes()]);
        }
        // In pieces of whole images where these have one size, of bytes where they do not.
        let unit = if self.photos.is_some() { 1 } else { self.images.image_bytes() };
        let count = self.pixels.bytes() / unit;
        let at_once = (UPLOAD_BYTES / unit).clamp(1, count);
        let mut bytes = vec![0; at_once * unit];
        for first in (0..count).step_by(at_once) {
            let units = at_once.min(count - first);
            let bytes = &mut bytes[..units * unit];
            self.images.pixels.read(first * unit, bytes)?;
            backend.upload(self.pixels.rows(first, units), bytes)?;
        }
        Ok(())
    }

    /// The host's images.
    pub fn images(&self) -> &Images<'a> {
        &self.images
    }

    #[cfg(test)]
    pub(super) fn photos(&self) -> Option<&PhotoFeed> {
        self.photos.as_ref()
    }

    #[cfg(test)]
    pub(super) fn pixels(&self) -> Tensor {
        self.pixels
    }

    /// Whether all images are on the device.
    pub fn is_resident(&self) -> bool {
        self.resident
    }

    /// Bytes that it holds on the device.
    pub fn bytes(&self) -> usize {
        self.pixels.bytes() + self.labels.bytes() + self.photos.as_ref().map_or(0, PhotoFeed::bytes)
    }

    /// How long the device has waited for images so far, as far as the host sees it: on a CPU, which reads them between its
    /// steps, all the time that this took.
    pub fn waited(&self) -> Duration {
        self.idle.waited()
    }

    /// Records the making of a step's images from these.
    ///
    /// # Errors
    /// Those of the ops.
    pub fn record(
        &self,
        tape: &mut Tape,
        backend: &dyn Backend,
        vars: StepVars,
        mixing: Mixing,
        augmentation: Augmentation,
    ) -> Result<Var> {
        if let Some(photos) = &self.photos {
            let Augmentation { mean, std, .. } = augmentation;
            return photos.record(tape, backend, (self.pixels, vars), mixing, (mean, std));
        }
        let pixels = tape.external(self.pixels);
        augment_mix(tape, backend, pixels, vars, mixing, augmentation)
    }

    /// Rows of the step table for the parts of these steps that have `size` samples. Staged images are numbered as they lie
    /// on the device: originals from 0, partners from the batch size; a step that has no partners of its own finds them among
    /// the originals.
    pub fn table(&self, plan: &EpochPlan, steps: Range<usize>, size: usize) -> Vec<u32> {
        let mut words = plan.table(plan.parts(steps.clone(), size));
        let Some(Staging { batch, .. }) = self.staging else { return words };
        for (part, row) in plan.parts(steps, size).zip(words.chunks_exact_mut(row_words(size))) {
            let (originals, partners) = plan.indices(part.step);
            if self.photos.is_some() {
                // The draws that are on the device are those of one step, part after part.
                row[STEP_WORD] = part.place as u32;
            }
            if self.resident {
                continue;
            }
            let first = if partners == originals { 0 } else { batch };
            let row = &mut row[STEP_WORDS..];
            for n in 0..size {
                row[n] = (part.first + n) as u32;
                row[size + n] = (first + part.first + n) as u32;
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
        self.idle.begin(backend)?;
        if let Some(photos) = &self.photos {
            if !self.resident {
                let to = ((self.pixels, self.labels), *batch);
                photos.send_images(backend, &self.images, &mut slot.memory, to, (plan, step), &self.idle)?;
            }
            photos.send_draws(backend, &self.images, &mut slot.memory, (plan, step))?;
            slot.copied = Some(backend.mark()?);
            return Ok(());
        }
        let (originals, partners) = plan.indices(step);
        let parts = if partners == originals { &[(0, originals)][..] } else { &[(0, originals), (*batch, partners)] };
        let (images, image_bytes, pixels_bytes) = (self.images, self.images.image_bytes(), self.pixels.bytes());
        for &(start, indices) in parts {
            let (pixels, labels) = slot.memory.bytes_mut().split_at_mut(pixels_bytes);
            let pixels = &mut pixels[start * image_bytes..][..indices.len() * image_bytes];
            let each = pixels.par_chunks_exact_mut(image_bytes).zip(indices);
            let read = |(to, &index): (&mut [u8], &u32)| images.pixels.read(index as usize * image_bytes, to);
            self.idle.watch(backend, || each.try_for_each(read))?;
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
        if let Some(photos) = &self.photos {
            photos.release(backend);
        }
    }
}
