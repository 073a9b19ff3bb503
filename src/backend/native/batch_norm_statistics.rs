//! `batch_norm_statistics` on the CPU.

use super::Native;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::batch_norm_statistics::{
    BatchNormStatistics, BatchNormStatisticsKernels, EPSILON, FEW, Geometry, MOMENTUM, NAME,
};

/// Rows of a view's statistics: mean, 1/std, weight/std. The last, which scales the forward, comes from the 1/std before it
/// is rounded.
pub const ROWS: usize = 3;

fn statistics<T: Real>(native: &Native, g: &Geometry, t: &BatchNormStatistics) -> Result<()> {
    let a = native.memory.access()?;
    let (x, sums, weight) = (a.read::<T>(t.x)?, a.read::<T>(t.sums)?, a.read::<T>(t.weight)?);
    let [mut running_mean, mut running_var] = [
        t.running_mean.map(|tensor| a.write::<T>(tensor)).transpose()?,
        t.running_var.map(|tensor| a.write::<T>(tensor)).transpose()?,
    ];
    let statistics = a.write::<T>(t.statistics)?;
    let (channels, count) = (g.channels, g.pixels as f64);
    // Slices are cut by the geometry: tensors of another size are refused, not half processed.
    let lengths = [x.len(), sums.len(), statistics.len()];
    if lengths != [g.pixels, g.parts * 2, ROWS].map(|rows| g.views * rows * channels) {
        return Err(Error::op(NAME, format!("x, sums and statistics of {lengths:?} elements do not fit {g:?}")));
    }
    for view in 0..g.views {
        let parts = &sums[view * g.parts * 2 * channels..][..g.parts * 2 * channels];
        let pixels = &x[view * g.pixels * channels..][..g.pixels * channels];
        let statistics = &mut statistics[view * ROWS * channels..][..ROWS * channels];
        for c in 0..channels {
            let (mean, var) = if g.pixels <= FEW {
                let values = || pixels.iter().skip(c).step_by(channels).map(|x| x.to_f64());
                let mean = values().sum::<f64>() / count;
                (mean, values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count)
            } else {
                let total = |k: usize| -> f64 { parts.iter().skip(k).step_by(2 * channels).map(|s| s.to_f64()).sum() };
                let mean = total(c) / count;
                // Rounding may leave a tiny negative value where a channel is constant; a NaN must stay one.
                match total(channels + c) / count - mean * mean {
                    var if var < 0.0 => (mean, 0.0),
                    var => (mean, var),
                }
            };
            let invstd = (var + EPSILON).sqrt().recip();
            let update = |running: &mut Option<&mut [T]>, value: f64| {
                if let Some(running) = running {
                    running[c] = T::from_f64((1.0 - MOMENTUM) * running[c].to_f64() + MOMENTUM * value);
                }
            };
            update(&mut running_mean, mean);
            update(&mut running_var, var * count / (count - 1.0));
            for (row, value) in [mean, invstd, weight[c].to_f64() * invstd].into_iter().enumerate() {
                statistics[row * channels + c] = T::from_f64(value);
            }
        }
    }
    Ok(())
}

impl BatchNormStatisticsKernels for Native {
    fn batch_norm_statistics(&self, geometry: &Geometry, t: &BatchNormStatistics) -> Result<()> {
        with_real!(self, T => statistics::<T>(self, geometry, t))
    }

    fn batch_norm_statistics_rows(&self) -> usize {
        ROWS
    }
}
