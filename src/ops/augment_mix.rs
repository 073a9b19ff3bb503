//! From bytes to mixtures in one pass: gather, crop, flip, normalise, MixUp and CutMix (GLMC paper, section 3).
//!
//! `augment_mix` starts from the resident u8 images; `mix_views` from images that are already augmented and normalised,
//! as reference steps hold them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::load_step::StepVars;
use super::{Backend, expect, four};
use crate::error::{Error, Result};
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "augment_mix";

/// What a view shows of an original o and its partner r, each augmented for this view alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// o. The partner, lambda and the box have no part in it.
    Plain,
    /// `lambda*o + (1-lambda)*r` (Zhang et al., "mixup", 2018); just o where lambda is 1.
    Mixup,
    /// o with the step's box taken from r (Yun et al., "CutMix", 2019); just o where the box is empty.
    Cutmix,
    /// r; the original has no part in it.
    Partner,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            View::Plain => "plain",
            View::Mixup => "mixup",
            View::Cutmix => "cutmix",
            View::Partner => "partner",
        })
    }
}

/// The views that a step makes of each of its samples. Originals and partners are augmented for each view independently:
/// view 0 shows o1 and r1, view 1 o2 and r2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mixing {
    /// One view.
    One(View),
    /// Two views, one after the other along the batch.
    Two(View, View),
    /// The originals as they are, normalised: evaluation.
    Evaluate,
    /// The same, and after them their mirror images: evaluation that averages over both.
    EvaluateFlip,
}

impl Mixing {
    /// What GLMC trains on (paper, section 3).
    pub const GLMC: Mixing = Mixing::Two(View::Mixup, View::Cutmix);

    /// Views that come out, one after the other along the batch.
    pub fn views(self) -> usize {
        self.each().count()
    }

    /// What each view shows, in their order.
    pub fn each(self) -> impl Iterator<Item = View> {
        let (first, second) = match self {
            Mixing::One(view) => (view, None),
            Mixing::Two(first, second) => (first, Some(second)),
            Mixing::Evaluate => (View::Plain, None),
            Mixing::EvaluateFlip => (View::Plain, Some(View::Plain)),
        };
        std::iter::once(first).chain(second)
    }

    /// Whether a view shows anything of the partners.
    pub fn takes_partners(self) -> bool {
        self.each().any(|view| view != View::Plain)
    }

    /// Sets of images that `mix_views` is given: the originals and the partners of each view, of a single plain view the
    /// originals alone; in evaluation with mirror images the originals and these.
    pub fn image_sets(self) -> usize {
        match self {
            Mixing::Two(..) => 4,
            Mixing::EvaluateFlip => 2,
            _ => 1 + usize::from(self.takes_partners()),
        }
    }
}

impl fmt::Display for Mixing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mixing::One(view) => view.fmt(f),
            Mixing::Two(first, second) => write!(f, "{first}+{second}"),
            Mixing::Evaluate => f.write_str("evaluate"),
            Mixing::EvaluateFlip => f.write_str("evaluate+mirror"),
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
/// `philox::draw(seed, epoch, step, Augment + v, first + n)`: word 0 gives the crop's row `below(w, 2 * padding + 1)`, word 1
/// its column, the lowest bit of word 2 the flip. A pixel outside the image is a black byte, normalised like any other.
pub trait AugmentMixKernels {
    /// Channels of the stem's input: 3, or more where the stem's convolution wants padding.
    fn stem_channels(&self) -> usize;
    /// See [`Mixing`].
    fn augment_mix(&self, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()>;
    /// The views of `images` ([`Mixing::image_sets`] * batch, height, width, 3), accumulation type, ordered o1, o2, r1, r2 (for
    /// one view o1, r1); `out` as above.
    fn mix_views(&self, mixing: Mixing, images: Tensor, scalars: Tensor, out: Tensor) -> Result<()>;
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
        self.mixing.to_string()
    }

    /// A value normalised is two operations; MixUp normalises two and mixes them by three, other views normalise one.
    fn flops(&self, _pass: Pass, _wanted: &[Var]) -> f64 {
        let each = self.mixing.each().map(|view| if view == View::Mixup { 7.0 } else { 2.0 });
        (self.batch * self.image_bytes) as f64 * each.sum::<f64>()
    }

    /// The originals, and for mixtures the partners.
    fn touches(&self, var: Var) -> Option<usize> {
        let images = 1 + usize::from(self.mixing.takes_partners());
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
    mixing: Mixing,
    images: Var,
    scalars: Var,
    out: Var,
}

/// Records the views of given images, ([`Mixing::image_sets`] * batch, height, width, 3) in the accumulation type, ordered
/// o1, o2, r1, r2 (for one view o1, r1); returns (views * batch, height, width, stem channels).
///
/// # Errors
/// When the shape is not of that form.
pub fn mix_views(tape: &mut Tape, backend: &dyn Backend, mixing: Mixing, images: Var, scalars: Var) -> Result<Var> {
    let [count, height, width, _] = four("mix_views", "the images", tape.shape(images))?;
    let batch = count / mixing.image_sets();
    expect("mix_views", "the images", tape.shape(images), &[mixing.image_sets() * batch, height, width, 3])?;
    let shape = [mixing.views() * batch, height, width, backend.stem_channels()];
    let out = tape.value(&shape, backend.precision().compute());
    tape.record(MixViews { mixing, images, scalars, out });
    Ok(out)
}

impl Op for MixViews {
    fn name(&self) -> &'static str {
        "mix_views"
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.images, self.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.out]
    }

    fn label(&self) -> String {
        self.mixing.to_string()
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let [images, scalars, out] = [self.images, self.scalars, self.out].map(|var| run.value(var));
        run.backend.mix_views(self.mixing, images, scalars, out)
    }
}
