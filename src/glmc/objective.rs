//! The three losses on top of a model's outputs (GLMC paper, section 3).

use crate::error::Result;
use crate::nn::Recorder;
use crate::nn::model::Outputs;
use crate::ops::negative_cosine::negative_cosine;
use crate::ops::soft_label_cross_entropy::soft_label_cross_entropy;
use crate::ops::total_loss::total_loss;
use crate::tape::Var;

/// What the losses read besides the outputs.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// p, (batch, classes).
    pub label: Var,
    /// p_w, (batch, classes).
    pub label_weighted: Var,
    /// A `StepParams`.
    pub step: Var,
    /// (rows, 4): where the step's losses go.
    pub log: Var,
    /// Samples of a view.
    pub batch: usize,
}

/// Records `alpha*L_c + (1-alpha)*L_cb + gamma*L_sim`, or L_c alone for a model without GLMC's heads.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn record_objective(r: &mut Recorder<'_>, outputs: Outputs, o: Objective) -> Result<()> {
    let Recorder { tape, backend, .. } = r;
    let Some(glmc) = outputs.glmc else {
        let rows = soft_label_cross_entropy(tape, *backend, &[(outputs.logits, o.label)], o.step)?;
        return total_loss(tape, *backend, rows, None, o.step, o.log, o.batch);
    };
    let heads = [(outputs.logits, o.label), (glmc.logits_cb, o.label_weighted)];
    let rows = soft_label_cross_entropy(tape, *backend, &heads, o.step)?;
    let target = tape.stop_gradient(glmc.h);
    let cosine = negative_cosine(tape, *backend, glmc.u, target, o.step)?;
    total_loss(tape, *backend, rows, Some(cosine), o.step, o.log, o.batch)
}
