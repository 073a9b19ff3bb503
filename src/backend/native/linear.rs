//! `linear` on the CPU: three matrix products, cut into blocks of output rows.

use super::Native;
use super::matmul::{Matrix, matmul};
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::linear::{Forward, InputGrad, LinearKernels, NAME, WeightGrad};
use crate::tensor::Tensor;

/// Rows of the result that one thread computes at a time.
const BLOCK: usize = 32;

/// Batch, inputs, outputs.
fn extents(x: Tensor, weight: Tensor, y: Tensor) -> Result<[usize; 3]> {
    match (x.shape.two(), weight.shape.two(), y.shape.two()) {
        (Some([batch, inputs]), Some([outputs, i]), Some(out)) if i == inputs && out == [batch, outputs] => {
            Ok([batch, inputs, outputs])
        }
        _ => Err(Error::op(NAME, format!("{} and weight {} do not make {}", x.shape, weight.shape, y.shape))),
    }
}

fn forward<T: Real>(native: &Native, t: &Forward) -> Result<()> {
    let Forward { x, weight, bias, y } = *t;
    let [batch, inputs, outputs] = extents(x, weight, y)?;
    let a = native.memory.access()?;
    let (x, weight, y) = (a.read::<T>(x)?, a.read::<T>(weight)?, a.write::<T>(y)?);
    let bias = bias.map(|bias| a.read::<T>(bias)).transpose()?;
    if let Some(bias) = bias.filter(|bias| bias.len() != outputs) {
        return Err(Error::op(NAME, format!("a bias of {} for {outputs} outputs", bias.len())));
    }
    let work = |first: usize, y: Rows<'_, T>| {
        if let Some(bias) = bias {
            y.0.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
        }
        let rows = Matrix::rows(&x[first * inputs..], inputs);
        matmul(y.0, [y.0.len() / outputs, outputs, inputs], bias.is_some(), rows, Matrix::transposed(weight, inputs));
    };
    native.pool.install(|| for_chunks(Rows(y, outputs), batch, BLOCK, &work));
    Ok(())
}

fn input_grad<T: Real>(native: &Native, t: &InputGrad) -> Result<()> {
    let InputGrad { dy, weight, dx } = *t;
    let [batch, inputs, outputs] = extents(dx.tensor, weight, dy)?;
    let a = native.memory.access()?;
    let (dy, weight, out) = (a.read::<T>(dy)?, a.read::<T>(weight)?, a.write::<T>(dx.tensor)?);
    let work = |first: usize, out: Rows<'_, T>| {
        let rows = Matrix::rows(&dy[first * outputs..], outputs);
        let extents = [out.0.len() / inputs, inputs, outputs];
        matmul(out.0, extents, dx.accumulate, rows, Matrix::rows(weight, inputs));
    };
    native.pool.install(|| for_chunks(Rows(out, inputs), batch, BLOCK, &work));
    Ok(())
}

fn weight_grad<T: Real>(native: &Native, t: &WeightGrad) -> Result<()> {
    let WeightGrad { x, dy, dweight, dbias } = *t;
    let [batch, inputs, outputs] = extents(x, dweight, dy)?;
    let a = native.memory.access()?;
    let (x, dy) = (a.read::<T>(x)?, a.read::<T>(dy)?);
    let dweight = a.write::<T>(dweight)?;
    let dbias = dbias.map(|dbias| a.write::<T>(dbias)).transpose()?;
    if let Some(dbias) = dbias.as_ref().filter(|dbias| dbias.len() != outputs) {
        return Err(Error::op(NAME, format!("a bias of {} for {outputs} outputs", dbias.len())));
    }
    for (output, dbias) in dbias.into_iter().flatten().enumerate() {
        *dbias = T::from_f64(dy.iter().skip(output).step_by(outputs).map(|v| v.to_f64()).sum());
    }
    let work = |first: usize, out: Rows<'_, T>| {
        let columns = Matrix::transposed(&dy[first..], outputs);
        matmul(out.0, [out.0.len() / inputs, inputs, batch], false, columns, Matrix::rows(x, inputs));
    };
    native.pool.install(|| for_chunks(Rows(dweight, inputs), outputs, BLOCK, &work));
    Ok(())
}

impl LinearKernels for Native {
    fn linear_forward(&self, t: &Forward) -> Result<()> {
        with_real!(self, T => forward::<T>(self, t))
    }

    fn linear_input_grad(&self, t: &InputGrad) -> Result<()> {
        with_real!(self, T => input_grad::<T>(self, t))
    }

    fn linear_weight_grad(&self, t: &WeightGrad) -> Result<()> {
        with_real!(self, T => weight_grad::<T>(self, t))
    }
}
