//! Cross-entropy with soft labels, both heads and both views at once: `CE = -mean_n sum_c p log softmax(logits)`
//! (GLMC paper, section 3), loss and gradient in one kernel.

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "soft_label_cross_entropy";

/// One head's tensors, all of the accumulation type.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// (views * batch, classes).
    pub logits: Tensor,
    /// (batch, classes), the same for every view. Rows need not sum to 1.
    pub label: Tensor,
    /// Gradient of the logits; `None` when only the loss is wanted.
    pub dlogits: Option<Grad>,
}

/// The tensors of `soft_label_cross_entropy`.
#[derive(Clone, Copy, Debug)]
pub struct SoftLabelCrossEntropy<'a> {
    /// One or two.
    pub heads: &'a [Head],
    /// A `StepParams`.
    pub scalars: Tensor,
    /// Accumulation type (heads, views * batch), written.
    pub rows: Tensor,
}

/// What a backend provides for `soft_label_cross_entropy`.
pub trait SoftLabelCrossEntropyKernels {
    /// For every head k and row n: `rows[k][n] = -sum_c p log softmax`, rows (heads, views * batch); and
    /// `dlogits = coefficients[k] / batch * (softmax * sum_c p - p)` with the coefficients of the scalars.
    fn soft_label_cross_entropy(&self, t: &SoftLabelCrossEntropy) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    heads: Vec<(Var, Var)>,
    scalars: Var,
    rows: Var,
    elements: f64,
}

/// Records the cross-entropy of one or two heads: pairs of logits (views * batch, classes) and labels (batch,
/// classes); head k's gradient is scaled by the step's coefficient k. Returns the losses of all rows, (heads, views *
/// batch).
///
/// # Errors
/// When the shapes do not fit each other.
pub fn soft_label_cross_entropy(
    tape: &mut Tape,
    backend: &dyn Backend,
    heads: &[(Var, Var)],
    scalars: Var,
) -> Result<Var> {
    let [count, classes] = two(NAME, "the logits", tape.shape(heads[0].0))?;
    let [batch, _] = two(NAME, "the labels", tape.shape(heads[0].1))?;
    for &(logits, label) in heads {
        expect(NAME, "the logits", tape.shape(logits), &[count, classes])?;
        expect(NAME, "the labels", tape.shape(label), &[batch, classes])?;
    }
    if batch == 0 || count % batch != 0 {
        return Err(crate::Error::op(NAME, format!("{count} rows of logits are no multiple of {batch} labels")));
    }
    let rows = tape.value(&[heads.len(), count], backend.precision().accumulate());
    let elements = (heads.len() * count * classes) as f64;
    tape.record(Record { heads: heads.to_vec(), scalars, rows, elements });
    Ok(rows)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        self.heads.iter().flat_map(|&(logits, label)| [logits, label]).chain([self.scalars]).collect()
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.rows]
    }

    fn differentiates(&self) -> Vec<Var> {
        self.heads.iter().map(|&(logits, _)| logits).collect()
    }

    fn is_loss(&self) -> bool {
        true
    }

    /// Per logit: less the largest, exponential, sum, less the logarithm, times the label, sum; and for the gradient
    /// times the sum of labels, less the label, times the coefficient.
    fn flops(&self, _pass: Pass, wanted: &[Var]) -> f64 {
        self.elements * if wanted.is_empty() { 6.0 } else { 9.0 }
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let head = |&(logits, label): &(Var, Var)| Head {
            logits: run.value(logits),
            label: run.value(label),
            dlogits: run.grad_target(logits),
        };
        let (scalars, rows) = (run.value(self.scalars), run.value(self.rows));
        let call =
            |heads: &[Head]| run.backend.soft_label_cross_entropy(&SoftLabelCrossEntropy { heads, scalars, rows });
        // Two heads at most: no list is built on the heap.
        match self.heads.as_slice() {
            [one] => call(&[head(one)]),
            [one, two] => call(&[head(one), head(two)]),
            more => Err(crate::Error::op(NAME, format!("one or two heads, not {}", more.len()))),
        }
    }
}
