//! What ops compute in inference, in words that other programs have too: what an exporter walks.

use super::{Tape, Var};
use crate::ops::batch_norm_apply::{Parameters, Shortcut};
use crate::ops::{conv2d, max_pool};

/// What an op makes of its inputs in inference: parameters and running statistics are constants, nothing is random.
#[derive(Clone, Copy, Debug)]
pub enum Formula {
    /// y = conv(x, weight), without bias.
    Convolution { x: Var, weight: Var, y: Var, geometry: conv2d::Geometry },
    /// y = relu(bn(x) + shortcut), by the running statistics; `epsilon` is added to the variance.
    Normalisation {
        x: Var,
        parameters: Parameters,
        epsilon: f64,
        shortcut: Option<(Var, Shortcut)>,
        relu: bool,
        y: Var,
    },
    /// y = the largest value of each window of x.
    LargestOfWindows { x: Var, config: max_pool::Config, y: Var },
    /// y (batch, channels) = the mean of x over rows and columns.
    MeanOfPixels { x: Var, y: Var },
    /// y = x weightᵀ + bias.
    Affine { x: Var, weight: Var, bias: Option<Var>, y: Var },
    /// y = x / max(|x|, epsilon), row by row.
    UnitRows { x: Var, epsilon: f64, y: Var },
    /// y = scales ∘ x, row by row.
    ScaledColumns { x: Var, scales: Var, y: Var },
    /// y = the columns of both parts, side by side.
    SideBySide { parts: [Var; 2], y: Var },
}

impl Tape {
    /// What the recorded ops compute in inference, in the order in which they run.
    ///
    /// # Errors
    /// The name of the first op that has no such formula: one of training, or of its images.
    pub fn formulas(&self) -> Result<Vec<Formula>, &'static str> {
        self.ops.iter().map(|op| op.formula().ok_or_else(|| op.name())).collect()
    }
}
