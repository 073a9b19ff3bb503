//! `normalize_rows` on the CPU, lengths and products in double.

use super::Native;
use super::negative_cosine::dot;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::normalize_rows::{EPSILON, NAME, NormalizeRowsKernels};
use crate::tensor::{Grad, Tensor};

/// Rows that one thread makes at a time.
const BLOCK: usize = 32;

/// Rows and features, the same of all tensors.
fn extents(x: Tensor, others: &[Tensor]) -> Result<[usize; 2]> {
    match x.shape.two() {
        Some(extents) if others.iter().all(|other| other.shape == x.shape) => Ok(extents),
        _ => {
            let others: Vec<String> = others.iter().map(|other| other.shape.to_string()).collect();
            Err(Error::op(NAME, format!("{} and {} are not matrices of one shape", x.shape, others.join(" and "))))
        }
    }
}

/// What a row is divided by, and whether that is its length. A NaN stays one.
fn divisor<T: Real>(x: &[T]) -> (f64, bool) {
    let length = dot(x, x).sqrt();
    if length < EPSILON { (EPSILON, false) } else { (length, true) }
}

fn forward<T: Real>(native: &Native, x: Tensor, y: Tensor) -> Result<()> {
    let [rows, features] = extents(x, &[y])?;
    let a = native.memory.access()?;
    let (x, y) = (a.read::<T>(x)?, a.write::<T>(y)?);
    let work = |first: usize, y: Rows<'_, T>| {
        for (y, x) in y.0.chunks_exact_mut(features).zip(x[first * features..].chunks_exact(features)) {
            let (divisor, _) = divisor(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f64(x.to_f64() / divisor));
        }
    };
    native.pool.install(|| for_chunks(Rows(y, features), rows, BLOCK, &work));
    Ok(())
}

fn backward<T: Real>(native: &Native, x: Tensor, dy: Tensor, dx: Grad) -> Result<()> {
    let [rows, features] = extents(x, &[dy, dx.tensor])?;
    let a = native.memory.access()?;
    let (x, dy, out) = (a.read::<T>(x)?, a.read::<T>(dy)?, a.write::<T>(dx.tensor)?);
    let work = |first: usize, out: Rows<'_, T>| {
        for (row, out) in out.0.chunks_exact_mut(features).enumerate() {
            let at = (first + row) * features;
            let (x, dy) = (&x[at..][..features], &dy[at..][..features]);
            let (divisor, is_length) = divisor(x);
            // y . dy / |x|: what of the gradient lies along the row, where the row cannot grow.
            let along = if is_length { dot(x, dy) / divisor / divisor } else { 0.0 };
            for ((out, x), dy) in out.iter_mut().zip(x).zip(dy) {
                let gradient = (dy.to_f64() - along * x.to_f64()) / divisor;
                *out = T::from_f64(if dx.accumulate { out.to_f64() + gradient } else { gradient });
            }
        }
    };
    native.pool.install(|| for_chunks(Rows(out, features), rows, BLOCK, &work));
    Ok(())
}

impl NormalizeRowsKernels for Native {
    fn normalize_rows_forward(&self, x: Tensor, y: Tensor) -> Result<()> {
        with_real!(self, T => forward::<T>(self, x, y))
    }

    fn normalize_rows_backward(&self, x: Tensor, dy: Tensor, dx: Grad) -> Result<()> {
        with_real!(self, T => backward::<T>(self, x, dy, dx))
    }
}
