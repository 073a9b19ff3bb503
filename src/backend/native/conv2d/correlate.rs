//! Forward and input gradient: correlations of zero-padded strips with packed weights.
//!
//! The gradient of a convolution of stride s is, for each of the s x s phases of the input's pixels, a correlation of
//! stride 1 of the output's gradient with those of the kernel's taps, flipped, that reach the phase; the forward has
//! one phase, which is everything.
//!
//! In a convolution of groups, sixteen output channels read just the blocks of channels that their groups span.

use smallvec::{SmallVec, smallvec};

use rayon::prelude::*;

use super::super::cpu::Level;
use super::super::workspace::Workspace;
use super::lanes::{Ahead, LANES};
use super::spans::Spans;
use super::strip::{Image, Strip};
use super::tile::{self, Tile};
use crate::ops::conv2d::Geometry;

/// Most floats in a strip: it should stay in the second-level cache beside the weights of sixteen output channels.
const STRIP_FLOATS: usize = 96 * 1024;

/// Every `spread`-th output pixel both ways, and what it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// The first output row and column.
    pub first: [usize; 2],
    /// Output rows and columns of this phase.
    pub extent: [usize; 2],
    /// Rows and columns of the strip before the first tap of the first pixel.
    pub shift: [usize; 2],
    /// Kernel rows and columns.
    pub taps: [usize; 2],
    /// The first of them in the full kernel, and the step from one to the next.
    tap: [(usize, isize); 2],
    /// Taps of the phases before.
    pub taps_before: usize,
}

impl Phase {
    /// Which taps of a full kernel of that extent these are, by row and column.
    pub(super) fn taps_of(&self, kernel: usize) -> impl Iterator<Item = usize> {
        let [rows, cols] = self.tap.map(|(first, step)| move |i: usize| first.wrapping_add_signed(step * i as isize));
        let taps = self.taps;
        (0..taps[0] * taps[1]).map(move |i| rows(i / taps[1]) * kernel + cols(i % taps[1]))
    }
}

/// One correlation of a batch of images.
#[derive(Debug)]
pub(super) struct Correlation {
    pub from: Image,
    pub to: Image,
    pub kernel: usize,
    /// From a pixel's taps to the next one's, in strip pixels.
    pub stride: usize,
    /// From a pixel of a phase to the next, in output pixels.
    pub spread: usize,
    /// Zeros before the first row, and before the first column.
    pub zeros: [usize; 2],
    pub phases: SmallVec<[Phase; 4]>,
    groups: usize,
    /// Output channels are the weight's input channels.
    pub transposed: bool,
}

impl Correlation {
    pub(super) fn forward(g: &Geometry) -> Correlation {
        let extent = [g.out_height(), g.out_width()];
        let phase =
            Phase { first: [0; 2], extent, shift: [0; 2], taps: [g.kernel; 2], tap: [(0, 1); 2], taps_before: 0 };
        Correlation {
            from: Image { rows: g.height, cols: g.width, channels: g.channels },
            to: Image { rows: extent[0], cols: extent[1], channels: g.filters },
            kernel: g.kernel,
            stride: g.stride,
            spread: 1,
            zeros: [g.padding; 2],
            phases: smallvec![phase],
            groups: g.groups,
            transposed: false,
        }
    }

    pub(super) fn input_grad(g: &Geometry) -> Correlation {
        let s = g.stride;
        // Input pixel s*a + phase takes output pixel a + reach - t by the tap first + s*t.
        let taps = |phase: usize| g.kernel.saturating_sub((phase + g.padding) % s).div_ceil(s);
        let reach = |phase: usize| (phase + g.padding) / s;
        let zeros = (0..s).map(|p| (taps(p)).saturating_sub(1).saturating_sub(reach(p))).max().unwrap_or(0);
        let mut phases = SmallVec::new();
        let mut taps_before = 0;
        for row in 0..s.min(g.height) {
            for col in 0..s.min(g.width) {
                let axis = |phase: usize| {
                    let last = taps(phase).saturating_sub(1);
                    (zeros + reach(phase) - last, ((phase + g.padding) % s + s * last, -(s as isize)))
                };
                let (row_axis, col_axis) = (axis(row), axis(col));
                let taps = [taps(row), taps(col)];
                phases.push(Phase {
                    first: [row, col],
                    extent: [(g.height - row).div_ceil(s), (g.width - col).div_ceil(s)],
                    shift: [row_axis.0, col_axis.0],
                    taps,
                    tap: [row_axis.1, col_axis.1],
                    taps_before,
                });
                taps_before += taps[0] * taps[1];
            }
        }
        Correlation {
            from: Image { rows: g.out_height(), cols: g.out_width(), channels: g.filters },
            to: Image { rows: g.height, cols: g.width, channels: g.channels },
            kernel: g.kernel,
            stride: 1,
            spread: s,
            zeros: [zeros; 2],
            phases,
            groups: g.groups,
            transposed: true,
        }
    }

    /// Floats of packed weights for sixteen output channels.
    fn packed_block(&self, strip: &Strip, spans: &Spans) -> usize {
        self.kernel * self.kernel * spans.blocks * strip.block * LANES
    }

    /// Packs the weights of sixteen output channels: (phase, channel block, kernel row, kernel column, channel in the
    /// block, output channel), zero where there is no such channel or it is of another group.
    fn pack(&self, strip: &Strip, spans: &Spans, weight: &[f32], out_block: usize, packed: &mut [f32]) {
        let area = self.kernel * self.kernel;
        let first = out_block * LANES;
        let lanes = LANES.min(self.to.channels - first);
        let first_channel = spans.first(out_block) * strip.block;
        let last_channel = self.from.channels.min(first_channel + spans.blocks * strip.block);
        let mut blocks = packed.chunks_exact_mut(strip.block * LANES);
        for phase in &self.phases {
            for channel in (first_channel..last_channel).step_by(strip.block) {
                let width = strip.block.min(self.from.channels - channel);
                for tap in phase.taps_of(self.kernel) {
                    let block = blocks.next().expect("the taps of all phases are those of the kernel");
                    if lanes < LANES || width < strip.block || self.groups > 1 {
                        block.fill(0.0);
                    }
                    if self.transposed {
                        for (i, to) in block.chunks_exact_mut(LANES).enumerate().take(width) {
                            let group = spans.outputs(channel + i);
                            let (begin, end) = (group.start.max(first), group.end.min(first + lanes));
                            if begin < end {
                                let from = ((channel + i) * area + tap) * group.len() + begin - group.start;
                                to[begin - first..end - first].copy_from_slice(&weight[from..from + end - begin]);
                            }
                        }
                    } else {
                        for lane in 0..lanes {
                            let group = spans.inputs(first + lane);
                            let (begin, end) = (group.start.max(channel), group.end.min(channel + width));
                            let from = ((first + lane) * area + tap) * group.len();
                            for i in begin..end {
                                block[(i - channel) * LANES + lane] = weight[from + i - group.start];
                            }
                        }
                    }
                }
            }
        }
    }

    /// Runs over a batch. `sums`: see [`super::forward`].
    fn run(&self, level: Level, x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool, sums: Option<&mut [f32]>) {
        let strip = Strip::new(self.from.channels, 0, 0);
        let step = self.stride * strip.block;
        let extents = self.phases.iter().map(|p| p.extent);
        let rows = extents.clone().map(|e| e[0]).max().unwrap_or(0);
        let cols = extents.map(|e| e[1]).max().unwrap_or(0);
        let choice = tile::choose(level, rows, cols, step);
        let reach = |axis: usize| self.phases.iter().map(|p| p.shift[axis] + p.taps[axis]).max().unwrap_or(0);
        let strip_extent = |out: usize, axis: usize| (out - 1) * self.stride + reach(axis).max(1);
        let strip_cols = strip_extent(cols.next_multiple_of(choice.cols), 1);
        let row_floats = strip.blocks * strip.block * strip_cols * self.stride;
        let band = (STRIP_FLOATS / row_floats).clamp(1, rows).next_multiple_of(choice.rows);
        let strip = Strip { rows: strip_extent(band, 0), cols: strip_cols, ..strip };
        let spans = Spans::new(self.groups, self.from.channels, self.to.channels, &strip);
        let job = Job { correlation: self, strip, spans, choice, rows, band, accumulate };

        let block = self.packed_block(&strip, &spans);
        let mut packed = Workspace::<f32>::take(block * self.to.channels.div_ceil(LANES));
        packed.par_chunks_mut(block).enumerate().for_each(|(i, packed)| self.pack(&strip, &spans, weight, i, packed));
        let packed = &*packed;
        // Small images share each block of weights while it is near. No image's results depend on the others.
        let fair = x.len() / self.from.floats() / (2 * rayon::current_num_threads());
        let together = if band < rows { 1 } else { (STRIP_FLOATS / strip.floats()).min(fair).max(1) };
        let pieces = y.par_chunks_mut(together * self.to.floats()).zip(x.par_chunks(together * self.from.floats()));
        match sums {
            None => pieces.for_each(|(y, x)| job.images(packed, x, y, &mut [])),
            Some(sums) => pieces
                .zip(sums.par_chunks_mut(together * 2 * self.to.channels))
                .for_each(|((y, x), sums)| job.images(packed, x, y, sums)),
        }
    }
}

/// What is the same for all images of a [`Correlation::run`].
struct Job<'a> {
    correlation: &'a Correlation,
    strip: Strip,
    spans: Spans,
    choice: tile::TileChoice,
    /// Rows of the largest phase.
    rows: usize,
    /// Of these, how many at a time.
    band: usize,
    accumulate: bool,
}

impl Job<'_> {
    /// Some images, each by itself. `sums`, if not empty: the sums over its pixels of y and of y², (image, 2, channels).
    fn images(&self, packed: &[f32], x: &[f32], y: &mut [f32], sums: &mut [f32]) {
        let c = self.correlation;
        sums.fill(0.0);
        let count = x.len() / c.from.floats();
        let mut strips = Workspace::<f32>::take(count * self.strip.floats());
        let tile_rows = |phase: &Phase| phase.extent[0].div_ceil(self.choice.rows);
        let steps = c.phases.iter().map(tile_rows).sum::<usize>() * c.to.channels.div_ceil(LANES) * count;
        let mut ahead = Ahead::of(x, steps);
        for first in (0..self.rows).step_by(self.band) {
            let top = (first * c.stride) as isize - c.zeros[0] as isize;
            for (x, strip) in x.chunks_exact(c.from.floats()).zip(strips.chunks_exact_mut(self.strip.floats())) {
                self.strip.fill(strip, self.strip.block_pitch(), &c.from, x, (top, -(c.zeros[1] as isize)));
            }
            for (i, packed) in packed.chunks_exact(c.packed_block(&self.strip, &self.spans)).enumerate() {
                let images = y.chunks_exact_mut(c.to.floats()).zip(strips.chunks_exact(self.strip.floats()));
                for (n, (y, strip)) in images.enumerate() {
                    let mut block_sums = [0.0; 2 * LANES];
                    for phase in &c.phases {
                        let wanted = (!sums.is_empty()).then_some(&mut block_sums);
                        self.phase(phase, strip, first, packed, i, y, wanted, &mut ahead);
                    }
                    if !sums.is_empty() {
                        let (plain, squares) = sums[n * 2 * c.to.channels..].split_at_mut(c.to.channels);
                        for (sums, block_sums) in [plain, squares].into_iter().zip(block_sums.chunks_exact(LANES)) {
                            let sums = &mut sums[i * LANES..c.to.channels.min((i + 1) * LANES)];
                            for (sum, more) in sums.iter_mut().zip(block_sums) {
                                *sum += *more as f32;
                            }
                        }
                    }
                }
            }
        }
    }

    /// The sixteen output channels of a block, of a phase's rows in the band that starts at `first`.
    #[expect(clippy::too_many_arguments)]
    fn phase(
        &self,
        phase: &Phase,
        strip: &[f32],
        first: usize,
        packed: &[f32],
        block: usize,
        y: &mut [f32],
        mut sums: Option<&mut [f64; 2 * LANES]>,
        ahead: &mut Ahead,
    ) {
        let (c, s, choice) = (self.correlation, &self.strip, &self.choice);
        let [rows, cols] = phase.extent;
        if self.accumulate && phase.taps.contains(&0) {
            return;
        }
        let (channel, blocks) = (block * LANES, self.spans.blocks);
        let strip = &strip[self.spans.first(block) * s.block_pitch()..];
        let inner = phase.taps[1] * s.block;
        let taps = phase.taps[0] * inner;
        let weight = &packed[phase.taps_before * blocks * s.block * LANES..][..blocks * taps * LANES];
        let last = rows.min(first + self.band);
        for row in (first..last).step_by(choice.rows) {
            let mut row_sums = [0.0f32; 2 * LANES];
            ahead.step();
            for col in (0..cols).step_by(choice.cols) {
                let start = ((row - first) * c.stride + phase.shift[0]) * s.row_pitch()
                    + (col * c.stride + phase.shift[1]) * s.block;
                let pixel = (phase.first[0] + row * c.spread) * c.to.cols + phase.first[1] + col * c.spread;
                let tile = Tile {
                    strip: strip[start..].as_ptr(),
                    block_pitch: s.block_pitch(),
                    row_pitch: s.row_pitch(),
                    row_step: c.stride * s.row_pitch(),
                    pixel_step: c.stride * s.block,
                    weight: weight.as_ptr(),
                    blocks,
                    kernel_rows: phase.taps[0],
                    inner,
                    out: y[pixel * c.to.channels + channel..].as_mut_ptr(),
                    out_row: c.spread * c.to.cols * c.to.channels,
                    out_col: c.spread * c.to.channels,
                    rows: choice.rows.min(last - row),
                    cols: choice.cols.min(cols - col),
                    lanes: LANES.min(c.to.channels - channel),
                    accumulate: self.accumulate,
                    sums: if sums.is_some() { row_sums.as_mut_ptr() } else { std::ptr::null_mut() },
                };
                // SAFETY: `choose` was given the level of this processor. The strip has columns for whole tiles over
                // the widest phase and rows for whole tiles over the band, each with the furthest reach of all
                // phases; `weight` was sliced to just the vectors that are read; rows, columns and lanes end with the
                // image, whose memory `y` is borrowed mutably; the sums have two vectors.
                unsafe { (choice.kernel)(&tile) }
            }
            if let Some(sums) = sums.as_deref_mut() {
                sums.iter_mut().zip(row_sums).for_each(|(sum, more)| *sum += f64::from(more));
            }
        }
    }
}

/// `y = conv(x, weight)`, and the sums over each image's pixels of y and y², (image, 2, filters). See
/// [`crate::ops::conv2d::Conv2dKernels::conv2d_forward`].
pub(super) fn forward(level: Level, g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
    Correlation::forward(g).run(level, x, weight, y, false, sums);
}

/// `dx (+)= conv_transposed(dy, weight)`. See [`crate::ops::conv2d::Conv2dKernels::conv2d_input_grad`].
pub(super) fn input_grad(level: Level, g: &Geometry, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
    Correlation::input_grad(g).run(level, dy, weight, dx, accumulate, None);
}
