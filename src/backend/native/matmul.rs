//! Matrix products on slices, for operands that are small or rarely multiplied: the heads, and convolutions of unusual
//! shape. The hot convolutions have loops of their own (`conv2d`).
//!
//! By hand, as the gemm crate allocates its packing buffers in every call, and a step is to allocate nothing.

use super::cpu::vectorize;
use super::real::Real;

/// A tile of the result that is summed in registers: this many rows ...
const ROWS: usize = 6;
/// ... by this many columns.
const LANES: usize = 16;
/// Terms that are summed before they are added to the result; a panel of this many rows of b stays in the first cache.
const DEPTH: usize = 128;

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    /// Its elements; the first is at row 0, column 0.
    pub data: &'a [T],
    /// Elements from a row to the next.
    pub row: usize,
    /// Elements from a column to the next.
    pub column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of `columns` elements, one after the other.
    pub fn rows(data: &'a [T], columns: usize) -> Matrix<'a, T> {
        Matrix { data, row: columns, column: 1 }
    }

    /// The transpose of rows of `rows` elements.
    pub fn transposed(data: &'a [T], rows: usize) -> Matrix<'a, T> {
        Matrix { data, row: 1, column: rows }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// Up to [`DEPTH`] rows of [`LANES`] columns of b, filled up with zeros.
type Panel<T> = [[T; LANES]; DEPTH];

/// `out (+)= a b` on one thread: out (m, n) in rows, a (m, k), b (k, n). The order of the sums depends on the extents
/// alone.
///
/// # Panics
/// When a slice is too short for its matrix: a mistake in the caller.
pub fn matmul<T: Real>(out: &mut [T], [m, n, k]: [usize; 3], accumulate: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    assert!(out.len() >= m * n && a.holds(m, k) && b.holds(k, n), "a matrix product of {m}x{k} and {k}x{n}");
    let out = &mut out[..m * n];
    if !accumulate {
        out.fill(T::ZERO);
    }
    vectorize(
        #[inline(always)]
        || {
            let mut panel = [[T::ZERO; LANES]; DEPTH];
            for first in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - first);
                for column in (0..n).step_by(LANES) {
                    let columns = LANES.min(n - column);
                    pack(&mut panel, b, (first, depth), (column, columns));
                    let mut row = 0;
                    while row + ROWS <= m {
                        tile::<T, ROWS>(out, (row, column, n, columns), a, (first, depth), &panel);
                        row += ROWS;
                    }
                    for row in row..m {
                        tile::<T, 1>(out, (row, column, n, columns), a, (first, depth), &panel);
                    }
                }
            }
        },
    );
}

/// Copies rows `first..first + depth` and `columns` columns from `column` of b.
#[inline(always)]
fn pack<T: Real>(
    panel: &mut Panel<T>,
    b: Matrix<'_, T>,
    (first, depth): (usize, usize),
    (column, columns): (usize, usize),
) {
    for (term, to) in panel[..depth].iter_mut().enumerate() {
        let from = &b.data[(first + term) * b.row + column * b.column..];
        match <&[T; LANES]>::try_from(&from[..LANES.min(from.len())]) {
            Ok(whole) if b.column == 1 && columns == LANES => *to = *whole,
            _ => {
                *to = [T::ZERO; LANES];
                to[..columns].iter_mut().zip(from.iter().step_by(b.column)).for_each(|(to, &from)| *to = from);
            }
        }
    }
}

/// Adds the terms of a panel to `R` rows of the result from `row`, and `columns` columns of its `n` from `column`.
#[inline(always)]
fn tile<T: Real, const R: usize>(
    out: &mut [T],
    (row, column, n, columns): (usize, usize, usize, usize),
    a: Matrix<'_, T>,
    (first, depth): (usize, usize),
    panel: &Panel<T>,
) {
    let mut sums = [[T::ZERO; LANES]; R];
    // Slices of one length: one bounds check serves all rows.
    let a_column = a.column;
    let length = (depth - 1) * a_column + 1;
    let rows: [&[T]; R] = std::array::from_fn(|r| &a.data[(row + r) * a.row + first * a.column..][..length]);
    for (term, b) in panel[..depth].iter().enumerate() {
        for (sums, a) in sums.iter_mut().zip(rows) {
            let a = a[term * a_column];
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut out[(row + r) * n + column..][..columns];
        out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_integers_are_exact_in_every_layout() {
        // Below, at and above a tile and a panel either way.
        for [m, n, k] in [[1, 1, 1], [6, 16, 128], [7, 17, 129], [13, 10, 300], [5, 33, 64], [3, 4, 0]] {
            let (rows, columns): (Vec<f32>, Vec<f32>) = (
                (0..m * k).map(|i| (i * 7 % 11) as f32 - 5.0).collect(),
                (0..k * n).map(|i| (i * 5 % 13) as f32 - 6.0).collect(),
            );
            let turn = |data: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| data[i % rows * columns + i / rows]).collect()
            };
            let (a_turned, b_turned) = (turn(&rows, m, k), turn(&columns, k, n));
            let want: Vec<f32> = (0..m * n)
                .map(|i| (0..k).map(|t| rows[i / n * k + t] * columns[t * n + i % n]).sum::<f32>() + 2.0)
                .collect();
            for a in [Matrix::rows(&rows, k), Matrix::transposed(&a_turned, m)] {
                for b in [Matrix::rows(&columns, n), Matrix::transposed(&b_turned, k)] {
                    let mut out = vec![2.0; m * n];
                    matmul(&mut out, [m, n, k], true, a, b);
                    assert_eq!(out, want, "{m} {n} {k}");
                    matmul(&mut out, [m, n, k], false, a, b);
                    assert!(out.iter().zip(&want).all(|(out, want)| *out == want - 2.0), "{m} {n} {k}");
                }
            }
        }
    }
}
