//! Patches laid out as a matrix (im2col), image by image and group by group, then a matrix product.

use super::super::matmul::{Matrix, matmul};
use super::super::parallel::{Rows, for_chunks};
use super::super::real::Real;
use crate::ops::conv2d::Geometry;

/// Elements of a patch of one group.
fn patch(g: &Geometry) -> usize {
    g.kernel * g.kernel * g.group_channels()
}

/// Output pixels of an image.
fn pixels(g: &Geometry) -> usize {
    g.out_height() * g.out_width()
}

/// Calls `at` with the start of each kernel position's channels in a group's patch matrix and, if it lies inside, in the
/// image.
fn each_position(g: &Geometry, group: usize, mut at: impl FnMut(usize, Option<usize>)) {
    let (inside, width) = (|i: usize, extent: usize| i.checked_sub(g.padding).filter(|&i| i < extent), g.out_width());
    let channels = g.group_channels();
    for pixel in 0..pixels(g) {
        let (row, column) = (pixel / width * g.stride, pixel % width * g.stride);
        for position in 0..g.kernel * g.kernel {
            let y = inside(row + position / g.kernel, g.height);
            let x = inside(column + position % g.kernel, g.width);
            let source = y.zip(x).map(|(y, x)| (y * g.width + x) * g.channels + group * channels);
            at((pixel * g.kernel * g.kernel + position) * channels, source);
        }
    }
}

fn patches<T: Real>(g: &Geometry, group: usize, image: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; pixels(g) * patch(g)];
    let channels = g.group_channels();
    each_position(g, group, |to, from| {
        if let Some(from) = from {
            out[to..to + channels].copy_from_slice(&image[from..from + channels]);
        }
    });
    out
}

/// The weights of a group.
fn weights<'a, T>(g: &Geometry, group: usize, weight: &'a [T]) -> &'a [T] {
    let size = g.group_filters() * patch(g);
    &weight[group * size..(group + 1) * size]
}

/// `y = conv(x, weight)`, and the sums over each image's pixels of y and y², (image, 2, filters).
pub(super) fn forward<T: Real>(g: &Geometry, x: &[T], weight: &[T], y: &mut [T], sums: Option<&mut [T]>) {
    let image = g.height * g.width * g.channels;
    let filters = g.group_filters();
    let data = (Rows(y, pixels(g) * g.filters), sums.map(|s| Rows(s, 2 * g.filters)));
    let work = |n: usize, (y, sums): (Rows<'_, T>, Option<Rows<'_, T>>)| {
        let mut product = vec![T::ZERO; pixels(g) * filters];
        for group in 0..g.groups {
            let patches = patches(g, group, &x[n * image..(n + 1) * image]);
            let weight = Matrix::transposed(weights(g, group, weight), patch(g));
            matmul(&mut product, [pixels(g), filters, patch(g)], false, Matrix::rows(&patches, patch(g)), weight);
            for (to, from) in y.0.chunks_exact_mut(g.filters).zip(product.chunks_exact(filters)) {
                to[group * filters..(group + 1) * filters].copy_from_slice(from);
            }
        }
        if let Some(sums) = sums {
            sums.0.fill(T::ZERO);
            let (sum, squares) = sums.0.split_at_mut(g.filters);
            for pixel in y.0.chunks_exact(g.filters) {
                for ((&v, sum), square) in pixel.iter().zip(&mut *sum).zip(&mut *squares) {
                    *sum += v;
                    *square += v * v;
                }
            }
        }
    };
    for_chunks(data, g.batch, 1, &work);
}

/// `dx (+)= conv_transposed(dy, weight)`.
pub(super) fn input_grad<T: Real>(g: &Geometry, dy: &[T], weight: &[T], dx: &mut [T], accumulate: bool) {
    let (image, filters, channels) = (pixels(g) * g.filters, g.group_filters(), g.group_channels());
    let work = |n: usize, dx: Rows<'_, T>| {
        let mut patches = vec![T::ZERO; pixels(g) * patch(g)];
        if !accumulate {
            dx.0.fill(T::ZERO);
        }
        for group in 0..g.groups {
            let dy = Matrix::rows(&dy[n * image + group * filters..(n + 1) * image], g.filters);
            let weight = Matrix::rows(weights(g, group, weight), patch(g));
            matmul(&mut patches, [pixels(g), patch(g), filters], false, dy, weight);
            each_position(g, group, |from, to| {
                if let Some(to) = to {
                    for (out, &v) in dx.0[to..to + channels].iter_mut().zip(&patches[from..]) {
                        *out += v;
                    }
                }
            });
        }
    };
    for_chunks(Rows(dx, g.height * g.width * g.channels), g.batch, 1, &work);
}

/// `dweight = sum over pixels of dy ⊗ x`, image after image.
pub(super) fn weight_grad<T: Real>(g: &Geometry, x: &[T], dy: &[T], dweight: &mut [T]) {
    let (image, out) = (g.height * g.width * g.channels, pixels(g) * g.filters);
    let filters = g.group_filters();
    for n in 0..g.batch {
        for (group, dweight) in dweight.chunks_exact_mut(filters * patch(g)).enumerate() {
            let patches = patches(g, group, &x[n * image..(n + 1) * image]);
            let dy = Matrix::transposed(&dy[n * out + group * filters..(n + 1) * out], g.filters);
            matmul(dweight, [filters, patch(g), pixels(g)], n > 0, dy, Matrix::rows(&patches, patch(g)));
        }
    }
}
