//! Global and Local Mixture Consistency cumulative learning: Fei Du, Peng Yang, Qi Jia, Fengtao Nan, Xiaoting Chen and Yun
//! Yang, "Global and Local Mixture Consistency Cumulative Learning for Long-tailed Visual Recognitions", CVPR 2023,
//! arXiv 2305.08661. Where the paper and its published code differ, the code's way is the default and a setting gives the
//! paper's.

use super::mixing::{draw_box, draw_lambda};
use super::{Inputs, Method, StepDraw, schedule};
use crate::error::Result;
use crate::nn::model::{Extent, HeadKind, HeadSpec};
use crate::nn::{Model, Recorder};
use crate::ops::augment_mix::Mixing;
use crate::ops::load_step::StepParams;
use crate::ops::negative_cosine::negative_cosine;
use crate::ops::soft_label_cross_entropy::soft_label_cross_entropy;
use crate::ops::soft_labels::soft_labels;
use crate::ops::total_loss::total_loss;
use crate::rng::philox::Purpose;
use crate::tape::Var;

/// `alpha*L_c + (1-alpha)*L_cb + gamma*L_sim` over a MixUp and a CutMix view (paper, section 3).
#[derive(Debug)]
pub struct Glmc;

impl Method for Glmc {
    fn name(&self) -> &'static str {
        "glmc"
    }

    fn title(&self) -> &'static str {
        "GLMC"
    }

    fn mixing(&self) -> Mixing {
        Mixing::Glmc
    }

    fn heads(&self) -> &'static [HeadSpec] {
        use Extent::{Classes, Features, Hidden};
        &[
            HeadSpec { name: "fc", inputs: Features, outputs: Classes },
            HeadSpec { name: "fc_cb", inputs: Features, outputs: Classes },
            HeadSpec { name: "contrast_head.0", inputs: Hidden, outputs: Hidden },
            HeadSpec { name: "projection_head.0", inputs: Features, outputs: Hidden },
        ]
    }

    fn losses(&self) -> &'static [&'static str] {
        &["c", "cb", "sim"]
    }

    fn classifier(&self, balanced: bool) -> HeadKind {
        if balanced { HeadKind::Fc } else { HeadKind::FcCb }
    }

    fn draw(&self, step: &StepDraw<'_>, params: &mut StepParams, partners: &mut Vec<u32>) -> Result<()> {
        let config = step.config;
        let mut words = step.stream(Purpose::Partner);
        partners.extend(step.originals.iter().map(|_| step.sampler.draw(&mut words)));
        let lambda = draw_lambda(config.beta, &mut step.stream(Purpose::Lambda))? as f32;
        let cut = draw_box(f64::from(lambda), config.height, config.width, &mut step.stream(Purpose::Box));
        params.lambda = lambda;
        params.label_lambda = match config.correct_labels {
            true => 1.0 - cut.area() as f32 / (config.height * config.width) as f32,
            false => lambda,
        };
        params.cut = [cut.rows.0, cut.rows.1, cut.columns.0, cut.columns.1].map(|at| at as i32);
        let alpha = schedule::alpha(step.epoch, config.epochs);
        let supervised = [config.supervised * alpha, config.supervised * (1.0 - alpha)];
        params.coefficients = [supervised[0] as f32, supervised[1] as f32, config.gamma as f32];
        Ok(())
    }

    fn record(&self, r: &mut Recorder<'_>, model: &Model, inputs: &Inputs) -> Result<Vec<(&'static str, Var)>> {
        let Inputs { images, labels, class_weights, vars, log, batch } = *inputs;
        let (label, label_weighted) = soft_labels(&mut r.tape, r.backend, labels, vars, class_weights)?;
        let features = model.record_features(r, images)?;
        let logits = model.record_head(r, "fc", features)?;
        let logits_cb = model.record_head(r, "fc_cb", features)?;
        let h = model.record_head(r, "projection_head.0", features)?;
        let u = model.record_head(r, "contrast_head.0", h)?;
        let heads = [(logits, label), (logits_cb, label_weighted)];
        let rows = soft_label_cross_entropy(&mut r.tape, r.backend, &heads, vars.scalars)?;
        let target = r.tape.stop_gradient(h);
        let cosine = negative_cosine(&mut r.tape, r.backend, u, target, vars.scalars)?;
        total_loss(&mut r.tape, r.backend, rows, Some(cosine), vars.logged, log, batch)?;
        let outputs = [("logits", logits), ("logits_cb", logits_cb), ("h", h), ("u", u)];
        Ok([&[("label", label), ("label_weighted", label_weighted)], &outputs[..]].concat())
    }
}
