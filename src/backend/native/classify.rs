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

/// The logits of sample `n` of a batch: the mean over its views and over the heads, (views * batch, classes) each.
fn mean<T: Real>(heads: &[&[T]], [batch, classes]: [usize; 2], n: usize, mean: &mut [T]) {
    mean.fill(T::ZERO);
    let rows = heads.iter().flat_map(|head| head.chunks_exact(classes).skip(n).step_by(batch));
    let mut count = 0;
    for row in rows {
        count += 1;
        mean.iter_mut().zip(row).for_each(|(sum, &logit)| *sum += logit);
    }
    if count > 1 {
        let share = T::from_f64(1.0 / f64::from(count));
        mean.iter_mut().for_each(|sum| *sum = share * *sum);
    }
}

fn classify<T: Real>(native: &Native, t: &Classify) -> Result<()> {
    let a = native.memory.access()?;
    let labels = a.read::<i32>(t.labels)?;
    let logits = [Some(t.logits), t.second].into_iter().flatten().map(|logits| a.read::<T>(logits));
    let logits = logits.collect::<Result<Vec<&[T]>>>()?;
    let (originals, params) = (a.read::<i32>(t.originals)?, load_step::params(&a, t.scalars)?);
    let ranks = a.write::<i32>(t.ranks)?;
    let (confidences, losses) = (a.write::<f32>(t.confidences)?, a.write::<f32>(t.losses)?);
    let (first, batch) = (params.row as usize, originals.len());
    let [rows, classes] = t.logits.shape.two().unwrap_or([0, 0]);
    let fit = |head: &&[T]| head.len() == rows * classes;
    let room = ranks.len().min(confidences.len()).min(losses.len());
    if rows == 0 || classes == 0 || !logits.iter().all(fit) || rows % batch.max(1) != 0 || first + batch > room {
        let what = format!("logits {} of {batch} samples into rows {first}.. of {}", t.logits.shape, t.ranks.shape);
        return Err(Error::op(NAME, what));
    }
    let mut own = vec![T::ZERO; classes];
    for (n, &image) in originals.iter().enumerate() {
        let image = load_step::index(NAME, "image", image, labels.len())?;
        let class = load_step::index(NAME, "class", labels[image], classes)?;
        mean(&logits, [batch, classes], n, &mut own);
        ranks[first + n] = rank(&own, class) as i32;
        let scale = f64::from(t.scale);
        let largest = own.iter().map(|v| v.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = own.iter().map(|v| (scale * (v.to_f64() - largest)).exp()).sum();
        confidences[first + n] = sum.recip() as f32;
        losses[first + n] = (sum.ln() + scale * (largest - own[class].to_f64())) as f32;
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
