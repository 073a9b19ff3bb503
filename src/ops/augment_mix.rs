//! From bytes to mixtures in one pass: gather, crop, flip, normalise, MixUp and CutMix (GLMC paper, section 3).
//!
//! `augment_mix` starts from the resident u8 images; `mix_views` from views that are already augmented and normalised,
//! as reference steps hold them.

use super::load_step::StepVars;
use super::{Backend, expect, four};
use crate::error::{Error, Result};
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "augment_mix";

/// What becomes of the images of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mixing {
    /// Views o1, o2 of the originals and r1, r2 of the partners, augmented independently; out come the MixUp batch
    /// `lambda*o1 + (1-lambda)*r1`, then the CutMix batch: o2 with the step's box taken from r2.
    Glmc,
    /// The augmented view o1 alone: plain cross-entropy.
    Single,
    /// The originals as they are, normalised: evaluation.
    Evaluate,
}

impl Mixing {
    /// Views that come out, one after the other along the batch.
    pub fn views(self) -> usize {
        match self {
            Mixing::Glmc => 2,
            Mixing::Single | Mixing::Evaluate => 1,
        }
    }
}

/// How images are augmented and normalised. A pixel byte p of colour c becomes `(p/255 - mean[c]) / std[c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Mean per colour, of values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per colour.
    pub std: [f32; 3],
    /// Black pixels around the image before the random crop to the original size (`torchvision.transforms.RandomCrop`
    /// with padding, before normalisation).
    pub padding: usize,
    /// Whether to mirror half of the views left to right.
    pub flip: bool,
}

/// The tensors of `augment_mix`.
#[derive(Clone, Copy, Debug)]
pub struct AugmentMix {
    /// U8 (images, height, width, 3).
    pub pixels: Tensor,
    /// I32 (batch).
    pub originals: Tensor,
    /// I32 (batch).
    pub partners: Tensor,
    /// I32 (16): a `StepParams`.
    pub scalars: Tensor,
    /// Written, compute type: (views * batch, height, width, stem channels); channels past the third are zero.
    pub out: Tensor,
}

/// What a backend provides for `augment_mix` and `mix_views`.
///
/// Crop and flip of sample n in view v (o1, o2, r1, r2 are 0 to 3) come from
/// `philox::draw(seed, epoch, step, Augment + v, n)`: word 0 gives the crop's row `below(w, 2 * padding + 1)`, word 1
/// its column, the lowest bit of word 2 the flip. A pixel outside the image is a black byte, normalised like any other.
pub trait AugmentMixKernels {
    /// Channels of the stem's input: 3, or more where the stem's convolution wants padding.
    fn stem_channels(&self) -> usize;
    /// See [`Mixing`].
    fn augment_mix(&self, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()>;
    /// The mixtures of `views` (4 * batch, height, width, 3), accumulation type, ordered o1, o2, r1, r2; `out` as above.
    fn mix_views(&self, views: Tensor, scalars: Tensor, out: Tensor) -> Result<()>;
}

#[derive(Debug)]
struct Augment {
    mixing: Mixing,
    augmentation: Augmentation,
    pixels: Var,
    vars: StepVars,
    out: Var,
    batch: usize,
    image_bytes: usize,
}

/// Records the making of a step's input from `pixels`, U8 (images, height, width, 3); returns
/// (views * batch, height, width, stem channels).
///
/// # Errors
/// When the pixels are no images.
pub fn augment_mix(
    tape: &mut Tape,
    backend: &dyn Backend,
    pixels: Var,
    vars: StepVars,
    mixing: Mixing,
    augmentation: Augmentation,
) -> Result<Var> {
    let [images, height, width, colours] = four(NAME, "the images", tape.shape(pixels))?;
    expect(NAME, "the images", tape.shape(pixels), &[images, height, width, 3])?;
    if tape.dtype(pixels) != DType::U8 || colours != 3 {
        return Err(Error::op(NAME, "images are bytes, three a pixel"));
    }
    let batch = tape.shape(vars.originals).elements();
    let shape = [mixing.views() * batch, height, width, backend.stem_channels()];
    let out = tape.value(&shape, backend.precision().compute());
    let image_bytes = height * width * colours;
    tape.record(Augment { mixing, augmentation, pixels, vars, out, batch, image_bytes });
    Ok(out)
}

impl Op for Augment {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.pixels, self.vars.originals, self.vars.partners, self.vars.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.out]
    }

    fn label(&self) -> String {
        format!("{:?}", self.mixing)
    }

    /// A value normalised is two operations; MixUp normalises two and mixes them by three, CutMix normalises one.
    fn flops(&self, _pass: Pass, _wanted: &[Var]) -> f64 {
        let each = if self.mixing == Mixing::Glmc { 9.0 } else { 2.0 };
        (self.batch * self.image_bytes) as f64 * each
    }

    /// The originals, and for mixtures the partners.
    fn touches(&self, var: Var) -> Option<usize> {
        let images = if self.mixing == Mixing::Glmc { 2 } else { 1 };
        (var == self.pixels).then_some(images * self.batch * self.image_bytes)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let tensors = AugmentMix {
            pixels: run.value(self.pixels),
            originals: run.value(self.vars.originals),
            partners: run.value(self.vars.partners),
            scalars: run.value(self.vars.scalars),
            out: run.value(self.out),
        };
        run.backend.augment_mix(self.mixing, &self.augmentation, &tensors)
    }
}

#[derive(Debug)]
struct MixViews {
    views: Var,
    scalars: Var,
    out: Var,
}

/// Records the mixtures of four given views, (4 * batch, height, width, 3) in the accumulation type, ordered o1, o2,
/// r1, r2; returns (2 * batch, height, width, stem channels).
///
/// # Errors
/// When the shape is not of that form.
pub fn mix_views(tape: &mut Tape, backend: &dyn Backend, views: Var, scalars: Var) -> Result<Var> {
    let [images, height, width, _] = four("mix_views", "the views", tape.shape(views))?;
    expect("mix_views", "the views", tape.shape(views), &[images / 4 * 4, height, width, 3])?;
    let out = tape.value(&[images / 2, height, width, backend.stem_channels()], backend.precision().compute());
    tape.record(MixViews { views, scalars, out });
    Ok(out)
}

impl Op for MixViews {
    fn name(&self) -> &'static str {
        "mix_views"
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.views, self.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.out]
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.mix_views(run.value(self.views), run.value(self.scalars), run.value(self.out))
    }
}
