//! `join_branches` on the CPU, row by row.

use super::Native;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::join_branches::{Backward, JoinBranchesKernels, NAME};
use crate::tensor::Tensor;

/// Rows and features of a branch, which is what a row of y has twice.
fn extents(y: Tensor, branches: &[Tensor], shares: Option<Tensor>) -> Result<[usize; 2]> {
    match y.shape.two() {
        Some([rows, columns])
            if columns % 2 == 0
                && branches.iter().all(|branch| branch.shape.dims() == [rows, columns / 2])
                && shares.is_none_or(|shares| shares.shape.dims() == [rows]) =>
        {
            Ok([rows, columns / 2])
        }
        _ => {
            let shapes: Vec<String> = branches.iter().chain(&shares).map(|tensor| tensor.shape.to_string()).collect();
            Err(Error::op(NAME, format!("{} do not become {}", shapes.join(", "), y.shape)))
        }
    }
}

/// The factors of the two branches in row `n`.
fn factors<T: Real>(shares: Option<&[f32]>, n: usize) -> [T; 2] {
    let factors = shares.map_or([1.0; 2], |shares| {
        let share = f64::from(shares[n]);
        [2.0 * share, 2.0 * (1.0 - share)]
    });
    factors.map(T::from_f64)
}

fn forward<T: Real>(native: &Native, branches: [Tensor; 2], shares: Option<Tensor>, y: Tensor) -> Result<()> {
    let [_, features] = extents(y, &branches, shares)?;
    let a = native.memory.access()?;
    let shares = shares.map(|shares| a.read::<f32>(shares)).transpose()?;
    let [first, second] = branches;
    let (first, second, y) = (a.read::<T>(first)?, a.read::<T>(second)?, a.write::<T>(y)?);
    for (n, row) in y.chunks_exact_mut(2 * features).enumerate() {
        let factors = factors::<T>(shares, n);
        for ((out, branch), factor) in row.chunks_exact_mut(features).zip([first, second]).zip(factors) {
            let of = &branch[n * features..][..features];
            out.iter_mut().zip(of).for_each(|(out, &v)| *out = factor * v);
        }
    }
    Ok(())
}

fn backward<T: Real>(native: &Native, t: &Backward) -> Result<()> {
    let Backward { dy, shares, dfirst, dsecond } = *t;
    let branches: Vec<Tensor> = [dfirst, dsecond].into_iter().flatten().map(|grad| grad.tensor).collect();
    let [_, features] = extents(dy, &branches, shares)?;
    let a = native.memory.access()?;
    let shares = shares.map(|shares| a.read::<f32>(shares)).transpose()?;
    let dy = a.read::<T>(dy)?;
    for (branch, grad) in [dfirst, dsecond].into_iter().enumerate() {
        let Some(grad) = grad else { continue };
        let rows = a.write::<T>(grad.tensor)?.chunks_exact_mut(features).zip(dy.chunks_exact(2 * features));
        for (n, (out, dy)) in rows.enumerate() {
            let factor = factors::<T>(shares, n)[branch];
            for (out, &dy) in out.iter_mut().zip(&dy[branch * features..][..features]) {
                *out = if grad.accumulate { *out + factor * dy } else { factor * dy };
            }
        }
    }
    Ok(())
}

impl JoinBranchesKernels for Native {
    fn join_branches_forward(&self, first: Tensor, second: Tensor, shares: Option<Tensor>, y: Tensor) -> Result<()> {
        with_real!(self, T => forward::<T>(self, [first, second], shares, y))
    }

    fn join_branches_backward(&self, t: &Backward) -> Result<()> {
        with_real!(self, T => backward::<T>(self, t))
    }
}
