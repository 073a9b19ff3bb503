//! `total_loss` on the CPU.

use super::Native;
use super::load_step;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::total_loss::{LOSS_COLUMNS, NAME, TotalLoss, TotalLossKernels};

fn total_loss<T: Real>(native: &Native, t: &TotalLoss) -> Result<()> {
    let a = native.memory.access()?;
    let (cross_entropy, cosine) = (a.read::<T>(t.cross_entropy)?, a.read_maybe::<T>(t.cosine)?);
    let (params, log) = (load_step::params(&a, t.scalars)?, a.write::<T>(t.log)?);
    let row = params.row as usize;
    let Some(log) = log.chunks_exact_mut(LOSS_COLUMNS).nth(row) else {
        return Err(Error::op(NAME, format!("row {row} of a log of {}", t.log.shape)));
    };
    let heads = t.cross_entropy.shape.two().map_or(1, |[heads, _]| heads.max(1));
    let mut rows = cross_entropy.chunks_exact((cross_entropy.len() / heads).max(1));
    let mean = |rows: Option<&[T]>| rows.unwrap_or(&[]).iter().map(|v| v.to_f64()).sum::<f64>() / t.batch as f64;
    let losses = [mean(rows.next()), mean(rows.next()), mean(cosine)];
    let total: f64 = losses.iter().zip(params.coefficients).map(|(loss, c)| loss * f64::from(c)).sum();
    for (to, value) in log.iter_mut().zip(losses.into_iter().chain([total])) {
        *to = T::from_f64(value);
    }
    Ok(())
}

impl TotalLossKernels for Native {
    fn total_loss(&self, t: &TotalLoss) -> Result<()> {
        with_real!(self, T => total_loss::<T>(self, t))
    }
}
