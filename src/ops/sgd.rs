//! Stochastic gradient descent with momentum over parameters that lie one after the other (`torch.optim.SGD`, coupled weight
//! decay): `g += decay * w; m = momentum * m + g; w -= lr * m`, with Nesterov `w -= lr * (g + momentum * m)`. It ends the step
//! and is not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "sgd";

/// The optimiser's constants for some parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// Factor of the step's learning rate.
    pub lr_factor: f32,
}

impl SgdConfig {
    /// Plain momentum at the step's own rate.
    pub const fn plain(momentum: f32, weight_decay: f32) -> SgdConfig {
        SgdConfig { momentum, weight_decay, nesterov: false, lr_factor: 1.0 }
    }
}

/// The tensors of `sgd`: the parameters one after the other, (elements) each.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Accumulation type, updated: master weights.
    pub master: Tensor,
    /// Compute type, written: the copy that products read, where the compute type differs from the master's.
    pub compute: Option<Tensor>,
    /// Accumulation type.
    pub grad: Tensor,
    /// Accumulation type, updated. Starts as zero.
    pub momentum: Tensor,
    /// A `StepParams`: the learning rate.
    pub scalars: Tensor,
}

/// What a backend provides for `sgd`.
pub trait SgdKernels {
    /// One update of these parameters.
    fn sgd(&self, config: &SgdConfig, t: &Sgd) -> Result<()>;
    /// `compute = master`, rounded: after loading weights.
    fn cast_weights(&self, master: Tensor, compute: Tensor) -> Result<()>;
}
