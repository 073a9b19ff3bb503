//! What a run reports: a line an epoch in `metrics.jsonl`, and a final one.

use serde::{Deserialize, Serialize};

use super::evaluate::Evaluation;

/// One epoch's line. Accuracies are percentages; losses are means over the epoch's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// 0-based.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// The paper's alpha.
    pub alpha: f64,
    /// Total loss.
    pub loss: f64,
    /// Conventional classifier's loss.
    pub loss_c: f64,
    /// Rebalanced classifier's loss.
    pub loss_cb: f64,
    /// Similarity loss.
    pub loss_sim: f64,
    /// What the epoch's model reaches on the test images; its figures stand beside the others in the line.
    #[serde(flatten)]
    pub test: Evaluation,
    /// Seconds of training, evaluation not counted.
    pub seconds: f64,
    /// Training samples a second (a sample is an original; GLMC sees two views of it).
    pub samples_per_second: f64,
}

/// Mean losses of an epoch: L_c, L_cb, L_sim, total.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses(pub [f64; 4]);

impl Losses {
    /// Means of a log of four losses a step, each weighted by the samples of its step.
    pub fn mean(log: &[f64], samples: impl Iterator<Item = usize>) -> Losses {
        let mut sums = [0.0; 4];
        let mut count = 0.0;
        for (row, samples) in log.chunks_exact(4).zip(samples) {
            count += samples as f64;
            for (sum, loss) in sums.iter_mut().zip(row) {
                *sum += loss * samples as f64;
            }
        }
        Losses(sums.map(|sum| sum / f64::max(count, 1.0)))
    }
}

impl EpochMetrics {
    /// The line of an epoch.
    pub fn new(
        epoch: usize,
        (lr, alpha): (f64, f64),
        losses: Losses,
        test: Evaluation,
        (seconds, samples): (f64, usize),
    ) -> EpochMetrics {
        let [loss_c, loss_cb, loss_sim, loss] = losses.0;
        EpochMetrics {
            epoch,
            lr,
            alpha,
            loss,
            loss_c,
            loss_cb,
            loss_sim,
            test,
            seconds,
            samples_per_second: samples as f64 / seconds.max(1e-9),
        }
    }
}

/// The last line of a finished run.
#[derive(Clone, Debug, Serialize)]
pub struct FinalMetrics<'a> {
    /// True: tells this line from an epoch's.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The last epoch.
    pub last: &'a EpochMetrics,
    /// The first epoch with the highest top-1.
    pub best: &'a EpochMetrics,
    /// Most bytes ever allocated on the device.
    pub peak_bytes: usize,
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

    #[test]
    fn losses_are_weighted_by_samples() {
        let log = [1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0];
        assert_eq!(Losses::mean(&log, [3, 1].into_iter()).0, [1.25, 2.5, 3.75, 5.0]);
    }
}
