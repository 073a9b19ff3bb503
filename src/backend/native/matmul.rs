//! Matrix products on slices, by the `gemm` crate.

use super::real::Real;

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

/// `out (+)= a b` on one thread: out (m, n) in rows, a (m, k), b (k, n).
///
/// # Panics
/// When a slice is too short for its matrix: a mistake in the caller.
pub fn matmul<T: Real>(out: &mut [T], [m, n, k]: [usize; 3], accumulate: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    assert!(out.len() >= m * n && a.holds(m, k) && b.holds(k, n), "a matrix product of {m}x{k} and {k}x{n}");
    let beta = if accumulate { T::ONE } else { T::ZERO };
    // SAFETY: the assertion above says that every element addressed by extents and strides lies in its slice; `out` is
    // borrowed mutably, so it shares nothing with a and b; T is f32 or f64, which gemm knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            beta,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
