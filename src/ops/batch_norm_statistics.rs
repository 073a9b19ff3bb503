//! The first half of a batch normalisation: each view's statistics from the sums that the convolution made, and the running
//! statistics, updated by the first view, then by the second. `batch_norm_apply` is the second half.

use super::batch_norm_apply::Parameters;
use super::{Backend, expect, four};
use crate::error::{Error, Result};
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "batch_norm_statistics";

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;
/// Weight of a batch's statistics in the running ones.
pub const MOMENTUM: f64 = 0.1;
/// Values of a channel in a view up to which the statistics are made from x itself: the difference of two sums loses the
/// variance where mean² is far above it, which takes few values (see `kernels/batch_norm_statistics.cu`). Far fewer than
/// any training worth its name has, and enough that the difference of sums is safe above.
pub const FEW: usize = 64;

/// Everything about the statistics but their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Equal parts of the batch with statistics of their own.
    pub views: usize,
    /// Parts of a view's sums.
    pub parts: usize,
    /// Pixels of one view: the mean is over this many values of each channel.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
}

/// The tensors of `batch_norm_statistics`. Types: x compute; the others accumulation.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormStatistics {
    /// (views * pixels, channels), read up to [`FEW`] pixels.
    pub x: Tensor,
    /// (views, parts, 2, channels): sums of x and of x², see `conv2d`.
    pub sums: Tensor,
    /// (channels): scale, for a backend that keeps it in the statistics.
    pub weight: Tensor,
    /// (channels), updated; `None` leaves the running statistics as they are.
    pub running_mean: Option<Tensor>,
    /// (channels), updated with the unbiased variance.
    pub running_var: Option<Tensor>,
    /// Written: (views, rows, channels), see [`BatchNormStatisticsKernels::batch_norm_statistics_rows`].
    pub statistics: Tensor,
}

/// What a backend provides for `batch_norm_statistics`.
pub trait BatchNormStatisticsKernels {
    /// Statistics from the sums, and the running statistics, view after view.
    fn batch_norm_statistics(&self, geometry: &Geometry, t: &BatchNormStatistics) -> Result<()>;
    /// Rows of a view's statistics: mean, 1/sqrt(var + epsilon), then what else the backend wants to keep.
    fn batch_norm_statistics_rows(&self) -> usize {
        2
    }
}

#[derive(Debug)]
struct Record {
    geometry: Geometry,
    x: Var,
    sums: Var,
    parameters: Parameters,
    /// Whether the running statistics are updated.
    updates: bool,
    statistics: Var,
}

/// Records the statistics of x (batch, height, width, channels), whose sums (views, parts, 2, channels) `conv2d` made;
/// returns them for `batch_norm_apply`. They have no gradient: its backward makes the whole of x's. With `updates` the running
/// statistics follow.
///
/// # Errors
/// When the shapes do not fit each other, or one value per channel leaves no variance to compute.
pub fn batch_norm_statistics(
    tape: &mut Tape,
    backend: &dyn Backend,
    x: Var,
    sums: Var,
    parameters: Parameters,
    updates: bool,
) -> Result<Var> {
    let [batch, height, width, channels] = four(NAME, "the input", tape.shape(x))?;
    let [views, parts, ..] = four(NAME, "the sums", tape.shape(sums))?;
    expect(NAME, "the sums", tape.shape(sums), &[views, parts, 2, channels])?;
    parameters.check(NAME, tape, channels)?;
    if views == 0 || batch % views != 0 {
        return Err(Error::op(NAME, format!("{views} views do not divide a batch of {batch}")));
    }
    let geometry = Geometry { views, parts, pixels: batch / views * height * width, channels };
    if geometry.pixels < 2 {
        return Err(Error::op(NAME, "training needs more than one value per channel: take a larger batch"));
    }
    let shape = [views, backend.batch_norm_statistics_rows(), channels];
    let statistics = tape.value(&shape, backend.precision().accumulate());
    tape.record(Record { geometry, x, sums, parameters, updates, statistics });
    Ok(statistics)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        let p = &self.parameters;
        vec![self.x, self.sums, p.weight, p.running_mean, p.running_var]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.statistics]
    }

    fn label(&self) -> String {
        let g = &self.geometry;
        format!("{}x{}x2x{} sums", g.views, g.parts, g.channels)
    }

    /// The sums stand for x, but for few values.
    fn touches(&self, var: Var) -> Option<usize> {
        (var == self.x && self.geometry.pixels > FEW).then_some(0)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let tensors = BatchNormStatistics {
            x: run.value(self.x),
            sums: run.value(self.sums),
            weight: run.value(self.parameters.weight),
            running_mean: self.updates.then(|| run.value(self.parameters.running_mean)),
            running_var: self.updates.then(|| run.value(self.parameters.running_var)),
            statistics: run.value(self.statistics),
        };
        run.backend.batch_norm_statistics(&self.geometry, &tensors)
    }
}
