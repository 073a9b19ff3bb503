//! The linear maps of Winograd's convolution F(2x2, 3x3), sixteen channels at a time (Lavin and Gray, "Fast Algorithms
//! for Convolutional Neural Networks", 2015, section 4.1; the last rows of Bᵀ and of A have their signs changed, which
//! cancels out and saves negations).
//!
//! With a 4x4 patch d of the input and a 3x3 kernel g, the 2x2 outputs are Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A:
//!
//! ```text
//!      | 1  0 -1  0 |        |  1    0    0  |
//! Bᵀ = | 0  1  1  0 |    G = | 1/2  1/2  1/2 |    Aᵀ = | 1  1  1  0 |
//!      | 0 -1  1  0 |        | 1/2 -1/2  1/2 |         | 0  1 -1  1 |
//!      | 0 -1  0  1 |        |  0    0    1  |
//! ```

use super::lanes::{self, LANES, Lanes, instantiate};

// No closure here gets vectors: one that the compiler does not inline is compiled without the level's features, and
// then every operation on vectors is a call.

/// Points of the transformed domain.
pub(super) const POINTS: usize = 16;

/// A run of tiles side by side, where rows beyond the image are zero; pitches in floats.
pub(super) struct Rows<const N: usize> {
    /// The image's rows at column 0, or a pixel of zeros.
    pub rows: [*const f32; N],
    /// From a pixel of each row to the next; 0 for a row of zeros.
    pub pitch: [usize; N],
    /// The column of the first tile's first pixel; those outside of the image are zero.
    pub first: isize,
    /// The image's columns.
    pub cols: usize,
    /// Tiles; each starts two columns after the one before.
    pub tiles: usize,
    /// Blocks of sixteen channels.
    pub blocks: usize,
    /// The first tile's transform: (block, point, tile, channel).
    pub to: *mut f32,
    /// From a block there to the next.
    pub block_pitch: usize,
    /// From a point there to the next.
    pub point_pitch: usize,
}

impl<const N: usize> Rows<N> {
    /// Sixteen channels of a column of pixels.
    ///
    /// # Safety
    /// The rows hold `cols` pixels of at least `blocks * LANES` floats.
    #[inline(always)]
    unsafe fn column<L: Lanes>(&self, block: usize, col: isize) -> [L::V; N] {
        // SAFETY: the column lies inside, and the rows hold it by the caller's contract.
        unsafe {
            let mut values = [L::zero(); N];
            if col >= 0 && (col as usize) < self.cols {
                for (i, value) in values.iter_mut().enumerate() {
                    *value = L::load(self.rows[i].add(col as usize * self.pitch[i] + block * LANES));
                }
            }
            values
        }
    }
}

/// Bᵀ of four values.
///
/// # Safety
/// The features of `L`.
#[inline(always)]
unsafe fn b<L: Lanes>([a, b, c, d]: [L::V; 4]) -> [L::V; 4] {
    // SAFETY: the caller's contract.
    unsafe { [L::sub(a, c), L::add(b, c), L::sub(c, b), L::sub(d, b)] }
}

/// Patches of the input to the transformed domain: Bᵀ d B.
///
/// # Safety
/// The features of `L`; rows as [`Rows::column`] says; the place of every tile's transform belongs to the caller.
#[inline(always)]
unsafe fn input<L: Lanes>(r: &Rows<4>) {
    for block in 0..r.blocks {
        // SAFETY: the caller's contract.
        unsafe {
            let to = r.to.add(block * r.block_pitch);
            let mut c0 = b::<L>(r.column::<L>(block, r.first));
            let mut c1 = b::<L>(r.column::<L>(block, r.first + 1));
            for tile in 0..r.tiles {
                let col = r.first + 2 * tile as isize;
                let c2 = b::<L>(r.column::<L>(block, col + 2));
                let c3 = b::<L>(r.column::<L>(block, col + 3));
                let to = to.add(tile * LANES);
                for i in 0..4 {
                    let points = b::<L>([c0[i], c1[i], c2[i], c3[i]]);
                    for (j, v) in points.iter().enumerate() {
                        L::store(to.add((i * 4 + j) * r.point_pitch), *v);
                    }
                }
                (c0, c1) = (c2, c3);
            }
        }
    }
}
instantiate!(input_kernel, input, Rows<4>);

/// 2x2 gradients of the output to the transformed domain: A dy Aᵀ.
///
/// # Safety
/// As [`input`].
#[inline(always)]
unsafe fn output_grad<L: Lanes>(r: &Rows<2>) {
    for block in 0..r.blocks {
        for tile in 0..r.tiles {
            // SAFETY: the caller's contract.
            unsafe {
                let col = r.first + 2 * tile as isize;
                let a = r.column::<L>(block, col);
                let b = r.column::<L>(block, col + 1);
                let to = r.to.add(block * r.block_pitch + tile * LANES);
                let a = [a[0], L::add(a[0], a[1]), L::sub(a[0], a[1]), a[1]];
                let b = [b[0], L::add(b[0], b[1]), L::sub(b[0], b[1]), b[1]];
                for i in 0..4 {
                    let points = [a[i], L::add(a[i], b[i]), L::sub(a[i], b[i]), b[i]];
                    for (j, v) in points.iter().enumerate() {
                        L::store(to.add((i * 4 + j) * r.point_pitch), *v);
                    }
                }
            }
        }
    }
}
instantiate!(output_grad_kernel, output_grad, Rows<2>);

/// A run of tiles of sixteen output channels on their way back; pitches in floats.
pub(super) struct Outputs {
    /// The first tile's products: (point, tile, channel).
    pub from: *const f32,
    /// From a point there to the next.
    pub point_pitch: usize,
    pub tiles: usize,
    /// The output's pixel of the first tile.
    pub out: *mut f32,
    /// From an output row to the next.
    pub row_pitch: usize,
    /// From an output pixel to the next.
    pub col_pitch: usize,
    /// Output rows to be written, at most 2.
    pub rows: usize,
    /// Output columns to be written, at most two per tile.
    pub cols: usize,
    /// Add to the output instead of setting it.
    pub accumulate: bool,
    /// Where to add the sums of the output and of its square, twice [`LANES`] floats.
    pub sums: *mut f32,
}

/// Aᵀ of four values.
///
/// # Safety
/// The features of `L`.
#[inline(always)]
unsafe fn a<L: Lanes>([a, b, c, d]: [L::V; 4]) -> [L::V; 2] {
    // SAFETY: the caller's contract.
    unsafe { [L::add(a, L::add(b, c)), L::add(d, L::sub(b, c))] }
}

/// Every fourth of sixteen points.
///
/// # Safety
/// The features of `L`; `from` holds sixteen points at this pitch.
#[inline(always)]
unsafe fn column<L: Lanes>(from: *const f32, pitch: usize) -> [L::V; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        [L::load(from), L::load(from.add(4 * pitch)), L::load(from.add(8 * pitch)), L::load(from.add(12 * pitch))]
    }
}

/// Products in the transformed domain to the output: Aᵀ m A.
///
/// # Safety
/// The features of `L`; `from` holds the products of all tiles; the output's pixels and the sums belong to the caller.
#[inline(always)]
unsafe fn output<L: Lanes>(o: &Outputs) {
    // SAFETY: the caller's contract.
    unsafe {
        let (mut sum, mut squares) = (L::load(o.sums), L::load(o.sums.add(LANES)));
        for tile in 0..o.tiles {
            let m = o.from.add(tile * LANES);
            let c0 = a::<L>(column::<L>(m, o.point_pitch));
            let c1 = a::<L>(column::<L>(m.add(o.point_pitch), o.point_pitch));
            let c2 = a::<L>(column::<L>(m.add(2 * o.point_pitch), o.point_pitch));
            let c3 = a::<L>(column::<L>(m.add(3 * o.point_pitch), o.point_pitch));
            for i in 0..2 {
                if i >= o.rows {
                    break;
                }
                let pixels = a::<L>([c0[i], c1[i], c2[i], c3[i]]);
                for (j, pixel) in pixels.iter().enumerate() {
                    if 2 * tile + j >= o.cols {
                        break;
                    }
                    let mut v = *pixel;
                    sum = L::add(sum, v);
                    squares = L::mul_add(v, v, squares);
                    let out = o.out.add(i * o.row_pitch + (2 * tile + j) * o.col_pitch);
                    if o.accumulate {
                        v = L::add(L::load(out), v);
                    }
                    L::store(out, v);
                }
            }
        }
        L::store(o.sums, sum);
        L::store(o.sums.add(LANES), squares);
    }
}
instantiate!(output_kernel, output, Outputs);

/// Vectors of kernels, nine taps each, on their way to the transformed domain, or of gradients on their way back.
pub(super) struct Kernels {
    /// Nine taps or sixteen points of each vector.
    pub from: *const f32,
    /// From a tap or point there to the next.
    pub from_pitch: usize,
    /// Sixteen points or nine taps of each vector.
    pub to: *mut f32,
    /// From a point or tap there to the next.
    pub to_pitch: usize,
    /// Vectors, one after the other.
    pub vectors: usize,
}

/// G of three values.
///
/// # Safety
/// The features of `L`.
#[inline(always)]
unsafe fn g<L: Lanes>([a, b, c]: [L::V; 3]) -> [L::V; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let (outer, b) = (L::half(L::add(a, c)), L::half(b));
        [a, L::add(outer, b), L::sub(outer, b), c]
    }
}

/// Kernels to the transformed domain: G g Gᵀ.
///
/// # Safety
/// The features of `L`; both sides hold all their vectors, and `to` belongs to the caller.
#[inline(always)]
unsafe fn kernel<L: Lanes>(k: &Kernels) {
    for vector in 0..k.vectors {
        // SAFETY: the caller's contract.
        unsafe {
            let mut columns = [[L::zero(); 4]; 3];
            for (j, column) in columns.iter_mut().enumerate() {
                let tap = k.from.add(j * k.from_pitch + vector * LANES);
                *column =
                    g::<L>([L::load(tap), L::load(tap.add(3 * k.from_pitch)), L::load(tap.add(6 * k.from_pitch))]);
            }
            #[expect(clippy::needless_range_loop, reason = "one element of each column")]
            for i in 0..4 {
                let points = g::<L>([columns[0][i], columns[1][i], columns[2][i]]);
                for (j, v) in points.iter().enumerate() {
                    L::store(k.to.add((i * 4 + j) * k.to_pitch + vector * LANES), *v);
                }
            }
        }
    }
}
instantiate!(kernel_kernel, kernel, Kernels);

/// Gᵀ of four values.
///
/// # Safety
/// The features of `L`.
#[inline(always)]
unsafe fn g_transposed<L: Lanes>([a, b, c, d]: [L::V; 4]) -> [L::V; 3] {
    // SAFETY: the caller's contract.
    unsafe {
        let even = L::half(L::add(b, c));
        [L::add(a, even), L::half(L::sub(b, c)), L::add(even, d)]
    }
}

/// Gradients with respect to transformed kernels to those with respect to kernels: Gᵀ s G.
///
/// # Safety
/// As [`kernel`].
#[inline(always)]
unsafe fn kernel_grad<L: Lanes>(k: &Kernels) {
    for vector in 0..k.vectors {
        // SAFETY: the caller's contract.
        unsafe {
            let mut columns = [[L::zero(); 3]; 4];
            for (j, to) in columns.iter_mut().enumerate() {
                *to = g_transposed::<L>(column::<L>(k.from.add(j * k.from_pitch + vector * LANES), k.from_pitch));
            }
            #[expect(clippy::needless_range_loop, reason = "one element of each column")]
            for i in 0..3 {
                let taps = g_transposed::<L>([columns[0][i], columns[1][i], columns[2][i], columns[3][i]]);
                for (j, v) in taps.iter().enumerate() {
                    L::store(k.to.add((i * 3 + j) * k.to_pitch + vector * LANES), *v);
                }
            }
        }
    }
}
instantiate!(kernel_grad_kernel, kernel_grad, Kernels);
