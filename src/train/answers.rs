//! A classifier's answers about single images, from the logits that passes over them kept.

use std::cmp::Ordering;
use std::ops::Range;

use super::passes::Kept;
use crate::error::Result;
use crate::nn::{HeadKind, Model};
use crate::tensor::DType;

/// A classifier's answer about one image.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// (classes): the mean over the image's views and over the heads.
    pub logits: &'a [f64],
    /// (width): the encoder's features, the mean over the views; empty where they are not kept.
    pub features: &'a [f64],
    /// Factor of the logits in the softmax.
    scale: f64,
}

/// A class, and its softmax probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    pub class: usize,
    pub probability: f32,
}

impl Answer<'_> {
    /// The `most` likely classes, or all where there are fewer. Of equal logits the lower class comes first, and NaN comes last, as
    /// evaluation ranks them.
    pub fn top(&self, most: usize) -> Vec<Guess> {
        let order = |&a: &usize, &b: &usize| {
            let (one, other) = (self.logits[a], self.logits[b]);
            let by_value = other.partial_cmp(&one).unwrap_or_else(|| one.is_nan().cmp(&other.is_nan()));
            if by_value == Ordering::Equal { a.cmp(&b) } else { by_value }
        };
        let mut classes: Vec<usize> = (0..self.logits.len()).collect();
        if most < classes.len() {
            classes.select_nth_unstable_by(most, order);
            classes.truncate(most);
        }
        classes.sort_unstable_by(order);
        let largest = self.logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let power = |logit: f64| (self.scale * (logit - largest)).exp();
        let sum: f64 = self.logits.iter().map(|&logit| power(logit)).sum();
        let guess = |class: usize| Guess { class, probability: (power(self.logits[class]) / sum) as f32 };
        classes.into_iter().map(guess).collect()
    }
}

/// Makes answers of what a recording kept: the logits of each head, and after them the features if it has these.
#[derive(Clone, Copy, Debug)]
pub struct AnswerReader {
    heads: usize,
    views: usize,
    scale: f64,
    features: bool,
}

impl AnswerReader {
    /// One of a classifier's logits, of so many views of each image.
    ///
    /// # Errors
    /// When the model lacks a head of it.
    pub fn new(model: &Model, classifier: HeadKind, views: usize, features: bool) -> Result<AnswerReader> {
        let heads = classifier.heads();
        let scale = model.eval_scale(heads[0].name())?;
        Ok(AnswerReader { heads: heads.len(), views, scale: scale.into(), features })
    }

    /// Gives `each` the answers about a step's images; of a step of which nothing was kept, none.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn read(
        &self,
        images: Range<usize>,
        kept: &[Kept],
        each: &mut dyn FnMut(usize, &Answer<'_>) -> Result<()>,
    ) -> Result<()> {
        if kept.is_empty() {
            return Ok(());
        }
        let (heads, features) = kept.split_at(self.heads);
        let (mut mean_logits, mut mean_features) = (Vec::new(), Vec::new());
        for (n, image) in images.clone().enumerate() {
            self.mean(heads, images.len(), n, &mut mean_logits);
            if self.features {
                self.mean(features, images.len(), n, &mut mean_features);
            }
            each(image, &Answer { logits: &mean_logits, features: &mean_features, scale: self.scale })?;
        }
        Ok(())
    }

    /// The mean of the rows of sample `n` of a batch, (views * batch, width) of each array: in the order and with the roundings of
    /// the op `classify`, so that both rank alike.
    fn mean(&self, arrays: &[Kept], batch: usize, n: usize, mean: &mut Vec<f64>) {
        let is_double = arrays.iter().all(|kept| kept.dtype == DType::F64);
        let round = |value: f64| if is_double { value } else { f64::from(value as f32) };
        let count = self.views * arrays.len();
        mean.clear();
        for kept in arrays {
            let width = kept.values.len() / (self.views * batch);
            mean.resize(width, 0.0);
            for row in kept.values.chunks_exact(width.max(1)).skip(n).step_by(batch) {
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum = round(*sum + value));
            }
        }
        if count > 1 {
            let share = round(1.0 / count as f64);
            mean.iter_mut().for_each(|sum| *sum = round(share * *sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(logits: &[f64], scale: f64, most: usize) -> Vec<(usize, f32)> {
        let answer = Answer { logits, features: &[], scale };
        answer.top(most).into_iter().map(|guess| (guess.class, guess.probability)).collect()
    }

    #[test]
    fn the_likeliest_come_first_and_of_equals_the_lower_class() {
        let third = (1.0f64 / (2.0 + 2.0 * (-1f64).exp())) as f32;
        let rest = ((-1f64).exp() / (2.0 + 2.0 * (-1f64).exp())) as f32;
        let all = [(1, third), (3, third), (0, rest), (2, rest)];
        assert_eq!(top(&[1.0, 2.0, 1.0, 2.0], 1.0, 4), all);
        assert_eq!(top(&[1.0, 2.0, 1.0, 2.0], 1.0, 9), all, "no more than there are");
        assert_eq!(top(&[1.0, 2.0, 1.0, 2.0], 1.0, 2), all[..2]);
        assert_eq!(top(&[0.1, 0.2], 10.0, 1), [(1, (1.0 / (1.0 + (-1f64).exp())) as f32)]);
        let classes: Vec<usize> =
            top(&[f64::NAN, -1.0, 3.0, f64::NAN], 1.0, 4).into_iter().map(|(class, _)| class).collect();
        assert_eq!(classes, [2, 1, 0, 3], "NaN is last");
    }

    #[test]
    fn rows_of_an_image_are_its_views_of_every_head() {
        let kept = |values: &[f64], dtype| Kept { values: values.to_vec(), dtype };
        // Two images, two views, two classes; two heads, and features of width 1.
        let heads = [
            kept(&[1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0], DType::F32),
            kept(&[5.0, 6.0, 50.0, 60.0, 7.0, 8.0, 70.0, 80.0], DType::F32),
            kept(&[0.5, 5.0, 1.5, 15.0], DType::F32),
        ];
        let reader = AnswerReader { heads: 2, views: 2, scale: 1.0, features: true };
        let mut found = Vec::new();
        let mut each = |image: usize, answer: &Answer<'_>| {
            found.push((image, answer.logits.to_vec(), answer.features.to_vec()));
            Ok(())
        };
        reader.read(7..9, &heads, &mut each).unwrap();
        assert_eq!(found, [(7, vec![4.0, 5.0], vec![1.0]), (8, vec![40.0, 50.0], vec![10.0])]);
        // In f32 a tenth and two tenths are added as f32, in f64 as f64.
        for (dtype, sum) in [(DType::F32, f64::from(0.1f32 + 0.2f32)), (DType::F64, 0.1 + 0.2)] {
            let reader = AnswerReader { heads: 1, views: 2, scale: 1.0, features: false };
            let (a, b) = if dtype == DType::F32 { (0.1f32.into(), 0.2f32.into()) } else { (0.1, 0.2) };
            let mut each = |_: usize, answer: &Answer<'_>| {
                assert_eq!(answer.logits, [0.5 * sum]);
                Ok(())
            };
            reader.read(0..1, &[kept(&[a, b], dtype)], &mut each).unwrap();
        }
    }
}
