//! Weight gradient: sums over pixels of products of sixteen inputs with sixteen output gradients.
//!
//! The sums are split over groups of images, whose borders depend on the shape alone, and over groups of filters;
//! each group of images has sums of its own in the scratch, which are added up in order at the end. In a convolution of
//! groups, sixteen filters are multiplied with just the blocks of channels that their groups span.

use std::ops::Range;

use rayon::prelude::*;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::lanes::LANES;
use super::spans::Spans;
use super::strip::{Image, Strip};
use super::tile::{self, OuterTile};
use crate::ops::conv2d::Geometry;

/// Pieces of work wanted: enough to keep many processors busy to the end.
const PIECES: usize = 32;
/// Blocks of sixteen filters in a piece: the input is packed once for all of them ...
const PIECE_BLOCKS: usize = 2;
/// ... and a 1x1 kernel does less with what was packed.
const PIECE_BLOCKS_1X1: usize = 8;
/// Most packed floats of a piece at a time: they should stay in the second-level cache.
const PACKED_FLOATS: usize = 128 * 1024;
/// Most packed floats that the taps are swept over: they should stay in the first-level cache.
const SWEPT_FLOATS: usize = 5 * 1024;

/// How the work is cut; a function of the geometry alone.
#[derive(Clone, Copy, Debug)]
struct Plan {
    image: Image,
    out: Image,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Sixteens of (kernel column, channel in a block) pairs.
    runs: usize,
    /// Blocks of sixteen filters.
    filter_blocks: usize,
    /// Of these, how many are in a piece.
    piece_blocks: usize,
    spans: Spans,
    /// Images in a group, the last group excepted.
    group: usize,
    groups: usize,
    /// Images packed at a time.
    images: usize,
    /// Output rows packed at a time.
    band: usize,
    /// The strip of a band, with as many channel blocks as one piece reads at most.
    strip: Strip,
    /// Output gradients are read in place: they have just sixteen channels.
    in_place: bool,
}

impl Plan {
    fn new(g: &Geometry) -> Plan {
        let image = Image { rows: g.height, cols: g.width, channels: g.channels };
        let out = Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters };
        let filter_blocks = g.filters.div_ceil(LANES);
        let piece_blocks = if g.kernel == 1 { PIECE_BLOCKS_1X1 } else { PIECE_BLOCKS };
        let groups = PIECES.div_ceil(filter_blocks.div_ceil(piece_blocks)).min(g.batch);
        let group = g.batch.div_ceil(groups);
        let strip_rows = |rows: usize| (rows - 1) * g.stride + g.kernel;
        let strip = Strip::new(g.channels, 0, (out.cols - 1) * g.stride + g.kernel);
        let spans = Spans::new(g.groups, g.channels, g.filters, &strip);
        let pieces = (0..filter_blocks).step_by(piece_blocks);
        let most = pieces.map(|first| read(&spans, first, piece_blocks.min(filter_blocks - first)).len()).max();
        let strip = Strip { blocks: most.unwrap_or(0), ..strip };
        let dy_row = out.cols * LANES * piece_blocks.min(filter_blocks);
        let packed = |rows: usize| Strip { rows: strip_rows(rows), ..strip }.floats() + rows * dy_row;
        let band = (1..=out.rows).rev().find(|&rows| packed(rows) <= PACKED_FLOATS).unwrap_or(1);
        let images = if band < out.rows { 1 } else { (PACKED_FLOATS / packed(band)).clamp(1, group) };
        Plan {
            image,
            out,
            kernel: g.kernel,
            stride: g.stride,
            padding: g.padding,
            runs: (g.kernel * strip.block).div_ceil(LANES),
            filter_blocks,
            piece_blocks,
            spans,
            group,
            groups: g.batch.div_ceil(group),
            images,
            band,
            strip: Strip { rows: strip_rows(band), ..strip },
            in_place: g.filters == LANES,
        }
    }

    /// Floats of sums for sixteen filters: (channel block of their span, kernel row, run, pair, filter).
    fn block_sums(&self) -> usize {
        self.spans.blocks * self.kernel * self.runs * LANES * LANES
    }

    fn group_sums(&self) -> usize {
        self.filter_blocks * self.block_sums()
    }

    /// Sets `sums`, those of some blocks of filters, to the sums over a group of images.
    fn piece(&self, kernel: tile::OuterKernel, x: &[f32], dy: &[f32], first_block: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        let blocks = sums.len() / self.block_sums();
        let read = read(&self.spans, first_block, blocks);
        let s = Strip { first: read.start, blocks: read.len(), ..self.strip };
        let strip_image = s.floats();
        let dy_image = self.band * self.out.cols * LANES;
        let packed_dy = if self.in_place { 0 } else { blocks * self.images * dy_image };
        // A run may reach beyond the last pixel, where anything may lie: its sums are not used.
        let mut packed = Workspace::<f32>::take(packed_dy + self.images * strip_image + LANES);
        let (packed_dy, strip) = packed.split_at_mut(packed_dy);
        let x = x.chunks(self.images * self.image.floats());
        for (x, dy) in x.zip(dy.chunks(self.images * self.out.floats())) {
            let images = x.len() / self.image.floats();
            for row in (0..self.out.rows).step_by(self.band) {
                let rows = self.band.min(self.out.rows - row);
                let corner = ((row * self.stride) as isize - self.padding as isize, -(self.padding as isize));
                for (x, strip) in x.chunks_exact(self.image.floats()).zip(strip.chunks_exact_mut(strip_image)) {
                    s.fill(strip, s.block_pitch(), &self.image, x, corner);
                }
                for (i, sums) in sums.chunks_exact_mut(self.block_sums()).enumerate() {
                    let block = first_block + i;
                    let (dy, dy_image) = if self.in_place {
                        (&dy[row * self.out.cols * LANES..], self.out.floats())
                    } else {
                        let packed = &mut packed_dy[i * self.images * dy_image..][..self.images * dy_image];
                        self.pack_dy(dy, row, rows, block, packed);
                        (&*packed, dy_image)
                    };
                    let strip = &strip[(self.spans.first(block) - s.first) * s.block_pitch()..];
                    self.sweep(kernel, (strip, strip_image), dy, dy_image, images, rows, sums);
                }
            }
        }
    }

    /// Packs sixteen filters of some rows of each image: (image, row, column, filter).
    fn pack_dy(&self, dy: &[f32], row: usize, rows: usize, block: usize, packed: &mut [f32]) {
        let filters = self.out.channels;
        let first = block * LANES;
        let lanes = LANES.min(filters - first);
        let images = dy.chunks_exact(self.out.floats());
        for (dy, packed) in images.zip(packed.chunks_exact_mut(self.band * self.out.cols * LANES)) {
            let dy = dy[row * self.out.cols * filters..(row + rows) * self.out.cols * filters].chunks_exact(filters);
            let (packed, _) = packed.as_chunks_mut::<LANES>();
            if lanes == LANES {
                dy.zip(packed).for_each(|(dy, packed)| packed.copy_from_slice(&dy[first..first + LANES]));
            } else {
                for (dy, packed) in dy.zip(packed) {
                    packed[..lanes].copy_from_slice(&dy[first..first + lanes]);
                    packed[lanes..].fill(0.0);
                }
            }
        }
    }

    /// Adds to the sums of sixteen filters what some rows of some packed images give; `strip`: from the filters' first
    /// channel block on, and from an image to the next.
    #[expect(clippy::too_many_arguments)]
    fn sweep(
        &self,
        kernel: tile::OuterKernel,
        (strip, strip_image): (&[f32], usize),
        dy: &[f32],
        dy_image: usize,
        images: usize,
        rows: usize,
        sums: &mut [f32],
    ) {
        let s = &self.strip;
        let (dy_row, x_row) = (self.out.cols * LANES, self.stride * s.row_pitch());
        let one_image = rows * (dy_row + x_row);
        let images_at_once = (SWEPT_FLOATS / one_image).clamp(1, images);
        let rows_at_once = if images_at_once > 1 { rows } else { (SWEPT_FLOATS / (dy_row + x_row)).clamp(1, rows) };
        assert!(dy.len() >= (images - 1) * dy_image + rows * dy_row, "output gradients of every image");
        for (block, sums) in sums.chunks_exact_mut(self.kernel * self.runs * LANES * LANES).enumerate() {
            for image in (0..images).step_by(images_at_once) {
                for row in (0..rows).step_by(rows_at_once) {
                    for (i, sums) in sums.chunks_exact_mut(LANES * LANES).enumerate() {
                        let (tap_row, run) = (i / self.runs, i % self.runs);
                        let tile = OuterTile {
                            strip: strip[image * strip_image
                                + block * s.block_pitch()
                                + (row * self.stride + tap_row) * s.row_pitch()
                                + run * LANES..]
                                .as_ptr(),
                            strip_image,
                            strip_row: x_row,
                            strip_col: self.stride * s.block,
                            dy: dy[image * dy_image + row * dy_row..].as_ptr(),
                            dy_image,
                            dy_row,
                            dy_col: LANES,
                            images: images_at_once.min(images - image),
                            rows: rows_at_once.min(rows - row),
                            cols: self.out.cols,
                            sums: sums.as_mut_ptr(),
                        };
                        // SAFETY: `choose_outer` was given the level of this processor. The strip holds, for each
                        // image, all taps of `rows` rows and the output's columns, and LANES floats more; `dy` was
                        // checked above; `sums` has LANES squared floats and is borrowed mutably.
                        unsafe { kernel(&tile) }
                    }
                }
            }
        }
    }

    /// Adds up all groups' sums of sixteen filters, and lays them out as the weight is.
    fn gather(&self, scratch: &[f32], block: usize, dweight: &mut [f32]) {
        let area = self.kernel * self.kernel;
        for i in 0..self.spans.blocks * self.kernel * self.runs {
            let mut total = [0.0f32; LANES * LANES];
            for group in scratch.chunks_exact(self.group_sums()) {
                let sums = &group[block * self.block_sums() + i * LANES * LANES..][..LANES * LANES];
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            let (run, row) = (i % self.runs, i / self.runs % self.kernel);
            let channel_block = self.spans.first(block) + i / self.runs / self.kernel;
            for pair in 0..LANES {
                let (col, channel) = ((run * LANES + pair) / self.strip.block, (run * LANES + pair) % self.strip.block);
                let channel = channel_block * self.strip.block + channel;
                if col >= self.kernel || channel >= self.image.channels {
                    continue;
                }
                let filters = self.spans.outputs(channel);
                let inputs = self.spans.inputs(filters.start);
                let at = (row * self.kernel + col) * inputs.len() + channel - inputs.start;
                for (filter, dweight) in dweight.chunks_exact_mut(area * inputs.len()).enumerate() {
                    if filters.contains(&(block * LANES + filter)) {
                        dweight[at] = total[pair * LANES + filter];
                    }
                }
            }
        }
    }
}

/// The channel blocks that some blocks of filters read.
fn read(spans: &Spans, first: usize, count: usize) -> Range<usize> {
    spans.first(first)..spans.first(first + count - 1) + spans.blocks
}

/// Floats of scratch that [`weight_grad`] needs.
pub(super) fn scratch_floats(g: &Geometry) -> usize {
    let plan = Plan::new(g);
    plan.groups * plan.group_sums()
}

/// `dweight = sum over pixels of dy ⊗ x`. See [`crate::ops::conv2d::Conv2dKernels::conv2d_weight_grad`].
///
/// # Panics
/// When a slice is shorter than the geometry says.
pub(super) fn weight_grad(level: Level, g: &Geometry, x: &[f32], dy: &[f32], dweight: &mut [f32], scratch: &mut [f32]) {
    let plan = Plan::new(g);
    let kernel = tile::choose_outer(level);
    let scratch = &mut scratch[..plan.groups * plan.group_sums()];
    let (x, dy) = (&x[..g.batch * plan.image.floats()], &dy[..g.batch * plan.out.floats()]);
    scratch
        .par_chunks_mut(plan.group_sums())
        .zip(x.par_chunks(plan.group * plan.image.floats()).zip(dy.par_chunks(plan.group * plan.out.floats())))
        .for_each(|(sums, (x, dy))| {
            sums.par_chunks_mut(plan.piece_blocks * plan.block_sums())
                .enumerate()
                .for_each(|(i, sums)| plan.piece(kernel, x, dy, i * plan.piece_blocks, sums));
        });
    let scratch = &*scratch;
    dweight
        .par_chunks_mut(LANES * g.kernel * g.kernel * g.group_channels())
        .enumerate()
        .for_each(|(block, dweight)| plan.gather(scratch, block, dweight));
}
