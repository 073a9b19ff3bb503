//! `classify` on the CPU.

use super::Native;
use super::load_step;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::classify::{Classify, ClassifyKernels, NAME};

/// How many classes are ahead of `class`: larger logits, and equal ones of a lower class. NaN is behind everything.
fn rank<T: Real>(logits: &[T], class: usize) -> usize {
    let own = logits[class];
    if own.to_f64().is_nan() {
        return logits.len() - 1;
    }
    logits.iter().enumerate().filter(|&(other, &v)| v > own || (v == own && other < class)).count()
}

fn classify<T: Real>(native: &Native, t: &Classify) -> Result<()> {
    let a = native.memory.access()?;
    let (logits, labels) = (a.read::<T>(t.logits)?, a.read::<i32>(t.labels)?);
    let (originals, params) = (a.read::<i32>(t.originals)?, load_step::params(&a, t.scalars)?);
    let (ranks, confidences) = (a.write::<i32>(t.ranks)?, a.write::<f32>(t.confidences)?);
    let (first, batch) = (params.row as usize, originals.len());
    let classes = logits.len() / batch.max(1);
    if classes == 0 || logits.len() != batch * classes || first + batch > ranks.len().min(confidences.len()) {
        let what = format!("logits {} of {batch} samples into rows {first}.. of {}", t.logits.shape, t.ranks.shape);
        return Err(Error::op(NAME, what));
    }
    let results = ranks[first..].iter_mut().zip(&mut confidences[first..]);
    for ((logits, &image), (to_rank, confidence)) in logits.chunks_exact(classes).zip(originals).zip(results) {
        let image = load_step::index(NAME, "image", image, labels.len())?;
        let class = load_step::index(NAME, "class", labels[image], classes)?;
        *to_rank = rank(logits, class) as i32;
        let largest = logits.iter().map(|v| v.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|v| (f64::from(t.scale) * (v.to_f64() - largest)).exp()).sum();
        *confidence = sum.recip() as f32;
    }
    Ok(())
}

impl ClassifyKernels for Native {
    fn classify(&self, t: &Classify) -> Result<()> {
        with_real!(self, T => classify::<T>(self, t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_nan() {
        let nan = f32::NAN;
        assert_eq!(rank(&[1.0f32, 3.0, 2.0], 2), 1);
        assert_eq!(rank(&[2.0f32, 2.0, 2.0], 1), 1, "the lower class is ahead");
        assert_eq!(rank(&[1.0f32, nan, 2.0], 1), 2, "NaN is last");
        assert_eq!(rank(&[nan, nan, 2.0f32], 2), 0, "NaN is not ahead");
    }
}
