//! `project_rows` on the CPU.

use super::Native;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::project_rows::{NAME, ProjectRows, ProjectRowsKernels};
use crate::tensor::Tensor;

/// A row's norm, rounded once: what is compared with the limit is a number of the type that limits are stored in.
fn norm<T: Real>(row: &[T]) -> T {
    T::from_f64(row.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>().sqrt())
}

/// Elements of each row of (rows, ...).
fn columns(master: Tensor) -> Result<usize> {
    let rows = master.shape.dims().first().copied().unwrap_or(0);
    if rows == 0 || master.elements() == 0 {
        return Err(Error::op(NAME, format!("weights of shape {} have no rows", master.shape)));
    }
    Ok(master.elements() / rows)
}

fn project<T: Real>(native: &Native, t: &ProjectRows) -> Result<()> {
    let a = native.memory.access()?;
    let columns = columns(t.master)?;
    let (master, limit) = (a.write::<T>(t.master)?, a.read::<T>(t.limit)?);
    let &[limit] = limit else { return Err(Error::op(NAME, "the limit is one number")) };
    for row in master.chunks_mut(columns) {
        let norm = norm(row);
        if norm > limit || (t.exact && norm > T::ZERO) {
            let scale = limit / norm;
            row.iter_mut().for_each(|v| *v = *v * scale);
        }
    }
    if let Some(compute) = t.compute {
        let compute = a.write::<T>(compute)?;
        if compute.len() != master.len() {
            return Err(Error::op(NAME, format!("{} weights, a copy of {}", master.len(), compute.len())));
        }
        compute.copy_from_slice(master);
    }
    Ok(())
}

fn norms<T: Real>(native: &Native, master: Tensor, norms: Tensor) -> Result<()> {
    let a = native.memory.access()?;
    let columns = columns(master)?;
    let (master, norms) = (a.read::<T>(master)?, a.write::<T>(norms)?);
    if norms.len() * columns != master.len() {
        return Err(Error::op(NAME, format!("{} norms for rows of {columns} of {}", norms.len(), master.len())));
    }
    norms.iter_mut().zip(master.chunks(columns)).for_each(|(to, row)| *to = norm(row));
    Ok(())
}

impl ProjectRowsKernels for Native {
    fn project_rows(&self, t: &ProjectRows) -> Result<()> {
        with_real!(self, T => project::<T>(self, t))
    }

    fn row_norms(&self, master: Tensor, to: Tensor) -> Result<()> {
        with_real!(self, T => norms::<T>(self, master, to))
    }
}
