//! Evaluation's last op: where the true class ranks among the logits, and how confident the best one is. Top-k
//! accuracy, shots, per-class accuracy and calibration are all tallies of these.

use super::load_step::StepVars;
use super::{Backend, two};
use crate::error::Result;
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "classify";

/// The tensors of `classify`.
#[derive(Clone, Copy, Debug)]
pub struct Classify {
    /// Accumulation type (batch, classes).
    pub logits: Tensor,
    /// Factor of the logits in the softmax, above zero: the ranks do not depend on it.
    pub scale: f32,
    /// I32 (images): class of every image of the data set.
    pub labels: Tensor,
    /// I32 (batch).
    pub originals: Tensor,
    /// A `StepParams`: results go to rows `row..row + batch`.
    pub scalars: Tensor,
    /// I32 (images): number of classes ahead of the true one; of equal logits the lower class is ahead. A true class
    /// whose logit is NaN ranks behind all.
    pub ranks: Tensor,
    /// F32 (images): softmax probability of the best class.
    pub confidences: Tensor,
}

/// What a backend provides for `classify`.
pub trait ClassifyKernels {
    /// Writes ranks and confidences of the step's samples.
    fn classify(&self, t: &Classify) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    logits: Var,
    scale: f32,
    labels: Var,
    vars: StepVars,
    ranks: Var,
    confidences: Var,
}

/// Records the ranking of `logits` (batch, classes) into `ranks` and `confidences` (images each); confidences are of the
/// logits times `scale`.
///
/// # Errors
/// When the logits are no matrix.
pub fn classify(
    tape: &mut Tape,
    _backend: &dyn Backend,
    (logits, scale): (Var, f32),
    labels: Var,
    vars: StepVars,
    (ranks, confidences): (Var, Var),
) -> Result<()> {
    two(NAME, "the logits", tape.shape(logits))?;
    tape.record(Record { logits, scale, labels, vars, ranks, confidences });
    Ok(())
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.logits, self.labels, self.vars.originals, self.vars.scalars]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.ranks, self.confidences]
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.classify(&Classify {
            logits: run.value(self.logits),
            scale: self.scale,
            labels: run.value(self.labels),
            originals: run.value(self.vars.originals),
            scalars: run.value(self.vars.scalars),
            ranks: run.value(self.ranks),
            confidences: run.value(self.confidences),
        })
    }
}
