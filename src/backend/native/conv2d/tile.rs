//! The innermost loops: a block of output pixels by sixteen output channels, held in registers.

use super::super::cpu::Level;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{LANES, Lanes, Portable};

/// What a correlation tile reads and writes; all pitches in floats.
pub(super) struct Tile {
    /// The packed strip, at the first tap of the tile's first pixel in the first channel block.
    pub strip: *const f32,
    /// From a channel block of the strip to the next.
    pub block_pitch: usize,
    /// From a row of the strip to the next.
    pub row_pitch: usize,
    /// From the row of the strip where an output row starts to that of the next output row.
    pub row_step: usize,
    /// From the column of the strip where an output pixel starts to that of the next output pixel.
    pub pixel_step: usize,
    /// Packed weights (block, kernel row, kernel column and channel, output channel).
    pub weight: *const f32,
    /// Channel blocks.
    pub blocks: usize,
    pub kernel_rows: usize,
    /// Kernel columns times channels in a block: contiguous in strip and weights alike.
    pub inner: usize,
    /// The tile's first output pixel, at the first of its output channels.
    pub out: *mut f32,
    /// From an output row to the next.
    pub out_row: usize,
    /// From an output pixel to the next.
    pub out_col: usize,
    /// Output rows to be written, at most the tile's.
    pub rows: usize,
    /// Output columns to be written, at most the tile's.
    pub cols: usize,
    /// Output channels to be written, at most [`LANES`].
    pub lanes: usize,
    /// Add to the output instead of setting it.
    pub accumulate: bool,
    /// Where to add the sums of the output and of its square, twice [`LANES`] floats; null for nowhere.
    pub sums: *mut f32,
}

/// A tile kernel.
///
/// # Safety
/// The processor must have the level that the kernel was chosen for. The strip must hold every pixel that a whole
/// tile reads (also beyond `rows` and `cols`), the weights `blocks * kernel_rows * inner` vectors, and the output
/// `rows` by `cols` pixels of `lanes` floats that nothing else touches.
pub(super) type TileKernel = unsafe fn(&Tile);

/// A kernel, and the rows and columns of its tile.
#[derive(Clone, Copy)]
pub(super) struct TileChoice {
    pub kernel: TileKernel,
    pub rows: usize,
    pub cols: usize,
}

/// # Safety
/// As [`TileKernel`], with the features of `L`. `STEP` is the tile's pixel step, or 0 to read it from there.
#[inline(always)]
unsafe fn correlate<L: Lanes, const ROWS: usize, const COLS: usize, const STEP: usize>(t: &Tile) {
    let step = if STEP == 0 { t.pixel_step } else { STEP };
    // SAFETY: the caller's contract: strip and weights hold everything that the loops below read.
    let acc = unsafe {
        let mut acc = [[L::zero(); COLS]; ROWS];
        let mut weight = t.weight;
        for block in 0..t.blocks {
            for row in 0..t.kernel_rows {
                let mut x = t.strip.add(block * t.block_pitch + row * t.row_pitch);
                for _ in 0..t.inner {
                    let w = L::load(weight);
                    for (r, line) in acc.iter_mut().enumerate() {
                        for (c, sum) in line.iter_mut().enumerate() {
                            *sum = L::mul_add_scalar(x.add(r * t.row_step + c * step), w, *sum);
                        }
                    }
                    // Wrapping: after the last step they point beyond what may be read.
                    weight = weight.wrapping_add(LANES);
                    x = x.wrapping_add(1);
                }
            }
        }
        acc
    };
    // SAFETY: the caller's contract: `rows` by `cols` pixels of `lanes` floats are ours, and `sums` if not null.
    unsafe {
        let whole = t.rows == ROWS && t.cols == COLS && t.lanes == LANES;
        if !whole {
            return finish_ragged::<L, ROWS, COLS>(t, &acc);
        }
        if !t.sums.is_null() {
            let (mut sum, mut squares) = (L::load(t.sums), L::load(t.sums.add(LANES)));
            for v in acc.as_flattened() {
                sum = L::add(sum, *v);
                squares = L::mul_add(*v, *v, squares);
            }
            L::store(t.sums, sum);
            L::store(t.sums.add(LANES), squares);
        }
        for (r, line) in acc.iter().enumerate() {
            for (c, v) in line.iter().enumerate() {
                let out = t.out.add(r * t.out_row + c * t.out_col);
                L::store(out, if t.accumulate { L::add(L::load(out), *v) } else { *v });
            }
        }
    }
}

/// Writes a tile that sticks out of the image or has fewer channels than lanes, float by float.
///
/// # Safety
/// As [`TileKernel`].
#[inline(always)]
unsafe fn finish_ragged<L: Lanes, const ROWS: usize, const COLS: usize>(t: &Tile, acc: &[[L::V; COLS]; ROWS]) {
    for (r, line) in acc.iter().enumerate() {
        for (c, v) in line.iter().enumerate() {
            // Not `take`: an index that is known when compiling lets the tile stay in registers.
            if r >= t.rows || c >= t.cols {
                continue;
            }
            let mut values = [0.0; LANES];
            // SAFETY: `values` has a vector's size; output and sums as the caller's contract says.
            unsafe {
                L::store(values.as_mut_ptr(), *v);
                let out = t.out.add(r * t.out_row + c * t.out_col);
                for (lane, value) in values.iter().enumerate().take(t.lanes) {
                    if !t.sums.is_null() {
                        *t.sums.add(lane) += value;
                        *t.sums.add(LANES + lane) += value * value;
                    }
                    let out = out.add(lane);
                    *out = if t.accumulate { *out + value } else { *value };
                }
            }
        }
    }
}

/// # Safety
/// As [`TileKernel`], on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn correlate_avx512<const ROWS: usize, const COLS: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { correlate::<Avx512, ROWS, COLS, STEP>(t) }
}

/// # Safety
/// As [`TileKernel`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn correlate_avx2<const ROWS: usize, const COLS: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { correlate::<Avx2, ROWS, COLS, STEP>(t) }
}

/// # Safety
/// As [`TileKernel`].
unsafe fn correlate_portable<const ROWS: usize, const COLS: usize, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller's contract.
    unsafe { correlate::<Portable, ROWS, COLS, STEP>(t) }
}

/// The kernel for `step` floats between pixels: a constant where the step is a common one, since the loads then need
/// no address arithmetic.
macro_rules! by_step {
    ($kernel:ident, $rows:literal, $cols:literal, $step:expr) => {
        TileChoice {
            kernel: match $step {
                4 => $kernel::<$rows, $cols, 4>,
                8 => $kernel::<$rows, $cols, 8>,
                16 => $kernel::<$rows, $cols, 16>,
                32 => $kernel::<$rows, $cols, 32>,
                _ => $kernel::<$rows, $cols, 0>,
            },
            rows: $rows,
            cols: $cols,
        }
    };
}

/// The kernel for an output of `rows` by `cols` pixels whose inputs are `step` floats apart in a row of the strip.
pub(super) fn choose(level: Level, rows: usize, cols: usize, step: usize) -> TileChoice {
    match level {
        // Sixteen sums hide the latency of the multiply-add, and share each weight that is loaded. Of the tile's
        // shapes, the one that sticks out least.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            let covered = |r: usize, c: usize| rows.next_multiple_of(r) * cols.next_multiple_of(c);
            let (flat, oblong, square) = (covered(1, 16), covered(2, 8), covered(4, 4));
            if flat <= oblong && flat <= square {
                by_step!(correlate_avx512, 1, 16, step)
            } else if oblong <= square {
                by_step!(correlate_avx512, 2, 8, step)
            } else {
                by_step!(correlate_avx512, 4, 4, step)
            }
        }
        // Eight of the sixteen registers hold sums.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => by_step!(correlate_avx2, 1, 4, step),
        Level::Portable => by_step!(correlate_portable, 1, 4, step),
    }
}

/// What a weight gradient tile reads and adds to; all pitches in floats.
pub(super) struct OuterTile {
    /// The packed strip, at the first pixel's first (kernel column, channel) of the tile.
    pub strip: *const f32,
    /// From an image of the strip to the next.
    pub strip_image: usize,
    /// From the strip row of an output row to that of the next.
    pub strip_row: usize,
    /// From the strip column of an output pixel to that of the next.
    pub strip_col: usize,
    /// The packed output gradient, at the first pixel.
    pub dy: *const f32,
    /// From an image of the output gradient to the next.
    pub dy_image: usize,
    /// From a row of the output gradient to the next.
    pub dy_row: usize,
    /// From a pixel of the output gradient to the next.
    pub dy_col: usize,
    pub images: usize,
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub cols: usize,
    /// The sums, [`LANES`] (kernel column, channel) pairs by [`LANES`] filters.
    pub sums: *mut f32,
}

/// A weight gradient kernel: `sums[i][f] += sum over pixels of strip[pixel + i] * dy[pixel][f]`.
///
/// # Safety
/// The processor must have the level that the kernel was chosen for; the strip must hold [`LANES`] floats and the
/// output gradient as many at every pixel; the sums belong to the caller alone.
pub(super) type OuterKernel = unsafe fn(&OuterTile);

/// # Safety
/// As [`OuterKernel`], with the features of `L`. `HELD` rows of sums are held in registers at a time.
#[inline(always)]
unsafe fn outer<L: Lanes, const HELD: usize>(t: &OuterTile) {
    // SAFETY: the caller's contract: strip and output gradient hold every pixel, the sums are ours.
    unsafe {
        for first in (0..LANES).step_by(HELD) {
            let sums = t.sums.add(first * LANES);
            let mut acc = [L::zero(); HELD];
            for (i, sum) in acc.iter_mut().enumerate() {
                *sum = L::load(sums.add(i * LANES));
            }
            for image in 0..t.images {
                for row in 0..t.rows {
                    let mut x = t.strip.add(image * t.strip_image + row * t.strip_row + first);
                    let mut dy = t.dy.add(image * t.dy_image + row * t.dy_row);
                    for _ in 0..t.cols {
                        let d = L::load(dy);
                        for (i, sum) in acc.iter_mut().enumerate() {
                            *sum = L::mul_add_scalar(x.add(i), d, *sum);
                        }
                        // Wrapping: after the last step they point beyond what may be read.
                        x = x.wrapping_add(t.strip_col);
                        dy = dy.wrapping_add(t.dy_col);
                    }
                }
            }
            for (i, sum) in acc.iter().enumerate() {
                L::store(sums.add(i * LANES), *sum);
            }
        }
    }
}

/// # Safety
/// As [`OuterKernel`], on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn outer_avx512(t: &OuterTile) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { outer::<Avx512, 16>(t) }
}

/// # Safety
/// As [`OuterKernel`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn outer_avx2(t: &OuterTile) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { outer::<Avx2, 4>(t) }
}

/// # Safety
/// As [`OuterKernel`].
unsafe fn outer_portable(t: &OuterTile) {
    // SAFETY: the caller's contract.
    unsafe { outer::<Portable, 4>(t) }
}

/// The weight gradient kernel of a level.
pub(super) fn choose_outer(level: Level) -> OuterKernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => outer_avx512,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => outer_avx2,
        Level::Portable => outer_portable,
    }
}
