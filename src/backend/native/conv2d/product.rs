//! The innermost loop of matrix products: some rows by some vectors of columns, held in registers.
//!
//! Rows are found by pointers, one each, so that they may be pixels anywhere in an image, or zeros beside it.

use super::super::cpu::Level;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{LANES, Lanes, Portable};

/// Terms that are summed in registers before they are added to the result: that many rows of a panel stay in the
/// first-level cache.
pub(super) const DEPTH: usize = 128;
/// From a term to the next where rows are packed together; no kernel has more rows.
pub(super) const PITCH: usize = 8;
/// Most columns that a kernel has.
pub(super) const WIDEST: usize = 4 * LANES;

/// What a kernel reads and writes: `out[r][c] (+)= sum over terms of rows[r][term] * panel[term][c]`.
pub(super) struct Product {
    /// The first term of each row of a whole tile.
    pub rows: *const *const f32,
    /// Floats to add to each of these.
    pub offset: usize,
    /// (term, column), as many columns as the kernel has.
    pub panel: *const f32,
    pub terms: usize,
    /// Where each row's results go.
    pub out: *const *mut f32,
    /// Floats to add to each of these.
    pub out_offset: usize,
    /// Rows to be written, at most the kernel's.
    pub count: usize,
    /// Columns to be written, at most the kernel's.
    pub columns: usize,
    /// Add to what is there.
    pub add: bool,
    /// Where to add the sums over the written rows of the results and, [`WIDEST`] further on, of their squares; null for
    /// nowhere.
    pub sums: *mut f64,
}

/// A kernel.
///
/// # Safety
/// The processor must have the level that the kernel was chosen for. Each of the kernel's rows, also those that are not
/// written, must have `terms` terms; the panel must have that many rows; `count` rows of `columns` floats of the output
/// belong to the caller alone, as do the sums, twice [`WIDEST`] of them.
pub(super) type Kernel = unsafe fn(&Product);

/// Kernels and their extents.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// For rows whose terms are neighbours.
    pub apart: Kernel,
    /// For rows that are packed together: a term of all rows, then the next term [`PITCH`] floats on.
    pub together: Kernel,
    pub rows: usize,
    /// A multiple of [`LANES`].
    pub columns: usize,
}

/// # Safety
/// As [`Kernel`], with the features of `L`. `STEP`: floats from a term of a row to the next.
#[inline(always)]
unsafe fn product<L: Lanes, const ROWS: usize, const VECTORS: usize, const STEP: usize>(p: &Product) {
    // SAFETY: the caller's contract: rows and panel hold every term.
    let acc = unsafe {
        let rows: [*const f32; ROWS] = std::array::from_fn(|r| (*p.rows.add(r)).add(p.offset));
        let mut acc = [[L::zero(); VECTORS]; ROWS];
        let mut panel = p.panel;
        for term in 0..p.terms {
            let columns: [L::V; VECTORS] = std::array::from_fn(|v| L::load(panel.add(v * LANES)));
            for (row, sums) in rows.iter().zip(&mut acc) {
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = L::mul_add_scalar(row.add(term * STEP), column, *sum);
                }
            }
            // Wrapping: after the last term it points beyond what may be read.
            panel = panel.wrapping_add(VECTORS * LANES);
        }
        acc
    };
    // SAFETY: the caller's contract: `count` rows of `columns` floats are ours, and `sums` if not null.
    unsafe {
        if p.columns < VECTORS * LANES {
            return finish_ragged::<L, ROWS, VECTORS>(p, &acc);
        }
        let (mut sums, mut squares) = ([L::zero(); VECTORS], [L::zero(); VECTORS]);
        for (r, values) in acc.iter().enumerate() {
            // Not `take`: an index that is known when compiling lets the tile stay in registers.
            if r >= p.count {
                continue;
            }
            let out = (*p.out.add(r)).add(p.out_offset);
            for (v, &value) in values.iter().enumerate() {
                let out = out.add(v * LANES);
                let value = if p.add { L::add(L::load(out), value) } else { value };
                L::store(out, value);
                sums[v] = L::add(sums[v], value);
                squares[v] = L::mul_add(value, value, squares[v]);
            }
        }
        if !p.sums.is_null() {
            for v in 0..VECTORS {
                let mut both = [[0.0; LANES]; 2];
                L::store(both[0].as_mut_ptr(), sums[v]);
                L::store(both[1].as_mut_ptr(), squares[v]);
                for (half, values) in both.iter().enumerate() {
                    for (lane, &value) in values.iter().enumerate() {
                        *p.sums.add(half * WIDEST + v * LANES + lane) += f64::from(value);
                    }
                }
            }
        }
    }
}

/// Writes a tile of fewer columns than the kernel has, float by float.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
unsafe fn finish_ragged<L: Lanes, const ROWS: usize, const VECTORS: usize>(p: &Product, acc: &[[L::V; VECTORS]; ROWS]) {
    for (r, values) in acc.iter().enumerate() {
        if r >= p.count {
            continue;
        }
        for (v, &value) in values.iter().enumerate() {
            let mut lanes = [0.0; LANES];
            // SAFETY: `lanes` has a vector's size; output and sums as the caller's contract says.
            unsafe {
                L::store(lanes.as_mut_ptr(), value);
                for (column, value) in (v * LANES..p.columns).zip(lanes) {
                    let out = (*p.out.add(r)).add(p.out_offset + column);
                    *out = if p.add { *out + value } else { value };
                    if !p.sums.is_null() {
                        *p.sums.add(column) += f64::from(*out);
                        *p.sums.add(WIDEST + column) += f64::from(*out * *out);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel`], on a processor with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn product_avx512<const STEP: usize>(p: &Product) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { product::<Avx512, 6, 4, STEP>(p) }
}

/// # Safety
/// As [`Kernel`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn product_avx2<const STEP: usize>(p: &Product) {
    // SAFETY: the caller's contract; the features are enabled here.
    unsafe { product::<Avx2, 6, 1, STEP>(p) }
}

/// # Safety
/// As [`Kernel`].
unsafe fn product_portable<const STEP: usize>(p: &Product) {
    // SAFETY: the caller's contract.
    unsafe { product::<Portable, 3, 1, STEP>(p) }
}

/// The kernels of a level. Sums, columns and one value of a row fit into the registers: 24 + 4 + 1 of 32, or 12 + 2 + 1 of
/// 16.
pub(super) fn choose(level: Level) -> Choice {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            Choice { apart: product_avx512::<1>, together: product_avx512::<PITCH>, rows: 6, columns: 4 * LANES }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Choice { apart: product_avx2::<1>, together: product_avx2::<PITCH>, rows: 6, columns: LANES },
        Level::Portable => {
            Choice { apart: product_portable::<1>, together: product_portable::<PITCH>, rows: 3, columns: LANES }
        }
    }
}
