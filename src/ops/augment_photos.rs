//! Photographs of any size, cut out, resized, recoloured, blurred, mirrored and normalised as drawn on the host, then mixed:
//! torchvision's `RandomResizedCrop`, `ColorJitter`, `RandomGrayscale`, `GaussianBlur` and `RandomHorizontalFlip` on floats,
//! and `Resize` with `CenterCrop` for evaluation.
//!
//! All values are in 0..1 until they are normalised, and are nowhere rounded to bytes.

use super::augment_mix::{Mixing, View, mix_views};
use super::load_step::StepVars;
use super::{Backend, expect, two};
use crate::error::{Error, Result};
use crate::tape::{Op, Pass, Run, Scratch, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "augment_photos";

/// 32-bit words of a [`PhotoDraw`].
pub const DRAW_WORDS: usize = 16;

/// 32-bit words of an image's row in the index: low and high word of the offset of its first byte, height, width.
pub const INDEX_WORDS: usize = 4;

/// How one image of a step is cut out and changed; drawn on the host, so that every device sees the same bits.
/// `kernels/photo.cuh` has the same layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PhotoDraw {
    /// First row of the box in the source; filter weights never reach beyond the box.
    pub top: u32,
    /// Its first column.
    pub left: u32,
    /// Its rows, at least 1.
    pub height: u32,
    /// Its columns, at least 1.
    pub width: u32,
    /// Source pixels per output pixel, of rows and of columns.
    pub scale: [f32; 2],
    /// Rows and columns of the resized box before the first one written: 0 for `RandomResizedCrop`, the offset of
    /// `CenterCrop` in evaluation.
    pub shift: [f32; 2],
    /// Factor of the values; 1 leaves them.
    pub brightness: f32,
    /// Factor of the distance from the mean grey; 1 leaves it.
    pub contrast: f32,
    /// Factor of the distance from a pixel's own grey; 1 leaves it.
    pub saturation: f32,
    /// Turns by which hues are shifted; 0 leaves them.
    pub hue: f32,
    /// Order of the four, two bits each, the first applied lowest: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    pub order: u32,
    /// [`PhotoDraw::FLIP`], [`PhotoDraw::GREY`].
    pub flags: u32,
    /// Standard deviation of the Gaussian blur in output pixels; 0 for none.
    pub sigma: f32,
    /// Zero.
    pub reserved: u32,
}

impl PhotoDraw {
    /// The output is mirrored left to right.
    pub const FLIP: u32 = 1;
    /// All colours become the pixel's grey.
    pub const GREY: u32 = 2;

    /// The box `[top, left, height, width]` resized to `size` rows and columns, and nothing else.
    pub fn of_box([top, left, height, width]: [u32; 4], size: usize) -> PhotoDraw {
        PhotoDraw {
            top,
            left,
            height,
            width,
            scale: [height, width].map(|extent| extent as f32 / size as f32),
            shift: [0.0; 2],
            brightness: 1.0,
            contrast: 1.0,
            saturation: 1.0,
            hue: 0.0,
            order: 0b11_10_01_00,
            flags: 0,
            sigma: 0.0,
            reserved: 0,
        }
    }
}

/// The tensors of the data set and the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Photos {
    /// U8 (bytes): images one after another, each (height, width, 3).
    pub pixels: Var,
    /// I32 (images, 4): see [`INDEX_WORDS`].
    pub index: Var,
    /// I32 (rows, 16): a [`PhotoDraw`] each. Of sample n of a step's batch in the set s of [`Mixing::image_sets`] it is the
    /// row `step * stride + s * batch + n`, with the `step` of the step's scalars.
    pub draws: Var,
}

/// What is the same for all images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhotoConfig {
    /// Rows and columns of the output.
    pub size: usize,
    /// Rows of the draws that belong to a step: sets times the full batch.
    pub stride: usize,
    /// Mean per colour, of values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per colour.
    pub std: [f32; 3],
}

/// The tensors of `augment_photos`.
#[derive(Clone, Copy, Debug)]
pub struct AugmentPhotos {
    /// U8 (bytes).
    pub pixels: Tensor,
    /// I32 (images, 4).
    pub index: Tensor,
    /// I32 (rows, 16).
    pub draws: Tensor,
    /// I32 (batch).
    pub originals: Tensor,
    /// I32 (batch).
    pub partners: Tensor,
    /// I32 (16): a `StepParams`.
    pub scalars: Tensor,
    /// Written, accumulation type: (sets * batch, size, size, 3), sets as in [`Mixing::image_sets`]; zeros where no view shows
    /// a set.
    pub out: Tensor,
    /// [`AugmentPhotosKernels::augment_photos_scratch`] bytes.
    pub scratch: Option<Tensor>,
}

/// What a backend provides for `augment_photos`.
///
/// In this order:
///
/// 1. Resize by a triangle, antialiased (PyTorch's `_upsample_bilinear2d_aa`): output i of a side with scale s and shift d has
///    its centre at `c = s * (i + d + 0.5)` of the box, weights `max(0, 1 - |j + 0.5 - c| / max(s, 1))` for the box's pixels
///    j, divided by their sum. Bytes are divided by 255.
/// 2. The four colour steps in the drawn order; grey is `0.2989 R + 0.587 G + 0.114 B`, results are clamped to 0..1.
///    Brightness: `b * v`. Contrast: `c * v + (1 - c) * mean grey of the image`. Saturation: `s * v + (1 - s) * grey`. Hue: HSV
///    with the hue shifted.
/// 3. Grey, if so drawn.
/// 4. A Gaussian blur of radius `ceil(3 * sigma)`, at most size - 1, weights divided by their sum, borders reflected without
///    repeating the edge (torchvision's `gaussian_blur`).
/// 5. Mirroring, if so drawn, and `(v - mean) / std`.
pub trait AugmentPhotosKernels {
    /// Bytes of scratch for so many images of so many rows and columns.
    fn augment_photos_scratch(&self, images: usize, size: usize) -> usize;
    /// See above.
    fn augment_photos(&self, mixing: Mixing, config: &PhotoConfig, t: &AugmentPhotos) -> Result<()>;
}

/// Whether a set of [`Mixing::image_sets`] is shown by a view.
pub fn is_shown(mixing: Mixing, set: usize) -> bool {
    let (views, view) = (mixing.views(), set % mixing.views());
    match mixing.each().nth(view) {
        Some(View::Plain) => set < views,
        Some(View::Partner) => set >= views,
        _ => true,
    }
}

/// Pixels that a blur reaches to each side.
pub fn blur_radius(sigma: f32, size: usize) -> usize {
    ((3.0 * sigma).ceil() as usize).min(size - 1)
}

#[derive(Debug)]
struct Record {
    mixing: Mixing,
    config: PhotoConfig,
    photos: Photos,
    vars: StepVars,
    out: Var,
    batch: usize,
}

/// Records the making of a step's input from photographs; returns (views * batch, size, size, stem channels) in the compute
/// type, as `augment_mix` does.
///
/// # Errors
/// When a tensor has another type or shape than [`Photos`] says, or the configuration is of no use.
pub fn augment_photos(
    tape: &mut Tape,
    backend: &dyn Backend,
    photos: Photos,
    vars: StepVars,
    mixing: Mixing,
    config: PhotoConfig,
) -> Result<Var> {
    let [images, _] = two(NAME, "the index", tape.shape(photos.index))?;
    expect(NAME, "the index", tape.shape(photos.index), &[images, INDEX_WORDS])?;
    let [rows, _] = two(NAME, "the draws", tape.shape(photos.draws))?;
    expect(NAME, "the draws", tape.shape(photos.draws), &[rows, DRAW_WORDS])?;
    let types = [photos.pixels, photos.index, photos.draws].map(|var| tape.dtype(var));
    if types != [DType::U8, DType::I32, DType::I32] || tape.shape(photos.pixels).dims().len() != 1 {
        return Err(Error::op(NAME, "photographs are a row of bytes, their index and draws are integers"));
    }
    let (batch, sets) = (tape.shape(vars.originals).elements(), mixing.image_sets());
    let PhotoConfig { size, stride, std, .. } = config;
    if size == 0 || stride < sets * batch || !std.iter().all(|&std| std > 0.0) {
        let what = format!("images of {size} pixels a side, {stride} draws a step, deviations {std:?}");
        return Err(Error::op(NAME, format!("{what}: none may be 0, and {sets} sets of {batch} need a draw each")));
    }
    let out = tape.value(&[sets * batch, size, size, 3], backend.precision().accumulate());
    tape.record(Record { mixing, config, photos, vars, out, batch });
    mix_views(tape, backend, mixing, out, vars.scalars)
}

impl Record {
    fn images(&self) -> usize {
        self.mixing.image_sets() * self.batch
    }
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        let Photos { pixels, index, draws } = self.photos;
        vec![pixels, index, draws, self.vars.originals, self.vars.partners, self.vars.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.out]
    }

    fn scratch(&self, backend: &dyn Backend) -> Scratch {
        Scratch { forward: backend.augment_photos_scratch(self.images(), self.config.size), backward: 0 }
    }

    fn label(&self) -> String {
        format!("{} {}", self.mixing, self.config.size)
    }

    /// A resize by four taps, the colour steps, and half of the images blurred by thirteen taps a direction: what is drawn
    /// decides, and varies.
    fn flops(&self, _pass: Pass, _wanted: &[Var]) -> f64 {
        (self.images() * self.config.size * self.config.size * 3) as f64 * (8.0 + 12.0 + 26.0)
    }

    /// As many bytes as are written; the images' draws.
    fn touches(&self, var: Var) -> Option<usize> {
        let images = self.images();
        if var == self.photos.pixels {
            return Some(images * self.config.size * self.config.size * 3);
        }
        (var == self.photos.draws).then_some(images * 4 * DRAW_WORDS)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let tensors = AugmentPhotos {
            pixels: run.value(self.photos.pixels),
            index: run.value(self.photos.index),
            draws: run.value(self.photos.draws),
            originals: run.value(self.vars.originals),
            partners: run.value(self.vars.partners),
            scalars: run.value(self.vars.scalars),
            out: run.value(self.out),
            scratch: run.scratch(),
        };
        run.backend.augment_photos(self.mixing, &self.config, &tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_sixteen_words() {
        assert_eq!(size_of::<PhotoDraw>(), 4 * DRAW_WORDS);
    }

    #[test]
    fn sets_are_shown_by_the_views_that_want_them() {
        let shown = |mixing: Mixing| (0..mixing.image_sets()).map(|set| is_shown(mixing, set)).collect::<Vec<_>>();
        assert_eq!(shown(Mixing::GLMC), [true; 4]);
        assert_eq!(shown(Mixing::Two(View::Plain, View::Partner)), [true, false, false, true]);
        assert_eq!(shown(Mixing::One(View::Plain)), [true]);
        assert_eq!(shown(Mixing::One(View::Partner)), [false, true]);
        assert_eq!(shown(Mixing::Evaluate), [true]);
        assert_eq!(shown(Mixing::EvaluateFlip), [true, true]);
    }
}
