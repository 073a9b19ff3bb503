//! Negative cosine similarity between the views: `-mean cos(u_g, sg(h_l)) - mean cos(u_l, sg(h_g))` (GLMC paper, section 3),
//! loss and gradients in one kernel; without `sg`, or of h with itself, where an ablation asks for that; norms below 1e-8 count as 1e-8 (`torch.nn.CosineSimilarity`).

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "negative_cosine";

/// Smallest norm that is divided by.
pub const EPSILON: f64 = 1e-8;

/// The tensors of `negative_cosine`, all of the accumulation type but for the scalars.
#[derive(Clone, Copy, Debug)]
pub struct NegativeCosine {
    /// (2 * batch, features), MixUp rows first.
    pub u: Tensor,
    /// (2 * batch, features), likewise.
    pub target: Tensor,
    /// A `StepParams`.
    pub scalars: Tensor,
    /// (2 * batch), written.
    pub rows: Tensor,
    /// Like u; `None` when it is not wanted.
    pub du: Option<Grad>,
    /// Like the target; `None` when it is not wanted. Where u is the target, du's tensor, to be added to.
    pub dtarget: Option<Grad>,
}

/// What a backend provides for `negative_cosine`.
pub trait NegativeCosineKernels {
    /// Row n of u meets row `(n + batch) % (2 * batch)` of the target: `rows[n] = -cos`; `du (+)= coefficients[2] / batch *
    /// d(-cos)/du` with the coefficients of the scalars, and dtarget likewise.
    fn negative_cosine(&self, t: &NegativeCosine) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    u: Var,
    target: Var,
    scalars: Var,
    rows: Var,
    elements: f64,
}

/// Records the loss of u against the other view's target, (2 * batch, features) each; returns the losses of all rows,
/// (2 * batch). The target gets its gradient too, unless it went through [`Tape::stop_gradient`]; u may be the target.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn negative_cosine(tape: &mut Tape, backend: &dyn Backend, u: Var, target: Var, scalars: Var) -> Result<Var> {
    let [count, features] = two(NAME, "u", tape.shape(u))?;
    expect(NAME, "the target", tape.shape(target), &[count / 2 * 2, features])?;
    let rows = tape.value(&[count], backend.precision().accumulate());
    tape.record(Record { u, target, scalars, rows, elements: (count * features) as f64 });
    Ok(rows)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.u, self.target, self.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.rows]
    }

    fn differentiates(&self) -> Vec<Var> {
        // A value that is both gets one gradient.
        let target = Some(self.target).filter(|&target| target != self.u);
        std::iter::once(self.u).chain(target).collect()
    }

    fn is_loss(&self) -> bool {
        true
    }

    /// Per feature: three products summed; and for each gradient two products and a difference.
    fn flops(&self, _pass: Pass, wanted: &[Var]) -> f64 {
        self.elements * (6.0 + 3.0 * wanted.len() as f64)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let du = run.grad_target(self.u);
        let dtarget = match du {
            Some(du) if self.target == self.u => Some(Grad { accumulate: true, ..du }),
            _ => run.grad_target(self.target),
        };
        run.backend.negative_cosine(&NegativeCosine {
            u: run.value(self.u),
            target: run.value(self.target),
            scalars: run.value(self.scalars),
            rows: run.value(self.rows),
            du,
            dtarget,
        })
    }
}
