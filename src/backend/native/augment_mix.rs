//! `augment_mix` and `mix_views` on the CPU: sample by sample, row by row, from bytes through a table to the mixtures.

use super::Native;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing, NAME};
use crate::ops::load_step::StepParams;
use crate::rng::philox::{self, Purpose};
use crate::tensor::Tensor;

/// Colours of an image.
const COLOURS: usize = 3;

/// Channels that the first convolution reads: no padding, its patches are copied anyway.
const STEM_CHANNELS: usize = 3;

/// Every byte of every colour, normalised.
type Table<T> = [[T; 256]; COLOURS];

fn table<T: Real>(augmentation: &Augmentation) -> Table<T> {
    std::array::from_fn(|c| {
        let (mean, std) = (f64::from(augmentation.mean[c]), f64::from(augmentation.std[c]));
        std::array::from_fn(|byte| T::from_f64((byte as f64 / 255.0 - mean) / std))
    })
}

/// A sample as a view sees it.
struct View<'a> {
    pixels: &'a [u8],
    height: usize,
    width: usize,
    /// Where the crop starts in the image; negative in the black border.
    row: isize,
    column: isize,
    flip: bool,
}

impl<'a> View<'a> {
    fn plain(pixels: &'a [u8], [height, width]: [usize; 2]) -> View<'a> {
        View { pixels, height, width, row: 0, column: 0, flip: false }
    }

    /// View `view` of sample `n` of the step.
    fn drawn(self, scalars: &StepParams, augmentation: &Augmentation, view: u32, n: usize) -> View<'a> {
        let seed = u64::from(scalars.seed[1]) << 32 | u64::from(scalars.seed[0]);
        let words = philox::draw(seed, scalars.epoch, scalars.step, Purpose::Augment as u32 + view, n as u32);
        let range = 2 * augmentation.padding as u32 + 1;
        let offset = |word| philox::below(word, range) as isize - augmentation.padding as isize;
        View { row: offset(words[0]), column: offset(words[1]), flip: augmentation.flip && words[2] & 1 == 1, ..self }
    }

    /// Calls `put(column, colour values)` for columns `from..to` of row `y`.
    #[inline(always)]
    fn row<T: Real>(&self, table: &Table<T>, y: usize, [from, to]: [usize; 2], mut put: impl FnMut(usize, [T; 3])) {
        let black = [table[0][0], table[1][0], table[2][0]];
        let row = y.checked_add_signed(self.row).filter(|&row| row < self.height);
        let source = row.map(|row| &self.pixels[row * self.width * COLOURS..][..self.width * COLOURS]);
        for x in from..to {
            let unflipped = if self.flip { self.width - 1 - x } else { x };
            let column = unflipped.wrapping_add_signed(self.column);
            put(
                x,
                match source {
                    Some(source) if column < self.width => {
                        let p = &source[column * COLOURS..][..COLOURS];
                        [table[0][p[0] as usize], table[1][p[1] as usize], table[2][p[2] as usize]]
                    }
                    _ => black,
                },
            );
        }
    }
}

/// The box of the step, inside the image.
fn cut(scalars: &StepParams, [height, width]: [usize; 2]) -> [usize; 4] {
    let [top, bottom, left, right] = scalars.cut.map(|v| v.max(0) as usize);
    [top.min(height), bottom.min(height), left.min(width), right.min(width)]
}

/// Images, rows and columns of the output; checks its channels.
fn extents(out: Tensor) -> Result<[usize; 3]> {
    match out.shape.four() {
        Some([images, height, width, STEM_CHANNELS]) => Ok([images, height, width]),
        _ => Err(Error::op(NAME, format!("an output of {} has not {STEM_CHANNELS} channels", out.shape))),
    }
}

fn augment_mix<T: Real>(native: &Native, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()> {
    let [images, height, width] = extents(t.out)?;
    let a = native.memory.access()?;
    let (pixels, out, scalars) = (a.read::<u8>(t.pixels)?, a.write::<T>(t.out)?, load_step::params(&a, t.scalars)?);
    let (originals, partners) = (a.read::<i32>(t.originals)?, a.read::<i32>(t.partners)?);
    let batch = originals.len();
    let bytes = height * width * COLOURS;
    let source = t.pixels.shape.dims();
    if images != mixing.views() * batch || source.len() != 4 || source[1..] != [height, width, COLOURS] {
        return Err(Error::op(NAME, format!("{batch} of {} do not become {}", t.pixels.shape, t.out.shape)));
    }
    if mixing == Mixing::Glmc && partners.len() != batch {
        return Err(Error::op(NAME, format!("{} partners of {batch} originals", partners.len())));
    }
    let used_partners = if mixing == Mixing::Glmc { partners } else { &[] };
    for &image in originals.iter().chain(used_partners) {
        load_step::index(NAME, "image", image, source[0])?;
    }
    let table = table::<T>(augmentation);
    let image = |index: i32| View::plain(&pixels[index as usize * bytes..][..bytes], [height, width]);
    let sample = height * width * STEM_CHANNELS;
    if mixing != Mixing::Glmc {
        let work = |n: usize, out: Rows<'_, T>| {
            let view = match mixing {
                Mixing::Evaluate => image(originals[n]),
                _ => image(originals[n]).drawn(&scalars, augmentation, 0, n),
            };
            for (y, out) in out.0.chunks_exact_mut(width * STEM_CHANNELS).enumerate() {
                view.row(&table, y, [0, width], |x, v| out[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v));
            }
        };
        native.pool.install(|| for_chunks(Rows(out, sample), batch, 1, &work));
        return Ok(());
    }
    let (lambda, [top, bottom, left, right]) = (T::from_f64(f64::from(scalars.lambda)), cut(&scalars, [height, width]));
    let rest = T::ONE - lambda;
    let work = |n: usize, (mixup, cutmix): (Rows<'_, T>, Rows<'_, T>)| {
        let original = |view| image(originals[n]).drawn(&scalars, augmentation, view, n);
        let partner = |view| image(partners[n]).drawn(&scalars, augmentation, view, n);
        let (o1, o2, r1, r2) = (original(0), original(1), partner(2), partner(3));
        let row = width * STEM_CHANNELS;
        for (y, (mixup, cutmix)) in mixup.0.chunks_exact_mut(row).zip(cutmix.0.chunks_exact_mut(row)).enumerate() {
            o1.row(&table, y, [0, width], |x, v| {
                mixup[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v.map(|v| lambda * v));
            });
            r1.row(&table, y, [0, width], |x, v| {
                mixup[x * STEM_CHANNELS..][..COLOURS].iter_mut().zip(v).for_each(|(out, v)| *out += rest * v);
            });
            let inside = if (top..bottom).contains(&y) { [left, right] } else { [0, 0] };
            o2.row(&table, y, [0, width], |x, v| cutmix[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v));
            r2.row(&table, y, inside, |x, v| cutmix[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v));
        }
    };
    let (mixup, cutmix) = out.split_at_mut(batch * sample);
    native.pool.install(|| for_chunks((Rows(mixup, sample), Rows(cutmix, sample)), batch, 1, &work));
    Ok(())
}

fn mix_views<T: Real>(native: &Native, views: Tensor, scalars: Tensor, out: Tensor) -> Result<()> {
    let [images, height, width] = extents(out)?;
    let batch = images / 2;
    if views.shape.four() != Some([4 * batch, height, width, COLOURS]) || images % 2 != 0 {
        return Err(Error::op("mix_views", format!("views {} do not become {}", views.shape, out.shape)));
    }
    let a = native.memory.access()?;
    let (views, out, scalars) = (a.read::<T>(views)?, a.write::<T>(out)?, load_step::params(&a, scalars)?);
    let (lambda, [top, bottom, left, right]) = (T::from_f64(f64::from(scalars.lambda)), cut(&scalars, [height, width]));
    let (rest, sample) = (T::ONE - lambda, height * width * COLOURS);
    let work = |n: usize, (mixup, cutmix): (Rows<'_, T>, Rows<'_, T>)| {
        let [o1, o2, r1, r2] = [0, 1, 2, 3].map(|view| &views[(view * batch + n) * sample..][..sample]);
        for ((out, &o), &r) in mixup.0.iter_mut().zip(o1).zip(r1) {
            *out = lambda * o + rest * r;
        }
        cutmix.0.copy_from_slice(o2);
        if left < right {
            for y in top..bottom {
                let inside = (y * width + left) * COLOURS..(y * width + right) * COLOURS;
                cutmix.0[inside.clone()].copy_from_slice(&r2[inside]);
            }
        }
    };
    let (mixup, cutmix) = out.split_at_mut(batch * sample);
    native.pool.install(|| for_chunks((Rows(mixup, sample), Rows(cutmix, sample)), batch, 1, &work));
    Ok(())
}

impl AugmentMixKernels for Native {
    fn stem_channels(&self) -> usize {
        STEM_CHANNELS
    }

    fn augment_mix(&self, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()> {
        with_real!(self, T => augment_mix::<T>(self, mixing, augmentation, t))
    }

    fn mix_views(&self, views: Tensor, scalars: Tensor, out: Tensor) -> Result<()> {
        with_real!(self, T => mix_views::<T>(self, views, scalars, out))
    }
}
