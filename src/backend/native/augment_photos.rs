//! `augment_photos` on the CPU: image by image, in planes of one colour, so that every loop runs over neighbours.

mod blur;
mod colour;
mod resize;

use self::resize::Source;
use super::Native;
use super::cpu::vectorize;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{
    AugmentPhotos, AugmentPhotosKernels, DRAW_WORDS, INDEX_WORDS, NAME, PhotoConfig, PhotoDraw, is_shown,
};
use crate::tensor::Tensor;

/// Colours of an image.
const COLOURS: usize = 3;

/// What a step's images are made of.
struct Step<'a> {
    pixels: &'a [u8],
    index: &'a [i32],
    draws: &'a [i32],
    /// Originals and partners.
    samples: [&'a [i32]; 2],
    /// The first row of the draws.
    first: usize,
    views: usize,
}

impl<'a> Step<'a> {
    /// Image `n` of a set as its draw takes it; checks all that the draw and the index say.
    fn source(&self, set: usize, n: usize) -> Result<(Source<'a>, PhotoDraw)> {
        let samples = self.samples[usize::from(set >= self.views)];
        let image = load_step::index(NAME, "image", samples[n], self.index.len() / INDEX_WORDS)?;
        let row = self.first + set * samples.len() + n;
        let Some(words) = self.draws.chunks_exact(DRAW_WORDS).nth(row) else {
            return Err(Error::op(NAME, format!("draw {row} of {}", self.draws.len() / DRAW_WORDS)));
        };
        let draw: PhotoDraw = bytemuck::pod_read_unaligned(bytemuck::cast_slice(words));
        let &[low, high, height, width] = &self.index[image * INDEX_WORDS..][..INDEX_WORDS] else {
            return Err(Error::op(NAME, "an index of four words an image"));
        };
        let offset = u64::from(high as u32) << 32 | u64::from(low as u32);
        let (height, width) = (height as u32 as usize, width as u32 as usize);
        let pixels = usize::try_from(offset).ok().and_then(|offset| {
            let bytes = height.checked_mul(width)?.checked_mul(COLOURS)?;
            self.pixels.get(offset..)?.get(..bytes)
        });
        let Some(pixels) = pixels else {
            let there = self.pixels.len();
            return Err(Error::op(
                NAME,
                format!("image {image} of {height}x{width} at byte {offset} ends behind byte {there}"),
            ));
        };
        let [top, left, rows, columns] = [draw.top, draw.left, draw.height, draw.width].map(|v| v as usize);
        if rows == 0 || columns == 0 || top + rows > height || left + columns > width {
            let what = format!("a box of {rows}x{columns} at row {top}, column {left} of an image of {height}x{width}");
            return Err(Error::op(NAME, what));
        }
        if !draw.scale.iter().all(|&scale| scale > 0.0 && scale.is_finite()) || draw.sigma.is_nan() || draw.sigma < 0.0
        {
            return Err(Error::op(NAME, format!("a scale of {:?}, a blur of {}", draw.scale, draw.sigma)));
        }
        let steps = (0..4).fold(0, |seen, place| seen | 1 << (draw.order >> (2 * place) & 3));
        if steps != 0b1111 {
            return Err(Error::op(NAME, format!("the order {:#x} does not name each colour step once", draw.order)));
        }
        Ok((Source { pixels, width, top, left, height: rows, columns }, draw))
    }
}

/// Writes planes, (3, pixels), as pixels of three colours, normalised.
fn normalise<T: Real>(planes: &[T], config: &PhotoConfig, out: &mut [T]) {
    let mean = config.mean.map(|v| T::from_f64(f64::from(v)));
    let factor = config.std.map(|v| T::from_f64(1.0 / f64::from(v)));
    let (red, rest) = planes.split_at(planes.len() / COLOURS);
    let (green, blue) = rest.split_at(red.len());
    vectorize(
        #[inline(always)]
        || {
            for (((out, &r), &g), &b) in out.as_chunks_mut().0.iter_mut().zip(red).zip(green).zip(blue) {
                *out = [(r - mean[0]) * factor[0], (g - mean[1]) * factor[1], (b - mean[2]) * factor[2]];
            }
        },
    );
}

/// One image, (size, size, 3).
fn photo<T: Real>(source: &Source<'_>, draw: &PhotoDraw, config: &PhotoConfig, out: &mut [T]) {
    let size = config.size;
    let mut planes = Workspace::<T>::take(COLOURS * size * size);
    resize::resize(source, draw, size, &mut planes);
    colour::recolour(draw, &mut planes);
    if draw.sigma > 0.0 {
        // The output is as large as the planes and not yet written.
        blur::blur(draw.sigma, size, &mut planes, out);
    }
    normalise(&planes, config, out);
}

fn augment_photos<T: Real>(native: &Native, mixing: Mixing, config: &PhotoConfig, t: &AugmentPhotos) -> Result<()> {
    let a = native.memory.access()?;
    let samples = [a.read::<i32>(t.originals)?, a.read::<i32>(t.partners)?];
    let (batch, sets, size) = (samples[0].len(), mixing.image_sets(), config.size);
    expect(t.out, [sets * batch, size, size, COLOURS])?;
    if sets > mixing.views() && samples[1].len() != batch {
        return Err(Error::op(NAME, format!("{} partners of {batch} originals", samples[1].len())));
    }
    let scalars = load_step::params(&a, t.scalars)?;
    let step = Step {
        pixels: a.read::<u8>(t.pixels)?,
        index: a.read::<i32>(t.index)?,
        draws: a.read::<i32>(t.draws)?,
        samples,
        first: scalars.step as usize * config.stride,
        views: mixing.views(),
    };
    // Whatever is wrong is said before anything is written.
    for set in (0..sets).filter(|&set| is_shown(mixing, set)) {
        (0..batch).try_for_each(|n| step.source(set, n).map(|_| ()))?;
    }
    let work = |at: usize, out: Rows<'_, T>| {
        let (set, n) = (at / batch, at % batch);
        match step.source(set, n) {
            Ok((source, draw)) if is_shown(mixing, set) => photo(&source, &draw, config, out.0),
            _ => out.0.fill(T::ZERO),
        }
    };
    let out = a.write::<T>(t.out)?;
    native.pool.install(|| for_chunks(Rows(out, size * size * COLOURS), sets * batch, 1, &work));
    Ok(())
}

fn expect(tensor: Tensor, shape: [usize; 4]) -> Result<()> {
    if tensor.shape.four() == Some(shape) {
        return Ok(());
    }
    Err(Error::op(NAME, format!("an output of {}, but {shape:?} is needed", tensor.shape)))
}

impl AugmentPhotosKernels for Native {
    /// Threads have their own.
    fn augment_photos_scratch(&self, _images: usize, _size: usize) -> usize {
        0
    }

    fn augment_photos(&self, mixing: Mixing, config: &PhotoConfig, t: &AugmentPhotos) -> Result<()> {
        with_real!(self, T => augment_photos::<T>(self, mixing, config, t))
    }
}
