//! Partners, lambda and the CutMix box of a step.

use rand_distr::{Beta, Distribution};

use crate::error::{Error, Result};
use crate::rng::philox::{self, Stream};

/// Rows `rows.0..rows.1` and columns `columns.0..columns.1` that CutMix takes from the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutBox {
    /// First row, and the row after the last.
    pub rows: (usize, usize),
    /// First column, and the column after the last.
    pub columns: (usize, usize),
}

impl CutBox {
    /// Pixels in the box.
    pub fn area(&self) -> usize {
        (self.rows.1 - self.rows.0) * (self.columns.1 - self.columns.0)
    }
}

/// Draws `lambda ~ Beta(beta, beta)`.
///
/// # Errors
/// When beta is not a positive number.
pub fn draw_lambda(beta: f64, words: &mut Stream) -> Result<f64> {
    if beta == 1.0 {
        return Ok(words.unit());
    }
    let distribution = Beta::new(beta, beta)
        .map_err(|e| Error::Config(format!("beta {beta}: {e}; it must be a positive number (published: 1)")))?;
    Ok(distribution.sample(words))
}

/// Draws the CutMix box for `lambda` in an image of `height` x `width` pixels (Yun et al. 2019, `rand_bbox`): side
/// ratio sqrt(1 - lambda), extents rounded up, centre uniform over the pixels, clipped at the border.
pub fn draw_box(lambda: f64, height: usize, width: usize, words: &mut Stream) -> CutBox {
    let ratio = (1.0 - lambda).max(0.0).sqrt();
    let mut span = |side: usize| {
        let cut = (side as f64 * ratio).ceil() as i64;
        let centre = i64::from(philox::below(words.word(), side as u32));
        let clip = |at: i64| at.clamp(0, side as i64) as usize;
        (clip(centre - cut / 2), clip(centre + cut / 2))
    };
    let rows = span(height);
    CutBox { rows, columns: span(width) }
}

/// Draws partners: an image of class c with probability proportional to `n_c^(-q)`. q = 0 is instance-balanced, 1
/// class-balanced, 2 reversed.
#[derive(Clone, Debug)]
pub struct PartnerSampler {
    /// Images of each class.
    members: Vec<Vec<u32>>,
    /// Probability of each class and all before it.
    cumulative: Vec<f64>,
    /// The last class that has images.
    last: usize,
}

impl PartnerSampler {
    /// A sampler over the images with these labels.
    ///
    /// # Errors
    /// When q is not a finite number, or there are no images.
    pub fn new(labels: &[i32], classes: usize, q: f64) -> Result<PartnerSampler> {
        if !q.is_finite() {
            return Err(Error::Config(format!("resample {q} is not a finite number (published: 0 or 0.2)")));
        }
        let mut members = vec![Vec::new(); classes];
        for (image, &label) in labels.iter().enumerate() {
            members[label as usize].push(image as u32);
        }
        let weights: Vec<f64> =
            members.iter().map(|m| if m.is_empty() { 0.0 } else { (m.len() as f64).powf(1.0 - q) }).collect();
        let total: f64 = weights.iter().sum();
        let cumulative = weights
            .iter()
            .scan(0.0, |sum, w| {
                *sum += w / total;
                Some(*sum)
            })
            .collect();
        let last = members
            .iter()
            .rposition(|m| !m.is_empty())
            .ok_or_else(|| Error::Config("no images to draw partners from".into()))?;
        Ok(PartnerSampler { members, cumulative, last })
    }

    /// Draws one image.
    pub fn draw(&self, words: &mut Stream) -> u32 {
        let at = words.unit();
        // Rounding may leave the last sum a little under 1. Empty classes add nothing to the sums, so that the first sum
        // above `at` always belongs to a class with images.
        let class = self.cumulative.partition_point(|&c| c <= at).min(self.last);
        let members = &self.members[class];
        members[philox::below(words.word(), members.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::philox::Purpose;

    #[test]
    fn partners_follow_the_exponent() {
        // 90 images of class 0, 10 of class 1: q = 0 keeps 9:1, q = 1 makes 1:1, q = 2 turns it to 1:9.
        let labels: Vec<i32> = (0..100).map(|i| i32::from(i >= 90)).collect();
        for (q, expected) in [(0.0, 0.1), (1.0, 0.5), (2.0, 0.9)] {
            let sampler = PartnerSampler::new(&labels, 2, q).unwrap();
            let mut words = Stream::new(5, 0, 0, Purpose::Partner);
            let draws = 20_000;
            let tail = (0..draws).filter(|_| sampler.draw(&mut words) >= 90).count();
            assert!((tail as f64 / f64::from(draws) - expected).abs() < 0.015, "q {q}: {tail}");
        }
    }

    #[test]
    fn boxes_have_the_published_extents() {
        let mut words = Stream::new(1, 0, 0, Purpose::Box);
        for step in 0..1000 {
            let lambda = f64::from(step) / 1000.0;
            let cut = draw_box(lambda, 32, 20, &mut words);
            assert!(cut.rows.1 <= 32 && cut.columns.1 <= 20 && cut.rows.0 <= cut.rows.1);
            let side = (32.0 * (1.0 - lambda).sqrt()).ceil() as usize;
            assert!(cut.rows.1 - cut.rows.0 <= side);
        }
        assert_eq!(draw_box(1.0, 32, 32, &mut words).area(), 0);
    }

    #[test]
    fn beta_draws_are_symmetric() {
        let mut words = Stream::new(3, 0, 0, Purpose::Lambda);
        for beta in [0.5, 1.0, 4.0] {
            let mean = (0..4000).map(|_| draw_lambda(beta, &mut words).unwrap()).sum::<f64>() / 4000.0;
            assert!((mean - 0.5).abs() < 0.03, "beta {beta}: mean {mean}");
        }
        assert!(draw_lambda(-1.0, &mut words).is_err());
    }
}
