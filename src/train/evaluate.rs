//! Evaluation: one classifier over a test set, tallied into the figures that papers print.

use serde::{Deserialize, Serialize};

use super::answers::{Answer, AnswerReader};
use super::feed::Feed;
use super::passes::{Look, Passes};
use crate::data::shots::Shot;
use crate::error::Result;
use crate::nn::{HeadKind, Model, ParameterStore};
use crate::ops::Backend;
use crate::ops::classify::classify;
use crate::tensor::{DType, Tensor};

/// Bins of the expected calibration error.
const BINS: usize = 15;

/// What a model reaches on a test set. Accuracies are percentages of the images concerned, or where it says so means of the
/// classes' recalls; where each class has as many images these are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Right at first guess.
    pub top1: f64,
    /// Right among the first five guesses.
    pub top5: f64,
    /// Mean recall of the classes with many training images; absent when there are no such classes.
    pub many: Option<f64>,
    /// Mean recall of the classes with a medium number of training images.
    pub medium: Option<f64>,
    /// Mean recall of the classes with few training images.
    pub few: Option<f64>,
    /// Expected calibration error in percentage points, 15 equal bins of confidence (Guo et al. 2017).
    pub ece: f64,
    /// Balanced accuracy, the mean recall of all classes; absent in the lines of older runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced: Option<f64>,
    /// Mean negative log-likelihood of the true class, in nats; absent where it is not finite, and in the lines of older runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Mean confidence on the images of many-shot classes less that on few-shot classes, in percentage points: the head/tail
    /// confidence gap. Absent where there are not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence_gap: Option<f64>,
    /// Recall of each class; absent where the test set has none of it.
    pub per_class: Vec<Option<f64>>,
    /// Test images.
    pub images: usize,
}

/// What a classifier made of each image, (images) each.
#[derive(Clone, Copy, Debug)]
pub struct Guesses<'a> {
    /// Classes ahead of the true one.
    pub ranks: &'a [i32],
    /// Softmax probability of the best class.
    pub confidences: &'a [f32],
    /// `-log` of the softmax probability of the true class.
    pub losses: &'a [f32],
}

/// The images whose confidence lies in one of the bins of the calibration error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    pub images: usize,
    /// Images that are right at first guess.
    pub right: usize,
    /// Sum of the confidences.
    pub confidence: f64,
}

/// The bins of the calibration error, (15), from the lowest confidence to the highest, of images that are right at first guess or
/// not, and the confidence in that guess; one that is not a number counts as 0.
pub fn bins(images: impl Iterator<Item = (bool, f32)>) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); BINS];
    for (right, confidence) in images {
        let confidence = finite(confidence);
        // Bins are open below and closed above; a confidence of 0 cannot be.
        let bin = &mut bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
        bin.images += 1;
        bin.right += usize::from(right);
        bin.confidence += confidence;
    }
    bins
}

/// A confidence, as it counts.
fn finite(confidence: f32) -> f64 {
    Some(f64::from(confidence)).filter(|confidence| confidence.is_finite()).unwrap_or(0.0)
}

impl Evaluation {
    /// Tallies guesses about images with these labels; `groups` says each class's shots.
    pub fn tally(guesses: Guesses<'_>, labels: &[i32], groups: &[Shot]) -> Evaluation {
        let mut right = vec![0usize; groups.len()];
        let mut all = vec![0usize; groups.len()];
        let mut sure = vec![0f64; groups.len()];
        let (mut top5, mut loss) = (0, 0.0);
        for (at, &label) in labels.iter().enumerate() {
            let class = label as usize;
            let rank = guesses.ranks[at];
            let confidence = finite(guesses.confidences[at]);
            all[class] += 1;
            right[class] += usize::from(rank == 0);
            sure[class] += confidence;
            top5 += usize::from(rank < 5);
            loss += f64::from(guesses.losses[at]);
        }
        let images = labels.len();
        let percent = |right: usize, all: usize| (all > 0).then(|| 100.0 * right as f64 / all as f64);
        let per_class: Vec<Option<f64>> = right.iter().zip(&all).map(|(&r, &a)| percent(r, a)).collect();
        let mean = |wanted: &dyn Fn(Shot) -> bool| {
            let recalls: Vec<f64> =
                per_class.iter().zip(groups).filter(|(_, group)| wanted(**group)).filter_map(|(r, _)| *r).collect();
            (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
        };
        let confidence = |wanted: Shot| {
            let members = || groups.iter().enumerate().filter(|(_, group)| **group == wanted).map(|(class, _)| class);
            let count: usize = members().map(|class| all[class]).sum();
            (count > 0).then(|| members().map(|class| sure[class]).sum::<f64>() / count as f64)
        };
        let (many, few) = (confidence(Shot::Many), confidence(Shot::Few));
        let bins =
            bins(guesses.ranks.iter().zip(guesses.confidences).map(|(&rank, &confidence)| (rank == 0, confidence)));
        let gap: f64 = bins.iter().map(|bin| (bin.right as f64 - bin.confidence).abs()).sum();
        let top1 = percent(right.iter().sum(), images).unwrap_or(0.0);
        let balanced = mean(&|_| true);
        debug_assert!(
            !all.windows(2).all(|pair| pair[0] == pair[1]) || (balanced.unwrap_or(0.0) - top1).abs() < 1e-9,
            "on a balanced test set, balanced accuracy ({balanced:?}) is top-1 ({top1})"
        );
        Evaluation {
            top1,
            top5: percent(top5, images).unwrap_or(0.0),
            many: mean(&|group| group == Shot::Many),
            medium: mean(&|group| group == Shot::Medium),
            few: mean(&|group| group == Shot::Few),
            ece: 100.0 * gap / images.max(1) as f64,
            balanced,
            nll: Some(loss / images.max(1) as f64).filter(|nll| nll.is_finite()),
            confidence_gap: many.zip(few).map(|(many, few)| 100.0 * (many - few)),
            per_class,
            images,
        }
    }
}

/// What to evaluate, and how.
pub struct EvaluationConfig {
    pub look: Look,
    /// The classifier.
    pub head: HeadKind,
    /// Each class's shots.
    pub groups: Vec<Shot>,
    /// Whether the answers about single images are wanted.
    pub answers: bool,
}

/// The evaluation of one head over one feed, planned once.
pub struct Evaluator {
    passes: Passes,
    ranks: Tensor,
    confidences: Tensor,
    losses: Tensor,
    groups: Vec<Shot>,
    reader: AnswerReader,
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
        let EvaluationConfig { look, head, groups, answers } = config;
        let images = feed.images().len();
        let ranks = backend.tensor(&[images], DType::I32, "ranks")?;
        let confidences = backend.tensor(&[images], DType::F32, "confidences")?;
        let losses = backend.tensor(&[images], DType::F32, "losses")?;
        let passes = Passes::new(backend, store, feed, &look, &|r, seen| {
            let results = [ranks, confidences, losses].map(|t| r.tape.external(t));
            let features = model.record_features(r, seen.images)?;
            let (logits, scale) = model.record_classifier(r, head, features)?;
            classify(&mut r.tape, backend, (&logits, scale), seen.labels, seen.vars, results)?;
            Ok(if answers { logits } else { Vec::new() })
        })?;
        let reader = AnswerReader::new(model, head, look.views(), false)?;
        Ok(Evaluator { passes, ranks, confidences, losses, groups, reader })
    }

    /// Evaluates the parameters as they are now.
    pub fn run(&self, backend: &dyn Backend, feed: &Feed<'_>) -> Result<Evaluation> {
        self.run_with(backend, feed, &mut |_, _| Ok(()))
    }

    /// As [`Evaluator::run`]; where answers were asked for, `each` is given every image's.
    ///
    /// # Errors
    /// Those of `each`; or the images cannot be read, or the device fails.
    pub fn run_with(
        &self,
        backend: &dyn Backend,
        feed: &Feed<'_>,
        each: &mut dyn FnMut(usize, &Answer<'_>) -> Result<()>,
    ) -> Result<Evaluation> {
        self.passes.run(backend, feed, &mut |images, kept| self.reader.read(images, kept, each))?;
        let images = feed.images().len();
        let mut ranks = vec![0i32; images];
        let (mut confidences, mut losses) = (vec![0f32; images], vec![0f32; images]);
        backend.download(self.ranks, bytemuck::cast_slice_mut(&mut ranks))?;
        backend.download(self.confidences, bytemuck::cast_slice_mut(&mut confidences))?;
        backend.download(self.losses, bytemuck::cast_slice_mut(&mut losses))?;
        let guesses = Guesses { ranks: &ranks, confidences: &confidences, losses: &losses };
        Ok(Evaluation::tally(guesses, feed.images().labels, &self.groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_by_class_group_and_confidence() {
        let groups = [Shot::Many, Shot::Few];
        let (ranks, confidences) = (&[0, 1, 0, 7], &[1.0, 0.5, 0.5, 0.25]);
        let losses = &[0.0, 1.0, 0.5, 2.5];
        let evaluation = Evaluation::tally(Guesses { ranks, confidences, losses }, &[0, 0, 1, 1], &groups);
        assert_eq!((evaluation.top1, evaluation.top5), (50.0, 75.0));
        assert_eq!((evaluation.many, evaluation.medium, evaluation.few), (Some(50.0), None, Some(50.0)));
        assert_eq!(evaluation.per_class, [Some(50.0), Some(50.0)]);
        assert_eq!((evaluation.balanced, evaluation.nll), (Some(50.0), Some(1.0)));
        // (1 + 0.5) / 2 - (0.5 + 0.25) / 2.
        assert_eq!(evaluation.confidence_gap, Some(37.5));
        // Bin of 1.0: right and sure, no gap. Bin of 0.5: two images, one right, 1.0 of confidence: no gap. Bin of 0.25: 0.25.
        assert!((evaluation.ece - 100.0 * 0.25 / 4.0).abs() < 1e-9);
    }

    #[test]
    fn classes_count_alike_in_balanced_accuracy_and_groups() {
        let guesses = Guesses { ranks: &[0, 0, 0, 1, 0], confidences: &[0.5; 5], losses: &[f32::NAN; 5] };
        let evaluation = Evaluation::tally(guesses, &[0, 0, 0, 0, 1], &[Shot::Many; 3]);
        assert_eq!(evaluation.top1, 80.0);
        // 3 of 4, 1 of 1, and a class that the test set has none of.
        assert_eq!((evaluation.balanced, evaluation.many), (Some(87.5), Some(87.5)));
        assert_eq!(evaluation.per_class, [Some(75.0), Some(100.0), None]);
        assert_eq!((evaluation.nll, evaluation.confidence_gap), (None, None));
    }

    #[test]
    fn figures_that_older_lines_lack_stay_absent() {
        let old =
            r#"{"top1":50.0,"top5":75.0,"many":50.0,"medium":null,"few":50.0,"ece":1.5,"per_class":[null],"images":2}"#;
        let read: Evaluation = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "the digest of a line is of its text");
    }
}
