//! Second stages: published ways to train a finished run's classifier on, its encoder left as it is.
//!
//! Each is a row of [`SECOND_STAGES`]: settings as a file of settings has them, for a run of the method `ce`, so that the new
//! run's `config.toml` says exactly what was trained.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{Config, Init, Settings, Which};
use crate::error::{Error, Result};
use crate::method::{Published, method};
use crate::nn::HeadKind;
use crate::nn::model::HeadShape;

/// All second stages.
pub const SECOND_STAGES: &[&SecondStage] = &[&MAXNORM, &CRT, &LWS, &WB, &MISLAS];

/// A published second stage.
#[derive(Debug)]
pub struct SecondStage {
    /// What `--method` calls it.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Which of the first run's classifiers it trains.
    trains: Trains,
    /// Its settings, as TOML, for a classifier of this name on such data.
    settings: fn(&str, On) -> String,
    /// Its published figures.
    pub published: Published,
}

/// What a second stage's published settings depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    /// Small images of fewer than 100 classes: CIFAR-10's settings.
    Ten,
    /// Small images of more: CIFAR-100's.
    Hundred,
    /// Photographs: ImageNet-LT's.
    Photographs,
}

/// A classifier of the first run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trains {
    /// A new `fc`.
    New,
    /// `fc` as it is.
    Conventional,
    /// `fc_cb` as it is, where there is one; else that which the run is evaluated with.
    Rebalanced,
    /// That which the run is evaluated with, and learned scales of its logits.
    Scales,
}

/// MaxNorm after GLMC: weight balancing's second stage on the rebalanced classifier. The code has the projection, and no more
/// of the stage; the rest is weight balancing's.
const MAXNORM: SecondStage = SecondStage {
    name: "maxnorm",
    title: "GLMC's MaxNorm: weight decay and MaxNorm on fc_cb",
    source: "Du et al., CVPR 2023; settings of weight balancing",
    trains: Trains::Rebalanced,
    settings: weight_balancing,
    published: Published {
        width: 64,
        cifar10: [Some(89.58), Some(92.04), Some(95.00)],
        cifar100: [Some(58.41), Some(64.57), Some(74.28)],
        source: "GLMC's code, README",
    },
};

/// Classifier re-training.
const CRT: SecondStage = SecondStage {
    name: "crt",
    title: "cRT: a new fc on class-aware samples",
    source: "Kang et al., ICLR 2020",
    trains: Trains::New,
    settings: |head, on| {
        let groups = format!(r#"[{{ match = "*", frozen = true }}, {{ match = "{head}.*" }}]"#);
        format!("{}groups = {groups}\n", class_aware(on, 10))
    },
    published: Published {
        width: 16,
        cifar10: [Some(74.99), Some(80.17), None],
        cifar100: [Some(40.26), Some(45.36), None],
        source: "zhangyongshun/BagofTricks-LT",
    },
};

/// Learned scales of the logits.
const LWS: SecondStage = SecondStage {
    name: "lws",
    title: "LWS: a learned scale for each class's logit",
    source: "Kang et al., ICLR 2020",
    trains: Trains::Scales,
    settings: |head, on| {
        let groups = format!(r#"[{{ match = "*", frozen = true }}, {{ match = "{head}.scales" }}]"#);
        format!("{}groups = {groups}\n{}", class_aware(on, 5), only(head, r#"shape = "scaled""#))
    },
    published: Published {
        width: 16,
        cifar10: [Some(72.63), Some(78.66), None],
        cifar100: [Some(40.16), Some(45.21), None],
        source: "zhangyongshun/BagofTricks-LT",
    },
};

/// Weight balancing's second stage.
const WB: SecondStage = SecondStage {
    name: "wb",
    title: "weight balancing: weight decay and MaxNorm on fc",
    source: "Alshammari et al., CVPR 2022",
    trains: Trains::Conventional,
    settings: weight_balancing,
    published: Published::NONE,
};

/// MiSLAS' second stage.
const MISLAS: SecondStage = SecondStage {
    name: "mislas",
    title: "MiSLAS: label-aware smoothing, learned scales",
    source: "Zhong et al., CVPR 2021",
    trains: Trains::Scales,
    settings: |head, on| {
        let (factor, large, small, norm) = match on {
            On::Ten => (0.5, 0.3, 0.0, "running"),
            On::Hundred => (0.2, 0.4, 0.1, "train"),
            On::Photographs => (0.05, 0.3, 0.0, "train"),
        };
        let (batch, decay) = if on == On::Photographs { (256, "5e-4") } else { (128, "2e-4") };
        let groups = format!(
            r#"[{{ match = "*", frozen = true, batch_norm = "{norm}" }}, {{ match = "{head}.*", lr_factor = {factor:?} }},
               {{ match = "{head}.scales" }}]"#
        );
        let smoothing =
            format!(r#"shape = "scaled", smoothing = {{ kind = "label-aware", head = {large:?}, tail = {small:?} }}"#);
        format!(
            r#"epochs = 10
               batch = {batch}
               lr = 0.1
               lr_schedule = "cosine"
               weight_decay = {decay}
               recipe.originals.sampling = {{ kind = "class-aware", images = 4 }}
               groups = {groups}
               {}"#,
            only(head, &smoothing)
        )
    },
    published: Published {
        width: 16,
        cifar10: [Some(82.5), Some(85.7), Some(90.0)],
        cifar100: [Some(47.0), Some(52.3), Some(63.2)],
        source: "dvlab-research/MiSLAS",
    },
};

/// How cRT and LWS were trained on CIFAR (zhangyongshun/BagofTricks-LT).
const BAG_OF_TRICKS: &str = r#"
    epochs = 30
    batch = 128
    lr = 0.1
    lr_schedule = "10:0.1,20:0.01"
    weight_decay = 5e-4
    recipe.originals.sampling = { kind = "class-aware", images = 4 }
"#;

/// How cRT and LWS were trained on ImageNet-LT (facebookresearch/classifier-balancing, `config/ImageNet_LT/cls_*.yaml`), but
/// for their epochs.
const DECOUPLING: &str = r#"
    batch = 512
    lr = 0.2
    lr_schedule = "cosine"
    lr_set = "step-before"
    weight_decay = 5e-4
    recipe.originals.sampling = { kind = "class-aware", images = 4 }
    recipe.originals.length = { kind = "whole-steps" }
"#;

/// How cRT and LWS are trained, on photographs for so many epochs.
fn class_aware(on: On, epochs: usize) -> String {
    match on {
        On::Photographs => format!("epochs = {epochs}\n{DECOUPLING}"),
        On::Ten | On::Hundred => BAG_OF_TRICKS.into(),
    }
}

/// The second stage of ShadeAlsha/LTR-weight-balancing. Batch normalisations stay in train mode, as they do there.
fn weight_balancing(head: &str, _: On) -> String {
    let loss = r#"loss = "bce-on-softmax", weight = { kind = "effective", beta = 0.9999 }"#;
    format!(
        r#"epochs = 10
           batch = 64
           lr = 0.01
           lr_schedule = "cosine"
           lr_set = "step-before"
           weight_decay = 0.1
           groups = [{{ match = "*", frozen = true }}, {{ match = "{head}.*" }}]
           project = {{ max_norm = 0.1, match = "{head}.weight" }}
           {}"#,
        only(head, loss)
    )
}

/// What makes this classifier the only one of `ce`, with these keys.
fn only(head: &str, keys: &str) -> String {
    match head == HeadKind::Fc.name() {
        true => format!("recipe.heads.fc = {{ {keys} }}\n"),
        false => format!("recipe.heads = {{ fc = false, {head} = {{ {keys} }} }}\nrecipe.evaluate = \"{head}\"\n"),
    }
}

impl SecondStage {
    /// Its settings after a run of `parent`, trained on these images per class, that lies at `from`.
    ///
    /// # Errors
    /// When that run does not have the classifier that is to be trained.
    pub fn settings(
        &self,
        parent: &Config,
        counts: &[usize],
        from: PathBuf,
        checkpoint: Option<Which>,
    ) -> Result<Settings> {
        let recipe = parent.recipe(counts)?;
        let classifiers = recipe.classifiers();
        let shape = |head| classifiers.iter().find(|(kind, _)| *kind == head).map(|(_, head)| head.shape);
        // A mean of two classifiers is none that could be trained.
        let evaluated = match parent.head.unwrap_or(recipe.evaluate) {
            HeadKind::Mean => HeadKind::FcCb,
            head => head,
        };
        let head = match self.trains {
            Trains::New | Trains::Conventional => HeadKind::Fc,
            Trains::Rebalanced if shape(HeadKind::FcCb).is_some() => HeadKind::FcCb,
            Trains::Rebalanced | Trains::Scales => evaluated,
        };
        let allowed = match self.trains {
            Trains::New => None,
            Trains::Scales => Some(&[HeadShape::Linear, HeadShape::Scaled][..]),
            Trains::Conventional | Trains::Rebalanced => Some(&[HeadShape::Linear][..]),
        };
        let name = self.name;
        match (allowed, shape(head)) {
            (Some(_), None) => {
                let what = format!("was trained without {head}, which {name} trains on: --method crt draws a new one");
                return Err(Error::file(from, what));
            }
            (Some(allowed), Some(shape)) if !allowed.contains(&shape) => {
                let what = format!(
                    "its classifier {head} is {shape}, and {name} needs a linear one: --method crt trains a new one"
                );
                return Err(Error::file(from, what));
            }
            _ => {}
        }
        let on = match (parent.size, counts.len()) {
            (Some(_), _) => On::Photographs,
            (None, ..100) => On::Ten,
            (None, _) => On::Hundred,
        };
        let text = (self.settings)(head.name(), on);
        let published: Settings = toml::from_str(&text).expect("a test reads the settings of every second stage");
        let reinit = if self.trains == Trains::New { vec![format!("{head}.*")] } else { Vec::new() };
        Ok(Settings {
            model: Some(parent.model.clone()),
            width: Some(parent.width),
            stem: parent.stem,
            method: Some(method("ce").map_err(Error::Config)?),
            momentum: Some(0.9),
            twenty_is_few: Some(parent.twenty_is_few),
            shots: parent.shots,
            eval_flip: Some(parent.eval_flip),
            select: parent.select,
            seed: Some(parent.seed),
            size: parent.size,
            eval_resize: parent.eval_resize,
            photos: parent.photos.map(|photos| photos.to_table()),
            init: Some(Init { from, checkpoint, reinit }),
            ..published
        })
    }
}

/// What the command line makes of a second stage's name.
pub fn second_stage_parser() -> impl TypedValueParser<Value = &'static SecondStage> {
    PossibleValuesParser::new(SECOND_STAGES.iter().map(|stage| stage.name)).try_map(|name| {
        let found = SECOND_STAGES.iter().find(|stage| stage.name == name);
        found.copied().ok_or_else(|| format!("unknown second stage {name:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PlacementSettings, preset};
    use crate::method::recipe::LossKind;
    use crate::method::samplers::Sampling;
    use crate::method::schedule::SetAt;
    use crate::nn::BatchNorm;

    const COUNTS: [usize; 10] = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50];

    fn parent(name: &str) -> Config {
        let placement = PlacementSettings::on("x.lt");
        Config::resolve(Settings { placement, ..preset(name).unwrap().settings() }).unwrap()
    }

    fn stage(name: &str) -> &'static SecondStage {
        SECOND_STAGES.iter().find(|stage| stage.name == name).unwrap()
    }

    fn after(name: &str, parent: &Config, counts: &[usize]) -> Result<Config> {
        let settings = stage(name).settings(parent, counts, "run".into(), None)?;
        let placement = PlacementSettings::on("x.lt");
        Config::resolve(Settings { placement, ..settings })
    }

    #[test]
    fn every_second_stage_is_a_whole_configuration_after_every_linear_method() {
        for stage in SECOND_STAGES {
            for first in ["cifar10-lt-if100", "cifar10-lt-if100-ce", "cifar10-lt-if100-mixup"] {
                for counts in [&COUNTS[..], &[9; 100]] {
                    let config = after(stage.name, &parent(first), counts).unwrap();
                    let recipe = config.recipe(counts).unwrap();
                    assert_eq!(recipe.classifiers().len(), 1, "{} after {first}", stage.name);
                    assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
                }
            }
        }
    }

    #[test]
    fn the_published_settings_are_what_comes_out() {
        let wb = after("wb", &parent("cifar10-lt-if100-ce"), &COUNTS).unwrap();
        let recipe = wb.recipe(&COUNTS).unwrap();
        let head = recipe.heads.fc.as_ref().unwrap();
        assert_eq!((head.loss, recipe.originals.sampling), (LossKind::BceOnSoftmax, Sampling::Shuffle));
        let rate = wb.learning_rate();
        assert_eq!((rate.set, wb.lr, wb.weight_decay, wb.epochs, wb.batch), (SetAt::StepBefore, 0.01, 0.1, 10, 64));
        assert!((rate.at(0, 10, 0, 1) - 0.009755).abs() < 1e-6 && rate.at(9, 10, 0, 1).abs() < 1e-18);
        let maxnorm = after("maxnorm", &parent("cifar10-lt-if100"), &COUNTS).unwrap();
        assert_eq!(maxnorm.recipe(&COUNTS).unwrap().evaluate, HeadKind::FcCb);
        assert_eq!(maxnorm.project.unwrap().pattern, "fc_cb.weight");
        let crt = after("crt", &parent("cifar10-lt-if100"), &COUNTS).unwrap();
        assert_eq!(crt.init.unwrap().reinit, ["fc.*"]);
        let [ten, hundred] = [&COUNTS[..], &[9; 100]].map(|counts| {
            let config = after("mislas", &parent("cifar10-lt-if100-mixup"), counts).unwrap();
            (config.groups[1].lr_factor, config.groups[2].lr_factor, config.groups[0].batch_norm)
        });
        assert_eq!((ten, hundred), ((0.5, 1.0, BatchNorm::Running), (0.2, 1.0, BatchNorm::Train)));
    }

    #[test]
    fn a_classifier_that_does_not_fit_is_named() {
        let cosine = parent("cifar10-lt-if100-ldam");
        let message = after("lws", &cosine, &COUNTS).unwrap_err().to_string();
        assert!(message.contains("fc is cosine") && message.contains("crt"), "{message}");
        assert!(after("crt", &cosine, &COUNTS).is_ok());
        let mut without = parent("cifar10-lt-if100");
        without.recipe = toml::from_str("heads.fc = false").unwrap();
        let message = after("wb", &without, &COUNTS).unwrap_err().to_string();
        assert!(message.contains("without fc"), "{message}");
    }
}
