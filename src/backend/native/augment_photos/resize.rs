//! A box of a photograph, resized by a triangle: columns of bytes first, then rows.

use super::super::cpu::vectorize;
use super::super::real::Real;
use super::super::workspace::Workspace;
use super::COLOURS;
use crate::ops::augment_photos::PhotoDraw;

/// A box of a photograph.
pub(super) struct Source<'a> {
    /// The whole photograph, (rows, width, 3).
    pub pixels: &'a [u8],
    /// Its columns.
    pub width: usize,
    /// First row and column of the box.
    pub top: usize,
    pub left: usize,
    /// Rows and columns of the box.
    pub height: usize,
    pub columns: usize,
}

/// Which source pixels make each output pixel along one side, and with which weights.
struct Filter<T> {
    /// Of each output: first source pixel, and how many.
    spans: Workspace<i32>,
    weights: Workspace<T>,
    /// Places for the weights of an output.
    taps: usize,
}

impl<T: Real> Filter<T> {
    /// For `size` outputs from a side of `extent` pixels; the weights add up to `sum`. They are made in double precision:
    /// far from the corner, singles know a centre no better than to a ten-thousandth of a pixel.
    fn new(size: usize, extent: usize, (scale, shift): (f32, f32), sum: f64) -> Filter<T> {
        let scale = f64::from(scale);
        let support = scale.max(1.0);
        // Two for what rounding may add.
        let taps = (2.0 * support + 2.0).min(extent as f64) as usize;
        let (mut spans, mut weights) = (Workspace::<i32>::take(2 * size), Workspace::<T>::take(taps * size));
        for (i, (span, weights)) in spans.as_chunks_mut().0.iter_mut().zip(weights.chunks_exact_mut(taps)).enumerate() {
            let centre = scale * (i as f64 + f64::from(shift) + 0.5);
            let first = ((centre - support + 0.5).max(0.0) as usize).min(extent - 1);
            let last = ((centre + support + 0.5).max(0.0) as usize).min(extent).clamp(first + 1, first + taps);
            *span = [first as i32, (last - first) as i32];
            let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let all: f64 = (first..last).map(weight).sum();
            let factor = if all > 0.0 { sum / all } else { 0.0 };
            for (w, j) in weights.iter_mut().zip(first..last) {
                *w = T::from_f64(weight(j) * factor);
            }
        }
        Filter { spans, weights, taps }
    }

    /// First source pixel of an output, and the weights from there on.
    #[inline(always)]
    fn of(&self, output: usize) -> (usize, &[T]) {
        let (first, count) = (self.spans[2 * output] as usize, self.spans[2 * output + 1] as usize);
        (first, &self.weights[output * self.taps..][..count])
    }
}

/// Writes planes, (3, size, size), of values in 0..1; mirrored, if so drawn, which commutes with all that follows.
pub(super) fn resize<T: Real>(source: &Source<'_>, draw: &PhotoDraw, size: usize, planes: &mut [T]) {
    let rows = Filter::<T>::new(size, source.height, (draw.scale[0], draw.shift[0]), 1.0 / 255.0);
    let columns = Filter::<T>::new(size, source.columns, (draw.scale[1], draw.shift[1]), 1.0);
    let flip = draw.flags & PhotoDraw::FLIP != 0;
    // One more than the row has: four colours are read at a time, the last is not used.
    let mut row = Workspace::<T>::take(source.columns * COLOURS + 1);
    row.fill(T::ZERO);
    let (red, rest) = planes.split_at_mut(size * size);
    let (green, blue) = rest.split_at_mut(size * size);
    let outputs = red.chunks_exact_mut(size).zip(green.chunks_exact_mut(size)).zip(blue.chunks_exact_mut(size));
    for (y, ((red, green), blue)) in outputs.enumerate() {
        vectorize(
            #[inline(always)]
            || {
                let (first, weights) = rows.of(y);
                for (k, &weight) in weights.iter().enumerate() {
                    let at = ((source.top + first + k) * source.width + source.left) * COLOURS;
                    let bytes = &source.pixels[at..][..source.columns * COLOURS];
                    if k == 0 {
                        row.iter_mut().zip(bytes).for_each(|(sum, &byte)| *sum = weight * real(byte));
                    } else {
                        row.iter_mut().zip(bytes).for_each(|(sum, &byte)| *sum += weight * real(byte));
                    }
                }
                for x in 0..size {
                    let (first, weights) = columns.of(x);
                    let mut sums = [T::ZERO; COLOURS + 1];
                    for (&weight, pixel) in weights.iter().zip(row[first * COLOURS..].windows(4).step_by(COLOURS)) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += weight * value);
                    }
                    let x = if flip { size - 1 - x } else { x };
                    [red[x], green[x], blue[x], _] = sums;
                }
            },
        );
    }
}

#[inline(always)]
fn real<T: Real>(byte: u8) -> T {
    T::from_f64(f64::from(byte))
}
