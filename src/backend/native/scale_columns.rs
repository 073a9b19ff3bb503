//! `scale_columns` on the CPU, sums in double, row by row.

use super::Native;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::scale_columns::{Backward, NAME, ScaleColumnsKernels};
use crate::tensor::Tensor;

/// The number of columns, of matrices of one shape.
fn columns(matrices: &[Tensor], vectors: &[Tensor]) -> Result<usize> {
    let shape = matrices[0].shape; // x is always given
    match shape.two() {
        Some([_, columns])
            if matrices.iter().all(|m| m.shape == shape) && vectors.iter().all(|v| v.shape.dims() == [columns]) =>
        {
            Ok(columns)
        }
        _ => {
            let shapes: Vec<String> = matrices.iter().chain(vectors).map(|tensor| tensor.shape.to_string()).collect();
            Err(Error::op(NAME, format!("the shapes {} do not fit each other", shapes.join(", "))))
        }
    }
}

fn forward<T: Real>(native: &Native, x: Tensor, scales: Tensor, y: Tensor) -> Result<()> {
    let columns = columns(&[x, y], &[scales])?;
    let a = native.memory.access()?;
    let (x, scales, y) = (a.read::<T>(x)?, a.read::<T>(scales)?, a.write::<T>(y)?);
    for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
        y.iter_mut().zip(x).zip(scales).for_each(|((y, &x), &scale)| *y = scale * x);
    }
    Ok(())
}

fn backward<T: Real>(native: &Native, t: &Backward) -> Result<()> {
    let Backward { x, scales, dy, dx, dscales } = *t;
    let matrices: Vec<Tensor> = [Some(x), Some(dy), dx.map(|dx| dx.tensor)].into_iter().flatten().collect();
    let vectors: Vec<Tensor> = [Some(scales), dscales.map(|d| d.tensor)].into_iter().flatten().collect();
    let columns = columns(&matrices, &vectors)?;
    let a = native.memory.access()?;
    let (x, scales, dy) = (a.read::<T>(x)?, a.read::<T>(scales)?, a.read::<T>(dy)?);
    if let Some(dx) = dx {
        for (out, dy) in a.write::<T>(dx.tensor)?.chunks_exact_mut(columns).zip(dy.chunks_exact(columns)) {
            for ((out, &dy), &scale) in out.iter_mut().zip(dy).zip(scales) {
                *out = if dx.accumulate { *out + scale * dy } else { scale * dy };
            }
        }
    }
    if let Some(dscales) = dscales {
        for (column, out) in a.write::<T>(dscales.tensor)?.iter_mut().enumerate() {
            let of = |values: &[T]| values.iter().skip(column).step_by(columns).map(|v| v.to_f64()).collect::<Vec<_>>();
            let before = if dscales.accumulate { out.to_f64() } else { 0.0 };
            *out = T::from_f64(before + of(x).iter().zip(of(dy)).map(|(x, dy)| x * dy).sum::<f64>());
        }
    }
    Ok(())
}

impl ScaleColumnsKernels for Native {
    fn scale_columns_forward(&self, x: Tensor, scales: Tensor, y: Tensor) -> Result<()> {
        with_real!(self, T => forward::<T>(self, x, scales, y))
    }

    fn scale_columns_backward(&self, t: &Backward) -> Result<()> {
        with_real!(self, T => backward::<T>(self, t))
    }
}
