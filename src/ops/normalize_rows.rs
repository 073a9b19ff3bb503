//! Rows divided by their length, `y = x / max(|x|, 1e-12)` (`torch.nn.functional.normalize`): what a cosine head makes of
//! features and of its weight. In the accumulation type, as all of the heads.

use super::{Backend, two};
use crate::error::Result;
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "normalize_rows";

/// Smallest length that is divided by.
pub const EPSILON: f64 = 1e-12;

/// What a backend provides for `normalize_rows`; all tensors (rows, features), of the accumulation type.
pub trait NormalizeRowsKernels {
    /// y = x / max(|x|, [`EPSILON`]), row by row.
    fn normalize_rows_forward(&self, x: Tensor, y: Tensor) -> Result<()>;
    /// dx (+)= (dy - y (y . dy)) / |x|, row by row; of a row that is shorter than [`EPSILON`], whose divisor is a constant,
    /// dx (+)= dy / EPSILON.
    fn normalize_rows_backward(&self, x: Tensor, dy: Tensor, dx: Grad) -> Result<()>;
}

#[derive(Debug)]
struct NormalizeRows {
    extents: [usize; 2],
    x: Var,
    y: Var,
}

/// Records `y = x / max(|x|, 1e-12)` for each row of x (rows, features); returns y, of the same shape.
///
/// # Errors
/// When x is no matrix.
pub fn normalize_rows(tape: &mut Tape, backend: &dyn Backend, x: Var) -> Result<Var> {
    let extents = two(NAME, "the input", tape.shape(x))?;
    let y = tape.value(&extents, backend.precision().accumulate());
    tape.record(NormalizeRows { extents, x, y });
    Ok(y)
}

impl Op for NormalizeRows {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.y]
    }

    /// Lengths are found again: that costs less than to keep y, or a length for each row.
    fn saves(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn label(&self) -> String {
        let [rows, features] = self.extents;
        format!("{rows}x{features}")
    }

    /// Per element: a square summed and a division; backward two products summed, and three operations for the gradient.
    fn flops(&self, pass: Pass, _wanted: &[Var]) -> f64 {
        let [rows, features] = self.extents.map(|extent| extent as f64);
        rows * features * if pass == Pass::Forward { 3.0 } else { 7.0 }
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::UnitRows { x: self.x, epsilon: EPSILON, y: self.y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.normalize_rows_forward(run.value(self.x), run.value(self.y))
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        match run.grad_target(self.x) {
            Some(dx) => run.backend.normalize_rows_backward(run.value(self.x), run.grad(self.y), dx),
            None => Ok(()),
        }
    }
}
