//! Single precision with large kernels, the ImageNet stem: forward alone, its sums in double.
//!
//! What the stem's sums of 147 terms lose by rounding, a network of fifty layers multiplies: of the error at the heads of a narrow
//! ResNet-50 it is nine tenths, and nothing after it can repair that. It has a thirtieth of the operations. Products of singles are
//! exact in double, so that results are those of exact sums, rounded once.

use super::super::cpu::vectorize;
use super::super::parallel::{Rows, for_chunks};
use super::super::workspace::Workspace;
use crate::ops::conv2d::Geometry;

/// Filters that are computed together.
const LANES: usize = 16;
/// Pixels that are computed together.
const COLUMNS: usize = 4;

/// Whether a convolution is done here.
pub(super) fn applies(g: &Geometry) -> bool {
    g.kernel > 3 && g.groups == 1
}

/// `y = conv(x, weight)`, and the sums over each image's pixels of y and y², (image, 2, filters).
pub(super) fn forward(g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
    let (rows, columns, image) = (g.out_height(), g.out_width(), g.height * g.width * g.channels);
    let inner = g.kernel * g.channels;
    let taps = g.kernel * inner;
    // (block of filters, tap and channel, filter in the block); zeros where there is no filter.
    let blocks = g.filters.div_ceil(LANES);
    let mut packed = Workspace::<f64>::take(blocks * taps * LANES);
    packed.fill(0.0);
    for (filter, taps_of_filter) in weight.chunks_exact(taps).enumerate() {
        for (tap, &w) in taps_of_filter.iter().enumerate() {
            packed[(filter / LANES * taps + tap) * LANES + filter % LANES] = f64::from(w);
        }
    }
    let packed = &packed[..];
    // A row of the input with its padding, and as much more as the last pixels of a row that do not exist would read.
    let step = g.stride * g.channels;
    let pitch = (columns.next_multiple_of(COLUMNS) - 1) * step + inner;
    let pitch = pitch.max((g.width + 2 * g.padding) * g.channels);
    let work = |n: usize, (y, sums): (Rows<'_, f32>, Option<Rows<'_, f32>>)| {
        let x = &x[n * image..(n + 1) * image];
        let mut strip = Workspace::<f64>::take(g.kernel * pitch);
        let mut both = Workspace::<f64>::take(2 * g.filters);
        both.fill(0.0);
        vectorize(
            #[inline(always)]
            || {
                for row in 0..rows {
                    strip.fill(0.0);
                    for (k, line) in strip.chunks_exact_mut(pitch).enumerate() {
                        let from = (row * g.stride + k).checked_sub(g.padding).filter(|&from| from < g.height);
                        if let Some(from) = from {
                            let pixels = &x[from * g.width * g.channels..(from + 1) * g.width * g.channels];
                            let line = &mut line[g.padding * g.channels..];
                            line.iter_mut().zip(pixels).for_each(|(to, &v)| *to = f64::from(v));
                        }
                    }
                    for column in (0..columns).step_by(COLUMNS) {
                        for block in 0..blocks {
                            let weights = &packed[block * taps * LANES..(block + 1) * taps * LANES];
                            let acc = tile(&strip, weights, [pitch, inner, step, column]);
                            let lanes = LANES.min(g.filters - block * LANES);
                            for (c, values) in acc.iter().enumerate().take(columns - column) {
                                let at = (row * columns + column + c) * g.filters + block * LANES;
                                for (lane, &value) in values.iter().enumerate().take(lanes) {
                                    let stored = value as f32;
                                    y.0[at + lane] = stored;
                                    both[block * LANES + lane] += f64::from(stored);
                                    both[g.filters + block * LANES + lane] += f64::from(stored) * f64::from(stored);
                                }
                            }
                        }
                    }
                }
            },
        );
        if let Some(sums) = sums {
            sums.0.iter_mut().zip(&both[..]).for_each(|(to, &sum)| *to = sum as f32);
        }
    };
    let data = (Rows(y, rows * columns * g.filters), sums.map(|sums| Rows(sums, 2 * g.filters)));
    for_chunks(data, g.batch, 1, &work);
}

/// Neighbouring pixels of a row from `column` on, by the filters of a block.
#[inline(always)]
fn tile(strip: &[f64], weights: &[f64], [pitch, inner, step, column]: [usize; 4]) -> [[f64; LANES]; COLUMNS] {
    let mut acc = [[0.0; LANES]; COLUMNS];
    for (line, weights) in strip.chunks_exact(pitch).zip(weights.chunks_exact(inner * LANES)) {
        let pixels: [&[f64]; COLUMNS] =
            std::array::from_fn(|c| &line[(column + c) * step..(column + c) * step + inner]);
        for (i, weights) in weights.chunks_exact(LANES).enumerate() {
            for (acc, pixel) in acc.iter_mut().zip(&pixels) {
                let v = pixel[i];
                for (sum, &w) in acc.iter_mut().zip(weights) {
                    *sum += v * w;
                }
            }
        }
    }
    acc
}

#[cfg(test)]
mod tests {
    use super::super::patches;
    use super::*;

    /// Exact sums, rounded once: what the double-precision path makes of the same singles, rounded.
    #[test]
    fn sums_are_rounded_once() {
        for (height, width, channels, filters, kernel, stride, padding) in
            [(9, 14, 3, 5, 7, 2, 3), (8, 8, 3, 17, 7, 2, 3), (6, 7, 4, 32, 5, 1, 2), (7, 7, 1, 1, 7, 1, 0)]
        {
            let g =
                Geometry { batch: 2, height, width, channels, filters, kernel, stride, padding, views: 2, groups: 1 };
            let sizes = [g.input(), g.weight(), g.output()].map(|extents| extents.iter().product::<usize>());
            let values = |n: usize, salt: usize| (0..n).map(|i| ((i * 37 + salt) % 251) as f32 / 83.0 - 1.3).collect();
            let (x, weight): (Vec<f32>, Vec<f32>) = (values(sizes[0], 1), values(sizes[1], 5));
            let (mut y, mut sums) = (vec![f32::NAN; sizes[2]], vec![f32::NAN; 4 * filters]);
            assert!(applies(&g));
            forward(&g, &x, &weight, &mut y, Some(&mut sums));
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let mut wanted = vec![0.0; sizes[2]];
            patches::forward(&g, &wide(&x), &wide(&weight), &mut wanted, None);
            let off = |a: f32, b: f64| (f64::from(a) - b).abs() / b.abs().max(1e-3);
            assert!(y.iter().zip(&wanted).all(|(&y, &w)| off(y, w) < 6.1e-8), "{g:?}");
            for (n, sums) in sums.chunks_exact(2 * filters).enumerate() {
                for (f, &sum) in sums.iter().enumerate() {
                    let of_filter = y[n * y.len() / 2..(n + 1) * y.len() / 2].iter().skip(f % filters).step_by(filters);
                    let square = f >= filters;
                    let total: f64 = of_filter.map(|&v| f64::from(v)).map(|v| if square { v * v } else { v }).sum();
                    assert!((f64::from(sum) - total).abs() < 1e-6 * total.abs().max(10.0), "{g:?}: {sum}, {total}");
                }
            }
        }
    }
}
