//! Vectors with one value per class, made from the training counts: the weights, offsets, scales and margins by which the
//! losses of long-tailed recognition differ. Each is said by its rule and parameters, so that a run's configuration
//! names it rather than lists it.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::supervised_loss::ClassVector;

/// How a vector follows from the training images per class, `n_c` of C classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// `C (1/n_c)^k / sum_c (1/n_c)^k` (GLMC paper, section 3). k = 1 is cost-sensitive weighting.
    Power {
        /// Exponent.
        k: f64,
    },
    /// `(1 - beta) / (1 - beta^n_c)`, scaled to sum C: the effective number of samples (Cui et al., CVPR 2019).
    Effective {
        /// In [0, 1); published: 0.9999.
        beta: f64,
    },
    /// `tau log(n_c / N)`: logit adjustment (Menon et al., ICLR 2021); with tau 1 balanced softmax (Ren et al., NeurIPS 2020).
    LogPrior {
        /// Published: 1.
        tau: f64,
    },
    /// `max (n_c / n_min)^(-1/4)`: LDAM's margins (Cao et al., NeurIPS 2019).
    Ldam {
        /// The margin of the smallest class; published: 0.5.
        max: f64,
    },
    /// `(n_c / n_max)^gamma`: the scales of the VS loss (Kini et al., NeurIPS 2021) and of CDT.
    Relative {
        /// Exponent; published: 0.2.
        gamma: f64,
    },
    /// `tail + (head - tail) sin(pi/2 (n_c - n_min) / (n_max - n_min))`: label-aware smoothing (Zhong et al., CVPR 2021,
    /// MiSLAS).
    LabelAware {
        /// Smoothing of the largest class.
        head: f64,
        /// Smoothing of the smallest class.
        tail: f64,
    },
    /// As listed.
    Values {
        /// One per class.
        values: Vec<f64>,
    },
}

/// A vector's rule, and the epoch from which it is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    #[serde(flatten)]
    pub rule: Rule,
    /// Finished epochs before it is in force; until then the vector has no effect. Deferred re-weighting has 160 of 200.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from_epoch: usize,
}

fn is_zero(epoch: &usize) -> bool {
    *epoch == 0
}

impl From<Rule> for Scheduled {
    fn from(rule: Rule) -> Scheduled {
        Scheduled { rule, from_epoch: 0 }
    }
}

/// Values scaled to sum to their number.
fn scaled(values: Vec<f64>) -> Vec<f64> {
    let (sum, count) = (values.iter().sum::<f64>(), values.len() as f64);
    values.iter().map(|value| count * value / sum).collect()
}

impl Rule {
    /// The values for these training images per class.
    ///
    /// # Errors
    /// When a parameter is out of range, a list has another length, or a value comes out as no finite number.
    pub fn values(&self, counts: &[usize]) -> Result<Vec<f64>> {
        let n: Vec<f64> = counts.iter().map(|&n| n as f64).collect();
        let (smallest, largest) =
            (n.iter().copied().fold(f64::INFINITY, f64::min), n.iter().copied().fold(0.0, f64::max));
        let values: Vec<f64> = match self {
            Rule::Power { k } => scaled(n.iter().map(|n| (1.0 / n).powf(*k)).collect()),
            Rule::Effective { beta } if !(0.0..1.0).contains(beta) => {
                return Err(Error::Config(format!("effective weights need a beta in 0..1 (1 excluded), not {beta}")));
            }
            Rule::Effective { beta } => scaled(n.iter().map(|n| (1.0 - beta) / -(n * beta.ln()).exp_m1()).collect()),
            Rule::LogPrior { tau } => {
                let total: f64 = n.iter().sum();
                n.iter().map(|n| tau * (n / total).ln()).collect()
            }
            Rule::Ldam { max } => n.iter().map(|n| max * (n / smallest).powf(-0.25)).collect(),
            Rule::Relative { gamma } => n.iter().map(|n| (n / largest).powf(*gamma)).collect(),
            Rule::LabelAware { head, tail } => {
                let spread = (largest - smallest).max(1.0);
                n.iter().map(|n| tail + (head - tail) * (FRAC_PI_2 * (n - smallest) / spread).sin()).collect()
            }
            Rule::Values { values } if values.len() != n.len() => {
                let (have, need) = (values.len(), n.len());
                return Err(Error::Config(format!(
                    "a vector of {have} values for {need} classes: one per class is needed"
                )));
            }
            Rule::Values { values } => values.clone(),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(class) => Err(Error::Config(format!(
                "class {class}, with {} training images, gets {}, which is no finite number",
                counts[class], values[class]
            ))),
            None => Ok(values),
        }
    }
}

/// A vector's values in 0-based epoch `epoch`: those of its rule, or what has no effect.
///
/// # Errors
/// As for [`Rule::values`]; and when weights or scales are negative, or smoothing is not in [0, 1).
pub fn values(vector: ClassVector, scheduled: Option<&Scheduled>, counts: &[usize], epoch: usize) -> Result<Vec<f64>> {
    let Some(Scheduled { rule, .. }) = scheduled.filter(|scheduled| epoch >= scheduled.from_epoch) else {
        return Ok(vec![vector.neutral(); counts.len()]);
    };
    let values = rule.values(counts)?;
    let fits = |value: f64| match vector {
        ClassVector::Weight | ClassVector::Scale | ClassVector::Margin => value >= 0.0,
        ClassVector::Smoothing => (0.0..1.0).contains(&value),
        ClassVector::Offset => true,
    };
    match values.iter().position(|&value| !fits(value)) {
        Some(class) => Err(Error::Config(format!(
            "class {class} gets {} as its {}: {} is needed",
            values[class],
            format!("{vector:?}").to_lowercase(),
            if vector == ClassVector::Smoothing { "0 or more and less than 1" } else { "0 or more" }
        ))),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CIFAR-10-LT, imbalance 100, exponential profile.
    const COUNTS: [usize; 10] = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50];

    fn check(rule: Rule, expected: [f64; 10], slack: f64) {
        let values = rule.values(&COUNTS).unwrap();
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() <= slack, "{rule:?}: {values:?}");
        }
    }

    #[test]
    fn the_vectors_of_cifar_10_at_imbalance_100() {
        let close = 5e-5;
        let effective = [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.44263, 2.4092, 3.9927];
        check(Rule::Effective { beta: 0.9999 }, effective, close);
        let power = [0.0183, 0.0338, 0.0624, 0.1153, 0.2134, 0.3939, 0.7278, 1.3459, 2.4988, 4.5905];
        check(Rule::Power { k: 1.2 }, power, close);
        let margins = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5];
        check(Rule::Ldam { max: 0.5 }, margins, close);
        let priors = [-0.9087, -1.4206, -1.9326, -2.4440, -2.9567, -3.4675, -3.9792, -4.4915, -5.0071, -5.5139];
        check(Rule::LogPrior { tau: 1.0 }, priors, close);
        let scales = [1.0, 0.9027, 0.8148, 0.7356, 0.6639, 0.5994, 0.5411, 0.4884, 0.4406, 0.3981];
        check(Rule::Relative { gamma: 0.2 }, scales, close);
    }

    #[test]
    fn the_vectors_of_cifar_100_at_imbalance_100() {
        let counts: Vec<usize> = (0..100).map(|c| (500.0 * 0.01f64.powf(f64::from(c) / 99.0)) as usize).collect();
        let effective = Rule::Effective { beta: 0.9999 }.values(&counts).unwrap();
        assert!((effective[0] - 0.0449).abs() < 5e-5 && (effective[99] - 4.378).abs() < 5e-4, "{effective:?}");
        let priors = Rule::LogPrior { tau: 1.0 }.values(&counts).unwrap();
        assert!((priors[0] + 3.0770).abs() < 5e-5 && (priors[99] + 7.6822).abs() < 5e-5, "{priors:?}");
    }

    #[test]
    fn smoothing_falls_from_the_largest_class_to_the_smallest() {
        let values = Rule::LabelAware { head: 0.3, tail: 0.0 }.values(&COUNTS).unwrap();
        assert_eq!((values[0], values[9]), (0.3, 0.0));
        assert!(values.is_sorted_by(|a, b| a > b), "{values:?}");
        assert_eq!(Rule::LabelAware { head: 0.3, tail: 0.1 }.values(&[7, 7]).unwrap(), [0.1, 0.1]);
    }

    #[test]
    fn a_vector_has_no_effect_before_its_epoch() {
        let deferred = Scheduled { rule: Rule::Effective { beta: 0.9999 }, from_epoch: 160 };
        let at = |epoch| values(ClassVector::Weight, Some(&deferred), &COUNTS, epoch).unwrap();
        assert_eq!(at(159), [1.0; 10]);
        assert_eq!(at(160), Rule::Effective { beta: 0.9999 }.values(&COUNTS).unwrap());
        assert_eq!(values(ClassVector::Offset, None, &COUNTS, 0).unwrap(), [0.0; 10]);
    }

    #[test]
    fn vectors_that_cannot_be_are_refused() {
        let refused = |vector, rule: Rule| values(vector, Some(&rule.into()), &[3, 2, 0], 0).unwrap_err().to_string();
        let listed = |values: &[f64]| Rule::Values { values: values.to_vec() };
        assert!(refused(ClassVector::Weight, listed(&[1.0])).contains("1 values for 3 classes"));
        assert!(refused(ClassVector::Weight, listed(&[1.0, -1.0, 0.0])).contains("class 1 gets -1 as its weight"));
        assert!(refused(ClassVector::Smoothing, listed(&[0.0, 0.0, 1.0])).contains("smoothing"));
        assert!(refused(ClassVector::Offset, Rule::LogPrior { tau: 1.0 }).contains("class 2, with 0 training images"));
        assert!(refused(ClassVector::Weight, Rule::Effective { beta: 1.0 }).contains("beta"));
    }
}
