//! `augment_mix` from resident bytes, `mix_views` from given views.

use bytemuck::{Pod, Zeroable};

use super::{Launched, Operands};
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing, NAME, View};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const BLOCK: u32 = 256;
/// Shared memory: four `Look`s of three words.
const LOOKS_BYTES: u32 = 4 * 12;

/// `Augmentation` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbers {
    mean: [f32; 3],
    std: [f32; 3],
    padding: u32,
    flip: u32,
}

/// The views as kernels take them: numbers of `kernels/mixing.cuh`. The second is not looked at where there is one.
fn kinds(mixing: Mixing) -> [Arg<'static>; 2] {
    let kind = |view: Option<View>| match view {
        Some(View::Plain) | None => 0,
        Some(View::Mixup) => 1,
        Some(View::Cutmix) => 2,
        Some(View::Partner) => 3,
    };
    let mut views = mixing.each();
    [views.next(), views.next()].map(|view| Arg::U32(kind(view)))
}

impl Launched {
    fn mixing_spec(&self, entry: &'static str) -> KernelSpec {
        self.spec(entry).define("BLOCK", BLOCK).define("STEM_CHANNELS", self.stem_channels())
    }
}

impl AugmentMixKernels for Launched {
    /// A pixel of sixteen bytes: one transaction here, and the same vector loads in the stem's convolution as elsewhere.
    fn stem_channels(&self) -> usize {
        self.storage_vector()
    }

    fn augment_mix(&self, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [images, height, width, _] = operands.four("the images", t.pixels)?;
        let batch = t.originals.elements();
        let outputs = mixing.views() * batch * height * width * self.stem_channels();
        let numbers = Numbers {
            mean: augmentation.mean,
            std: augmentation.std,
            padding: operands.small("padding", augmentation.padding)?,
            flip: u32::from(augmentation.flip),
        };
        if batch > u16::MAX as usize || augmentation.padding > 1 << 16 {
            return Err(Error::op(
                NAME,
                format!("a batch of {batch} or a padding of {} is too large", numbers.padding),
            ));
        }
        let [mut first, second] = kinds(mixing);
        let is_evaluation = matches!(mixing, Mixing::Evaluate | Mixing::EvaluateFlip);
        if is_evaluation {
            first = Arg::U32(mixing.views() as u32);
        }
        let args = [
            Arg::Ptr(operands.pointer("the images", t.pixels, DType::U8, images * height * width * 3)?),
            Arg::Ptr(operands.int("the originals", t.originals, batch)?),
            Arg::Ptr(operands.int("the partners", t.partners, batch)?),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.compute("the output", t.out, outputs)?),
            operands.extent("batch", batch)?,
            operands.extent("height", height)?,
            operands.extent("width", width)?,
            first,
            second,
            Arg::Bytes(bytemuck::bytes_of(&numbers)),
        ];
        let views = if is_evaluation { 0 } else { mixing.views() };
        let spec = self.mixing_spec(NAME).define("VIEWS", views);
        let blocks = (height * width).div_ceil(BLOCK as usize) as u32;
        let pixels = batch * height * width;
        // Each colour of each view: normalised twice, mixed.
        let work = Work::over(&[mixing.views() * batch, height, width, self.stem_channels()])
            .moves(mixing.image_sets() * pixels * 3)
            .moves(t.out.bytes())
            .floats(mixing.views() * pixels * 3 * 8);
        let grid = [blocks, batch as u32, 1];
        let launch = Launch { grid, block: [BLOCK, 1, 1], shared_bytes: LOOKS_BYTES, work };
        self.launch(&spec, launch, &args)
    }

    fn mix_views(&self, mixing: Mixing, images: Tensor, scalars: Tensor, out: Tensor) -> Result<()> {
        let operands = Operands::new(self, "mix_views");
        let [count, height, width, colours] = operands.four("the images", images)?;
        let (sets, views) = (mixing.image_sets(), mixing.views());
        if !count.is_multiple_of(sets) || colours != 3 {
            let what = format!("images for {mixing} are ({sets} * batch, rows, columns, 3), not {}", images.shape);
            return Err(Error::op("mix_views", what));
        }
        let batch = count / sets;
        let pixels = batch * height * width;
        let [first, second] = kinds(mixing);
        let args = [
            Arg::Ptr(operands.float("the images", images, sets * pixels * 3)?),
            Arg::Ptr(operands.scalars(scalars)?),
            Arg::Ptr(operands.compute("the output", out, views * pixels * self.stem_channels())?),
            operands.extent("batch", batch)?,
            operands.extent("height", height)?,
            operands.extent("width", width)?,
            first,
            second,
        ];
        let spec = self.mixing_spec("mix_views").define("VIEWS", views);
        let work = Work::over(&[views * batch, height, width, self.stem_channels()])
            .moves(images.bytes())
            .moves(out.bytes())
            .floats(views * pixels * 3 * 4);
        self.launch(&spec, Launch::cover(pixels, BLOCK).does(work), &args)
    }
}
