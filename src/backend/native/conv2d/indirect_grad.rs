//! Weight gradient of wide layers as matrix products: for each tap of the kernel, filters by input channels, summed over
//! the pixels, of which some at a time are packed together.
//!
//! The sums are split over groups of images, whose borders depend on the shape alone, and over blocks of filters; each
//! group of images has sums of its own in the scratch, which are added up in order at the end.

use rayon::prelude::*;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::lanes::LANES;
use super::product::{self, Choice, DEPTH, PITCH, Product};
use super::strip::Image;
use crate::ops::conv2d::Geometry;

/// Pieces of work wanted: enough to keep many processors busy to the end.
const PIECES: usize = 16;
/// Most sums of a tap of a piece: they should stay in the second-level cache.
const SUMS: usize = 192 * 1024;
/// A piece has a multiple of so many filters, the last one excepted: of any kernel's rows.
const FILTERS: usize = 24;

/// Whether the weight gradient of such a layer is computed here.
pub(super) fn takes(g: &Geometry) -> bool {
    g.groups == 1 && g.filters >= 32 && (g.channels.is_multiple_of(product::WIDEST) || g.channels > 3 * product::WIDEST)
}

/// How the work is cut; a function of the geometry alone.
#[derive(Clone, Copy, Debug)]
struct Plan {
    image: Image,
    out: Image,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Filters in a piece.
    filters: usize,
    /// Images in a group, the last group excepted.
    images: usize,
    groups: usize,
}

impl Plan {
    fn new(g: &Geometry) -> Plan {
        let most = (SUMS / g.channels / FILTERS).max(1) * FILTERS;
        let pieces = g.filters.div_ceil(most);
        let filters = g.filters.div_ceil(pieces).next_multiple_of(FILTERS);
        let images = g.batch.div_ceil(PIECES.div_ceil(pieces).min(g.batch));
        Plan {
            image: Image { rows: g.height, cols: g.width, channels: g.channels },
            out: Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters },
            kernel: g.kernel,
            stride: g.stride,
            padding: g.padding,
            filters,
            images,
            groups: g.batch.div_ceil(images),
        }
    }

    /// Floats of a filter's weights.
    fn weights(&self) -> usize {
        self.kernel * self.kernel * self.image.channels
    }

    /// Floats of scratch: the sums of each group. One group's go where they belong at once.
    fn scratch_floats(&self) -> usize {
        if self.groups == 1 { 0 } else { self.groups * self.out.channels * self.weights() }
    }

    /// Sets the gradients of some filters, from `first` on, to the sums over a group of images.
    fn piece(&self, choice: Choice, x: &[f32], dy: &[f32], first: usize, dweight: &mut [f32]) {
        let (channels, filters) = (self.image.channels, dweight.len() / self.weights());
        let (panels, tiles) = (channels.div_ceil(choice.columns), filters.div_ceil(choice.rows));
        let mut packed_dy = Workspace::<f32>::take(tiles * DEPTH * PITCH);
        let mut packed_x = Workspace::<f32>::take(panels * DEPTH * choice.columns);
        // Lanes of tiles and panels that stick out are computed and not written; they must be numbers for all that.
        packed_dy.fill(0.0);
        packed_x.fill(0.0);
        let pixels = dy.len() / self.out.channels;
        for pixel in (0..pixels).step_by(DEPTH) {
            let pixel = pixel..pixels.min(pixel + DEPTH);
            let dy = &dy[pixel.start * self.out.channels..pixel.end * self.out.channels];
            for (tile, packed) in packed_dy.chunks_exact_mut(DEPTH * PITCH).enumerate() {
                let begin = first + tile * choice.rows;
                let (packed, _) = packed.as_chunks_mut::<PITCH>();
                for (dy, packed) in dy.chunks_exact(self.out.channels).zip(packed) {
                    // Also the next tile's first filters, since copies of a known length are quicker; they are not read.
                    match dy[begin..].first_chunk() {
                        Some(whole) => *packed = *whole,
                        None => packed[..self.out.channels - begin].copy_from_slice(&dy[begin..]),
                    }
                }
            }
            for tap in 0..self.kernel * self.kernel {
                self.pack(x, pixel.clone(), tap, choice.columns, &mut packed_x);
                for (panel, packed_x) in packed_x.chunks_exact(DEPTH * choice.columns).enumerate() {
                    for (tile, packed_dy) in packed_dy.chunks_exact(DEPTH * PITCH).enumerate() {
                        let begin = tile * choice.rows;
                        let count = choice.rows.min(filters - begin);
                        let mut rows = [std::ptr::null(); PITCH];
                        let mut out = [std::ptr::null_mut(); PITCH];
                        for (r, row) in rows[..choice.rows].iter_mut().enumerate() {
                            *row = packed_dy[r..].as_ptr();
                        }
                        let dweight = &mut dweight[begin * self.weights()..][..count * self.weights()];
                        let base = dweight.as_mut_ptr();
                        for (r, out) in out[..count].iter_mut().enumerate() {
                            *out = base.wrapping_add(r * self.weights());
                        }
                        let product = Product {
                            rows: rows.as_ptr(),
                            offset: 0,
                            panel: packed_x.as_ptr(),
                            terms: pixel.len(),
                            out: out.as_ptr(),
                            out_offset: tap * channels + panel * choice.columns,
                            count,
                            columns: choice.columns.min(channels - panel * choice.columns),
                            add: pixel.start > 0,
                            sums: std::ptr::null_mut(),
                        };
                        // SAFETY: `choose` was given the level of this processor. Tile and panel have DEPTH terms, as
                        // many as pixels at most; `dweight` was sliced to the weights of `count` filters, of which
                        // these are the panel's channels of a tap.
                        unsafe { (choice.together)(&product) }
                    }
                }
            }
        }
    }

    /// Packs what some output pixels read by a tap: (panel, pixel, channel of the panel), zeros outside the image.
    fn pack(&self, x: &[f32], pixels: std::ops::Range<usize>, tap: usize, columns: usize, packed: &mut [f32]) {
        let channels = self.image.channels;
        let out = self.out.rows * self.out.cols;
        let [tap_row, tap_col] = [tap / self.kernel, tap % self.kernel];
        for (i, pixel) in pixels.enumerate() {
            let (image, row, col) = (pixel / out, pixel % out / self.out.cols, pixel % self.out.cols);
            let row = (row * self.stride + tap_row).wrapping_sub(self.padding);
            let col = (col * self.stride + tap_col).wrapping_sub(self.padding);
            let inside = row < self.image.rows && col < self.image.cols;
            let from = image * self.image.floats() + (row * self.image.cols + col) * channels;
            let packed = packed[i * columns..].chunks_mut(DEPTH * columns);
            if inside {
                let from = &x[from..from + channels];
                for (to, from) in packed.zip(from.chunks(columns)) {
                    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<LANES>(), from.as_chunks::<LANES>());
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    if !from_rest.is_empty() {
                        let rest = to.get_mut(from.len()).map_or(to_rest, |to| &mut to[..]);
                        rest[..from_rest.len()].copy_from_slice(from_rest);
                    }
                }
            } else {
                packed.for_each(|to| to[..columns].fill(0.0));
            }
        }
    }
}

/// Floats of scratch that [`weight_grad`] needs.
pub(super) fn scratch_floats(g: &Geometry) -> usize {
    Plan::new(g).scratch_floats()
}

/// `dweight = sum over pixels of dy ⊗ x`. See [`crate::ops::conv2d::Conv2dKernels::conv2d_weight_grad`].
///
/// # Panics
/// When a slice is shorter than the geometry says.
pub(super) fn weight_grad(level: Level, g: &Geometry, x: &[f32], dy: &[f32], dweight: &mut [f32], scratch: &mut [f32]) {
    let plan = Plan::new(g);
    let choice = product::choose(level);
    let (x, dy) = (&x[..g.batch * plan.image.floats()], &dy[..g.batch * plan.out.floats()]);
    let all = plan.out.channels * plan.weights();
    let sums = if plan.groups == 1 { &mut *dweight } else { &mut scratch[..plan.scratch_floats()] };
    sums.par_chunks_mut(all)
        .zip(x.par_chunks(plan.images * plan.image.floats()).zip(dy.par_chunks(plan.images * plan.out.floats())))
        .for_each(|(sums, (x, dy))| {
            sums.par_chunks_mut(plan.filters * plan.weights())
                .enumerate()
                .for_each(|(i, sums)| plan.piece(choice, x, dy, i * plan.filters, sums));
        });
    if plan.groups > 1 {
        let scratch = &*scratch;
        const TOGETHER: usize = 4096;
        dweight[..all].par_chunks_mut(TOGETHER).enumerate().for_each(|(i, dweight)| {
            for (group, sums) in scratch.chunks_exact(all).take(plan.groups).enumerate() {
                let sums = &sums[i * TOGETHER..][..dweight.len()];
                match group {
                    0 => dweight.copy_from_slice(sums),
                    _ => dweight.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum),
                }
            }
        });
    }
}
