//! `conv2d` on the CPU: patches laid out as a matrix (im2col), image by image, then a matrix product.

use super::Native;
use super::matmul::{Matrix, matmul};
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::Result;
use crate::ops::conv2d::{Conv2dKernels, Geometry};
use crate::tape::Grad;
use crate::tensor::Tensor;

/// Elements of a patch.
fn patch(g: &Geometry) -> usize {
    g.kernel * g.kernel * g.channels
}

/// Output pixels of an image.
fn pixels(g: &Geometry) -> usize {
    g.out_height() * g.out_width()
}

/// Calls `at` with the start of each kernel position's channels in the patch matrix and, if it lies inside, in the image.
fn each_position(g: &Geometry, mut at: impl FnMut(usize, Option<usize>)) {
    let (inside, width) = (|i: usize, extent: usize| i.checked_sub(g.padding).filter(|&i| i < extent), g.out_width());
    for pixel in 0..pixels(g) {
        let (row, column) = (pixel / width * g.stride, pixel % width * g.stride);
        for position in 0..g.kernel * g.kernel {
            let y = inside(row + position / g.kernel, g.height);
            let x = inside(column + position % g.kernel, g.width);
            let source = y.zip(x).map(|(y, x)| (y * g.width + x) * g.channels);
            at((pixel * g.kernel * g.kernel + position) * g.channels, source);
        }
    }
}

fn patches<T: Real>(g: &Geometry, image: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; pixels(g) * patch(g)];
    each_position(g, |to, from| {
        if let Some(from) = from {
            out[to..to + g.channels].copy_from_slice(&image[from..from + g.channels]);
        }
    });
    out
}

fn forward<T: Real>(
    native: &Native,
    g: &Geometry,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    sums: Option<Tensor>,
) -> Result<()> {
    let a = native.memory.access()?;
    let (x, weight, y) = (a.read::<T>(x)?, a.read::<T>(weight)?, a.write::<T>(y)?);
    let sums = a.write_maybe::<T>(sums)?;
    let image = g.height * g.width * g.channels;
    let data = (Rows(y, pixels(g) * g.filters), sums.map(|s| Rows(s, 2 * g.filters)));
    let work = |n: usize, (y, sums): (Rows<'_, T>, Option<Rows<'_, T>>)| {
        let patches = patches(g, &x[n * image..(n + 1) * image]);
        let (rows, columns) = (Matrix::rows(&patches, patch(g)), Matrix::transposed(weight, patch(g)));
        matmul(y.0, [pixels(g), g.filters, patch(g)], false, rows, columns);
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
    native.pool.install(|| for_chunks(data, g.batch, 1, &work));
    Ok(())
}

fn input_grad<T: Real>(native: &Native, g: &Geometry, dy: Tensor, weight: Tensor, dx: Grad) -> Result<()> {
    let a = native.memory.access()?;
    let (dy, weight, out) = (a.read::<T>(dy)?, a.read::<T>(weight)?, a.write::<T>(dx.tensor)?);
    let image = pixels(g) * g.filters;
    let work = |n: usize, dx_rows: Rows<'_, T>| {
        let mut patches = vec![T::ZERO; pixels(g) * patch(g)];
        let dy = Matrix::rows(&dy[n * image..(n + 1) * image], g.filters);
        matmul(&mut patches, [pixels(g), patch(g), g.filters], false, dy, Matrix::rows(weight, patch(g)));
        if !dx.accumulate {
            dx_rows.0.fill(T::ZERO);
        }
        each_position(g, |from, to| {
            if let Some(to) = to {
                for (out, &v) in dx_rows.0[to..to + g.channels].iter_mut().zip(&patches[from..]) {
                    *out += v;
                }
            }
        });
    };
    native.pool.install(|| for_chunks(Rows(out, g.height * g.width * g.channels), g.batch, 1, &work));
    Ok(())
}

fn weight_grad<T: Real>(native: &Native, g: &Geometry, x: Tensor, dy: Tensor, dweight: Tensor) -> Result<()> {
    let a = native.memory.access()?;
    let (x, dy, dweight) = (a.read::<T>(x)?, a.read::<T>(dy)?, a.write::<T>(dweight)?);
    let (image, out) = (g.height * g.width * g.channels, pixels(g) * g.filters);
    for n in 0..g.batch {
        let patches = patches(g, &x[n * image..(n + 1) * image]);
        let dy = Matrix::transposed(&dy[n * out..(n + 1) * out], g.filters);
        matmul(dweight, [g.filters, patch(g), pixels(g)], n > 0, dy, Matrix::rows(&patches, patch(g)));
    }
    Ok(())
}

impl Conv2dKernels for Native {
    fn conv2d_sum_parts(&self, g: &Geometry) -> usize {
        g.batch / g.views
    }

    fn conv2d_forward(&self, g: &Geometry, x: Tensor, weight: Tensor, y: Tensor, sums: Option<Tensor>) -> Result<()> {
        with_real!(self, T => forward::<T>(self, g, x, weight, y, sums))
    }

    fn conv2d_input_grad(
        &self,
        g: &Geometry,
        dy: Tensor,
        weight: Tensor,
        dx: Grad,
        _scratch: Option<Tensor>,
    ) -> Result<()> {
        with_real!(self, T => input_grad::<T>(self, g, dy, weight, dx))
    }

    fn conv2d_weight_grad(
        &self,
        g: &Geometry,
        x: Tensor,
        dy: Tensor,
        dweight: Tensor,
        _scratch: Option<Tensor>,
    ) -> Result<()> {
        with_real!(self, T => weight_grad::<T>(self, g, x, dy, dweight))
    }

    fn conv2d_backward_scratch(&self, _geometry: &Geometry) -> usize {
        0
    }
}
