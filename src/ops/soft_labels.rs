//! Mixed labels: `p = lambda*onehot(y_i) + (1-lambda)*onehot(y_j)` and the weighted
//! `p_w = lambda*w_i*onehot(y_i) + (1-lambda)*w_j*onehot(y_j)` (GLMC paper, section 3).

use super::load_step::StepVars;
use super::{Backend, expect};
use crate::error::Result;
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "soft_labels";

/// The tensors of `soft_labels`.
#[derive(Clone, Copy, Debug)]
pub struct SoftLabels {
    /// I32 (images): class of every image of the data set.
    pub labels: Tensor,
    /// I32 (batch).
    pub originals: Tensor,
    /// I32 (batch).
    pub partners: Tensor,
    /// Accumulation type (classes): w.
    pub class_weights: Tensor,
    /// A `StepParams`; its `label_lambda` is read. 1 makes plain one-hot labels.
    pub scalars: Tensor,
    /// Written, accumulation type (batch, classes): p.
    pub label: Tensor,
    /// Written, accumulation type (batch, classes): p_w.
    pub label_weighted: Tensor,
}

/// What a backend provides for `soft_labels`.
pub trait SoftLabelsKernels {
    /// Writes p and p_w; where both classes are the same, the two terms add up.
    fn soft_labels(&self, t: &SoftLabels) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    labels: Var,
    vars: StepVars,
    class_weights: Var,
    label: Var,
    label_weighted: Var,
    batch: usize,
}

/// Records the making of the step's labels; returns p and p_w, (batch, classes) each.
///
/// # Errors
/// When the weights are no vector.
pub fn soft_labels(
    tape: &mut Tape,
    backend: &dyn Backend,
    labels: Var,
    vars: StepVars,
    class_weights: Var,
) -> Result<(Var, Var)> {
    let classes = tape.shape(class_weights).elements();
    expect(NAME, "the class weights", tape.shape(class_weights), &[classes])?;
    let batch = tape.shape(vars.originals).elements();
    let label = tape.value(&[batch, classes], backend.precision().accumulate());
    let label_weighted = tape.value(&[batch, classes], backend.precision().accumulate());
    tape.record(Record { labels, vars, class_weights, label, label_weighted, batch });
    Ok((label, label_weighted))
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.labels, self.vars.originals, self.vars.partners, self.vars.scalars, self.class_weights]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.label, self.label_weighted]
    }

    /// A class an original and a partner.
    fn touches(&self, var: Var) -> Option<usize> {
        (var == self.labels).then_some(2 * self.batch * size_of::<i32>())
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.soft_labels(&SoftLabels {
            labels: run.value(self.labels),
            originals: run.value(self.vars.originals),
            partners: run.value(self.vars.partners),
            class_weights: run.value(self.class_weights),
            scalars: run.value(self.vars.scalars),
            label: run.value(self.label),
            label_weighted: run.value(self.label_weighted),
        })
    }
}
