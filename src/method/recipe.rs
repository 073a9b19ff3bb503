//! A recipe: views, samplers, heads and losses of a training step as plain data. A method makes one from a run's settings;
//! a configuration file can change any part of it.

use serde::{Deserialize, Serialize};

use super::class_vectors::{self, Scheduled};
pub use super::mixing::{Mix, Share};
use super::samplers::{Length, Partners, Sampling};
use super::schedule::Coefficient;
use crate::error::{Error, Result};
use crate::nn::model::{BiasStart, Extent, HeadKind, HeadShape, HeadSpec};
use crate::ops::augment_mix::{Mixing, View};
use crate::ops::supervised_loss::{ClassVector, Form, Reduction};
use crate::ops::total_loss::TOTAL;

/// What a method trains, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One or two.
    pub views: Vec<View>,
    /// How views are mixed, where one is.
    #[serde(default)]
    pub mixing: Mix,
    /// The images that an epoch visits.
    #[serde(default)]
    pub originals: Originals,
    /// What they are mixed with.
    #[serde(default)]
    pub partners: Partners,
    /// The classifiers.
    pub heads: Heads,
    /// The consistency of two views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// Whether the network ends in two branches, one for each view, which the originals' shares weigh (BBN).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub branches: bool,
    /// The classifier to evaluate with.
    pub evaluate: HeadKind,
}

/// The images that an epoch visits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Originals {
    pub sampling: Sampling,
    /// Finished epochs before which they are shuffled.
    pub from_epoch: usize,
    /// How many they are, from the first epoch on.
    pub length: Length,
}

/// The classifiers that are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heads {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fc: Option<Head>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fc_cb: Option<Head>,
}

/// A classifier and its loss: over the views' samples and the two label terms t with their shares, the sum of
/// `share_t w_t loss(S (s z - m_t e_t) + b, y_t)`, reduced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Head {
    pub shape: HeadShape,
    /// What all biases start from, where that is not drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<f64>,
    pub loss: LossKind,
    /// Exponent of a focal loss; 0 is cross-entropy.
    pub focal: f64,
    /// S.
    pub scale: f64,
    pub reduction: Reduction,
    pub coefficient: Coefficient,
    /// s: 1 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_scale: Option<Scheduled>,
    /// b: 0 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Scheduled>,
    /// m: 0 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<Scheduled>,
    /// w: 1 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Scheduled>,
    /// Label smoothing: 0 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<Scheduled>,
}

/// The loss of a head's logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross-entropy of the softmax, focal if wanted (LDAM-DRW's form).
    #[default]
    Softmax,
    /// Binary cross-entropy of every class's softmax (weight balancing's second stage).
    BceOnSoftmax,
    /// Binary cross-entropy of every class's sigmoid, focal if wanted (CB-Focal).
    Sigmoid,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            shape: HeadShape::Linear,
            bias: None,
            loss: LossKind::Softmax,
            focal: 0.0,
            scale: 1.0,
            reduction: Reduction::N,
            coefficient: Coefficient::default(),
            class_scale: None,
            offset: None,
            margin: None,
            weight: None,
            smoothing: None,
        }
    }
}

impl Head {
    /// The form of its loss as the op has it.
    pub fn form(&self) -> Form {
        let focal = self.focal as f32;
        match self.loss {
            LossKind::Softmax => Form::Softmax { focal },
            LossKind::BceOnSoftmax => Form::BceOnSoftmax,
            LossKind::Sigmoid => Form::SigmoidFocal { focal },
        }
    }

    fn vector(&self, vector: ClassVector) -> Option<&Scheduled> {
        match vector {
            ClassVector::Scale => self.class_scale.as_ref(),
            ClassVector::Offset => self.offset.as_ref(),
            ClassVector::Margin => self.margin.as_ref(),
            ClassVector::Weight => self.weight.as_ref(),
            ClassVector::Smoothing => self.smoothing.as_ref(),
        }
    }

    /// Its class vectors in 0-based epoch `epoch`, (5, classes).
    ///
    /// # Errors
    /// When one of them does not fit the counts.
    pub fn vectors(&self, counts: &[usize], epoch: usize) -> Result<Vec<f64>> {
        let rows = ClassVector::ALL.iter();
        let rows = rows.map(|&vector| class_vectors::values(vector, self.vector(vector), counts, epoch));
        Ok(rows.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// GLMC's consistency of two views: the negative cosine of each view's prediction to the other's projection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Similarity {
    /// Its factor in the total.
    pub gamma: f64,
    /// Whether the projections are constants to it.
    pub stop_gradient: bool,
    /// Whether projections are compared with predictions made of them, rather than with each other.
    pub predictor: bool,
}

impl Default for Similarity {
    fn default() -> Similarity {
        Similarity { gamma: 1.0, stop_gradient: true, predictor: true }
    }
}

impl Recipe {
    /// Plain views and one linear classifier under cross-entropy: what most methods change a part of.
    pub fn plain() -> Recipe {
        Recipe::with_head(Head::default())
    }

    /// As [`Recipe::plain`], with another head.
    pub fn with_head(head: Head) -> Recipe {
        Recipe {
            views: vec![View::Plain],
            mixing: Mix::default(),
            originals: Originals::default(),
            partners: Partners::default(),
            heads: Heads { fc: Some(head), fc_cb: None },
            similarity: None,
            branches: false,
            evaluate: HeadKind::Fc,
        }
    }

    /// The views as the op that makes them has them.
    ///
    /// # Errors
    /// When there are not one or two.
    pub fn views(&self) -> Result<Mixing> {
        match self.views[..] {
            [one] => Ok(Mixing::One(one)),
            [first, second] => Ok(Mixing::Two(first, second)),
            _ => Err(Error::Config(format!("views: one or two are needed, not {}", self.views.len()))),
        }
    }

    /// Whether a view shows anything of the partners.
    pub fn mixes(&self) -> bool {
        self.views.iter().any(|&view| view != View::Plain)
    }

    /// The classifiers, in the order of PyTorch's state dict.
    pub fn classifiers(&self) -> Vec<(HeadKind, &Head)> {
        let Heads { fc, fc_cb } = &self.heads;
        let named = [(HeadKind::Fc, fc), (HeadKind::FcCb, fc_cb)];
        named.into_iter().filter_map(|(kind, head)| Some((kind, head.as_ref()?))).collect()
    }

    /// All heads of the model, in the order of PyTorch's state dict.
    pub fn head_specs(&self) -> Vec<HeadSpec> {
        use Extent::{Classes, Features, Hidden};
        let classifier = |(kind, head): (HeadKind, &Head)| HeadSpec {
            shape: head.shape,
            bias: head.bias.map_or(BiasStart::Default, BiasStart::Constant),
            eval_scale: head.scale as f32,
            ..HeadSpec::linear(kind.name(), Features, Classes)
        };
        let mut specs: Vec<HeadSpec> = self.classifiers().into_iter().map(classifier).collect();
        if let Some(Similarity { predictor, .. }) = self.similarity {
            if predictor {
                specs.push(HeadSpec::linear("contrast_head.0", Hidden, Hidden));
            }
            specs.push(HeadSpec::linear("projection_head.0", Features, Hidden));
        }
        specs
    }

    /// The losses: names, of which `c` is L_c in messages and `loss_c` in metrics, and their columns in the loss log.
    pub fn losses(&self) -> Vec<(&'static str, usize)> {
        let classifiers = self.classifiers().into_iter().enumerate();
        let supervised = classifiers.map(|(column, (kind, _))| match kind {
            HeadKind::FcCb => ("cb", column),
            _ => ("c", column),
        });
        supervised.chain(self.similarity.map(|_| ("sim", TOTAL - 1))).collect()
    }

    /// The coefficients of the losses in 0-based epoch `epoch` of `epochs`: those of up to two heads, then of L_sim.
    pub fn coefficients(&self, epoch: usize, epochs: usize) -> [f32; TOTAL] {
        let mut all = [0.0; TOTAL];
        for (to, (_, head)) in all.iter_mut().zip(self.classifiers()) {
            *to = head.coefficient.at(epoch, epochs) as f32;
        }
        all[TOTAL - 1] = self.similarity.map_or(0.0, |similarity| similarity.gamma as f32);
        all
    }

    /// The class vectors of all classifiers in 0-based epoch `epoch`, (heads, 5, classes).
    ///
    /// # Errors
    /// When one does not fit the counts.
    pub fn vectors(&self, counts: &[usize], epoch: usize) -> Result<Vec<f64>> {
        let each = self.classifiers().into_iter().map(|(_, head)| head.vectors(counts, epoch));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Checks the parts against each other, for a run of `epochs` epochs on data with these training images per class.
    ///
    /// # Errors
    /// When they contradict each other or a number is out of range; the message names the key.
    pub fn check(&self, counts: &[usize], epochs: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(what));
        self.views()?;
        let classifiers = self.classifiers();
        if classifiers.is_empty() {
            return wrong("heads: none of fc and fc_cb is trained".into());
        }
        let is_trained = |head: &&HeadKind| classifiers.iter().any(|(kind, _)| kind == *head);
        if let Some(absent) = self.evaluate.heads().iter().find(|head| !is_trained(head)) {
            return wrong(format!("evaluate: {absent} is not trained"));
        }
        if self.similarity.is_some() && self.views.len() != 2 {
            return wrong("similarity: two views are needed to compare".into());
        }
        if self.branches && (self.views.len() != 2 || self.similarity.is_some()) {
            return wrong("branches: two views are needed, one for each, and no similarity".into());
        }
        let Mix { beta, p, epochs: window, share } = self.mixing;
        if !(1e-3..=1e6).contains(&beta) {
            return wrong(format!("mixing.beta must lie in 0.001..=1000000, not {beta}"));
        }
        if !(0.0..=1.0).contains(&p) {
            return wrong(format!("mixing.p must lie in 0..=1, not {p}"));
        }
        if let Some([from, to]) = window.filter(|[from, to]| from > to) {
            return wrong(format!("mixing.epochs: {from} is after {to}"));
        }
        if let Share::Remix { kappa, tau } = share
            && !(kappa >= 1.0 && (0.0..=1.0).contains(&tau))
        {
            return wrong(format!("mixing.share: kappa must be 1 or more and tau in 0..=1, not {kappa} and {tau}"));
        }
        starts("originals.from_epoch", self.originals.from_epoch, epochs)?;
        let samplers =
            [("originals.sampling", self.originals.sampling.check(counts)), ("partners", self.partners.check(counts))];
        for (key, checked) in samplers {
            checked.map_err(|e| Error::Config(format!("{key}: {e}")))?;
        }
        for (kind, head) in classifiers {
            let whole = [("focal", head.focal, 0.0, 100.0), ("scale", head.scale, 1e-6, 1e6)];
            for (key, value, low, high) in whole {
                if !(low..=high).contains(&value) {
                    return wrong(format!("heads.{kind}.{key} must lie in {low}..={high}, not {value}"));
                }
            }
            let factor = head.coefficient.factor;
            if !(0.0..=1e6).contains(&factor) {
                return wrong(format!("heads.{kind}.coefficient.factor must lie in 0..=1000000, not {factor}"));
            }
            if head.shape == HeadShape::Cosine && head.bias.is_some() {
                return wrong(format!("heads.{kind}.bias: a cosine head has none"));
            }
            if head.loss != LossKind::Softmax && (head.margin.is_some() || head.smoothing.is_some()) {
                return wrong(format!("heads.{kind}: margins and smoothing need the softmax loss"));
            }
            if head.loss == LossKind::BceOnSoftmax && head.focal != 0.0 {
                return wrong(format!("heads.{kind}.focal: bce-on-softmax has no focal form"));
            }
            for vector in ClassVector::ALL {
                let Some(scheduled) = head.vector(vector) else { continue };
                let key = key(vector);
                starts(&format!("heads.{kind}.{key}.from_epoch"), scheduled.from_epoch, epochs)?;
                let values = class_vectors::values(vector, Some(scheduled), counts, scheduled.from_epoch);
                values.map_err(|e| Error::Config(format!("heads.{kind}.{key}: {e}")))?;
            }
        }
        Ok(())
    }

    /// What works but is unusual, a line each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (kind, head) in self.classifiers() {
            if head.margin.is_some() && head.shape == HeadShape::Linear {
                let what =
                    "has margins but is linear: they were published for cosine heads (heads.*.shape = \"cosine\")";
                notes.push(format!("heads.{kind} {what}"));
            }
        }
        notes
    }
}

/// What a configuration calls a head's vector.
fn key(vector: ClassVector) -> &'static str {
    match vector {
        ClassVector::Scale => "class_scale",
        ClassVector::Offset => "offset",
        ClassVector::Margin => "margin",
        ClassVector::Weight => "weight",
        ClassVector::Smoothing => "smoothing",
    }
}

/// Refuses what would begin after the run's end.
fn starts(key: &str, from: usize, epochs: usize) -> Result<()> {
    match from >= epochs && from > 0 {
        true => Err(Error::Config(format!("{key}: {from} is not before the run's end ({epochs} epochs)"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{MethodSettings, method};

    const COUNTS: [usize; 3] = [50, 20, 3];

    fn recipe(name: &str) -> Recipe {
        method(name).unwrap().recipe(&MethodSettings::default(), &COUNTS)
    }

    fn changed(name: &str, changes: &str) -> Result<Recipe> {
        let recipe = recipe(name).changed(&toml::from_str(changes).unwrap())?;
        recipe.check(&COUNTS, 200)?;
        Ok(recipe)
    }

    #[test]
    fn a_configuration_reaches_every_ablation() {
        let plain = changed("glmc", "views = ['plain', 'plain']\nsimilarity = { gamma = 0 }").unwrap();
        assert_eq!((plain.views().unwrap(), plain.mixes()), (Mixing::Two(View::Plain, View::Plain), false));
        let one =
            changed("glmc", "views = ['cutmix']\nsimilarity = false\nheads.fc_cb = false\nevaluate = 'fc'").unwrap();
        assert_eq!((one.losses(), one.head_specs().len()), (vec![("c", 0)], 1));
        let linear = "heads.fc.coefficient.course = 'linear'\nheads.fc_cb.coefficient.course = 'linear'";
        assert_eq!(changed("glmc", linear).unwrap().coefficients(50, 200)[..2], [0.75, 0.25]);
        let siamese = changed("glmc", "similarity = { stop_gradient = false, predictor = false }").unwrap();
        assert_eq!(siamese.head_specs().len(), 3);
        let weights =
            changed("glmc", "heads.fc_cb.weight = { kind = 'effective', beta = 0.99, from_epoch = 10 }").unwrap();
        assert_eq!(weights.vectors(&COUNTS, 9).unwrap(), recipe("ce").vectors(&COUNTS, 0).unwrap().repeat(2));
        assert_ne!(weights.vectors(&COUNTS, 10).unwrap(), weights.vectors(&COUNTS, 9).unwrap());
        let sampled = changed("ce", "originals = { sampling = { kind = 'power', q = 1 }, from_epoch = 160 }").unwrap();
        assert_eq!(sampled.originals.sampling, Sampling::Power { q: 1.0 });
    }

    #[test]
    fn contradictions_are_named() {
        for (name, changes, said) in [
            ("ce", "views = []", "views: one or two"),
            ("ce", "veiws = ['plain']", "unknown field `veiws`"),
            (
                "ce",
                "heads.fc.weight = { kind = 'values', values = [1, 2] }",
                "heads.fc.weight: a vector of 2 values for 3",
            ),
            (
                "ce",
                "heads.fc.weight = { kind = 'effective', beta = 0.9, from_epoch = 200 }",
                "is not before the run's end",
            ),
            ("ce", "heads.fc = false", "none of fc and fc_cb"),
            ("ce", "evaluate = 'fc_cb'", "fc_cb is not trained"),
            ("ce", "similarity = { gamma = 1 }", "two views"),
            ("bbn", "views = ['plain']", "branches: two views"),
            ("glmc", "branches = true", "no similarity"),
            ("mixup", "mixing.beta = 0", "mixing.beta"),
            ("cmo-ce", "mixing.p = 1.5", "mixing.p"),
            ("cmo-ce", "mixing.epochs = [9, 4]", "9 is after 4"),
            ("cmo-ce", "partners = { kind = 'power', q = 1e308 }", "partners: the classes' probabilities sum to 0"),
            ("ce", "originals.sampling = { kind = 'power', q = nan }", "originals.sampling: the classes'"),
            ("ce", "originals.sampling = { kind = 'class-aware', images = 0 }", "at least 1 image"),
            ("ce", "originals.length = { kind = 'steps' }", "missing field `steps`"),
            ("ce", "originals.length = { kind = 'steps', steps = -1 }", "recipe: "),
            ("ce", "originals.length = 'whole-steps'", "recipe: "),
            ("ce", "originals.length = { kind = 'epochs' }", "unknown variant `epochs`"),
            ("cb-focal", "heads.fc.margin = { kind = 'ldam', max = 0.5 }", "need the softmax"),
        ] {
            let message = changed(name, changes).unwrap_err().to_string();
            assert!(message.contains(said) && !message.contains('\n'), "{changes}: {message}");
        }
        let linear = changed("ldam", "heads.fc.shape = 'linear'").unwrap();
        assert!(linear.notes()[0].contains("margins but is linear"));
    }
}
