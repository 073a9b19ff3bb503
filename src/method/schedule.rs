//! What changes from epoch to epoch: the learning rate and alpha. Epochs are 0-based here: the number of those finished.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate goes after the warm-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Decay {
    /// Half a cosine to 0 (`torch.optim.lr_scheduler.CosineAnnealingLR`).
    #[default]
    Cosine,
    /// Half a cosine that is one epoch ahead, `(e - w + 1) / (E - w + 1)` of the way: GLMC's ImageNet-LT runs, PaCo.
    CosineAhead,
    /// The base all along.
    Constant,
    /// From each of these epochs on, the base times its factor.
    Steps(Vec<(usize, f64)>),
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decay::Cosine => f.write_str("cosine"),
            Decay::CosineAhead => f.write_str("cosine-ahead"),
            Decay::Constant => f.write_str("constant"),
            Decay::Steps(steps) => {
                let steps: Vec<String> = steps.iter().map(|(epoch, factor)| format!("{epoch}:{factor}")).collect();
                f.write_str(&steps.join(","))
            }
        }
    }
}

impl FromStr for Decay {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Decay, String> {
        let step = |step: &str| {
            let (epoch, factor) = step.split_once(':')?;
            let factor: f64 = factor.trim().parse().ok()?;
            Some((epoch.trim().parse().ok()?, (factor.is_finite() && factor >= 0.0).then_some(factor)?))
        };
        match text {
            "cosine" => Ok(Decay::Cosine),
            "cosine-ahead" => Ok(Decay::CosineAhead),
            "constant" => Ok(Decay::Constant),
            _ => text.split(',').map(step).collect::<Option<Vec<_>>>().map(Decay::Steps).ok_or_else(|| {
                format!(
                    "{text:?} is no schedule: cosine, cosine-ahead, constant, or epochs with factors of the base as in \
                     160:0.01,180:0.0001"
                )
            }),
        }
    }
}

impl Serialize for Decay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Decay, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// When a schedule's value for epoch e is put to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SetAt {
    /// In epoch e.
    #[default]
    Before,
    /// In epoch e + 1; the first epoch has the base, warm-up or not, as GLMC's ImageNet-LT runs have.
    After,
    /// In epoch e - 1: the scheduler is stepped before the epoch, so that the first value is never used.
    StepBefore,
}

/// The linear rise of the learning rate over a run's first epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUp {
    /// Its length; 0 for none.
    pub epochs: usize,
    /// The share of the base to start from. With 0 epoch e has `(e + 1) / epochs` of the base, so that the last of them
    /// reaches it; with more, `from + (1 - from) e / epochs`, as in Detectron and in BBN.
    pub from: f64,
    /// Rise in epoch number `epochs` too, to `(epochs + 1) / epochs` of the base (GLMC's ImageNet-LT runs test `<=`).
    pub inclusive: bool,
    /// Rise with every step rather than with every epoch.
    pub every_step: bool,
}

/// A learning rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// What all factors are factors of.
    pub base: f64,
    /// After the warm-up.
    #[serde(default)]
    pub decay: Decay,
    #[serde(default)]
    pub warmup: WarmUp,
    #[serde(default)]
    pub set: SetAt,
}

impl LearningRate {
    /// Checks the schedule against a run of `epochs` epochs.
    ///
    /// # Errors
    /// When the warm-up is as long as the run, or steps are out of order, after the run's end, or inside the warm-up.
    pub fn check(&self, epochs: usize) -> Result<()> {
        let WarmUp { epochs: warmup, from, .. } = self.warmup;
        if warmup >= epochs && warmup > 0 {
            return Err(Error::Config(format!("warmup-epochs ({warmup}) must be fewer than epochs ({epochs})")));
        }
        if !(0.0..=1.0).contains(&from) {
            return Err(Error::Config(format!("warmup-from must lie in 0..=1 (a share of lr), not {from}")));
        }
        let Decay::Steps(steps) = &self.decay else { return Ok(()) };
        if !steps.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::Config(format!("lr-schedule {}: its epochs must rise", self.decay)));
        }
        match steps.iter().find(|&&(epoch, _)| epoch >= epochs || epoch < warmup) {
            Some((epoch, _)) if *epoch >= epochs => Err(Error::Config(format!(
                "lr-schedule {}: epoch {epoch} is not before the run's end ({epochs} epochs); set --lr-schedule for a run of \
                 that length",
                self.decay
            ))),
            Some((epoch, _)) => Err(Error::Config(format!(
                "lr-schedule {}: epoch {epoch} lies in the warm-up of {warmup} epochs",
                self.decay
            ))),
            None => Ok(()),
        }
    }

    /// The learning rate of step `step` of `steps` in epoch `epoch` of `epochs`.
    pub fn at(&self, epoch: usize, epochs: usize, step: usize, steps: usize) -> f64 {
        match self.set {
            SetAt::Before => self.value(epoch, epochs, step, steps),
            SetAt::After if epoch == 0 => self.base,
            SetAt::After => self.value(epoch - 1, epochs, step, steps),
            SetAt::StepBefore => self.value(epoch + 1, epochs, step, steps),
        }
    }

    /// The schedule's own value for an epoch, whenever it is put to use.
    fn value(&self, epoch: usize, epochs: usize, step: usize, steps: usize) -> f64 {
        let WarmUp { epochs: warmup, from, inclusive, every_step } = self.warmup;
        if epoch < warmup || (inclusive && warmup > 0 && epoch == warmup) {
            let finished = epoch as f64 + if every_step { step as f64 / steps as f64 } else { 0.0 };
            let unit = if every_step { 1.0 / steps as f64 } else { 1.0 };
            let share = match from == 0.0 {
                true => (finished + unit) / warmup as f64,
                false => from + (1.0 - from) * finished / warmup as f64,
            };
            return self.base * share;
        }
        let half_cosine = |ahead: usize| {
            let progress = (epoch - warmup + ahead) as f64 / (epochs - warmup + ahead).max(1) as f64;
            self.base * 0.5 * (1.0 + (PI * progress).cos())
        };
        match &self.decay {
            Decay::Cosine => half_cosine(0),
            Decay::CosineAhead => half_cosine(1),
            Decay::Constant => self.base,
            Decay::Steps(all) => {
                self.base * all.iter().rev().find(|&&(from, _)| epoch >= from).map_or(1.0, |&(_, factor)| factor)
            }
        }
    }
}

/// `alpha = 1 - (T/Tmax)^2` (GLMC paper, section 3): from the conventional classifier to the rebalanced one.
fn alpha(epoch: usize, epochs: usize) -> f64 {
    1.0 - (epoch as f64 / epochs as f64).powi(2)
}

/// How a loss's coefficient goes over a run, as a factor of its base; e of E epochs are finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// 1 all along.
    #[default]
    Constant,
    /// `1 - (e/E)^2`: GLMC's alpha (paper, section 3), and BBN's.
    Parabola,
    /// `1 - e/E`.
    Linear,
    /// `cos(pi e / 2E)`.
    Cosine,
}

/// A loss's coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coefficient {
    /// What the course is a share of.
    pub factor: f64,
    pub course: Course,
    /// Take `1 - course`: the loss that takes over from another.
    pub rising: bool,
}

impl Default for Coefficient {
    fn default() -> Coefficient {
        Coefficient { factor: 1.0, course: Course::Constant, rising: false }
    }
}

impl Coefficient {
    /// Its value in 0-based epoch `epoch` of `epochs`.
    pub fn at(&self, epoch: usize, epochs: usize) -> f64 {
        let done = epoch as f64 / epochs as f64;
        let share = match self.course {
            Course::Constant => 1.0,
            Course::Parabola => alpha(epoch, epochs),
            Course::Linear => 1.0 - done,
            Course::Cosine => (0.5 * PI * done).cos(),
        };
        self.factor * if self.rising { 1.0 - share } else { share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(base: f64, decay: &str, warmup: usize) -> LearningRate {
        let warmup = WarmUp { epochs: warmup, ..WarmUp::default() };
        LearningRate { base, decay: decay.parse().unwrap(), warmup, set: SetAt::Before }
    }

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() <= 1e-3 * expected.abs() + 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn cosine_without_warm_up() {
        let lr = schedule(0.1, "cosine", 0);
        assert_eq!(lr.at(0, 200, 0, 1), 0.1);
        assert!((lr.at(100, 200, 0, 1) - 0.05).abs() < 1e-12);
        assert!(lr.at(199, 200, 0, 1) < 1e-4);
    }

    #[test]
    fn warm_up_rises_to_the_base() {
        let lr = schedule(0.1, "cosine", 10);
        near(lr.at(0, 135, 0, 1), 0.01);
        assert_eq!(lr.at(9, 135, 0, 1), 0.1);
        assert_eq!(lr.at(10, 135, 0, 1), 0.1);
    }

    #[test]
    fn the_steps_of_ldam_drw() {
        let lr = schedule(0.1, "160:0.01,180:0.0001", 5);
        let expected = [
            (0, 0.02),
            (1, 0.04),
            (2, 0.06),
            (3, 0.08),
            (4, 0.1),
            (5, 0.1),
            (159, 0.1),
            (160, 0.001),
            (179, 0.001),
            (180, 1e-5),
        ];
        expected.iter().for_each(|&(epoch, value)| near(lr.at(epoch, 200, 0, 97), value));
    }

    #[test]
    fn glmc_on_imagenet_sets_the_rate_after_the_epoch() {
        let lr = LearningRate {
            warmup: WarmUp { epochs: 10, inclusive: true, ..WarmUp::default() },
            set: SetAt::After,
            ..schedule(0.1, "cosine-ahead", 0)
        };
        let expected = [
            (0, 0.1),
            (1, 0.01),
            (2, 0.02),
            (10, 0.1),
            (11, 0.11),
            (12, 0.09994),
            (13, 0.09986),
            (14, 0.09975),
            (134, 6.215e-5),
        ];
        expected.iter().for_each(|&(epoch, value)| near(lr.at(epoch, 135, 0, 1), value));
    }

    #[test]
    fn a_scheduler_stepped_before_the_epoch_ends_at_0() {
        let lr = LearningRate { set: SetAt::StepBefore, ..schedule(0.01, "cosine", 0) };
        near(lr.at(0, 10, 0, 1), 0.009755);
        assert!(lr.at(9, 10, 0, 1).abs() < 1e-18);
    }

    #[test]
    fn warm_up_from_a_third_and_by_steps() {
        let third = WarmUp { epochs: 5, from: 1.0 / 3.0, ..WarmUp::default() };
        let lr = LearningRate { warmup: third, ..schedule(0.3, "120:0.01", 0) };
        near(lr.at(0, 200, 0, 1), 0.1);
        near(lr.at(5, 200, 0, 1), 0.3);
        let every = WarmUp { epochs: 2, every_step: true, ..WarmUp::default() };
        let lr = LearningRate { warmup: every, ..schedule(1.0, "constant", 0) };
        near(lr.at(0, 10, 0, 4), 0.125);
        near(lr.at(1, 10, 3, 4), 1.0);
        near(lr.at(2, 10, 0, 4), 1.0);
    }

    #[test]
    fn schedules_that_do_not_fit_are_refused() {
        for (decay, warmup, epochs, what) in [
            ("160:0.1", 0, 100, "not before the run's end"),
            ("20:0.1,10:0.1", 0, 100, "must rise"),
            ("3:0.1", 5, 100, "in the warm-up"),
            ("cosine", 5, 5, "fewer than epochs"),
        ] {
            let message = schedule(0.1, decay, warmup).check(epochs).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
        }
        assert!("160".parse::<Decay>().is_err() && "1:nan".parse::<Decay>().is_err());
        let steps: Decay = "160:0.01,180:0.0001".parse().unwrap();
        assert_eq!(steps.to_string(), "160:0.01,180:0.0001");
    }

    #[test]
    fn coefficients_follow_their_course() {
        let at = |course, rising, epoch| Coefficient { factor: 2.0, course, rising }.at(epoch, 200);
        assert_eq!((at(Course::Parabola, false, 0), at(Course::Parabola, false, 100)), (2.0, 1.5));
        assert_eq!(at(Course::Parabola, true, 100), 0.5);
        assert_eq!((at(Course::Linear, false, 50), at(Course::Constant, false, 199)), (1.5, 2.0));
        near(at(Course::Cosine, false, 100), 2.0 * 0.5f64.sqrt());
        // BBN's alpha, whose epochs count from 1: epochs 100 and 200 of 200.
        let bbn = Coefficient { course: Course::Parabola, ..Coefficient::default() };
        near(bbn.at(99, 200), 0.754975);
        near(bbn.at(199, 200), 0.009975);
    }
}
