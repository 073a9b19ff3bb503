//! `negative_cosine` on the CPU, in double.

use super::Native;
use super::load_step;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::negative_cosine::{EPSILON, NAME, NegativeCosine, NegativeCosineKernels};
use crate::tensor::{Grad, Tensor};

/// The product of two vectors.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

/// Row n of `own` against row `(n + batch) % (2 * batch)` of `other`: the losses, and the gradient of `own`.
fn pairs<T: Real>(native: &Native, t: &NegativeCosine, [own, other]: [Tensor; 2], out: Out) -> Result<()> {
    let [count, features] = match (own.shape.two(), other.shape == own.shape, t.rows.elements()) {
        (Some([count, features]), true, rows) if rows == count && count % 2 == 0 => [count, features],
        _ => return Err(Error::op(NAME, format!("u {}, target {}, rows {}", t.u.shape, t.target.shape, t.rows.shape))),
    };
    if out.grad.is_some_and(|grad| grad.tensor.shape != own.shape) {
        return Err(Error::op(NAME, format!("u is {}, its gradient is not", own.shape)));
    }
    let a = native.memory.access()?;
    let (own, other) = (a.read::<T>(own)?, a.read::<T>(other)?);
    let mut losses = a.write_maybe::<T>(out.losses)?;
    let accumulate = out.grad.is_some_and(|grad| grad.accumulate);
    let mut gradients = a.write_maybe::<T>(out.grad.map(|grad| grad.tensor))?;
    let batch = count / 2;
    let factor = f64::from(load_step::params(&a, t.scalars)?.coefficients[2]) / batch as f64;
    for n in 0..count {
        let own = &own[n * features..][..features];
        let other = &other[(n + batch) % count * features..][..features];
        let (length, other_length) = (dot(own, own).sqrt(), dot(other, other).sqrt().max(EPSILON));
        let divisor = length.max(EPSILON);
        let cosine = dot(own, other) / (divisor * other_length);
        if let Some(losses) = &mut losses {
            losses[n] = T::from_f64(-cosine);
        }
        let Some(out) = &mut gradients else { continue };
        // Below epsilon the divisor is a constant, so that only the product is differentiated.
        let radial = if length > EPSILON { cosine / (divisor * divisor) } else { 0.0 };
        for ((out, &own), &other) in out[n * features..][..features].iter_mut().zip(own).zip(other) {
            let gradient = factor * (radial * own.to_f64() - other.to_f64() / (divisor * other_length));
            *out = T::from_f64(if accumulate { out.to_f64() + gradient } else { gradient });
        }
    }
    Ok(())
}

/// What is wanted of a pass over the pairs.
struct Out {
    losses: Option<Tensor>,
    grad: Option<Grad>,
}

fn negative_cosine<T: Real>(native: &Native, t: &NegativeCosine) -> Result<()> {
    pairs::<T>(native, t, [t.u, t.target], Out { losses: Some(t.rows), grad: t.du })?;
    match t.dtarget {
        // The cosine is symmetric.
        Some(dtarget) => pairs::<T>(native, t, [t.target, t.u], Out { losses: None, grad: Some(dtarget) }),
        None => Ok(()),
    }
}

impl NegativeCosineKernels for Native {
    fn negative_cosine(&self, t: &NegativeCosine) -> Result<()> {
        with_real!(self, T => negative_cosine::<T>(self, t))
    }
}
