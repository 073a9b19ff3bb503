//! Plain cross-entropy on single views: the baseline that every paper prints.

use super::{Inputs, Method, StepDraw, head_vectors};
use crate::error::Result;
use crate::nn::model::{Extent, HeadKind, HeadSpec};
use crate::nn::{Model, Recorder};
use crate::ops::augment_mix::Mixing;
use crate::ops::load_step::StepParams;
use crate::ops::supervised_loss::{Form, HeadLoss, Reduction, supervised_loss};
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

    fn draw(
        &self,
        step: &StepDraw<'_>,
        _params: &mut StepParams,
        partners: &mut Vec<u32>,
        shares: &mut Vec<f32>,
    ) -> Result<()> {
        partners.extend_from_slice(step.originals);
        shares.resize(partners.len(), 1.0);
        Ok(())
    }

    fn vectors(&self, counts: &[usize], _k: f64) -> Vec<Vec<f64>> {
        vec![head_vectors(&vec![1.0; counts.len()])]
    }

    fn record(&self, r: &mut Recorder<'_>, model: &Model, inputs: &Inputs<'_>) -> Result<Vec<(&'static str, Var)>> {
        let Inputs { images, labels, vectors, vars, log, batch } = *inputs;
        let features = model.record_features(r, images)?;
        let logits = model.record_head(r, "fc", features)?;
        let head = HeadLoss {
            logits,
            vectors: vectors[0],
            form: Form::Softmax { focal: 0.0 },
            reduction: Reduction::N,
            scale: 1.0,
        };
        let rows = supervised_loss(&mut r.tape, r.backend, &[head], labels, vars)?;
        total_loss(&mut r.tape, r.backend, rows, None, vars.scalars, log, batch)?;
        Ok(vec![("logits", logits)])
    }
}
