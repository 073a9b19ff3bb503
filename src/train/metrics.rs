//! What a run reports: one line per epoch in `metrics.jsonl`, and the outcome in `result.json`.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::evaluate::Evaluation;
use crate::config::Select;
use crate::ops::total_loss::{LOSS_COLUMNS, TOTAL};

/// One epoch's line. Accuracies are percentages; losses are means over the epoch's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Counted from 1.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// The paper's alpha, or what a recipe has in its place.
    pub alpha: f64,
    /// Total loss.
    pub loss: f64,
    /// The method's losses: `loss_c`, `loss_cb` and `loss_sim` for GLMC.
    #[serde(flatten)]
    pub losses: LossTerms,
    /// What the epoch's model reaches on the test images; its figures stand beside the others in the line.
    #[serde(flatten)]
    pub test: Evaluation,
    /// What it reaches on the validation images, where the store has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<Evaluation>,
    /// Seconds of training, evaluation not counted.
    pub seconds: f64,
    /// Training samples per second (a sample is an original; GLMC sees two views of it).
    pub samples_per_second: f64,
}

/// The terms of a loss by the method's names for them; in JSON `loss_NAME`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossTerms(pub Vec<(String, f64)>);

const PREFIX: &str = "loss_";

impl Serialize for LossTerms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, loss)| (format!("{PREFIX}{name}"), loss)))
    }
}

impl<'de> Deserialize<'de> for LossTerms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LossTerms, D::Error> {
        struct Terms;
        impl<'de> Visitor<'de> for Terms {
            type Value = LossTerms;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an epoch's metrics")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LossTerms, A::Error> {
                let mut terms = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    match key.strip_prefix(PREFIX) {
                        Some(name) => terms.push((name.to_string(), map.next_value()?)),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(LossTerms(terms))
            }
        }
        deserializer.deserialize_map(Terms)
    }
}

/// Means of a log with [`LOSS_COLUMNS`] losses per step, each weighted by the samples of its step.
pub fn mean_losses(log: &[f64], samples: impl Iterator<Item = usize>) -> [f64; LOSS_COLUMNS] {
    let mut sums = [0.0; LOSS_COLUMNS];
    let mut count = 0.0;
    for (row, samples) in log.chunks_exact(LOSS_COLUMNS).zip(samples) {
        count += samples as f64;
        for (sum, loss) in sums.iter_mut().zip(row) {
            *sum += loss * samples as f64;
        }
    }
    sums.map(|sum| sum / f64::max(count, 1.0))
}

impl EpochMetrics {
    /// The line of an epoch.
    pub fn new(
        epoch: usize,
        (lr, alpha): (f64, f64),
        (names, losses): (&[(&str, usize)], [f64; LOSS_COLUMNS]),
        (test, val): (Evaluation, Option<Evaluation>),
        (seconds, samples): (f64, usize),
    ) -> EpochMetrics {
        let terms = names.iter().map(|&(name, column)| (name.to_string(), losses[column]));
        EpochMetrics {
            epoch,
            lr,
            alpha,
            loss: losses[TOTAL],
            losses: LossTerms(terms.collect()),
            test,
            val,
            seconds,
            samples_per_second: samples as f64 / seconds.max(1e-9),
        }
    }

    /// The top-1 by which the best epoch is chosen.
    pub fn selecting(&self, select: Select) -> f64 {
        match (select, &self.val) {
            (Select::Val, Some(val)) => val.top1,
            _ => self.test.top1,
        }
    }
}

/// The outcome of a finished run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome<'a> {
    /// The last epoch.
    pub last: &'a EpochMetrics,
    /// The first epoch with the highest top-1 on the images of `select`.
    pub best: &'a EpochMetrics,
    /// What the best epoch was chosen on.
    pub select: Select,
    /// Most bytes ever allocated on the device.
    pub peak_bytes: usize,
    /// Seconds of this process in which the device had nothing to do but wait for images; on a CPU, which reads them between
    /// its steps, those that this took.
    pub waited_for_images_seconds: f64,
}

/// Identifies the metrics of these epochs. Times are left out: they differ between a run and its repeat.
pub fn digest(epochs: &[EpochMetrics]) -> String {
    let mut hasher = blake3::Hasher::new();
    for metrics in epochs {
        let timeless = EpochMetrics { seconds: 0.0, samples_per_second: 0.0, ..metrics.clone() };
        // Numbers and a list of numbers: there is always a JSON form.
        hasher.update(serde_json::to_string(&timeless).expect("metrics have a JSON form").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::evaluate::Guesses;

    #[test]
    fn losses_are_weighted_by_samples() {
        let log = [1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0];
        assert_eq!(mean_losses(&log, [3, 1].into_iter()), [1.25, 2.5, 3.75, 5.0]);
    }

    #[test]
    fn terms_are_named_by_their_losses_and_survive_their_line() {
        let guesses = Guesses { ranks: &[0], confidences: &[1.0], losses: &[0.0] };
        let test = Evaluation::tally(guesses, &[0], &[crate::data::Shot::Many]);
        for (names, expected) in [
            (&[("c", 0), ("cb", 1), ("sim", 2)][..], "\"loss\":4.0,\"loss_c\":1.0,\"loss_cb\":2.0,\"loss_sim\":3.0,"),
            (&[("c", 0), ("sim", 2)], "\"loss\":4.0,\"loss_c\":1.0,\"loss_sim\":3.0,"),
            (&[("c", 0)], "\"loss\":4.0,\"loss_c\":1.0,\"top1\""),
        ] {
            let losses = (names, [1.0, 2.0, 3.0, 4.0]);
            let metrics = EpochMetrics::new(0, (0.1, 1.0), losses, (test.clone(), Some(test.clone())), (1.0, 1));
            let line = serde_json::to_string(&metrics).unwrap();
            assert!(line.contains(expected), "{line}");
            assert_eq!(serde_json::from_str::<EpochMetrics>(&line).unwrap(), metrics);
        }
    }
}
