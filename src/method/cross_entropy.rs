//! Plain cross-entropy on single views: the baseline that every paper prints.

use super::{Inputs, Method, StepDraw};
use crate::error::Result;
use crate::nn::model::{Extent, HeadKind, HeadSpec};
use crate::nn::{Model, Recorder};
use crate::ops::augment_mix::Mixing;
use crate::ops::load_step::StepParams;
use crate::ops::soft_label_cross_entropy::soft_label_cross_entropy;
use crate::ops::soft_labels::soft_labels;
use crate::ops::total_loss::total_loss;
use crate::tape::Var;

/// Nothing is mixed or weighted.
#[derive(Debug)]
pub struct CrossEntropy;

impl Method for CrossEntropy {
    fn name(&self) -> &'static str {
        "ce"
    }

    fn title(&self) -> &'static str {
        "plain cross-entropy"
    }

    fn mixing(&self) -> Mixing {
        Mixing::Single
    }

    fn heads(&self) -> &'static [HeadSpec] {
        &[HeadSpec { name: "fc", inputs: Extent::Features, outputs: Extent::Classes }]
    }

    fn losses(&self) -> &'static [&'static str] {
        &["c"]
    }

    fn classifier(&self, _balanced: bool) -> HeadKind {
        HeadKind::Fc
    }

    fn draw(&self, step: &StepDraw<'_>, _params: &mut StepParams, partners: &mut Vec<u32>) -> Result<()> {
        partners.extend_from_slice(step.originals);
        Ok(())
    }

    fn record(&self, r: &mut Recorder<'_>, model: &Model, inputs: &Inputs) -> Result<Vec<(&'static str, Var)>> {
        let Inputs { images, labels, class_weights, vars, log, batch } = *inputs;
        let (label, _) = soft_labels(&mut r.tape, r.backend, labels, vars, class_weights)?;
        let features = model.record_features(r, images)?;
        let logits = model.record_head(r, "fc", features)?;
        let rows = soft_label_cross_entropy(&mut r.tape, r.backend, &[(logits, label)], vars.scalars)?;
        total_loss(&mut r.tape, r.backend, rows, None, vars.logged, log, batch)?;
        Ok(vec![("label", label), ("logits", logits)])
    }
}
