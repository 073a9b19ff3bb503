//! `augment_photos`: a block per image.

use bytemuck::{Pod, Zeroable};

use super::{Launched, Operands};
use crate::driver::{Arg, Launch, Work};
use crate::error::{Error, Result};
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{
    AugmentPhotos, AugmentPhotosKernels, DRAW_WORDS, INDEX_WORDS, NAME, PhotoConfig, is_shown,
};
use crate::tensor::{DType, Tensor};

/// Threads of a block: a multiprocessor holds several images, whose passes overlap.
const BLOCK: u32 = 512;
/// The largest output whose pixels, and whose blur's weights in shared memory, every device holds.
const MOST_SIZE: usize = 8192;

/// `PhotoConfig` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbers {
    mean: [f32; 3],
    factor: [f32; 3],
}

impl AugmentPhotosKernels for Launched {
    /// What is blurred along the rows alone.
    fn augment_photos_scratch(&self, images: usize, size: usize) -> usize {
        images * size * size * 3 * size_of::<f32>()
    }

    fn augment_photos(&self, mixing: Mixing, config: &PhotoConfig, t: &AugmentPhotos) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let (batch, sets, size) = (t.originals.elements(), mixing.image_sets(), config.size);
        let rows = |what: &str, tensor: Tensor, words: usize| {
            let [rows, _] = operands.two(what, tensor)?;
            operands.int(what, tensor, rows * words)
        };
        if size > MOST_SIZE {
            return Err(Error::op(NAME, format!("images of {size} pixels a side, but {MOST_SIZE} is the most")));
        }
        let scratch = t.scratch.ok_or_else(|| Error::op(NAME, "the scratch memory is missing"))?;
        if scratch.bytes() < self.augment_photos_scratch(sets * batch, size) {
            return Err(Error::op(NAME, format!("scratch of {} bytes is too small", scratch.bytes())));
        }
        let shown = (0..sets).filter(|&set| is_shown(mixing, set)).fold(0, |bits, set| bits | 1 << set);
        let numbers = Numbers { mean: config.mean, factor: config.std.map(|std| 1.0 / std) };
        let args = [
            Arg::Ptr(operands.pointer("the photographs", t.pixels, DType::U8, t.pixels.elements())?),
            Arg::Ptr(rows("the index", t.index, INDEX_WORDS)?),
            Arg::Ptr(rows("the draws", t.draws, DRAW_WORDS)?),
            Arg::Ptr(operands.int("the originals", t.originals, batch)?),
            Arg::Ptr(operands.int("the partners", t.partners, batch)?),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.float("the output", t.out, sets * batch * size * size * 3)?),
            Arg::Ptr(self.pointer(scratch)?),
            operands.extent("batch", batch)?,
            Arg::U32(mixing.views() as u32),
            Arg::U32(shown),
            operands.extent("stride", config.stride)?,
            operands.extent("size", size)?,
            Arg::Bytes(bytemuck::bytes_of(&numbers)),
        ];
        let blocks = operands.small("images", sets * batch)?;
        let shared = (BLOCK + 2 * size as u32) * size_of::<f32>() as u32;
        // What is cut out and which passes there are is drawn later: taken as a cut-out of the output's size, resized over 16
        // pixels a value, recoloured in a second pass and not blurred, as most are.
        let values = sets * batch * size * size * 3;
        let work = Work::over(&[sets * batch, size, size, 3])
            .moves(values)
            .fetches(t.out.bytes(), 3 * t.out.bytes())
            .floats(values * 64);
        let launch = Launch::linear(blocks, BLOCK).shared(shared).does(work);
        self.launch(&self.spec(NAME).define("BLOCK", BLOCK), launch, &args)
    }
}
