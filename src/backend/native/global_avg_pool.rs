//! `global_avg_pool` on the CPU.

use super::Native;
use super::cpu::vectorize;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::global_avg_pool::{GlobalAvgPoolKernels, NAME};
use crate::tensor::Grad;
use crate::tensor::Tensor;

/// Images, pixels of an image, channels.
fn extents(x: Tensor, y: Tensor) -> Result<[usize; 3]> {
    match (x.shape.four(), y.shape.two()) {
        (Some([batch, height, width, channels]), Some(out)) if out == [batch, channels] => {
            Ok([batch, height * width, channels])
        }
        _ => Err(Error::op(NAME, format!("{} does not become {}", x.shape, y.shape))),
    }
}

fn forward<T: Real>(native: &Native, x: Tensor, y: Tensor) -> Result<()> {
    let [batch, pixels, channels] = extents(x, y)?;
    let a = native.memory.access()?;
    let (x, y) = (a.read::<T>(x)?, a.write::<T>(y)?);
    let count = T::from_f64(pixels as f64);
    let work = |n: usize, y: Rows<'_, T>| {
        let image = &x[n * pixels * channels..(n + 1) * pixels * channels];
        vectorize(
            #[inline(always)]
            || {
                y.0.fill(T::ZERO);
                for pixel in image.chunks_exact(channels) {
                    for (sum, &v) in y.0.iter_mut().zip(pixel) {
                        *sum += v;
                    }
                }
                for sum in y.0.iter_mut() {
                    *sum = *sum / count;
                }
            },
        );
    };
    native.pool.install(|| for_chunks(Rows(y, channels), batch, 1, &work));
    Ok(())
}

fn backward<T: Real>(native: &Native, dy: Tensor, dx: Grad) -> Result<()> {
    let [batch, pixels, channels] = extents(dx.tensor, dy)?;
    let a = native.memory.access()?;
    let (dy, out) = (a.read::<T>(dy)?, a.write::<T>(dx.tensor)?);
    let count = T::from_f64(pixels as f64);
    let work = |n: usize, image: Rows<'_, T>| {
        let dy = &dy[n * channels..(n + 1) * channels];
        vectorize(
            #[inline(always)]
            || {
                for pixel in image.0.chunks_exact_mut(channels) {
                    for (out, &dy) in pixel.iter_mut().zip(dy) {
                        *out = if dx.accumulate { *out + dy / count } else { dy / count };
                    }
                }
            },
        );
    };
    native.pool.install(|| for_chunks(Rows(out, pixels * channels), batch, 1, &work));
    Ok(())
}

impl GlobalAvgPoolKernels for Native {
    fn global_avg_pool_forward(&self, x: Tensor, y: Tensor) -> Result<()> {
        with_real!(self, T => forward::<T>(self, x, y))
    }

    fn global_avg_pool_backward(&self, dy: Tensor, dx: Grad) -> Result<()> {
        with_real!(self, T => backward::<T>(self, dy, dx))
    }
}
