//! Evaluation: one classifier over a test set, tallied into the figures that papers print.

use serde::{Deserialize, Serialize};

use super::feed::Feed;
use crate::data::shots::Shot;
use crate::error::Result;
use crate::memory::Replay;
use crate::method::EpochPlan;
use crate::nn::{HeadKind, Mode, Model, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing, augment_mix};
use crate::ops::classify::classify;
use crate::ops::load_step::{load_step, row_words};
use crate::tape::{Arena, Program};
use crate::tensor::{DType, Tensor};

/// Bins of the expected calibration error.
const BINS: usize = 15;

/// What a model reaches on a test set. Accuracies are percentages of the images concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Right at first guess.
    pub top1: f64,
    /// Right among the first five guesses.
    pub top5: f64,
    /// Top-1 over the classes with many training images; absent when there are no such classes.
    pub many: Option<f64>,
    /// Top-1 over the classes with a medium number of training images.
    pub medium: Option<f64>,
    /// Top-1 over the classes with few training images.
    pub few: Option<f64>,
    /// Expected calibration error in percentage points, 15 equal bins of confidence (Guo et al. 2017).
    pub ece: f64,
    /// Top-1 of each class; absent where the test set has none of it.
    pub per_class: Vec<Option<f64>>,
    /// Test images.
    pub images: usize,
}

impl Evaluation {
    /// Tallies ranks and confidences, (images) each, of images with these labels; `groups` says each class's shots.
    pub fn tally(ranks: &[i32], confidences: &[f32], labels: &[i32], groups: &[Shot]) -> Evaluation {
        let mut right = vec![0usize; groups.len()];
        let mut all = vec![0usize; groups.len()];
        let mut top5 = 0;
        let mut bins = [(0usize, 0usize, 0f64); BINS];
        for ((&rank, &confidence), &label) in ranks.iter().zip(confidences).zip(labels) {
            let class = label as usize;
            all[class] += 1;
            right[class] += usize::from(rank == 0);
            top5 += usize::from(rank < 5);
            // Bins are open below and closed above; a confidence of 0 cannot be, one that is not a number counts as 0.
            let bin = ((f64::from(confidence) * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            bins[bin].0 += 1;
            bins[bin].1 += usize::from(rank == 0);
            bins[bin].2 += if confidence.is_finite() { f64::from(confidence) } else { 0.0 };
        }
        let percent = |right: usize, all: usize| (all > 0).then(|| 100.0 * right as f64 / all as f64);
        let group = |wanted: Shot| {
            let members = || groups.iter().enumerate().filter(|(_, g)| **g == wanted).map(|(class, _)| class);
            percent(members().map(|c| right[c]).sum(), members().map(|c| all[c]).sum())
        };
        let images = labels.len();
        let gap: f64 = bins.iter().map(|&(_, right, confidence)| (right as f64 - confidence).abs()).sum();
        Evaluation {
            top1: percent(right.iter().sum(), images).unwrap_or(0.0),
            top5: percent(top5, images).unwrap_or(0.0),
            many: group(Shot::Many),
            medium: group(Shot::Medium),
            few: group(Shot::Few),
            ece: 100.0 * gap / images.max(1) as f64,
            per_class: right.iter().zip(&all).map(|(&r, &a)| percent(r, a)).collect(),
            images,
        }
    }
}

/// What to evaluate, and how.
pub struct EvaluationConfig {
    /// Normalisation; nothing is cropped or flipped.
    pub augmentation: Augmentation,
    /// The classifier.
    pub head: HeadKind,
    /// Images at a time.
    pub batch: usize,
    /// Each class's shots.
    pub groups: Vec<Shot>,
    /// Memory that is free during an evaluation.
    pub arena: Option<Arena>,
}

struct SizedPass {
    program: Program,
    cursor: Tensor,
    replay: Option<Box<dyn Replay>>,
    steps: std::ops::Range<usize>,
}

/// The evaluation of one head over one feed, planned once.
pub struct Evaluator {
    plan: EpochPlan,
    passes: Vec<SizedPass>,
    ranks: Tensor,
    confidences: Tensor,
    groups: Vec<Shot>,
}

impl Evaluator {
    /// Plans the evaluation of one classifier over the feed's images.
    ///
    /// # Errors
    /// When the model has no such head, shapes do not fit, or the device has too little memory.
    pub fn new(
        backend: &dyn Backend,
        model: &Model,
        store: &ParameterStore,
        feed: &Feed<'_>,
        config: EvaluationConfig,
    ) -> Result<Evaluator> {
        let EvaluationConfig { augmentation, head, batch, groups, arena } = config;
        let images = feed.images().len();
        let plan = EpochPlan::evaluation(images, batch);
        let ranks = backend.tensor(&[images], DType::I32, "ranks")?;
        let confidences = backend.tensor(&[images], DType::F32, "confidences")?;
        let mut passes = Vec::new();
        let full = plan.full_steps();
        for (steps, size) in [(0..full, batch), (full..plan.steps(), plan.tail())] {
            if steps.is_empty() {
                continue;
            }
            let (rows, words) = (steps.len(), row_words(size));
            let table = backend.tensor(&[rows, words], DType::I32, "step table")?;
            let cursor = backend.tensor(&[1], DType::I32, "step cursor")?;
            backend.upload(table, bytemuck::cast_slice(&feed.table(&plan, steps.clone())))?;
            let mut r = Recorder::new(backend, store, Mode::Inference);
            let on_tape = [table, cursor, feed.pixels, feed.labels, ranks, confidences];
            let [table_var, cursor_var, pixels, labels, ranks, confidences] = on_tape.map(|t| r.tape.external(t));
            let vars = load_step(&mut r.tape, table_var, cursor_var, size)?;
            let input = augment_mix(&mut r.tape, backend, pixels, vars, Mixing::Evaluate, augmentation)?;
            let features = model.record_features(&mut r, input)?;
            let logits = model.record_head(&mut r, head.name(), features)?;
            let logits = (logits, model.eval_scale(head.name())?);
            classify(&mut r.tape, backend, logits, labels, vars, (ranks, confidences))?;
            let program = r.tape.plan_in(backend, false, arena)?;
            let mut pass = SizedPass { program, cursor, replay: None, steps };
            pass.replay = backend.capture(&mut || pass.program.forward(backend))?;
            passes.push(pass);
        }
        Ok(Evaluator { plan, passes, ranks, confidences, groups })
    }

    /// Evaluates the parameters as they are now.
    pub fn run(&self, backend: &dyn Backend, feed: &Feed<'_>) -> Result<Evaluation> {
        for pass in &self.passes {
            backend.zero(pass.cursor)?;
            for step in pass.steps.clone() {
                feed.stage(backend, &self.plan, step)?;
                match &pass.replay {
                    Some(replay) => replay.replay()?,
                    None => pass.program.forward(backend)?,
                }
            }
        }
        let images = feed.images().len();
        let (mut ranks, mut confidences) = (vec![0i32; images], vec![0f32; images]);
        backend.download(self.ranks, bytemuck::cast_slice_mut(&mut ranks))?;
        backend.download(self.confidences, bytemuck::cast_slice_mut(&mut confidences))?;
        Ok(Evaluation::tally(&ranks, &confidences, feed.images().labels, &self.groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_by_class_group_and_confidence() {
        let groups = [Shot::Many, Shot::Few];
        let evaluation = Evaluation::tally(&[0, 1, 0, 7], &[1.0, 0.5, 0.5, 0.5], &[0, 0, 1, 1], &groups);
        assert_eq!((evaluation.top1, evaluation.top5), (50.0, 75.0));
        assert_eq!((evaluation.many, evaluation.medium, evaluation.few), (Some(50.0), None, Some(50.0)));
        assert_eq!(evaluation.per_class, [Some(50.0), Some(50.0)]);
        // Bin of 1.0: right and sure, no gap. Bin of 0.5: three images, one right, 1.5 of confidence: gap 0.5.
        assert!((evaluation.ece - 100.0 * 0.5 / 4.0).abs() < 1e-9);
    }
}
