//! `augment_mix` and `mix_views` on the CPU: sample by sample, row by row, from bytes through a table to the mixtures.

use std::ops::Range;

use super::Native;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing, NAME, View};
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

/// An image as a view sees it.
struct Look<'a> {
    pixels: &'a [u8],
    height: usize,
    width: usize,
    /// Where the crop starts in the image; negative in the black border.
    row: isize,
    column: isize,
    flip: bool,
}

impl<'a> Look<'a> {
    fn plain(pixels: &'a [u8], [height, width]: [usize; 2]) -> Look<'a> {
        Look { pixels, height, width, row: 0, column: 0, flip: false }
    }

    /// Sample `n` of the step in the stream o1, o2, r1 or r2.
    fn drawn(self, scalars: &StepParams, augmentation: &Augmentation, stream: usize, n: usize) -> Look<'a> {
        let seed = u64::from(scalars.seed[1]) << 32 | u64::from(scalars.seed[0]);
        let (purpose, index) = (Purpose::Augment as u32 + stream as u32, scalars.first + n as u32);
        let words = philox::draw(seed, scalars.epoch, scalars.step, purpose, index);
        let range = 2 * augmentation.padding as u32 + 1;
        let offset = |word| philox::below(word, range) as isize - augmentation.padding as isize;
        Look { row: offset(words[0]), column: offset(words[1]), flip: augmentation.flip && words[2] & 1 == 1, ..self }
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
    if mixing.takes_partners() && partners.len() != batch {
        return Err(Error::op(NAME, format!("{} partners of {batch} originals", partners.len())));
    }
    let used_partners = if mixing.takes_partners() { partners } else { &[] };
    for &image in originals.iter().chain(used_partners) {
        load_step::index(NAME, "image", image, source[0])?;
    }
    let table = table::<T>(augmentation);
    let image = |index: i32| Look::plain(&pixels[index as usize * bytes..][..bytes], [height, width]);
    let step = Step::<T>::new(&scalars, [height, width]);
    let work = |at: usize, out: Rows<'_, T>| {
        let (view, n) = (at / batch, at % batch);
        let shows = step.shows(mixing, view);
        let own = match mixing {
            Mixing::Evaluate | Mixing::EvaluateFlip => Look { flip: view == 1, ..image(originals[n]) },
            _ => image(originals[n]).drawn(&scalars, augmentation, view, n),
        };
        let partner = || image(partners[n]).drawn(&scalars, augmentation, 2 + view, n);
        let other = (shows != View::Plain).then(partner);
        let [.., left, right] = step.cut;
        for (y, out) in out.0.chunks_exact_mut(width * STEM_CHANNELS).enumerate() {
            let mut copy = |look: &Look<'_>, columns: [usize; 2]| {
                look.row(&table, y, columns, |x, v| out[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v));
            };
            match (shows, &other) {
                (View::Mixup, Some(other)) => {
                    own.row(&table, y, [0, width], |x, v| {
                        out[x * STEM_CHANNELS..][..COLOURS].copy_from_slice(&v.map(|v| step.lambda * v));
                    });
                    other.row(&table, y, [0, width], |x, v| {
                        out[x * STEM_CHANNELS..][..COLOURS]
                            .iter_mut()
                            .zip(v)
                            .for_each(|(out, v)| *out += step.rest * v);
                    });
                }
                (View::Cutmix, Some(other)) if step.rows().contains(&y) => {
                    copy(&own, [0, width]);
                    copy(other, [left, right]);
                }
                (View::Partner, Some(other)) => copy(other, [0, width]),
                _ => copy(&own, [0, width]),
            }
        }
    };
    native.pool.install(|| for_chunks(Rows(out, height * width * STEM_CHANNELS), images, 1, &work));
    Ok(())
}

/// How the views of a step are mixed.
struct Step<T> {
    lambda: T,
    rest: T,
    /// Rows `[0]..[1]`, columns `[2]..[3]`.
    cut: [usize; 4],
}

impl<T: Real> Step<T> {
    fn new(scalars: &StepParams, size: [usize; 2]) -> Step<T> {
        let lambda = T::from_f64(f64::from(scalars.lambda));
        Step { lambda, rest: T::ONE - lambda, cut: cut(scalars, size) }
    }

    fn rows(&self) -> Range<usize> {
        self.cut[0]..self.cut[1]
    }

    /// What a view shows in this step: where nothing is mixed in, a plain view, which costs no partner.
    fn shows(&self, mixing: Mixing, view: usize) -> View {
        let [top, bottom, left, right] = self.cut;
        match mixing.each().nth(view).unwrap_or(View::Plain) {
            View::Mixup if self.lambda == T::ONE => View::Plain,
            View::Cutmix if top >= bottom || left >= right => View::Plain,
            view => view,
        }
    }
}

fn mix_views<T: Real>(native: &Native, mixing: Mixing, given: Tensor, scalars: Tensor, out: Tensor) -> Result<()> {
    let [images, height, width] = extents(out)?;
    let batch = images / mixing.views();
    let wanted = [mixing.image_sets() * batch, height, width, COLOURS];
    if given.shape.four() != Some(wanted) || images != mixing.views() * batch {
        return Err(Error::op("mix_views", format!("images {} do not become {}", given.shape, out.shape)));
    }
    let a = native.memory.access()?;
    let (given, out, scalars) = (a.read::<T>(given)?, a.write::<T>(out)?, load_step::params(&a, scalars)?);
    let (step, sample) = (Step::<T>::new(&scalars, [height, width]), height * width * COLOURS);
    let work = |at: usize, out: Rows<'_, T>| {
        let (view, n) = (at / batch, at % batch);
        let image = |set: usize| &given[(set * batch + n) * sample..][..sample];
        let (own, shows) = (image(view), step.shows(mixing, view));
        match shows {
            View::Mixup => {
                for ((out, &o), &r) in out.0.iter_mut().zip(own).zip(image(mixing.views() + view)) {
                    *out = step.lambda * o + step.rest * r;
                }
            }
            View::Partner => out.0.copy_from_slice(image(mixing.views() + view)),
            View::Plain | View::Cutmix => out.0.copy_from_slice(own),
        }
        if shows == View::Cutmix {
            let [.., left, right] = step.cut;
            for y in step.rows() {
                let inside = (y * width + left) * COLOURS..(y * width + right) * COLOURS;
                out.0[inside.clone()].copy_from_slice(&image(mixing.views() + view)[inside]);
            }
        }
    };
    native.pool.install(|| for_chunks(Rows(out, sample), images, 1, &work));
    Ok(())
}

impl AugmentMixKernels for Native {
    fn stem_channels(&self) -> usize {
        STEM_CHANNELS
    }

    fn augment_mix(&self, mixing: Mixing, augmentation: &Augmentation, t: &AugmentMix) -> Result<()> {
        with_real!(self, T => augment_mix::<T>(self, mixing, augmentation, t))
    }

    fn mix_views(&self, mixing: Mixing, images: Tensor, scalars: Tensor, out: Tensor) -> Result<()> {
        with_real!(self, T => mix_views::<T>(self, mixing, images, scalars, out))
    }
}
