//! `soft_label_cross_entropy` on the CPU: one row of logits at a time, in double.

use super::Native;
use super::load_step;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::soft_label_cross_entropy::{NAME, SoftLabelCrossEntropy, SoftLabelCrossEntropyKernels};

/// Rows that one thread computes at a time.
const BLOCK: usize = 16;

/// The largest value and the sum of `exp(v - largest)`, from which softmax follows without overflow.
fn log_sum_exp<T: Real>(logits: &[T]) -> (f64, f64) {
    let largest = logits.iter().map(|v| v.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    (largest, logits.iter().map(|v| (v.to_f64() - largest).exp()).sum())
}

/// One row's loss; writes its gradient times `factor`.
fn row<T: Real>(logits: &[T], label: &[T], dlogits: Option<(&mut [T], bool)>, factor: f64) -> f64 {
    let (largest, sum) = log_sum_exp(logits);
    let log_sum = largest + sum.ln();
    let (mut loss, mut mass) = (0.0, 0.0);
    for (&logit, &p) in logits.iter().zip(label) {
        loss += p.to_f64() * (log_sum - logit.to_f64());
        mass += p.to_f64();
    }
    if let Some((out, accumulate)) = dlogits {
        for ((out, &logit), &p) in out.iter_mut().zip(logits).zip(label) {
            let softmax = (logit.to_f64() - largest).exp() / sum;
            let gradient = factor * (softmax * mass - p.to_f64());
            *out = T::from_f64(if accumulate { out.to_f64() + gradient } else { gradient });
        }
    }
    loss
}

fn cross_entropy<T: Real>(native: &Native, t: &SoftLabelCrossEntropy) -> Result<()> {
    let SoftLabelCrossEntropy { heads, scalars, rows } = *t;
    let a = native.memory.access()?;
    let coefficients = load_step::params(&a, scalars)?.coefficients;
    if heads.is_empty() || heads.len() > coefficients.len() {
        return Err(Error::op(NAME, format!("{} heads", heads.len())));
    }
    let losses = a.write::<T>(rows)?;
    let count = losses.len() / heads.len();
    for ((head, coefficient), losses) in heads.iter().zip(coefficients).zip(losses.chunks_exact_mut(count.max(1))) {
        let (logits, label) = (a.read::<T>(head.logits)?, a.read::<T>(head.label)?);
        let dlogits = head.dlogits.map(|d| a.write::<T>(d.tensor)).transpose()?;
        let accumulate = head.dlogits.is_some_and(|d| d.accumulate);
        let classes = head.logits.shape.two().map_or(0, |[_, classes]| classes);
        let batch = head.label.shape.two().map_or(0, |[batch, _]| batch);
        let sizes = (logits.len(), label.len(), dlogits.as_ref().map_or(logits.len(), |d| d.len()));
        if sizes != (count * classes, batch * classes, count * classes) || batch == 0 || classes == 0 {
            return Err(Error::op(NAME, format!("logits {} and labels {}", head.logits.shape, head.label.shape)));
        }
        let factor = f64::from(coefficient) / batch as f64;
        let work = |first: usize, (losses, dlogits): (Rows<'_, T>, Option<Rows<'_, T>>)| {
            let mut dlogits = dlogits.map(|d| d.0.chunks_exact_mut(classes));
            for (n, loss) in (first..).zip(losses.0) {
                let out = dlogits.as_mut().and_then(Iterator::next).map(|out| (out, accumulate));
                let (logits, label) = (&logits[n * classes..][..classes], &label[n % batch * classes..][..classes]);
                *loss = T::from_f64(row(logits, label, out, factor));
            }
        };
        let data = (Rows(losses, 1), dlogits.map(|d| Rows(d, classes)));
        native.pool.install(|| for_chunks(data, count, BLOCK, &work));
    }
    Ok(())
}

impl SoftLabelCrossEntropyKernels for Native {
    fn soft_label_cross_entropy(&self, t: &SoftLabelCrossEntropy) -> Result<()> {
        with_real!(self, T => cross_entropy::<T>(self, t))
    }
}
