//! What changes from epoch to epoch: the learning rate and alpha.

use std::f64::consts::PI;

/// Learning rate of 0-based epoch `epoch` of `epochs`: linear warm-up over the first `warmup` epochs, then half a
/// cosine to 0 (`torch.optim.lr_scheduler.CosineAnnealingLR` stepped once per epoch).
pub fn learning_rate(base: f64, epoch: usize, epochs: usize, warmup: usize) -> f64 {
    if epoch < warmup {
        return base * (epoch + 1) as f64 / warmup as f64;
    }
    let progress = (epoch - warmup) as f64 / (epochs - warmup).max(1) as f64;
    base * 0.5 * (1.0 + (PI * progress).cos())
}

/// `alpha = 1 - (T/Tmax)^2` (GLMC paper, section 3): from the conventional classifier to the rebalanced one.
pub fn alpha(epoch: usize, epochs: usize) -> f64 {
    1.0 - (epoch as f64 / epochs as f64).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_without_warm_up() {
        assert_eq!(learning_rate(0.1, 0, 200, 0), 0.1);
        assert!((learning_rate(0.1, 100, 200, 0) - 0.05).abs() < 1e-12);
        assert!(learning_rate(0.1, 199, 200, 0) < 1e-4);
    }

    #[test]
    fn warm_up_rises_to_the_base() {
        assert!((learning_rate(0.1, 0, 135, 10) - 0.01).abs() < 1e-12);
        assert_eq!(learning_rate(0.1, 9, 135, 10), 0.1);
        assert_eq!(learning_rate(0.1, 10, 135, 10), 0.1);
    }

    #[test]
    fn alpha_falls_from_one() {
        assert_eq!(alpha(0, 200), 1.0);
        assert_eq!(alpha(100, 200), 0.75);
    }
}
