//! Forward and input gradient of wide layers as matrix products whose rows are pixels where they lie: for each tap of the
//! kernel a table of pointers says which pixel each output pixel reads (zeros outside the image), so nothing is copied.

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::correlate::{Correlation, Phase};
use super::lanes::{LANES, prefetch};
use super::product::{self, Choice, DEPTH, Product, WIDEST};
use crate::ops::conv2d::Geometry;

/// Most tiles of output pixels that are computed together and share each look at the weights.
const TILES: usize = 36;
/// Most rows of a tile.
const MOST_ROWS: usize = product::PITCH;
/// Pixels of small images that are computed together.
const PIXELS: usize = 196;

/// Whether layers of so many input and output channels are computed here: few tiles stick out of them.
fn wide(from: usize, to: usize) -> bool {
    from >= 16 && (to.is_multiple_of(WIDEST) || to > 3 * WIDEST)
}

/// Whether the forward of such a layer is computed here.
pub(super) fn takes_forward(g: &Geometry) -> bool {
    g.groups == 1 && wide(g.channels, g.filters)
}

/// Whether the input gradient of such a layer is computed here.
pub(super) fn takes_input_grad(g: &Geometry) -> bool {
    g.groups == 1 && wide(g.filters, g.channels)
}

/// What is the same for all images.
struct Job<'a> {
    c: &'a Correlation,
    choice: Choice,
    /// Panels of output channels.
    panels: usize,
    /// (tap, panel, input channel, output channel of the panel).
    packed: &'a [f32],
    accumulate: bool,
}

/// Some tiles: where their pixels go, and of which image they are.
struct Tiles {
    out: [*mut f32; TILES * MOST_ROWS],
    /// Image, row and column of each pixel in its phase.
    at: [[usize; 3]; TILES * MOST_ROWS],
    /// Pixels of each tile.
    count: [usize; TILES],
    tiles: usize,
}

impl Job<'_> {
    /// Some images. `sums`, if not empty: the sums over each image's pixels of y and of y², (image, 2, channels).
    fn images(&self, x: &[f32], y: &mut [f32], sums: &mut [f32]) {
        let (c, choice) = (self.c, self.choice);
        let images = y.len() / c.to.floats();
        let mut exact = Workspace::<f64>::take(if sums.is_empty() { 0 } else { images * self.panels * 2 * WIDEST });
        exact.fill(0.0);
        let mut zeros = Workspace::<f32>::take(c.from.channels);
        zeros.fill(0.0);
        for phase in &c.phases {
            let pixels = phase.extent[0] * phase.extent[1];
            let per_image = pixels.div_ceil(choice.rows);
            let all = images * per_image;
            let together = all.div_ceil(all.div_ceil(TILES));
            for first in (0..all).step_by(together) {
                let tiles = self.tiles(phase, y, first..all.min(first + together), per_image);
                if phase.taps.contains(&0) {
                    self.clear(&tiles);
                } else {
                    self.product(phase, x, &zeros, &tiles, &mut exact);
                }
            }
        }
        for (sums, exact) in sums.chunks_exact_mut(2 * c.to.channels).zip(exact.chunks_exact(self.panels * 2 * WIDEST))
        {
            for (half, sums) in sums.chunks_exact_mut(c.to.channels).enumerate() {
                for (sums, exact) in sums.chunks_mut(choice.columns).zip(exact.chunks_exact(2 * WIDEST)) {
                    sums.iter_mut().zip(&exact[half * WIDEST..]).for_each(|(sum, &exact)| *sum = exact as f32);
                }
            }
        }
    }

    /// The tiles of a range; each image has `per_image` of them.
    fn tiles(&self, phase: &Phase, y: &mut [f32], range: Range<usize>, per_image: usize) -> Tiles {
        let (c, rows) = (self.c, self.choice.rows);
        let pixels = phase.extent[0] * phase.extent[1];
        let base = y.as_mut_ptr();
        let mut tiles = Tiles {
            out: [std::ptr::null_mut(); TILES * MOST_ROWS],
            at: [[0; 3]; TILES * MOST_ROWS],
            count: [0; TILES],
            tiles: range.len(),
        };
        for (i, tile) in range.enumerate() {
            let (image, first) = (tile / per_image, tile % per_image * rows);
            tiles.count[i] = rows.min(pixels - first);
            for r in 0..rows {
                // Rows that stick out read what the last one reads, and are not written.
                let pixel = (first + r).min(pixels - 1);
                let [row, col] = [pixel / phase.extent[1], pixel % phase.extent[1]];
                let to = (phase.first[0] + row * c.spread) * c.to.cols + phase.first[1] + col * c.spread;
                tiles.at[i * rows + r] = [image, row, col];
                let to = image * c.to.floats() + to * c.to.channels;
                assert!(to + c.to.channels <= y.len(), "a pixel of the output");
                tiles.out[i * rows + r] = base.wrapping_add(to);
            }
        }
        tiles
    }

    /// Pixels that no tap reaches.
    fn clear(&self, tiles: &Tiles) {
        let rows = self.choice.rows;
        for (out, &count) in tiles.out.chunks_exact(rows).zip(&tiles.count[..tiles.tiles]) {
            if !self.accumulate {
                for &out in &out[..count] {
                    // SAFETY: a pixel of the output, which `tiles` was lent mutably, at its first channel.
                    unsafe { std::slice::from_raw_parts_mut(out, self.c.to.channels) }.fill(0.0);
                }
            }
        }
    }

    /// All taps of some tiles.
    fn product(&self, phase: &Phase, x: &[f32], zeros: &[f32], tiles: &Tiles, exact: &mut [f64]) {
        let (c, choice) = (self.c, self.choice);
        let channels = c.from.channels;
        let mut from = [std::ptr::null(); TILES * MOST_ROWS];
        let taps = phase.taps[0] * phase.taps[1];
        for tap in 0..taps {
            let tap_at = [tap / phase.taps[1], tap % phase.taps[1]];
            for (from, &[image, row, col]) in from.iter_mut().zip(&tiles.at[..tiles.tiles * choice.rows]) {
                let source = |axis: usize, at: usize| {
                    (at * c.stride + phase.shift[axis] + tap_at[axis]).wrapping_sub(c.zeros[axis])
                };
                let [row, col] = [source(0, row), source(1, col)];
                let inside = row < c.from.rows && col < c.from.cols;
                let pixel = || &x[image * c.from.floats() + (row * c.from.cols + col) * channels..][..channels];
                *from = if inside { pixel().as_ptr() } else { zeros.as_ptr() };
            }
            for term in (0..channels).step_by(DEPTH) {
                let last = tap + 1 == taps && term + DEPTH >= channels;
                for panel in 0..self.panels {
                    let weight = ((phase.taps_before + tap) * self.panels + panel) * channels + term;
                    let terms = DEPTH.min(channels - term);
                    let weight = &self.packed[weight * choice.columns..][..terms * choice.columns];
                    for tile in 0..tiles.tiles {
                        let first = tile * choice.rows;
                        let image = tiles.at[first][0];
                        let sums = match exact.get_mut((image * self.panels + panel) * 2 * WIDEST..) {
                            Some(sums) if last && !sums.is_empty() => sums.as_mut_ptr(),
                            _ => std::ptr::null_mut(),
                        };
                        let product = Product {
                            rows: from[first..].as_ptr(),
                            offset: term,
                            panel: weight.as_ptr(),
                            terms,
                            out: tiles.out[first..].as_ptr(),
                            out_offset: panel * choice.columns,
                            count: tiles.count[tile],
                            columns: choice.columns.min(c.to.channels - panel * choice.columns),
                            add: self.accumulate || tap > 0 || term > 0,
                            sums,
                        };
                        // While this tile is computed, what the next one wants comes near: pixels that no panel has
                        // read before, and results that no term was added to.
                        if tile + 1 < tiles.tiles {
                            let next = first + choice.rows..first + 2 * choice.rows;
                            if panel == 0 {
                                near(from[next.clone()].iter().copied(), term, terms);
                            }
                            if !product.add {
                                near(
                                    tiles.out[next].iter().map(|out| out.cast_const()),
                                    product.out_offset,
                                    choice.columns,
                                );
                            }
                        }
                        // SAFETY: `choose` was given the level of this processor. Each row points at a pixel of
                        // `channels` floats or at as many zeros; the panel was sliced to its terms; the output's
                        // pixels, all different, are of a slice that this call has alone, and the sums as well.
                        unsafe { (choice.apart)(&product) }
                    }
                }
            }
        }
    }
}

/// Asks for `count` floats from the `first` on of each of some pixels.
#[inline(always)]
fn near(pixels: impl Iterator<Item = *const f32>, first: usize, count: usize) {
    for pixel in pixels {
        (first..first + count).step_by(LANES).for_each(|at| prefetch(pixel.wrapping_add(at)));
    }
}

/// Packs a panel of a tap: (input channel, output channel of the panel), zeros where there is no such channel.
fn pack(c: &Correlation, tap: usize, first: usize, columns: usize, weight: &[f32], packed: &mut [f32]) {
    let (area, from) = (c.kernel * c.kernel, c.from.channels);
    let lanes = columns.min(c.to.channels - first);
    if lanes < columns {
        packed.fill(0.0);
    }
    if c.transposed {
        for (channel, packed) in packed.chunks_exact_mut(columns).enumerate() {
            let weight = &weight[(channel * area + tap) * c.to.channels + first..][..lanes];
            packed[..lanes].copy_from_slice(weight);
        }
        return;
    }
    // In squares, so that both sides stay near.
    const SQUARE: usize = 16;
    for channel in (0..from).step_by(SQUARE) {
        for lane in 0..lanes {
            let weight = &weight[((first + lane) * area + tap) * from..][..from];
            for channel in channel..from.min(channel + SQUARE) {
                packed[channel * columns + lane] = weight[channel];
            }
        }
    }
}

fn run(
    c: &Correlation,
    level: Level,
    x: &[f32],
    weight: &[f32],
    y: &mut [f32],
    accumulate: bool,
    sums: Option<&mut [f32]>,
) {
    let choice = product::choose(level);
    let panels = c.to.channels.div_ceil(choice.columns);
    let panel = c.from.channels * choice.columns;
    let taps: SmallVec<[usize; 9]> = c.phases.iter().flat_map(|phase| phase.taps_of(c.kernel)).collect();
    let mut packed = Workspace::<f32>::take(taps.len() * panels * panel);
    packed.par_chunks_mut(panel).enumerate().for_each(|(i, packed)| {
        pack(c, taps[i / panels], i % panels * choice.columns, choice.columns, weight, packed);
    });
    let job = Job { c, choice, panels, packed: &packed, accumulate };
    // Small images share each look at the weights. No image's results depend on the others.
    let fair = (x.len() / c.from.floats()).div_ceil(2 * rayon::current_num_threads());
    let together = (PIXELS / (c.to.rows * c.to.cols)).min(fair).max(1);
    let pieces = y.par_chunks_mut(together * c.to.floats()).zip(x.par_chunks(together * c.from.floats()));
    match sums {
        None => pieces.for_each(|(y, x)| job.images(x, y, &mut [])),
        Some(sums) => pieces
            .zip(sums.par_chunks_mut(together * 2 * c.to.channels))
            .for_each(|((y, x), sums)| job.images(x, y, sums)),
    }
}

/// `y = conv(x, weight)`, and the sums over each image's pixels of y and y², (image, 2, filters). See
/// [`crate::ops::conv2d::Conv2dKernels::conv2d_forward`].
pub(super) fn forward(level: Level, g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
    run(&Correlation::forward(g), level, x, weight, y, false, sums);
}

/// `dx (+)= conv_transposed(dy, weight)`. See [`crate::ops::conv2d::Conv2dKernels::conv2d_input_grad`].
pub(super) fn input_grad(level: Level, g: &Geometry, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
    run(&Correlation::input_grad(g), level, dy, weight, dx, accumulate, None);
}
