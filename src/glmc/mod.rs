//! The method: who is mixed with whom and how, what the labels weigh, and the three losses.
//!
//! GLMC: Du, Yang, Cheung, Wang, "Global and Local Mixture Consistency Cumulative Learning for Long-tailed Visual
//! Recognitions", CVPR 2023, arXiv 2305.08661. Where the paper and its published code differ, the code's way is the default
//! and a setting gives the paper's.

pub mod mixing;
pub mod objective;
pub mod plan;
pub mod schedule;

pub use mixing::{CutBox, PartnerSampler, draw_box, draw_lambda};
pub use objective::{Objective, record_objective};
pub use plan::{EpochPlan, PlanConfig};

/// Class weights `w_c = C (1/n_c)^k / sum_c (1/n_c)^k` (GLMC paper, section 3), from training images per class.
pub fn class_weights(counts: &[u64], k: f64) -> Vec<f64> {
    let raw: Vec<f64> = counts.iter().map(|&n| (1.0 / n as f64).powf(k)).collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|w| counts.len() as f64 * w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::class_weights;

    #[test]
    fn weights_average_one_and_follow_the_exponent() {
        let w = class_weights(&[100, 10, 1], 1.0);
        assert!((w.iter().sum::<f64>() - 3.0).abs() < 1e-12);
        assert!((w[1] / w[0] - 10.0).abs() < 1e-9 && (w[2] / w[1] - 10.0).abs() < 1e-9);
        assert_eq!(class_weights(&[7, 3], 0.0), [1.0, 1.0]);
    }
}
