//! Negative cosine similarity between the views: `-mean cos(u_g, sg(h_l)) - mean cos(u_l, sg(h_g))` (GLMC paper, section 3),
//! loss and gradient in one kernel; norms below 1e-8 count as 1e-8 (`torch.nn.CosineSimilarity`).

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

const NAME: &str = "negative_cosine";

/// Smallest norm that is divided by.
pub const EPSILON: f64 = 1e-8;

/// What a backend provides for `negative_cosine`. All tensors have the accumulation type.
pub trait NegativeCosineKernels {
    /// u and target are (2 * batch, features), MixUp rows first. Row n of u meets row `(n + batch) % (2 * batch)` of
    /// the target: `rows[n] = -cos`; `du (+)= coefficients[2] / batch * d(-cos)/du` with the coefficients of `step`.
    fn negative_cosine(&self, u: Tensor, target: Tensor, step: Tensor, rows: Tensor, du: Option<Grad>) -> Result<()>;
}

#[derive(Debug)]
struct NegativeCosine {
    u: Var,
    target: Var,
    step: Var,
    rows: Var,
    elements: f64,
}

/// Records the loss of u against the other view's target, (2 * batch, features) each; returns the losses of all rows,
/// (2 * batch). No gradient reaches the target: pass it through [`Tape::stop_gradient`] to say so.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn negative_cosine(tape: &mut Tape, backend: &dyn Backend, u: Var, target: Var, step: Var) -> Result<Var> {
    let [count, features] = two(NAME, "u", tape.shape(u))?;
    expect(NAME, "the target", tape.shape(target), &[count / 2 * 2, features])?;
    let rows = tape.value(&[count], backend.precision().accumulate());
    tape.record(NegativeCosine { u, target, step, rows, elements: (count * features) as f64 });
    Ok(rows)
}

impl Op for NegativeCosine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.u, self.target, self.step]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.rows]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.u]
    }

    fn is_loss(&self) -> bool {
        true
    }

    /// Per feature: three products summed; and for the gradient two products and a difference.
    fn flops(&self, _pass: Pass, wanted: &[Var]) -> f64 {
        self.elements * if wanted.is_empty() { 6.0 } else { 9.0 }
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let (u, target, step) = (run.value(self.u), run.value(self.target), run.value(self.step));
        run.backend.negative_cosine(u, target, step, run.value(self.rows), run.grad_target(self.u))
    }
}
