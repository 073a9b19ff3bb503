//! Evaluation's last op: where the true class ranks among the logits, how confident the best one is, and what the true one
//! costs. Top-k accuracy, shots, per-class accuracy, calibration and likelihood are all tallies of these. Logits may be means:
//! of an image and its mirror image, of two heads.

use super::load_step::StepVars;
use super::{Backend, expect, two};
use crate::error::{Error, Result};
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "classify";

/// The tensors of `classify`.
#[derive(Clone, Copy, Debug)]
pub struct Classify {
    /// Accumulation type (views * batch, classes), one view after the other: a sample's logits are the mean over its views.
    pub logits: Tensor,
    /// Another head's, of the same shape: then of the mean over both.
    pub second: Option<Tensor>,
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
    /// F32 (images): `-log` of the softmax probability of the true class.
    pub losses: Tensor,
}

/// What a backend provides for `classify`.
pub trait ClassifyKernels {
    /// Writes ranks, confidences and losses of the step's samples.
    fn classify(&self, t: &Classify) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    logits: Var,
    second: Option<Var>,
    scale: f32,
    labels: Var,
    vars: StepVars,
    results: [Var; 3],
}

/// Records the ranking of `logits`, those of one head or of two, (views * batch, classes) each, into `results`: ranks,
/// confidences and losses (images each). Confidences and losses are of the logits times `scale`.
///
/// # Errors
/// When the logits are no matrices of one shape, or their rows are not views of the batch.
pub fn classify(
    tape: &mut Tape,
    _backend: &dyn Backend,
    (logits, scale): (&[Var], f32),
    labels: Var,
    vars: StepVars,
    results: [Var; 3],
) -> Result<()> {
    let (first, second) = match *logits {
        [first] => (first, None),
        [first, second] => (first, Some(second)),
        _ => return Err(Error::op(NAME, format!("logits of one head or two, not of {}", logits.len()))),
    };
    let [rows, classes] = two(NAME, "the logits", tape.shape(first))?;
    if let Some(second) = second {
        expect(NAME, "the second head's logits", tape.shape(second), &[rows, classes])?;
    }
    let batch = tape.shape(vars.originals).elements();
    if !rows.is_multiple_of(batch) {
        return Err(Error::op(NAME, format!("{rows} rows of logits are not views of {batch} samples")));
    }
    tape.record(Record { logits: first, second, scale, labels, vars, results });
    Ok(())
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        let logits = [Some(self.logits), self.second].into_iter().flatten();
        logits.chain([self.labels, self.vars.originals, self.vars.scalars]).collect()
    }

    fn writes(&self) -> Vec<Var> {
        self.results.to_vec()
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let [ranks, confidences, losses] = self.results.map(|var| run.value(var));
        run.backend.classify(&Classify {
            logits: run.value(self.logits),
            second: self.second.map(|second| run.value(second)),
            scale: self.scale,
            labels: run.value(self.labels),
            originals: run.value(self.vars.originals),
            scalars: run.value(self.vars.scalars),
            ranks,
            confidences,
            losses,
        })
    }
}
