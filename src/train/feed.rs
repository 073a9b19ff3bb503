//! Images and labels on the device: all of them when they fit, else those of the coming step.
//!
//! A step's images are gathered from the memory map into one of two page-locked buffers while the device computes the
//! step before, and copied behind that step: the host waits only when it is two steps ahead.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::data::store::{ImageSet, Store};
use crate::error::{Error, Result};
use crate::memory::{Mark, Pinned};
use crate::method::EpochPlan;
use crate::ops::Backend;
use crate::ops::load_step::STEP_WORDS;
use crate::tensor::{DType, Tensor};

/// A set of images of one size, on the host: what a store's split maps, or what a bench made up.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// (images, height, width, 3), bytes.
    pub pixels: &'a [u8],
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
        Ok(Images { pixels: set.pixels(), labels: set.labels(), height: set.height(), width: set.width() })
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

    fn image(&self, index: u32) -> &[u8] {
        let bytes = self.image_bytes();
        &self.pixels[index as usize * bytes..][..bytes]
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
    /// Uploads all images if they take at most `limit` bytes; otherwise makes room for the originals and partners of one
    /// step of up to `batch`.
    ///
    /// # Errors
    /// When there are no images, or device or host have too little memory.
    pub fn new(backend: &dyn Backend, images: Images<'a>, batch: usize, limit: usize) -> Result<Feed<'a>> {
        if images.is_empty() {
            return Err(Error::Config("the data set has no images".into()));
        }
        let resident = images.pixels.len() <= limit;
        let count = if resident { images.len() } else { 2 * batch };
        let shape = [count, images.height, images.width, 3];
        let pixels = backend.tensor(&shape, DType::U8, "images")?;
        let labels = backend.tensor(&[count], DType::I32, "labels")?;
        if resident {
            backend.upload(pixels, images.pixels)?;
            backend.upload(labels, bytemuck::cast_slice(images.labels))?;
            return Ok(Feed { images, pixels, labels, staging: None });
        }
        let slot = || -> Result<Slot> {
            Ok(Slot { memory: backend.alloc_pinned(pixels.bytes() + labels.bytes())?, copied: None })
        };
        let staging = Staging { batch, slots: RefCell::new([slot()?, slot()?]) };
        Ok(Feed { images, pixels, labels, staging: Some(staging) })
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
            let row = (step - steps.start) * (STEP_WORDS + 2 * size) + STEP_WORDS;
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
            pixels.par_chunks_exact_mut(image_bytes).zip(indices).for_each(|(to, &index)| {
                to.copy_from_slice(images.image(index));
            });
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
