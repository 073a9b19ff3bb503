//! `augment_photos`.

use super::Launched;
use crate::error::{Error, Result};
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{AugmentPhotos, AugmentPhotosKernels, NAME, PhotoConfig};

impl AugmentPhotosKernels for Launched {
    fn augment_photos_scratch(&self, _images: usize, _size: usize) -> usize {
        0
    }

    fn augment_photos(&self, _mixing: Mixing, _config: &PhotoConfig, _t: &AugmentPhotos) -> Result<()> {
        Err(Error::op(NAME, "not on this device yet"))
    }
}
