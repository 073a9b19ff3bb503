//! A Gaussian blur of planes, (3, size, size): along the rows, then along the columns.

use super::super::cpu::vectorize;
use super::super::real::Real;
use super::super::workspace::Workspace;
use crate::ops::augment_photos::blur_radius;

/// Position `at` of a side padded by `radius`, reflected without repeating the edge.
fn reflect(at: usize, radius: usize, size: usize) -> usize {
    let at = at.abs_diff(radius);
    if at < size { at } else { 2 * (size - 1) - at }
}

/// Blurs the planes; `between` holds what is blurred along the rows alone.
pub(super) fn blur<T: Real>(sigma: f32, size: usize, planes: &mut [T], between: &mut [T]) {
    let radius = blur_radius(sigma, size);
    let mut weights = Workspace::<T>::take(2 * radius + 1);
    let weight = |k: usize| (-0.5 * (k.abs_diff(radius) as f64 / f64::from(sigma)).powi(2)).exp();
    let all: f64 = (0..=2 * radius).map(weight).sum();
    weights.iter_mut().enumerate().for_each(|(k, w)| *w = T::from_f64(weight(k) / all));
    let mut padded = Workspace::<T>::take(size + 2 * radius);
    for (row, out) in planes.chunks_exact(size).zip(between.chunks_exact_mut(size)) {
        padded.iter_mut().enumerate().for_each(|(at, value)| *value = row[reflect(at, radius, size)]);
        add(out, weights.iter().enumerate().map(|(k, &weight)| (weight, &padded[k..][..size])));
    }
    for (plane, out) in between.chunks_exact(size * size).zip(planes.chunks_exact_mut(size * size)) {
        for (y, out) in out.chunks_exact_mut(size).enumerate() {
            let row = |k: usize| &plane[reflect(y + k, radius, size) * size..][..size];
            add(out, weights.iter().enumerate().map(|(k, &weight)| (weight, row(k))));
        }
    }
}

/// The sum of weighted rows.
#[inline(always)]
fn add<'a, T: Real>(out: &mut [T], rows: impl Iterator<Item = (T, &'a [T])>) {
    vectorize(
        #[inline(always)]
        || {
            out.fill(T::ZERO);
            for (weight, row) in rows {
                out.iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * value);
            }
        },
    );
}
