//! Images and labels on the device: all of them when they fit, else those of the coming step.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::glmc::EpochPlan;
use crate::ops::step::STEP_WORDS;
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

/// Where the device finds a step's images.
pub struct Feed<'a> {
    images: Images<'a>,
    /// U8 (images or 2 * batch, height, width, 3).
    pub pixels: Tensor,
    /// I32 (images or 2 * batch).
    pub labels: Tensor,
    /// Images of a staged batch; `None` when all are resident.
    staged: Option<usize>,
}

impl<'a> Feed<'a> {
    /// Uploads all images if they take at most `limit` bytes; otherwise makes room for the originals and partners of one
    /// step of up to `batch`.
    ///
    /// # Errors
    /// When there are no images, or the device has too little memory.
    pub fn new(backend: &dyn Backend, images: Images<'a>, batch: usize, limit: usize) -> Result<Feed<'a>> {
        if images.is_empty() {
            return Err(Error::Config("the data set has no images".into()));
        }
        let resident = images.pixels.len() <= limit;
        let count = if resident { images.len() } else { 2 * batch };
        let shape = [count, images.height, images.width, 3];
        let pixels = backend.alloc(count * images.image_bytes(), "images")?;
        let labels = backend.alloc(4 * count, "labels")?;
        let feed = Feed {
            images,
            pixels: Tensor::at_start(pixels, &shape, DType::U8),
            labels: Tensor::at_start(labels, &[count], DType::I32),
            staged: (!resident).then_some(batch),
        };
        if resident {
            backend.upload(feed.pixels, images.pixels)?;
            backend.upload(feed.labels, bytemuck::cast_slice(images.labels))?;
        }
        Ok(feed)
    }

    /// The host's images.
    pub fn images(&self) -> &Images<'a> {
        &self.images
    }

    /// Whether all images are on the device.
    pub fn is_resident(&self) -> bool {
        self.staged.is_none()
    }

    /// Rows of the step table for `steps` of one size. Staged images are numbered from 0: originals, then partners.
    pub fn table(&self, plan: &EpochPlan, steps: std::ops::Range<usize>) -> Vec<u32> {
        let Some(batch) = self.staged else { return plan.table(steps) };
        let size = steps.clone().next().map_or(0, |step| plan.indices(step).0.len());
        let mut words = plan.table(steps);
        for row in words.chunks_mut(STEP_WORDS + 2 * size) {
            for n in 0..size {
                row[STEP_WORDS + n] = n as u32;
                row[STEP_WORDS + size + n] = (batch + n) as u32;
            }
        }
        words
    }

    /// Brings a step's images to the device, if they are not all there.
    ///
    /// # Errors
    /// When the device fails.
    pub fn stage(&self, backend: &dyn Backend, plan: &EpochPlan, step: usize) -> Result<()> {
        let Some(batch) = self.staged else { return Ok(()) };
        let (originals, partners) = plan.indices(step);
        for (start, indices) in [(0, originals), (batch, partners)] {
            for (n, &index) in indices.iter().enumerate() {
                backend.upload(self.pixels.rows(start + n, 1), self.images.image(index))?;
            }
            let labels: Vec<i32> = indices.iter().map(|&i| self.images.labels[i as usize]).collect();
            backend.upload(self.labels.rows(start, indices.len()), bytemuck::cast_slice(&labels))?;
        }
        Ok(())
    }

    /// Gives the memory back.
    pub fn release(&self, backend: &dyn Backend) {
        backend.free(self.pixels.buffer);
        backend.free(self.labels.buffer);
    }
}
