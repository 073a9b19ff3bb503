//! Lambda, the CutMix box and the labels' shares of a step.

use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

use super::schedule::{Coefficient, Course};
use crate::error::{Error, Result};
use crate::rng::philox::{self, Stream};

/// How the views of a step are mixed: one lambda and one box per step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// lambda ~ Beta(beta, beta).
    pub beta: f64,
    /// The share of steps that mix; the others take their originals as they are.
    pub p: f64,
    /// Finished epochs from which, and before which, steps mix at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<[usize; 2]>,
    /// The original's share of the label.
    pub share: Share,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { beta: 1.0, p: 1.0, epochs: None, share: Share::Lambda }
    }
}

/// The original's share of a mixed label; the partner has the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Share {
    /// lambda.
    #[default]
    Lambda,
    /// 1 less the box's share of the image, clipped at the border (CutMix).
    Area,
    /// Remix (Chou et al., 2020): of classes with n_i and n_j images, 0 if `n_i/n_j >= kappa` and `lambda < tau`; 1 if
    /// `n_i/n_j <= 1/kappa` and `1 - lambda < tau`; else lambda.
    Remix {
        /// Published: 3.
        kappa: f64,
        /// Published: 0.5.
        tau: f64,
    },
    /// What this course is in the epoch, for all samples.
    Course {
        /// Published for BBN: parabola.
        course: Course,
    },
}

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

/// One step's mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    /// The original's share of MixUp's pixels.
    pub lambda: f32,
    /// What CutMix takes from the partner.
    pub cut: CutBox,
}

impl Mixture {
    /// The originals as they are.
    pub const NONE: Mixture = Mixture { lambda: 1.0, cut: CutBox { rows: (0, 0), columns: (0, 0) } };

    /// The original's share of a sample's label, in images of `pixels` pixels, for classes of `n_i` and `n_j` training
    /// images, in 0-based epoch `epoch` of `epochs`.
    pub fn share(&self, share: Share, pixels: usize, [n_i, n_j]: [usize; 2], [epoch, epochs]: [usize; 2]) -> f32 {
        match share {
            Share::Lambda => self.lambda,
            Share::Course { course } => Coefficient { course, ..Coefficient::default() }.at(epoch, epochs) as f32,
            Share::Area => 1.0 - self.cut.area() as f32 / pixels as f32,
            Share::Remix { kappa, tau } => {
                let (ratio, lambda) = (n_i as f64 / n_j as f64, f64::from(self.lambda));
                if ratio >= kappa && lambda < tau {
                    0.0
                } else if ratio <= 1.0 / kappa && 1.0 - lambda < tau {
                    1.0
                } else {
                    self.lambda
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::philox::Purpose;

    #[test]
    fn remix_gives_the_whole_label_to_the_smaller_class() {
        let share = |n_i, n_j, lambda, kappa| {
            Mixture { lambda, ..Mixture::NONE }.share(Share::Remix { kappa, tau: 0.5 }, 1, [n_i, n_j], [0, 1])
        };
        let published = [(300, 100, 0.4, 0.0), (300, 100, 0.6, 0.6), (100, 300, 0.6, 1.0), (100, 300, 0.4, 0.4)];
        for (n_i, n_j, lambda, expected) in published.into_iter().chain([(200, 100, 0.3, 0.3)]) {
            assert_eq!(share(n_i, n_j, lambda, 3.0), expected, "{n_i} {n_j} {lambda}");
            assert_eq!(share(n_i, n_j, lambda, f64::INFINITY), lambda, "Mixup");
        }
    }

    #[test]
    fn the_share_of_an_area_follows_the_clipped_box() {
        let cut = CutBox { rows: (0, 8), columns: (2, 6) };
        assert_eq!(Mixture { lambda: 0.1, cut }.share(Share::Area, 64, [1, 1], [0, 1]), 0.5);
        assert_eq!(Mixture::NONE.share(Share::Area, 64, [1, 1], [0, 1]), 1.0);
    }

    #[test]
    fn the_share_of_a_course_is_bbns_alpha() {
        // Epochs 1, 100 and 200 of 200, counted from 1.
        for (epoch, alpha) in [(0, 1.0), (99, 0.754975), (199, 0.009975)] {
            let share = Share::Course { course: Course::Parabola };
            assert_eq!(Mixture::NONE.share(share, 64, [3, 9], [epoch, 200]), alpha);
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
