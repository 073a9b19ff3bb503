//! Views that were augmented and normalised elsewhere, as reference steps hold them: the other source of a step's images.

use crate::error::Result;
use crate::ops::Backend;
use crate::ops::augment_mix::Mixing;
use crate::ops::load_step::STEP_WORDS;
use crate::tensor::{DType, Tensor};

/// Where a step finds its views, labels, shares and scalars.
pub struct Views {
    /// Accumulation type (image sets * batch, height, width, 3): o1, o2, r1, r2, as far as the mixing takes them.
    pub pixels: Tensor,
    /// I32 (2 * batch): classes of the originals, then of the partners.
    pub labels: Tensor,
    /// I32 (16): a `StepParams`.
    pub scalars: Tensor,
    /// I32 (batch): where the originals' labels are.
    pub(super) originals: Tensor,
    /// I32 (batch): where the partners' labels are.
    pub(super) partners: Tensor,
    /// F32 (batch): the originals' shares of the labels.
    pub shares: Tensor,
    /// Steps whose losses are kept.
    pub(super) steps: usize,
}

impl Views {
    /// Room for the images of one step of `batch` samples of `size` x `size` pixels, from which `mixing` makes its views.
    ///
    /// # Errors
    /// When the device has too little memory.
    pub fn new(backend: &dyn Backend, mixing: Mixing, batch: usize, size: usize, steps: usize) -> Result<Views> {
        let tensor = |shape: &[usize], dtype: DType| backend.tensor(shape, dtype, "views");
        let views = Views {
            pixels: tensor(&[mixing.image_sets() * batch, size, size, 3], backend.precision().accumulate())?,
            labels: tensor(&[2 * batch], DType::I32)?,
            scalars: tensor(&[STEP_WORDS], DType::I32)?,
            originals: tensor(&[batch], DType::I32)?,
            partners: tensor(&[batch], DType::I32)?,
            shares: tensor(&[batch], DType::F32)?,
            steps,
        };
        let numbers: Vec<i32> = (0..2 * batch as i32).collect();
        backend.upload(views.originals, bytemuck::cast_slice(&numbers[..batch]))?;
        backend.upload(views.partners, bytemuck::cast_slice(&numbers[batch..]))?;
        Ok(views)
    }
}
