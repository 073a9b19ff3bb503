//! Recording a recipe: network, heads and losses of a step.

use super::recipe::{Head, Recipe, Similarity};
use crate::error::Result;
use crate::nn::{Model, Recorder};
use crate::ops::augment_mix::View;
use crate::ops::load_step::StepVars;
use crate::ops::negative_cosine::negative_cosine;
use crate::ops::supervised_loss::{HeadLoss, ViewLabels, supervised_loss};
use crate::ops::total_loss::total_loss;
use crate::tape::Var;

/// What a recipe is recorded on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (views * batch, height, width, stem channels): the views, one after the other.
    pub images: Var,
    /// (images): the class of every image that originals and partners count.
    pub labels: Var,
    /// The class vectors of every classifier, (5, classes) each.
    pub vectors: &'a [Var],
    /// The step's scalars, originals, partners and shares.
    pub vars: StepVars,
    /// (rows, 4): where the step's losses go.
    pub log: Var,
    /// Samples per view.
    pub batch: usize,
}

impl Recipe {
    /// Which labels the samples of the views have.
    fn labels(&self) -> Result<[ViewLabels; 2]> {
        let mut labels = [ViewLabels::Mixed; 2];
        // Branches join the views: their samples have both labels.
        if !self.branches {
            for (to, view) in labels.iter_mut().zip(self.views()?.each()) {
                *to = match view {
                    View::Plain => ViewLabels::Original,
                    View::Partner => ViewLabels::Partner,
                    View::Mixup | View::Cutmix => ViewLabels::Mixed,
                };
            }
        }
        Ok(labels)
    }

    /// Records network, heads and losses of a step; returns the outputs of the heads by name: `fc`, `fc_cb`, and of the
    /// similarity `h` (projections) and `u` (predictions).
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn record(&self, r: &mut Recorder<'_>, model: &Model, inputs: &Inputs<'_>) -> Result<Vec<(&'static str, Var)>> {
        let Inputs { images, labels, vectors, vars, log, batch } = *inputs;
        r.shares = Some(vars.shares);
        let features = model.record_features(r, images)?;
        let mut outputs = Vec::new();
        let mut losses = Vec::new();
        for ((kind, head), &vectors) in self.classifiers().into_iter().zip(vectors) {
            let logits = model.record_head(r, kind.name(), features)?;
            outputs.push((kind.name(), logits));
            let Head { reduction, scale, .. } = *head;
            losses.push(HeadLoss { logits, vectors, form: head.form(), reduction, scale: scale as f32 });
        }
        let cosine = match self.similarity {
            None => None,
            Some(Similarity { stop_gradient, predictor, .. }) => {
                let h = model.record_head(r, "projection_head.0", features)?;
                outputs.push(("h", h));
                let u = match predictor {
                    true => model.record_head(r, "contrast_head.0", h)?,
                    false => h,
                };
                if predictor {
                    outputs.push(("u", u));
                }
                let target = if stop_gradient { r.tape.stop_gradient(h) } else { h };
                Some((u, target))
            }
        };
        let rows = supervised_loss(&mut r.tape, r.backend, &losses, labels, vars, self.labels()?)?;
        let cosine = cosine.map(|(u, target)| negative_cosine(&mut r.tape, r.backend, u, target, vars.scalars));
        total_loss(&mut r.tape, r.backend, rows, cosine.transpose()?, vars.logged, log, batch)?;
        Ok(outputs)
    }
}
