//! `max_pool` on the CPU.

use super::Native;
use super::cpu::vectorize;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::max_pool::{Config, MaxPoolKernels, NAME};
use crate::tensor::{Grad, Tensor};

fn extents(x: Tensor, y: Tensor, config: Config) -> Result<[usize; 6]> {
    let wrong = || Error::op(NAME, format!("{} does not become {}", x.shape, y.shape));
    config.extents(x, y).ok_or_else(wrong)
}

/// What `y` and `taps` become when `x` is tap `tap` of their window; `x` and all are the channels of a pixel.
#[inline(always)]
fn take<T: Real>(x: &[T], y: &mut [T], taps: Option<&mut [u8]>, tap: u8) {
    // A NaN is not equal to itself: it is taken, and stays, since no number is larger.
    let better = |v: T, y: T| v > y || v.partial_cmp(&v).is_none();
    match taps {
        Some(taps) => {
            for ((y, taps), &v) in y.iter_mut().zip(taps).zip(x) {
                let better = better(v, *y);
                *y = if better { v } else { *y };
                *taps = if better { tap } else { *taps };
            }
        }
        None => {
            for (y, &v) in y.iter_mut().zip(x) {
                *y = if better(v, *y) { v } else { *y };
            }
        }
    }
}

fn forward<T: Real>(native: &Native, x: Tensor, y: Tensor, taps: Option<Tensor>, config: Config) -> Result<()> {
    let [batch, height, width, rows, columns, channels] = extents(x, y, config)?;
    let a = native.memory.access()?;
    let (x, y) = (a.read::<T>(x)?, a.write::<T>(y)?);
    let taps = taps.map(|taps| a.write::<u8>(taps)).transpose()?;
    let row = columns * channels;
    let work = |first: usize, (y, taps): (Rows<'_, T>, Option<Rows<'_, u8>>)| {
        let (image, at) = (first / rows, first % rows);
        let (covered, first_row) = config.covers(at, height);
        let mut taps = taps.map(|taps| taps.0);
        vectorize(
            #[inline(always)]
            || {
                for (column, y) in y.0.chunks_exact_mut(channels).enumerate() {
                    let (across, first_column) = config.covers(column, width);
                    let mut taps = taps.as_mut().map(|taps| &mut taps[column * channels..(column + 1) * channels]);
                    for (i, h) in covered.clone().enumerate() {
                        for (j, w) in across.clone().enumerate() {
                            let pixel = ((image * height + h) * width + w) * channels;
                            let x = &x[pixel..pixel + channels];
                            // At most 16 * 16 - 1, as recorded.
                            let tap = ((first_row + i) * config.kernel + first_column + j) as u8;
                            if i + j == 0 {
                                y.copy_from_slice(x);
                                taps.as_mut().into_iter().for_each(|taps| taps.fill(tap));
                            } else {
                                take(x, y, taps.as_deref_mut(), tap);
                            }
                        }
                    }
                }
            },
        );
    };
    let taps = taps.map(|taps| Rows(taps, row));
    native.pool.install(|| for_chunks((Rows(y, row), taps), batch * rows, 1, &work));
    Ok(())
}

fn backward<T: Real>(native: &Native, dy: Tensor, taps: Tensor, dx: Grad, config: Config) -> Result<()> {
    let [batch, height, width, rows, columns, channels] = extents(dx.tensor, dy, config)?;
    let a = native.memory.access()?;
    let (dy, taps, out) = (a.read::<T>(dy)?, a.read::<u8>(taps)?, a.write::<T>(dx.tensor)?);
    let work = |first: usize, out: Rows<'_, T>| {
        let (image, h) = (first / height, first % height);
        vectorize(
            #[inline(always)]
            || {
                for (w, out) in out.0.chunks_exact_mut(channels).enumerate() {
                    if !dx.accumulate {
                        out.fill(T::ZERO);
                    }
                    for at in config.over(h, rows) {
                        for column in config.over(w, columns) {
                            let own = (h + config.padding - at * config.stride) * config.kernel
                                + (w + config.padding - column * config.stride);
                            let from = ((image * rows + at) * columns + column) * channels;
                            let (dy, taps) = (&dy[from..from + channels], &taps[from..from + channels]);
                            for ((out, &dy), &tap) in out.iter_mut().zip(dy).zip(taps) {
                                *out += if usize::from(tap) == own { dy } else { T::ZERO };
                            }
                        }
                    }
                }
            },
        );
    };
    native.pool.install(|| for_chunks(Rows(out, width * channels), batch * height, 1, &work));
    Ok(())
}

impl MaxPoolKernels for Native {
    fn max_pool_forward(&self, x: Tensor, y: Tensor, taps: Option<Tensor>, config: Config) -> Result<()> {
        with_real!(self, T => forward::<T>(self, x, y, taps, config))
    }

    fn max_pool_backward(&self, dy: Tensor, taps: Tensor, dx: Grad, config: Config) -> Result<()> {
        with_real!(self, T => backward::<T>(self, dy, taps, dx, config))
    }
}
