//! What can be done to a classifier after training, without a gradient: tau-normalisation and nearest class means (Kang et al.,
//! "Decoupling representation and classifier for long-tailed recognition", ICLR 2020), logit adjustment (Menon et al.,
//! "Long-tail learning via logit adjustment", ICLR 2021, section 4.1), and MaxNorm once (Alshammari et al., "Long-tailed
//! recognition via weight balancing", CVPR 2022). On the host, in double, on cached features.

use rayon::prelude::*;

use super::checkpoint::Checkpoint;
use super::evaluate::{Evaluation, Guesses};
use super::features::Features;
use crate::data::shots::Shot;
use crate::error::{Error, Result};
use crate::nn::HeadShape;
use crate::nn::model::HeadSpec;

/// A classifier on the host: of features x, its logits are `scale (W x + b)`, where x may be normalised first.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// (classes, width).
    weight: Vec<f64>,
    /// (classes).
    bias: Vec<f64>,
    /// S, by which the loss and evaluation multiply the logits.
    scale: f64,
    /// Whether features have norm 1: of cosine heads and nearest means.
    normalised: bool,
}

/// A change of a classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// `w_c / |w_c|^tau`, and no bias unless it is kept.
    TauNorm { tau: f64, keep_bias: bool },
    /// `z - tau log pi`, for class frequencies pi.
    LogitAdjust { tau: f64 },
    /// Rows no longer than `min + t (max - min)` of their norms.
    MaxNorm { t: f64 },
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A row of length 1; one of zeros stays.
fn normalise(row: &mut [f64]) {
    let norm = norm(row);
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v /= norm);
    }
}

impl Classifier {
    /// The classifier of a checkpoint's head, of `classes` classes on `width` features. Learned scales are multiplied in.
    ///
    /// # Errors
    /// When the checkpoint lacks a tensor of it.
    pub fn of(checkpoint: &Checkpoint, head: &HeadSpec, classes: usize, width: usize) -> Result<Classifier> {
        let tensor = |what: &str, shape: &[usize]| checkpoint.tensor(&format!("{}.{what}", head.name), shape);
        let mut weight = tensor("weight", &[classes, width])?.to_vec();
        let mut bias = match head.shape {
            HeadShape::Cosine => vec![0.0; classes],
            HeadShape::Linear | HeadShape::Scaled => tensor("bias", &[classes])?.to_vec(),
        };
        match head.shape {
            HeadShape::Linear => {}
            HeadShape::Cosine => weight.chunks_exact_mut(width).for_each(normalise),
            HeadShape::Scaled => {
                let rows = weight.chunks_exact_mut(width).zip(&mut bias);
                for ((row, bias), &scale) in rows.zip(tensor("scales", &[classes])?) {
                    row.iter_mut().chain([bias]).for_each(|v| *v *= scale);
                }
            }
        }
        let (scale, normalised) = (f64::from(head.eval_scale), head.shape == HeadShape::Cosine);
        Ok(Classifier { weight, bias, scale, normalised })
    }

    /// Nearest class means: of an image's features, as of the training images', each of norm 1. The nearest by Euclid's distance
    /// is the largest of `m_c . x - |m_c|^2 / 2`.
    ///
    /// # Errors
    /// When a class has no training image.
    pub fn nearest_means(train: &Features, labels: &[i32], classes: usize) -> Result<Classifier> {
        let width = train.width();
        let (mut weight, mut counts) = (vec![0.0; classes * width], vec![0usize; classes]);
        for (image, &label) in train.images().zip(labels) {
            let class = label as usize;
            for row in image.chunks_exact(width) {
                let mut row = row.to_vec();
                normalise(&mut row);
                weight[class * width..][..width].iter_mut().zip(&row).for_each(|(sum, v)| *sum += v);
                counts[class] += 1;
            }
        }
        if let Some(class) = counts.iter().position(|&count| count == 0) {
            return Err(Error::Config(format!("class {class} has no training images, and so no mean")));
        }
        let rows = weight.chunks_exact_mut(width.max(1));
        let bias = rows.zip(&counts).map(|(row, &count)| {
            row.iter_mut().for_each(|v| *v /= count as f64);
            -0.5 * row.iter().map(|v| v * v).sum::<f64>()
        });
        let bias = bias.collect();
        Ok(Classifier { weight, bias, scale: 1.0, normalised: true })
    }

    fn width(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }

    /// This classifier, changed; `counts` are the training images of each class.
    ///
    /// # Errors
    /// When the change means nothing to it.
    pub fn changed(&self, change: Change, counts: &[usize]) -> Result<Classifier> {
        let width = self.width();
        let mut changed = self.clone();
        if self.normalised && !matches!(change, Change::LogitAdjust { .. }) {
            let what =
                "the rows of a cosine head are normalised whatever their norms: tau-norm and MaxNorm change nothing";
            return Err(Error::Config(what.into()));
        }
        match change {
            Change::TauNorm { tau, keep_bias } => {
                for row in changed.weight.chunks_exact_mut(width) {
                    let norm = norm(row);
                    if norm > 0.0 {
                        row.iter_mut().for_each(|v| *v /= norm.powf(tau));
                    }
                }
                if !keep_bias {
                    changed.bias.fill(0.0);
                }
            }
            Change::LogitAdjust { tau } => {
                let all = counts.iter().sum::<usize>() as f64;
                for (bias, &count) in changed.bias.iter_mut().zip(counts) {
                    *bias -= tau * (count as f64 / all).ln() / self.scale;
                }
            }
            Change::MaxNorm { t } => {
                let norms: Vec<f64> = self.weight.chunks_exact(width).map(norm).collect();
                let least = norms.iter().copied().fold(f64::INFINITY, f64::min);
                let most = norms.iter().copied().fold(0.0, f64::max);
                // So that t = 1 is the largest norm itself, not rounded.
                let limit = if t >= 1.0 { most } else { least + t * (most - least) };
                for (row, norm) in changed.weight.chunks_exact_mut(width).zip(norms) {
                    if norm > limit {
                        row.iter_mut().for_each(|v| *v *= limit / norm);
                    }
                }
            }
        }
        Ok(changed)
    }

    /// The logits of an image whose features are `views` rows: their mean over the views.
    fn logits(&self, image: &[f64]) -> Vec<f64> {
        let width = self.width();
        let mut logits = vec![0.0; self.bias.len()];
        let views = image.len() / width;
        for row in image.chunks_exact(width) {
            let mut row = row.to_vec();
            if self.normalised {
                normalise(&mut row);
            }
            let each = logits.iter_mut().zip(self.weight.chunks_exact(width)).zip(&self.bias);
            for ((logit, weight), bias) in each {
                let product: f64 = weight.iter().zip(&row).map(|(w, x)| w * x).sum();
                *logit += self.scale * (product + bias) / views as f64;
            }
        }
        logits
    }

    /// What it reaches on images with these features and labels; `groups` says each class's shots.
    pub fn evaluate(&self, features: &Features, labels: &[i32], groups: &[Shot]) -> Evaluation {
        let images: Vec<(&[f64], i32)> = features.images().zip(labels.iter().copied()).collect();
        let guesses = images.into_par_iter().map(|(image, label)| {
            let logits = self.logits(image);
            let own = logits[label as usize];
            let ahead = |&(class, &v): &(usize, &f64)| v > own || (v == own && class < label as usize);
            let rank = logits.iter().enumerate().filter(ahead).count() as i32;
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
            (rank, (sum.recip() as f32, (sum.ln() + largest - own) as f32))
        });
        let (ranks, (confidences, losses)): (Vec<i32>, (Vec<f32>, Vec<f32>)) = guesses.unzip();
        Evaluation::tally(Guesses { ranks: &ranks, confidences: &confidences, losses: &losses }, labels, groups)
    }

    /// Its tensors as a head of that shape stores them, by the names of its parameters.
    ///
    /// # Errors
    /// When such a head has no place for a bias that this classifier has.
    pub fn tensors(&self, head: &HeadSpec) -> Result<Vec<(String, Vec<f64>)>> {
        let named = |what: &str, values: Vec<f64>| (format!("{}.{what}", head.name), values);
        let mut tensors = vec![named("weight", self.weight.clone())];
        match head.shape {
            HeadShape::Cosine if self.bias.iter().any(|&bias| bias != 0.0) => {
                let what = "a cosine head has no bias that could hold the adjustment: it cannot be saved";
                return Err(Error::Config(format!("{}: {what}", head.name)));
            }
            HeadShape::Cosine => {}
            HeadShape::Linear => tensors.push(named("bias", self.bias.clone())),
            HeadShape::Scaled => {
                tensors.push(named("bias", self.bias.clone()));
                tensors.push(named("scales", vec![1.0; self.bias.len()]));
            }
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of norms 1, 2 and 3.
    fn classifier() -> Classifier {
        let weight = vec![1.0, 0.0, 0.0, 2.0, 1.8, -2.4];
        Classifier { weight, bias: vec![0.5, -1.0, 2.0], scale: 1.0, normalised: false }
    }

    const COUNTS: [usize; 3] = [70, 20, 10];

    fn changed(change: Change) -> Classifier {
        classifier().changed(change, &COUNTS).unwrap()
    }

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        found.iter().zip(wanted).for_each(|(f, w)| assert!((f - w).abs() < 1e-12, "{found:?} is not {wanted:?}"));
    }

    #[test]
    fn what_changes_nothing_changes_nothing() {
        let original = classifier();
        let bare = Classifier { bias: vec![0.0; 3], ..original.clone() };
        assert_eq!(changed(Change::TauNorm { tau: 0.0, keep_bias: false }), bare);
        assert_eq!(changed(Change::TauNorm { tau: 0.0, keep_bias: true }), original);
        assert_eq!(changed(Change::MaxNorm { t: 1.0 }), original);
        assert_eq!(changed(Change::LogitAdjust { tau: 0.0 }), original);
        // Counts ten times as large have the same frequencies; a constant added to log pi moves all logits alike.
        let tau = Change::LogitAdjust { tau: 1.3 };
        close(&original.changed(tau, &COUNTS.map(|n| 10 * n)).unwrap().bias, &changed(tau).bias);
        let by_counts: Vec<f64> = original.bias.iter().zip(COUNTS).map(|(b, n)| b - 1.3 * (n as f64).ln()).collect();
        let moved: Vec<f64> = by_counts.iter().zip(&changed(tau).bias).map(|(a, b)| a - b).collect();
        close(&moved, &[moved[0]; 3]);
    }

    #[test]
    fn changes_are_those_of_the_papers() {
        close(&changed(Change::TauNorm { tau: 1.0, keep_bias: false }).weight, &[1.0, 0.0, 0.0, 1.0, 0.6, -0.8]);
        let half = changed(Change::TauNorm { tau: 0.5, keep_bias: true });
        let root = 3f64.sqrt();
        close(&half.weight, &[1.0, 0.0, 0.0, 2f64.sqrt(), 0.6 * root, -0.8 * root]);
        assert_eq!(half.bias, classifier().bias);
        // Limit 1.2 for norms of 1, 2 and 3.
        close(&changed(Change::MaxNorm { t: 0.1 }).weight, &[1.0, 0.0, 0.0, 1.2, 0.72, -0.96]);
        let adjusted = changed(Change::LogitAdjust { tau: 2.0 });
        close(&adjusted.bias, &[0.5 - 2.0 * 0.7f64.ln(), -1.0 - 2.0 * 0.2f64.ln(), 2.0 - 2.0 * 0.1f64.ln()]);
        // Two views: the mean of their logits.
        close(&classifier().logits(&[1.0, 2.0, 3.0, -2.0]), &[2.5, -1.0, 5.6]);
    }

    #[test]
    fn a_cosine_head_is_adjusted_but_not_rescaled() {
        let cosine =
            Classifier { scale: 30.0, normalised: true, weight: vec![1.0, 0.0, 0.0, 1.0, 0.6, -0.8], ..classifier() };
        let cosine = Classifier { bias: vec![0.0; 3], ..cosine };
        let adjusted = cosine.changed(Change::LogitAdjust { tau: 1.0 }, &COUNTS).unwrap();
        let (before, after) = (cosine.logits(&[3.0, 4.0]), adjusted.logits(&[3.0, 4.0]));
        close(&before, &[18.0, 24.0, 30.0 * (0.36 - 0.64)]);
        close(&after, &[18.0 - 0.7f64.ln(), 24.0 - 0.2f64.ln(), 30.0 * (0.36 - 0.64) - 0.1f64.ln()]);
        for change in [Change::TauNorm { tau: 1.0, keep_bias: false }, Change::MaxNorm { t: 0.1 }] {
            assert!(cosine.changed(change, &COUNTS).unwrap_err().to_string().contains("cosine"));
        }
    }

    #[test]
    fn the_nearest_mean_wins() {
        let rows = |values: &[f64]| Features::given(values.to_vec(), 1, 2);
        let train = rows(&[1.0, 0.0, 5.0, 0.0, 0.0, 2.0, 3.0, 4.0]);
        let means = Classifier::nearest_means(&train, &[0, 0, 1, 1], 2).unwrap();
        close(&means.weight, &[1.0, 0.0, 0.3, 0.9]);
        // Distances of (0.8, 0.6): 0.4 and 0.34; of (1, 0): 0 and 1.3.
        let found = means.evaluate(&rows(&[8.0, 6.0, 1.0, 0.0]), &[1, 0], &[Shot::Many, Shot::Few]);
        assert_eq!(found.top1, 100.0);
        assert!(Classifier::nearest_means(&train, &[0, 0, 1, 1], 3).unwrap_err().to_string().contains("class 2"));
    }

    #[test]
    fn figures_by_hand() {
        let images = Features::given(vec![1.0, 0.0, 0.0, 1.0], 1, 2);
        // Logits (1.5, -1, 3.8) of class 2, and (0.5, 1, -0.4) of class 0.
        let found = classifier().evaluate(&images, &[2, 0], &[Shot::Many, Shot::Medium, Shot::Few]);
        assert_eq!((found.top1, found.many, found.few), (50.0, Some(0.0), Some(100.0)));
        let softmax = |z: [f64; 3], c: usize| z[c].exp() / z.iter().map(|z| z.exp()).sum::<f64>();
        let nll = -(softmax([1.5, -1.0, 3.8], 2).ln() + softmax([0.5, 1.0, -0.4], 0).ln()) / 2.0;
        assert!((found.nll.unwrap() - nll).abs() < 1e-6);
        let gap = 100.0 * (softmax([0.5, 1.0, -0.4], 1) - softmax([1.5, -1.0, 3.8], 2));
        assert!((found.confidence_gap.unwrap() - gap).abs() < 1e-4);
    }
}
