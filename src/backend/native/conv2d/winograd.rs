//! Winograd's convolution F(2x2, 3x3): 16 products for four output pixels instead of 36, for 3x3 kernels of stride 1.
//!
//! Forward and input gradient: patches and kernels to the transformed domain, a product there for each of its 16
//! points, and back (see [`super::transform`]). Weight gradient: see [`super::winograd_grad`].

use rayon::prelude::*;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::lanes::{Ahead, LANES};
use super::strip::Image;
use super::tile::{self, Tile, TileChoice};
use super::transform::{self, Kernels, Outputs, POINTS, Rows};
use crate::ops::conv2d::Geometry;

/// Most floats of transformed input at a time: they should stay in the second-level cache beside the weights.
const INPUT_FLOATS: usize = 128 * 1024;
/// Most tiles at a time.
const MOST_TILES: usize = 64;
/// Pieces of work wanted, if there are as many images.
const PIECES: usize = 32;
/// From as many floats of transformed weights on, which no near cache holds, more inputs share each look at them...
const HEAVY_WEIGHTS: usize = 1 << 20;
/// ... by this factor.
const HEAVY_SHARE: usize = 4;

/// Whether Winograd handles this shape, and is faster there.
pub(super) fn applies(g: &Geometry) -> bool {
    let whole = |channels: usize| channels.is_multiple_of(LANES);
    g.groups == 1 && g.kernel == 3 && g.stride == 1 && g.padding <= 2 && whole(g.channels) && whole(g.filters)
}

/// How an image is cut into tiles, and tiles are taken together; a function of shapes alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Rows of tiles in an image.
    pub rows: usize,
    /// Columns of tiles.
    pub cols: usize,
    /// Images taken together.
    pub images: usize,
    /// Rows of tiles taken together: of all those images, or of one.
    pub band: usize,
}

impl Tiling {
    /// Cuts outputs of that size, so that about `tiles` tiles are taken together.
    pub(super) fn new(out: &Image, tiles: usize, most_images: usize) -> Tiling {
        let (rows, cols) = (out.rows.div_ceil(2), out.cols.div_ceil(2));
        let band = (tiles / cols).max(1);
        let images = (band / rows).clamp(1, most_images.max(1));
        Tiling { rows, cols, images, band: band.min(rows * images) }
    }

    /// The pixels of rows `first..first + count` of tiles of some images, but for what they share with other rows.
    pub(super) fn pixels<'a>(&self, image: &Image, images: &'a [f32], first: usize, count: usize) -> &'a [f32] {
        let start = |row: usize| {
            let (n, row) = (row / self.rows, row % self.rows);
            (n * image.floats() + (2 * row).min(image.rows) * image.cols * image.channels).min(images.len())
        };
        &images[start(first)..start(first + count)]
    }

    /// Tiles taken together.
    pub(super) fn tiles(&self) -> usize {
        self.band * self.cols
    }
}

/// The places of transformed pixels: (block, point, tile, channel).
#[derive(Clone, Copy, Debug)]
pub(super) struct Transformed {
    pub blocks: usize,
    pub tiles: usize,
}

impl Transformed {
    /// A line more than the tiles need, so that the points do not all fall into the same set of the cache.
    pub(super) fn point_pitch(&self) -> usize {
        (self.tiles + 1) * LANES
    }

    pub(super) fn block_pitch(&self) -> usize {
        POINTS * self.point_pitch()
    }

    pub(super) fn floats(&self) -> usize {
        self.blocks * self.block_pitch()
    }
}

/// Transforms rows of tiles: N = 4 for inputs, 2 for output gradients.
pub(super) struct RowTransform<'a, const N: usize> {
    pub kernel: unsafe fn(&Rows<N>),
    pub image: Image,
    pub zeros: usize,
    pub tiling: Tiling,
    pub to: Transformed,
    /// The first of the channels.
    pub channel: usize,
    /// As many zeros as there are channels.
    pub nothing: &'a [f32],
}

impl<const N: usize> RowTransform<'_, N> {
    /// Transforms rows `first..first + count` of tiles of some images, counted through all images.
    pub(super) fn run(&self, images: &[f32], first: usize, count: usize, to: &mut [f32]) {
        let i = &self.image;
        assert!(count * self.tiling.cols <= self.to.tiles && to.len() >= self.to.floats(), "room for the tiles");
        assert!(self.channel + self.to.blocks * LANES <= i.channels && self.nothing.len() >= i.channels, "channels");
        for n in 0..count {
            let (image, tile_row) = ((first + n) / self.tiling.rows, (first + n) % self.tiling.rows);
            let pixels = &images[image * i.floats()..][..i.floats()];
            let top = (2 * tile_row) as isize - self.zeros as isize;
            let row = |r: usize| usize::try_from(top + r as isize).ok().filter(|&row| row < i.rows);
            let rows = Rows {
                rows: std::array::from_fn(|r| match row(r) {
                    Some(row) => pixels[row * i.cols * i.channels + self.channel..].as_ptr(),
                    None => self.nothing.as_ptr(),
                }),
                pitch: std::array::from_fn(|r| row(r).map_or(0, |_| i.channels)),
                first: -(self.zeros as isize),
                cols: i.cols,
                tiles: self.tiling.cols,
                blocks: self.to.blocks,
                to: to[n * self.tiling.cols * LANES..].as_mut_ptr(),
                block_pitch: self.to.block_pitch(),
                point_pitch: self.to.point_pitch(),
            };
            // SAFETY: the kernel was chosen for this processor's level; each row points to a whole row of pixels of
            // the image or to as many zeros as a pixel has channels, and the channels were checked; `to` has room for
            // all tiles, blocks and points.
            unsafe { (self.kernel)(&rows) }
        }
    }
}

/// One correlation with a 3x3 kernel.
struct Correlation<'a> {
    level: Level,
    from: Image,
    to: Image,
    zeros: usize,
    tiling: Tiling,
    choice: TileChoice,
    transformed: Transformed,
    accumulate: bool,
    weight: &'a [f32],
    /// Output channels are the weight's input channels, and taps are flipped.
    transposed: bool,
}

impl Correlation<'_> {
    /// Floats of transformed weights for sixteen output channels.
    fn block(&self) -> usize {
        POINTS * self.from.channels * LANES
    }

    /// Transforms the weights of sixteen output channels: (point, input channel, output channel).
    fn transform_weights(&self, block: usize, to: &mut [f32]) {
        const AREA: usize = LANES * LANES;
        let (from, out) = (self.from.channels, self.to.channels);
        let kernel = transform::kernel_kernel(self.level);
        let first = block * LANES;
        for channel in (0..from).step_by(LANES) {
            let mut taps = [[0.0; AREA]; 9];
            for (i, tap) in taps.iter_mut().enumerate() {
                if self.transposed {
                    for (c, row) in tap.chunks_exact_mut(LANES).enumerate() {
                        let at = ((channel + c) * 9 + 8 - i) * out + first;
                        row.copy_from_slice(&self.weight[at..at + LANES]);
                    }
                } else {
                    for lane in 0..LANES {
                        let at = ((first + lane) * 9 + i) * from + channel;
                        for (c, value) in self.weight[at..at + LANES].iter().enumerate() {
                            tap[c * LANES + lane] = *value;
                        }
                    }
                }
            }
            let to = &mut to[channel * LANES..];
            assert!(to.len() >= (POINTS - 1) * from * LANES + AREA, "room for every point");
            let kernels = Kernels {
                from: taps.as_ptr().cast(),
                from_pitch: AREA,
                to: to.as_mut_ptr(),
                to_pitch: from * LANES,
                vectors: LANES,
            };
            // SAFETY: the kernel was chosen for this processor's level; `taps` holds nine times sixteen vectors, and
            // that `to` holds sixteen times as many at this pitch was checked.
            unsafe { kernel(&kernels) }
        }
    }

    /// Some images. `sums`, if not empty: (image, 2, channels).
    fn images(&self, weight: &[f32], nothing: &[f32], x: &[f32], y: &mut [f32], sums: &mut [f32]) {
        sums.fill(0.0);
        let input = RowTransform {
            kernel: transform::input_kernel(self.level),
            image: self.from,
            zeros: self.zeros,
            tiling: self.tiling,
            to: self.transformed,
            channel: 0,
            nothing,
        };
        let rows = x.len() / self.from.floats() * self.tiling.rows;
        let mut all = Workspace::<f32>::take(self.transformed.floats() + self.transformed.block_pitch());
        let (transformed, products) = all.split_at_mut(self.transformed.floats());
        for first in (0..rows).step_by(self.tiling.band) {
            let count = self.tiling.band.min(rows - first);
            input.run(x, first, count, transformed);
            let steps = POINTS * self.to.channels / LANES;
            let mut ahead = [
                Ahead::of(self.tiling.pixels(&self.from, x, first, count), steps),
                Ahead::of(self.tiling.pixels(&self.to, y, first, count), steps),
            ];
            for (i, weight) in weight.chunks_exact(self.block()).enumerate() {
                self.multiply(weight, transformed, count * self.tiling.cols, products, &mut ahead);
                self.finish(products, first, count, i * LANES, y, sums);
            }
        }
    }

    /// The products of sixteen output channels: (point, tile, output channel).
    fn multiply(
        &self,
        weight: &[f32],
        transformed: &[f32],
        tiles: usize,
        products: &mut [f32],
        ahead: &mut [Ahead; 2],
    ) {
        let (blocks, point_pitch) = (self.transformed.blocks, self.transformed.point_pitch());
        for (point, weight) in weight.chunks_exact(blocks * LANES * LANES).enumerate() {
            ahead.iter_mut().for_each(Ahead::step);
            for first in (0..tiles).step_by(self.choice.cols) {
                let at = point * point_pitch + first * LANES;
                let tile = Tile {
                    strip: transformed[at..].as_ptr(),
                    block_pitch: self.transformed.block_pitch(),
                    row_pitch: 0,
                    row_step: 0,
                    pixel_step: LANES,
                    weight: weight.as_ptr(),
                    blocks,
                    kernel_rows: 1,
                    inner: LANES,
                    out: products[at..].as_mut_ptr(),
                    out_row: 0,
                    out_col: LANES,
                    rows: 1,
                    cols: self.choice.cols,
                    lanes: LANES,
                    accumulate: false,
                    sums: std::ptr::null_mut(),
                };
                // SAFETY: the kernel was chosen for this processor's level, with tiles of one row; the transformed
                // domain has room for a multiple of its columns at every point; `weight` is all of this point's.
                unsafe { (self.choice.kernel)(&tile) }
            }
        }
    }

    /// Brings sixteen output channels of rows of tiles back.
    fn finish(&self, products: &[f32], first: usize, count: usize, channel: usize, y: &mut [f32], sums: &mut [f32]) {
        let kernel = transform::output_kernel(self.level);
        let channels = self.to.channels;
        let mut block_sums = [0.0f32; 2 * LANES];
        for n in 0..count {
            let (image, row) = ((first + n) / self.tiling.rows, (first + n) % self.tiling.rows * 2);
            let y = &mut y[image * self.to.floats()..][..self.to.floats()];
            let outputs = Outputs {
                from: products[n * self.tiling.cols * LANES..].as_ptr(),
                point_pitch: self.transformed.point_pitch(),
                tiles: self.tiling.cols,
                out: y[row * self.to.cols * channels + channel..].as_mut_ptr(),
                row_pitch: self.to.cols * channels,
                col_pitch: channels,
                rows: self.to.rows - row,
                cols: self.to.cols,
                accumulate: self.accumulate,
                sums: block_sums.as_mut_ptr(),
            };
            // SAFETY: the kernel was chosen for this processor's level; the products of all tiles of this row were
            // just computed; rows and columns end with the image; channels are a multiple of LANES.
            unsafe { kernel(&outputs) }
            if !sums.is_empty() && (n + 1 == count || row + 2 >= self.to.rows) {
                let (plain, squares) = sums[image * 2 * channels..][..2 * channels].split_at_mut(channels);
                for (sums, block_sums) in [plain, squares].into_iter().zip(block_sums.chunks_exact(LANES)) {
                    sums[channel..].iter_mut().zip(block_sums).for_each(|(sum, more)| *sum += more);
                }
                block_sums.fill(0.0);
            }
        }
    }

    fn run(&self, x: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
        let mut all = Workspace::<f32>::take(self.block() * (self.to.channels / LANES) + self.from.channels);
        let (nothing, weight) = all.split_at_mut(self.from.channels);
        nothing.fill(0.0);
        let nothing = &*nothing;
        weight.par_chunks_mut(self.block()).enumerate().for_each(|(i, to)| self.transform_weights(i, to));
        let weight = &*weight;
        let images = self.tiling.images;
        let pieces = y.par_chunks_mut(images * self.to.floats()).zip(x.par_chunks(images * self.from.floats()));
        match sums {
            None => pieces.for_each(|(y, x)| self.images(weight, nothing, x, y, &mut [])),
            Some(sums) => pieces
                .zip(sums.par_chunks_mut(images * 2 * self.to.channels))
                .for_each(|((y, x), sums)| self.images(weight, nothing, x, y, sums)),
        }
    }

    fn new(level: Level, from: Image, to: Image, zeros: usize, batch: usize, weight: &[f32]) -> Correlation<'_> {
        let share = if POINTS * from.channels * to.channels < HEAVY_WEIGHTS { 1 } else { HEAVY_SHARE };
        let tiles = (share * INPUT_FLOATS / (POINTS * from.channels)).clamp(LANES, MOST_TILES);
        let tiling = Tiling::new(&to, tiles, share * batch / PIECES);
        let choice = tile::choose(level, 1, LANES, LANES);
        let transformed =
            Transformed { blocks: from.channels / LANES, tiles: tiling.tiles().next_multiple_of(choice.cols) };
        Correlation {
            level,
            from,
            to,
            zeros,
            tiling,
            choice,
            transformed,
            accumulate: false,
            weight,
            transposed: false,
        }
    }
}

/// As [`super::correlate::forward`], where it [`applies`].
pub(super) fn forward(level: Level, g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
    let from = Image { rows: g.height, cols: g.width, channels: g.channels };
    let to = Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters };
    Correlation::new(level, from, to, g.padding, g.batch, weight).run(x, y, sums);
}

/// As [`super::correlate::input_grad`], where it [`applies`].
pub(super) fn input_grad(level: Level, g: &Geometry, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
    let from = Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters };
    let to = Image { rows: g.height, cols: g.width, channels: g.channels };
    let plain = Correlation::new(level, from, to, 2 - g.padding, g.batch, weight);
    Correlation { accumulate, transposed: true, ..plain }.run(dy, dx, None);
}
