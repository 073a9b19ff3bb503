//! Training methods: which views a step trains on, which heads, by which losses.
//!
//! A method is one file: a [`Method`] that makes a [`Recipe`] of a run's settings, and its row in [`METHODS`]. A recipe is data;
//! how it is drawn ([`plan`]) and recorded ([`record`]) is the same for all. Nothing else asks which method it is.

mod bbn;
mod changes;
mod class_balanced;
pub mod class_vectors;
mod cmo;
mod cross_entropy;
mod glmc;
mod ldam;
mod logit_adjustment;
pub mod mixing;
mod mixup;
pub mod photos;
pub mod plan;
pub mod recipe;
pub mod record;
pub mod samplers;
pub mod schedule;
mod sharpness_aware;
mod weight_balancing;

pub use plan::{EpochPlan, PlanConfig};
pub use recipe::Recipe;
pub use record::Inputs;
pub use samplers::Members;

use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use schedule::{Decay, SetAt};

/// All methods; the first is the default.
pub const METHODS: &[&Method] = &[
    &glmc::GLMC,
    &glmc::GLMC_BS,
    &cross_entropy::CE,
    &class_balanced::CB_CE,
    &class_balanced::FOCAL,
    &class_balanced::CB_FOCAL,
    &class_balanced::DRW,
    &logit_adjustment::BS,
    &logit_adjustment::LA,
    &logit_adjustment::VS,
    &ldam::LDAM,
    &ldam::LDAM_DRW,
    &mixup::MIXUP,
    &mixup::CUTMIX,
    &mixup::REMIX,
    &cmo::CMO_CE,
    &cmo::CMO_BS,
    &cmo::CMO_LDAM_DRW,
    &sharpness_aware::SAM_CE,
    &sharpness_aware::SAM_DRW,
    &sharpness_aware::SAM_LDAM_DRW,
    &sharpness_aware::GLMC_SAM,
    &bbn::BBN,
    &weight_balancing::WB,
    &mixup::MISLAS,
];

/// A training method.
#[derive(Debug)]
pub struct Method {
    /// What settings and files call it.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Its recipe for these settings and training images per class.
    pub make: fn(&MethodSettings, &[usize]) -> Recipe,
    /// How its figures were trained.
    pub training: Training,
    /// Its published figures.
    pub published: Published,
    /// Sharpness-aware minimisation, where the method has it.
    pub sam: Option<SharpnessAware>,
    /// Parameters without weight decay, by name.
    pub undecayed: &'static [&'static str],
}

/// How a method climbs before it descends (Foret et al., ICLR 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharpnessAware {
    /// rho on CIFAR-10 and CIFAR-100.
    pub rho: [f64; 2],
    /// Whether the similarity of two views counts on the way up.
    pub similarity: bool,
}

/// The settings of a run that methods read. Each method reads those that it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MethodSettings {
    /// Epochs of the run.
    pub epochs: usize,
    /// Factor of GLMC's similarity loss.
    pub gamma: f64,
    /// Exponent of GLMC's class weights.
    pub k: f64,
    /// Exponent q of the partners' sampler.
    pub resample: f64,
    /// lambda ~ Beta(beta, beta).
    pub beta: f64,
    /// Strength of the logits' adjustment; `None` takes the method's own.
    pub tau: Option<f64>,
    /// Finished epochs before deferred weights are in force; `None` takes four fifths of the run (160 of 200).
    pub defer_until: Option<usize>,
    /// Whether GLMC's supervised losses are halved.
    pub halve_supervised: bool,
    /// Whether GLMC's label shares follow the clipped box.
    pub correct_labels: bool,
}

impl Default for MethodSettings {
    fn default() -> MethodSettings {
        MethodSettings {
            epochs: 200,
            gamma: 1.0,
            k: 1.2,
            resample: 0.0,
            beta: 1.0,
            tau: None,
            defer_until: None,
            halve_supervised: false,
            correct_labels: false,
        }
    }
}

impl MethodSettings {
    /// Finished epochs before deferred weights are in force.
    pub fn deferred(&self) -> usize {
        self.defer_until.unwrap_or(self.epochs * 4 / 5)
    }
}

/// How a method's figures were trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    pub epochs: usize,
    pub batch: usize,
    pub lr: f64,
    /// Epochs with the factors of `lr` that hold from them on; none for a cosine to 0.
    pub steps: &'static [(usize, f64)],
    /// Epochs of linear warm-up.
    pub warmup: usize,
    /// The share of `lr` that it starts from: see [`schedule::WarmUp`].
    pub warmup_from: f64,
    /// Whether it rises with every step rather than with every epoch.
    pub warmup_every_step: bool,
    /// When the rate's values are put to use.
    pub set: SetAt,
    pub weight_decay: f64,
}

impl Training {
    /// LDAM-DRW's recipe, by which most figures of the classic ResNet-32 were made (kaidic/LDAM-DRW).
    pub const LDAM_DRW: Training = Training {
        epochs: 200,
        batch: 128,
        lr: 0.1,
        steps: &[(160, 0.01), (180, 1e-4)],
        warmup: 5,
        warmup_from: 0.0,
        warmup_every_step: false,
        set: SetAt::Before,
        weight_decay: 2e-4,
    };

    /// Its learning rate's decay.
    pub fn decay(&self) -> Decay {
        match self.steps {
            [] => Decay::Cosine,
            steps => Decay::Steps(steps.to_vec()),
        }
    }
}

/// Published top-1 on long-tailed CIFAR, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// Channels of the first stage of the network that they were made with.
    pub width: usize,
    /// CIFAR-10 at imbalance 100, 50, 10.
    pub cifar10: [Option<f64>; 3],
    /// CIFAR-100 at imbalance 100, 50, 10.
    pub cifar100: [Option<f64>; 3],
    /// Where they stand, and what of their settings differs.
    pub source: &'static str,
}

impl Published {
    /// No figure for a network that this engine has.
    pub const NONE: Published = Published { width: 16, cifar10: [None; 3], cifar100: [None; 3], source: "" };
}

impl Method {
    /// Plain cross-entropy by LDAM-DRW's recipe: what methods change a part of.
    pub const BASE: Method = Method {
        name: "",
        title: "",
        source: "",
        make: |_, _| Recipe::plain(),
        training: Training::LDAM_DRW,
        published: Published::NONE,
        sam: None,
        undecayed: &[],
    };

    /// Its recipe for these settings and training images per class.
    pub fn recipe(&self, settings: &MethodSettings, counts: &[usize]) -> Recipe {
        (self.make)(settings, counts)
    }
}

/// The method of that name.
///
/// # Errors
/// When there is none: the message lists them.
pub fn method(name: &str) -> Result<&'static Method, String> {
    let known = || METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ");
    let found = METHODS.iter().find(|method| method.name == name);
    found.copied().ok_or_else(|| format!("unknown method {name:?}: known are {}", known()))
}

impl PartialEq for Method {
    fn eq(&self, other: &Method) -> bool {
        self.name == other.name
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl FromStr for &'static Method {
    type Err = String;

    fn from_str(name: &str) -> Result<&'static Method, String> {
        method(name)
    }
}

impl<'de> Deserialize<'de> for &'static Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<&'static Method, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the command line makes of a method's name.
pub fn value_parser() -> impl TypedValueParser<Value = &'static Method> {
    PossibleValuesParser::new(METHODS.iter().map(|method| method.name)).try_map(|name| name.parse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_makes_a_recipe_that_holds() {
        let mut names: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
        for method in METHODS {
            for epochs in [1, 2, 200] {
                let settings = MethodSettings { epochs, ..MethodSettings::default() };
                for counts in [&[50, 20, 3][..], &[7, 7]] {
                    let recipe = method.recipe(&settings, counts);
                    recipe.check(counts, epochs).unwrap_or_else(|e| panic!("{}, {epochs} epochs: {e}", method.name));
                    assert!(recipe.notes().is_empty(), "{}", method.name);
                    let text = toml::to_string(&recipe).unwrap();
                    assert_eq!(toml::from_str::<Recipe>(&text).unwrap(), recipe, "{text}");
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }

    #[test]
    fn methods_meet_where_their_papers_say_so() {
        let counts = [50, 20, 3];
        let recipe = |name: &str, settings: MethodSettings| method(name).unwrap().recipe(&settings, &counts);
        let defaults = MethodSettings::default();
        // Balanced softmax is logit adjustment with tau 1.
        assert_eq!(recipe("bs", defaults), recipe("la", defaults));
        // Deferred re-weighting is cross-entropy until its epoch.
        let vectors = |name: &str, epoch| recipe(name, defaults).vectors(&counts, epoch).unwrap();
        assert_eq!(vectors("drw", 159), vectors("ce", 159));
        assert_eq!(vectors("drw", 160), vectors("cb-ce", 0));
        // CMO outside its epochs is what it is built on.
        let mut plain = recipe("cmo-ldam-drw", defaults);
        assert_eq!(plain.heads, recipe("ldam-drw", defaults).heads);
        plain.mixing.p = 0.0;
        assert!(plain.check(&counts, 200).is_ok());
    }
}
