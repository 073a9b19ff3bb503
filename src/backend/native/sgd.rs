//! `sgd` on the CPU.

use super::Native;
use super::cpu::vectorize;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::sgd::{NAME, Sgd, SgdConfig, SgdKernels};
use crate::tensor::Tensor;

/// Elements that one thread updates at a time.
const CHUNK: usize = 16 << 10;

#[inline(always)]
fn update<T: Real, const NESTEROV: bool>(
    weight: &mut [T],
    momentum: &mut [T],
    gradient: &[T],
    [decay, kept, rate]: [T; 3],
) {
    let n = weight.len();
    let (momentum, gradient) = (&mut momentum[..n], &gradient[..n]);
    for i in 0..n {
        let g = gradient[i] + decay * weight[i];
        let m = kept * momentum[i] + g;
        momentum[i] = m;
        let ahead = if NESTEROV { g + kept * m } else { m };
        weight[i] = weight[i] - rate * ahead;
    }
}

fn sgd<T: Real>(native: &Native, config: &SgdConfig, t: &Sgd) -> Result<()> {
    let a = native.memory.access()?;
    let (master, momentum, grad) = (a.write::<T>(t.master)?, a.write::<T>(t.momentum)?, a.read::<T>(t.grad)?);
    let compute = t.compute.map(|compute| a.write::<T>(compute)).transpose()?;
    let elements = master.len();
    if momentum.len() != elements || grad.len() != elements || compute.as_ref().is_some_and(|c| c.len() != elements) {
        return Err(Error::op(NAME, format!("{elements} parameters, but other tensors have more or fewer")));
    }
    // In the precision of kernels, which multiply floats.
    let rate = load_step::params(&a, t.scalars)?.lr * config.lr_factor;
    let constants = [config.weight_decay, config.momentum, rate].map(|v| T::from_f64(f64::from(v)));
    let work = |first: usize, (master, momentum, compute): (Rows<'_, T>, Rows<'_, T>, Option<Rows<'_, T>>)| {
        let gradient = &grad[first..][..master.0.len()];
        vectorize(
            #[inline(always)]
            || match config.nesterov {
                false => update::<T, false>(master.0, momentum.0, gradient, constants),
                true => update::<T, true>(master.0, momentum.0, gradient, constants),
            },
        );
        if let Some(compute) = compute {
            compute.0.copy_from_slice(master.0);
        }
    };
    let data = (Rows(master, 1), Rows(momentum, 1), compute.map(|c| Rows(c, 1)));
    native.pool.install(|| for_chunks(data, elements, CHUNK, &work));
    Ok(())
}

fn cast<T: Real>(native: &Native, master: Tensor, compute: Tensor) -> Result<()> {
    let a = native.memory.access()?;
    let (master, compute) = (a.read::<T>(master)?, a.write::<T>(compute)?);
    if master.len() != compute.len() {
        return Err(Error::op(NAME, format!("{} parameters to cast, {} places", master.len(), compute.len())));
    }
    compute.copy_from_slice(master);
    Ok(())
}

impl SgdKernels for Native {
    fn sgd(&self, config: &SgdConfig, t: &Sgd) -> Result<()> {
        with_real!(self, T => sgd::<T>(self, config, t))
    }

    fn cast_weights(&self, master: Tensor, compute: Tensor) -> Result<()> {
        with_real!(self, T => cast::<T>(self, master, compute))
    }
}
