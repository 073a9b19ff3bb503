//! Weight gradient by Winograd's F(2x2, 3x3): patches of the input and 2x2 gradients of the output to the transformed
//! domain, a sum of products over tiles there for each of its 16 points, and back to nine taps at the very end.
//!
//! As in [`super::weight_grad`], the sums are split over groups of images whose borders depend on the shape alone.

use rayon::prelude::*;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::lanes::{Ahead, LANES};
use super::strip::Image;
use super::tile::{self, OuterTile};
use super::transform::{self, Kernels, POINTS};
use super::winograd::{RowTransform, Tiling, Transformed};
use crate::ops::conv2d::Geometry;

/// Blocks of sixteen channels, and of sixteen filters, whose sums are made together.
const BLOCKS: usize = 4;
/// Pieces of work wanted.
const PIECES: usize = 32;
/// Least tiles in a group of images: sums of fewer would cost more to write and add than to make.
const GROUP_TILES: usize = 256;
/// Most floats of transformed inputs and gradients at a time: they and the sums should stay in the second-level cache.
const FLOATS: usize = 128 * 1024;
/// Most tiles at a time.
const MOST_TILES: usize = 128;
/// Floats of sums for sixteen channels and sixteen filters: (point, channel, filter).
const SUMS: usize = POINTS * LANES * LANES;

/// How the work is cut; a function of the geometry alone.
#[derive(Clone, Copy, Debug)]
struct Plan {
    image: Image,
    out: Image,
    padding: usize,
    /// Blocks of sixteen channels and of sixteen filters.
    blocks: [usize; 2],
    /// Images in a group, the last group excepted.
    group: usize,
    groups: usize,
    tiling: Tiling,
}

impl Plan {
    fn new(g: &Geometry) -> Plan {
        let image = Image { rows: g.height, cols: g.width, channels: g.channels };
        let out = Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters };
        let blocks = [g.channels / LANES, g.filters / LANES];
        let together = blocks.map(|b| b.min(BLOCKS));
        let pieces: usize = blocks.iter().map(|b| b.div_ceil(BLOCKS)).product();
        let tiles = out.rows.div_ceil(2) * out.cols.div_ceil(2) * g.batch;
        let groups = PIECES.div_ceil(pieces).min(tiles / GROUP_TILES).clamp(1, g.batch);
        let group = g.batch.div_ceil(groups);
        let most = (FLOATS / (POINTS * LANES * (together[0] + together[1]))).min(MOST_TILES);
        let tiling = Tiling::new(&out, most, group);
        Plan { image, out, padding: g.padding, blocks, group, groups: g.batch.div_ceil(group), tiling }
    }

    fn group_sums(&self) -> usize {
        self.blocks[0] * self.blocks[1] * SUMS
    }

    /// Sets `sums`, those of [`BLOCKS`] (or what is left) blocks of filters and of channels, to the sums over a group
    /// of images: (filter block, channel block, point, channel, filter).
    fn piece(&self, level: Level, x: &[f32], dy: &[f32], channel_block: usize, filter_block: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        let [channels, filters] =
            [(0, channel_block), (1, filter_block)].map(|(i, first)| BLOCKS.min(self.blocks[i] - first));
        let [from, gradient] = [channels, filters].map(|blocks| Transformed { blocks, tiles: self.tiling.tiles() });
        let outer = tile::choose_outer(level);
        let most = self.image.channels.max(self.out.channels);
        let mut all = Workspace::<f32>::take(from.floats() + gradient.floats() + most);
        let (v, all) = all.split_at_mut(from.floats());
        let (d, nothing) = all.split_at_mut(gradient.floats());
        nothing.fill(0.0);
        let input = RowTransform {
            kernel: transform::input_kernel(level),
            image: self.image,
            zeros: self.padding,
            tiling: self.tiling,
            to: from,
            channel: channel_block * LANES,
            nothing,
        };
        let output = RowTransform {
            kernel: transform::output_grad_kernel(level),
            image: self.out,
            zeros: 0,
            tiling: self.tiling,
            to: gradient,
            channel: filter_block * LANES,
            nothing,
        };
        let rows = x.len() / self.image.floats() * self.tiling.rows;
        for first in (0..rows).step_by(self.tiling.band) {
            let count = self.tiling.band.min(rows - first);
            input.run(x, first, count, v);
            output.run(dy, first, count, d);
            let mut ahead = [
                Ahead::of(self.tiling.pixels(&self.image, x, first, count), POINTS),
                Ahead::of(self.tiling.pixels(&self.out, dy, first, count), POINTS),
            ];
            for point in 0..POINTS {
                ahead.iter_mut().for_each(Ahead::step);
                for (i, sums) in sums.chunks_exact_mut(SUMS).enumerate() {
                    let (filter, channel) = (i / channels, i % channels);
                    let tile = OuterTile {
                        strip: v[channel * from.block_pitch() + point * from.point_pitch()..].as_ptr(),
                        strip_image: 0,
                        strip_row: 0,
                        strip_col: LANES,
                        dy: d[filter * gradient.block_pitch() + point * gradient.point_pitch()..].as_ptr(),
                        dy_image: 0,
                        dy_row: 0,
                        dy_col: LANES,
                        images: 1,
                        rows: 1,
                        cols: count * self.tiling.cols,
                        sums: sums[point * LANES * LANES..][..LANES * LANES].as_mut_ptr(),
                    };
                    // SAFETY: `choose_outer` was given this processor's level; both transformed sides hold a
                    // vector for each of the tiles, which were just written; the sums are borrowed mutably.
                    unsafe { outer(&tile) }
                }
            }
        }
    }

    /// Adds up all groups' sums of sixteen filters, and brings them back to the weight's taps and layout.
    fn gather(&self, level: Level, scratch: &[f32], filter_block: usize, dweight: &mut [f32]) {
        let kernel = transform::kernel_grad_kernel(level);
        let channels = self.image.channels;
        let first_filter = filter_block / BLOCKS * BLOCKS;
        let filters = BLOCKS.min(self.blocks[1] - first_filter);
        for block in 0..self.blocks[0] {
            let first = block / BLOCKS * BLOCKS;
            let together = BLOCKS.min(self.blocks[0] - first);
            let at = first_filter * self.blocks[0]
                + first * filters
                + (filter_block - first_filter) * together
                + (block - first);
            let mut total = [0.0f32; SUMS];
            for group in scratch.chunks_exact(self.group_sums()) {
                total.iter_mut().zip(&group[at * SUMS..][..SUMS]).for_each(|(total, sum)| *total += sum);
            }
            let mut taps = [[0.0f32; LANES * LANES]; 9];
            let kernels = Kernels {
                from: total.as_ptr(),
                from_pitch: LANES * LANES,
                to: taps.as_mut_ptr().cast(),
                to_pitch: LANES * LANES,
                vectors: LANES,
            };
            // SAFETY: the kernel was chosen for this processor's level; `total` has sixteen points and `taps` nine
            // taps of sixteen vectors at these pitches.
            unsafe { kernel(&kernels) }
            for (filter, dweight) in dweight.chunks_exact_mut(9 * channels).enumerate() {
                for (tap, dweight) in taps.iter().zip(dweight.chunks_exact_mut(channels)) {
                    for (channel, to) in dweight[block * LANES..][..LANES].iter_mut().enumerate() {
                        *to = tap[channel * LANES + filter];
                    }
                }
            }
        }
    }
}

/// Floats of scratch that [`weight_grad`] needs.
pub(super) fn scratch_floats(g: &Geometry) -> usize {
    let plan = Plan::new(g);
    plan.groups * plan.group_sums()
}

/// As [`super::weight_grad::weight_grad`], where [`super::winograd::applies`].
///
/// # Panics
/// When a slice is shorter than the geometry says.
pub(super) fn weight_grad(level: Level, g: &Geometry, x: &[f32], dy: &[f32], dweight: &mut [f32], scratch: &mut [f32]) {
    let plan = Plan::new(g);
    let scratch = &mut scratch[..plan.groups * plan.group_sums()];
    let (x, dy) = (&x[..g.batch * plan.image.floats()], &dy[..g.batch * plan.out.floats()]);
    scratch
        .par_chunks_mut(plan.group_sums())
        .zip(x.par_chunks(plan.group * plan.image.floats()).zip(dy.par_chunks(plan.group * plan.out.floats())))
        .for_each(|(sums, (x, dy))| {
            sums.par_chunks_mut(BLOCKS * plan.blocks[0] * SUMS).enumerate().for_each(|(i, sums)| {
                let filters = sums.len() / plan.blocks[0] / SUMS;
                sums.par_chunks_mut(BLOCKS * filters * SUMS)
                    .enumerate()
                    .for_each(|(j, sums)| plan.piece(level, x, dy, j * BLOCKS, i * BLOCKS, sums));
            });
        });
    let scratch = &*scratch;
    dweight
        .par_chunks_mut(LANES * 9 * g.channels)
        .enumerate()
        .for_each(|(block, dweight)| plan.gather(level, scratch, block, dweight));
}
