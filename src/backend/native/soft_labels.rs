//! `soft_labels` on the CPU.

use super::Native;
use super::load_step;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::soft_labels::{NAME, SoftLabels, SoftLabelsKernels};

fn soft_labels<T: Real>(native: &Native, t: &SoftLabels) -> Result<()> {
    let a = native.memory.access()?;
    let (labels, weights) = (a.read::<i32>(t.labels)?, a.read::<T>(t.class_weights)?);
    let (originals, partners) = (a.read::<i32>(t.originals)?, a.read::<i32>(t.partners)?);
    let (label, weighted) = (a.write::<T>(t.label)?, a.write::<T>(t.label_weighted)?);
    let lambda = T::from_f64(f64::from(load_step::params(&a, t.scalars)?.label_lambda));
    let classes = weights.len();
    let elements = originals.len() * classes;
    if (partners.len(), label.len(), weighted.len()) != (originals.len(), elements, elements) {
        return Err(Error::op(NAME, format!("{} labels for {} samples", t.label.shape, t.originals.shape)));
    }
    let class = |image: i32| -> Result<usize> {
        load_step::index(NAME, "class", labels[load_step::index(NAME, "image", image, labels.len())?], classes)
    };
    label.fill(T::ZERO);
    weighted.fill(T::ZERO);
    let rows = label.chunks_exact_mut(classes.max(1)).zip(weighted.chunks_exact_mut(classes.max(1)));
    for ((label, weighted), (&original, &partner)) in rows.zip(originals.iter().zip(partners)) {
        for (class, share) in [(class(original)?, lambda), (class(partner)?, T::ONE - lambda)] {
            label[class] += share;
            weighted[class] += share * weights[class];
        }
    }
    Ok(())
}

impl SoftLabelsKernels for Native {
    fn soft_labels(&self, t: &SoftLabels) -> Result<()> {
        with_real!(self, T => soft_labels::<T>(self, t))
    }
}
