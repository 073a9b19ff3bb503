//! Training methods: what each draws for a step, which heads it trains and by which losses.
//!
//! A method is one file that implements [`Method`], and one row in [`METHODS`]; nothing else asks which method it is.

pub mod cross_entropy;
pub mod glmc;
pub mod mixing;
pub mod plan;
pub mod schedule;

pub use mixing::{CutBox, PartnerSampler, draw_box, draw_lambda};
pub use plan::{EpochPlan, PlanConfig, StepDraw};

use std::fmt::Debug;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;
use crate::nn::model::{HeadKind, HeadSpec};
use crate::nn::{Model, Recorder};
use crate::ops::augment_mix::Mixing;
use crate::ops::load_step::{StepParams, StepVars};
use crate::ops::supervised_loss::ClassVector;
use crate::tape::Var;

/// Everything that tells one method from another.
pub trait Method: Debug + Send + Sync {
    /// What settings and files call it.
    fn name(&self) -> &'static str;

    /// What people call it.
    fn title(&self) -> &'static str;

    /// The views of a sample that a step trains on.
    fn mixing(&self) -> Mixing;

    /// The heads that it trains, in the order of PyTorch's state dict.
    fn heads(&self) -> &'static [HeadSpec];

    /// Names of its losses, three at most: `c` is L_c in messages and `loss_c` in metrics.
    fn losses(&self) -> &'static [&'static str];

    /// The classifier to evaluate with, given whether all classes have equally many training images.
    fn classifier(&self, balanced: bool) -> HeadKind;

    /// Draws what varies from step to step: appends one partner per original to `partners` and the original's share of the label
    /// to `shares`, and fills in lambda, box and the coefficients of the losses.
    ///
    /// # Errors
    /// When a setting is out of range.
    fn draw(
        &self,
        step: &StepDraw<'_>,
        params: &mut StepParams,
        partners: &mut Vec<u32>,
        shares: &mut Vec<f32>,
    ) -> Result<()>;

    /// Of each head with a supervised loss (5, classes): the rows of `ClassVector`, from the training images per class and the
    /// exponent k of their weights.
    fn vectors(&self, counts: &[usize], k: f64) -> Vec<Vec<f64>>;

    /// Records network, heads and losses of a step; returns the values that reference steps name, by those names.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    fn record(&self, r: &mut Recorder<'_>, model: &Model, inputs: &Inputs<'_>) -> Result<Vec<(&'static str, Var)>>;
}

/// What a method records on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (views * batch, height, width, stem channels): the views, one after the other.
    pub images: Var,
    /// (images): the class of every image that originals and partners count.
    pub labels: Var,
    /// (5, classes) each: the class vectors of the heads with a supervised loss, as [`Method::vectors`] has them.
    pub vectors: &'a [Var],
    /// The step's scalars, originals, partners and shares.
    pub vars: StepVars,
    /// (rows, 4): where the step's losses go.
    pub log: Var,
    /// Samples per view.
    pub batch: usize,
}

/// All methods; the first is the default.
pub const METHODS: &[&dyn Method] = &[&glmc::Glmc, &cross_entropy::CrossEntropy];

impl PartialEq for dyn Method {
    fn eq(&self, other: &dyn Method) -> bool {
        self.name() == other.name()
    }
}

impl Serialize for dyn Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for &'static dyn Method {
    type Err = String;

    fn from_str(name: &str) -> Result<&'static dyn Method, String> {
        let known = || METHODS.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
        let method = METHODS.iter().find(|method| method.name() == name);
        method.copied().ok_or_else(|| format!("unknown method {name:?}: known are {}", known()))
    }
}

impl<'de> Deserialize<'de> for &'static dyn Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<&'static dyn Method, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the command line makes of a method's name.
pub fn value_parser() -> impl TypedValueParser<Value = &'static dyn Method> {
    PossibleValuesParser::new(METHODS.iter().map(|method| method.name())).try_map(|name| name.parse())
}

/// Class weights `w_c = C (1/n_c)^k / sum_c (1/n_c)^k` (GLMC paper, section 3), from training images per class.
pub fn class_weights(counts: &[usize], k: f64) -> Vec<f64> {
    let raw: Vec<f64> = counts.iter().map(|&n| (1.0 / n as f64).powf(k)).collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|w| counts.len() as f64 * w / sum).collect()
}

/// (5, classes): a head's class vectors of which only the weights do anything.
fn head_vectors(weights: &[f64]) -> Vec<f64> {
    let row = |vector: ClassVector| match vector {
        ClassVector::Weight => weights.to_vec(),
        other => vec![other.neutral(); weights.len()],
    };
    ClassVector::ALL.into_iter().flat_map(row).collect()
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
