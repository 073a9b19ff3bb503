//! `split_views` on the CPU: copies of two halves.

use super::Native;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::split_views::{NAME, SplitViewsKernels};
use crate::tensor::{Grad, Tensor};

/// Elements of a view.
fn elements(x: Tensor, views: [Tensor; 2]) -> Result<usize> {
    let [first, second] = views;
    match (x.shape.four(), first.shape.four()) {
        (Some([images, height, width, channels]), Some([batch, ..]))
            if first.shape == second.shape
                && images == 2 * batch
                && first.shape.dims()[1..] == [height, width, channels] =>
        {
            Ok(first.elements())
        }
        _ => Err(Error::op(NAME, format!("{} is not {} and {}", x.shape, first.shape, second.shape))),
    }
}

fn forward<T: Real>(native: &Native, x: Tensor, first: Tensor, second: Tensor) -> Result<()> {
    let half = elements(x, [first, second])?;
    let a = native.memory.access()?;
    let (x, first, second) = (a.read::<T>(x)?, a.write::<T>(first)?, a.write::<T>(second)?);
    first.copy_from_slice(&x[..half]);
    second.copy_from_slice(&x[half..]);
    Ok(())
}

fn backward<T: Real>(native: &Native, dfirst: Tensor, dsecond: Tensor, dx: Grad) -> Result<()> {
    let half = elements(dx.tensor, [dfirst, dsecond])?;
    let a = native.memory.access()?;
    let (dfirst, dsecond, out) = (a.read::<T>(dfirst)?, a.read::<T>(dsecond)?, a.write::<T>(dx.tensor)?);
    for (out, dy) in out.chunks_exact_mut(half).zip([dfirst, dsecond]) {
        match dx.accumulate {
            true => out.iter_mut().zip(dy).for_each(|(out, &dy)| *out += dy),
            false => out.copy_from_slice(dy),
        }
    }
    Ok(())
}

impl SplitViewsKernels for Native {
    fn split_views_forward(&self, x: Tensor, first: Tensor, second: Tensor) -> Result<()> {
        with_real!(self, T => forward::<T>(self, x, first, second))
    }

    fn split_views_backward(&self, dfirst: Tensor, dsecond: Tensor, dx: Grad) -> Result<()> {
        with_real!(self, T => backward::<T>(self, dfirst, dsecond, dx))
    }
}
