//! `sam` on the CPU.

use super::Native;
use super::cpu::vectorize;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::sam::{Climb, EPSILON, NAME, PART, SamKernels};
use crate::tensor::Tensor;

/// Elements that one thread moves at a time.
const CHUNK: usize = 16 << 10;

/// Partial sums side by side, added up in this order whatever the machine's vectors are.
const LANES: usize = 8;

#[inline(always)]
fn square_sum<T: Real>(values: &[T]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value.to_f64() * value.to_f64();
        }
    }
    let rest: f64 = rest.iter().map(|v| v.to_f64() * v.to_f64()).sum();
    lanes.iter().sum::<f64>() + rest
}

fn squares<T: Real>(native: &Native, grad: Tensor, parts: Tensor) -> Result<()> {
    let a = native.memory.access()?;
    let (grad, parts) = (a.read::<T>(grad)?, a.write::<T>(parts)?);
    let count = grad.len().div_ceil(PART);
    if parts.len() != count {
        return Err(Error::op(NAME, format!("{} parts for {} gradients, not {count}", parts.len(), grad.len())));
    }
    let work = |first: usize, parts: Rows<'_, T>| {
        for (part, grad) in parts.0.iter_mut().zip(grad[first * PART..].chunks(PART)) {
            let sum = vectorize(
                #[inline(always)]
                || square_sum(grad),
            );
            *part = T::from_f64(sum);
        }
    };
    native.pool.install(|| for_chunks(Rows(parts, 1), count, CHUNK / PART, &work));
    Ok(())
}

fn scale<T: Real>(native: &Native, rho: f32, parts: Tensor, scale: Tensor) -> Result<()> {
    let a = native.memory.access()?;
    let (parts, scale) = (a.read::<T>(parts)?, a.write::<T>(scale)?);
    let [scale] = scale else { return Err(Error::op(NAME, "the scale is one number")) };
    let norm = parts.iter().map(|part| part.to_f64()).sum::<f64>().sqrt();
    *scale = T::from_f64(f64::from(rho) / (norm + f64::from(EPSILON)));
    Ok(())
}

#[inline(always)]
fn climb<T: Real>(weight: &mut [T], backup: &mut [T], grad: &[T], scale: T) {
    backup.copy_from_slice(weight);
    for (weight, &grad) in weight.iter_mut().zip(grad) {
        *weight += scale * grad;
    }
}

/// Up, or with `back` the way back.
fn moved<T: Real>(native: &Native, t: &Climb, back: bool) -> Result<()> {
    let a = native.memory.access()?;
    let (master, backup) = (a.write::<T>(t.master)?, a.write::<T>(t.backup)?);
    let (grad, scale) = (a.read::<T>(t.grad)?, a.read::<T>(t.scale)?);
    let compute = t.compute.map(|compute| a.write::<T>(compute)).transpose()?;
    let elements = master.len();
    if [backup.len(), grad.len(), compute.as_ref().map_or(elements, |c| c.len())] != [elements; 3] {
        return Err(Error::op(NAME, format!("{elements} parameters, but other tensors have more or fewer")));
    }
    let &[scale] = scale else { return Err(Error::op(NAME, "the scale is one number")) };
    let work = |first: usize, (master, backup, compute): (Rows<'_, T>, Rows<'_, T>, Option<Rows<'_, T>>)| {
        let grad = &grad[first..][..master.0.len()];
        match back {
            true => master.0.copy_from_slice(backup.0),
            false => vectorize(
                #[inline(always)]
                || climb(master.0, backup.0, grad, scale),
            ),
        }
        if let Some(compute) = compute {
            compute.0.copy_from_slice(master.0);
        }
    };
    let data = (Rows(master, 1), Rows(backup, 1), compute.map(|c| Rows(c, 1)));
    native.pool.install(|| for_chunks(data, elements, CHUNK, &work));
    Ok(())
}

impl SamKernels for Native {
    fn sam_squares(&self, grad: Tensor, parts: Tensor) -> Result<()> {
        with_real!(self, T => squares::<T>(self, grad, parts))
    }

    fn sam_scale(&self, rho: f32, parts: Tensor, to: Tensor) -> Result<()> {
        with_real!(self, T => scale::<T>(self, rho, parts, to))
    }

    fn sam_perturb(&self, t: &Climb) -> Result<()> {
        with_real!(self, T => moved::<T>(self, t, false))
    }

    fn sam_restore(&self, t: &Climb) -> Result<()> {
        with_real!(self, T => moved::<T>(self, t, true))
    }

    fn sam_scalars(&self, factors: [f32; 3], scalars: Tensor, ascent: Tensor) -> Result<()> {
        let a = self.memory.access()?;
        let mut params = load_step::params(&a, scalars)?;
        let words = a.write::<i32>(ascent)?;
        for (coefficient, factor) in params.coefficients.iter_mut().zip(factors) {
            *coefficient *= factor;
        }
        let from: &[i32] = bytemuck::cast_slice(std::slice::from_ref(&params));
        if words.len() != from.len() {
            return Err(Error::op(NAME, format!("{} words for scalars of {}", words.len(), from.len())));
        }
        words.copy_from_slice(from);
        Ok(())
    }
}
