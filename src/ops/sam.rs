//! Sharpness-aware minimisation (Foret et al. 2021, equations 2 and 3): the weights climb by `rho g / (|g| + 1e-12)`, a second
//! gradient is made there, and the weights come back bit for bit before the optimiser's step. Calls between the passes of a
//! step, on parameters that lie side by side; not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "sam";

/// Gradients of a part, whose squares are added up first: the order of sums depends on shapes alone.
pub const PART: usize = 4096;

/// Added to the gradient's norm.
pub const EPSILON: f32 = 1e-12;

/// The tensors of a climb, (elements) each.
#[derive(Clone, Copy, Debug)]
pub struct Climb {
    /// Accumulation type, updated: master weights.
    pub master: Tensor,
    /// Compute type, written: the copy that products read, where the compute type differs from the master's.
    pub compute: Option<Tensor>,
    /// Accumulation type, written on the way up and read on the way back: the weights before.
    pub backup: Tensor,
    /// Accumulation type: the gradient of the ascent.
    pub grad: Tensor,
    /// Accumulation type (1), from [`SamKernels::sam_scale`].
    pub scale: Tensor,
}

/// What a backend provides for `sam`.
pub trait SamKernels {
    /// `parts[i]` = the sum of squares of the [`PART`] gradients from `i * PART` on; parts (elements / PART, rounded up).
    fn sam_squares(&self, grad: Tensor, parts: Tensor) -> Result<()>;
    /// `scale = rho / (sqrt(sum parts) + 1e-12)`; scale (1).
    fn sam_scale(&self, rho: f32, parts: Tensor, scale: Tensor) -> Result<()>;
    /// `backup = w; w += scale * grad`; compute = w, rounded.
    fn sam_perturb(&self, t: &Climb) -> Result<()>;
    /// `w = backup`; compute = w, rounded.
    fn sam_restore(&self, t: &Climb) -> Result<()>;
    /// A copy of a step's scalars whose coefficients are multiplied by `factors`: those of the ascent's losses. Both (16).
    fn sam_scalars(&self, factors: [f32; 3], scalars: Tensor, ascent: Tensor) -> Result<()>;
}
