//! Stochastic gradient descent with momentum over all parameters in one pass (`torch.optim.SGD`, coupled weight decay, no
//! Nesterov): `g += decay * w; m = momentum * m + g; w -= lr * m`. It ends the step and is not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "sgd";

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    pub momentum: f32,
    /// Weight decay, on every parameter.
    pub weight_decay: f32,
}

/// The tensors of `sgd`: all parameters one after the other, (elements) each.
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
    /// One update of every parameter.
    fn sgd(&self, config: &SgdConfig, t: &Sgd) -> Result<()>;
    /// `compute = master`, rounded: after loading weights.
    fn cast_weights(&self, master: Tensor, compute: Tensor) -> Result<()>;
}
