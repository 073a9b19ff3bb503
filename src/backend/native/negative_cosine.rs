//! `negative_cosine` on the CPU, in double.

use super::Native;
use super::load_step;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::negative_cosine::{EPSILON, NAME, NegativeCosine, NegativeCosineKernels};

/// The product of two vectors.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

fn negative_cosine<T: Real>(native: &Native, t: &NegativeCosine) -> Result<()> {
    let NegativeCosine { u, target, scalars, rows, du } = *t;
    let [count, features] = match (u.shape.two(), target.shape == u.shape, rows.elements()) {
        (Some([count, features]), true, rows) if rows == count && count % 2 == 0 => [count, features],
        _ => return Err(Error::op(NAME, format!("u {}, target {}, rows {}", u.shape, target.shape, rows.shape))),
    };
    let a = native.memory.access()?;
    let (u, target, rows) = (a.read::<T>(u)?, a.read::<T>(target)?, a.write::<T>(rows)?);
    let mut out = du.map(|du| a.write::<T>(du.tensor)).transpose()?;
    let accumulate = du.is_some_and(|du| du.accumulate);
    if out.as_ref().is_some_and(|out| out.len() != u.len()) {
        return Err(Error::op(NAME, format!("u has {} elements, its gradient has not", u.len())));
    }
    let batch = count / 2;
    let factor = f64::from(load_step::params(&a, scalars)?.coefficients[2]) / batch as f64;
    for (n, loss) in rows.iter_mut().enumerate() {
        let other = (n + batch) % count;
        let u = &u[n * features..][..features];
        let target = &target[other * features..][..features];
        let (length, target_length) = (dot(u, u).sqrt(), dot(target, target).sqrt().max(EPSILON));
        let divisor = length.max(EPSILON);
        let cosine = dot(u, target) / (divisor * target_length);
        *loss = T::from_f64(-cosine);
        let Some(out) = &mut out else { continue };
        // Below epsilon the divisor is a constant, so that only the product is differentiated.
        let radial = if length > EPSILON { cosine / (divisor * divisor) } else { 0.0 };
        for ((out, &u), &target) in out[n * features..][..features].iter_mut().zip(u).zip(target) {
            let gradient = factor * (radial * u.to_f64() - target.to_f64() / (divisor * target_length));
            *out = T::from_f64(if accumulate { out.to_f64() + gradient } else { gradient });
        }
    }
    Ok(())
}

impl NegativeCosineKernels for Native {
    fn negative_cosine(&self, t: &NegativeCosine) -> Result<()> {
        with_real!(self, T => negative_cosine::<T>(self, t))
    }
}
