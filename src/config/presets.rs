//! Published settings: every method on long-tailed CIFAR, and the demo.

mod photographs;

use super::second_stage::{SECOND_STAGES, SecondStage};
use super::{Sam, Settings};
use crate::data::published::Published as Lists;
use crate::error::{Error, Result};
use crate::method::{METHODS, Method, Published, Training, method};

/// The data that a preset is meant for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DataSet {
    /// A synthetic long-tailed set, drawn on the spot.
    Demo,
    /// CIFAR with the exponential profile.
    Cifar {
        /// 10 or 100.
        classes: usize,
        /// Largest class over smallest class; 1 is the whole, balanced set.
        imbalance: usize,
    },
    /// Published lists of photographs.
    Lists(&'static Lists),
    /// All of ImageNet (ILSVRC 2012), about as many photographs in each class.
    ImageNet,
}

impl DataSet {
    /// How many classes it has; of the demo's nothing is asked.
    pub fn classes(&self) -> Option<usize> {
        match *self {
            DataSet::Demo => None,
            DataSet::Cifar { classes, .. } => Some(classes),
            DataSet::Lists(lists) => Some(lists.classes),
            DataSet::ImageNet => Some(1000),
        }
    }

    /// As `--list-presets` names it.
    pub fn title(&self) -> String {
        match self {
            DataSet::Demo => "synthetic, made on the spot".into(),
            DataSet::Lists(lists) => lists.title.into(),
            DataSet::ImageNet => "ImageNet, balanced".into(),
            DataSet::Cifar { classes, imbalance: 1 } => format!("CIFAR-{classes}, balanced"),
            DataSet::Cifar { classes, imbalance } => format!("CIFAR-{classes}-LT, {imbalance}"),
        }
    }
}

/// A row of the table of presets.
#[derive(Clone, Debug)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: String,
    /// What it is meant for.
    pub data: DataSet,
    pub method: &'static Method,
    pub model: &'static str,
    /// Channels of the first stage.
    pub width: usize,
    pub training: Training,
    /// Top-1 in percent that was published for these data, network and settings, after all stages.
    pub published: Option<f64>,
    /// What follows the training.
    pub then: Then,
    /// Where the published figure stands.
    source: &'static str,
    gamma: f64,
    k: f64,
    resample: f64,
    /// What it sets besides, as TOML.
    more: &'static str,
    /// What of its settings differs from the published ones, or is not published.
    differs: &'static str,
}

/// What follows a preset's training.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// A second stage, a run of its own.
    Stage(&'static SecondStage),
    /// Tau-normalisation of the trained classifier by this tau or range of them, as `posthoc` takes it; it needs no training.
    TauNorm(&'static str),
}

/// Published recipes of two stages or of a change after the training: name, the method of the first stage, what follows.
const STAGED: [(&str, &str, &str); 6] = [
    ("crt", "ce", "crt"),
    ("lws", "ce", "lws"),
    ("tau-norm", "ce", "tau-norm"),
    ("wb", "wb", "wb"),
    ("mislas", "mislas", "mislas"),
    ("glmc-maxnorm", "glmc", "maxnorm"),
];

/// Tau-normalisation by tau = 1 (Kang et al., ICLR 2020) on CIFAR.
const TAU_NORM: Published = Published {
    width: 16,
    cifar10: [Some(72.70), Some(79.78), None],
    cifar100: [Some(40.96), Some(45.69), None],
    source: "zhangyongshun/BagofTricks-LT",
};

/// GLMC's settings for CIFAR (README of the published code): classes, imbalance, q, k, gamma. The balanced ones are not
/// published: with equal counts q and k change nothing, and gamma is that of the same classes at imbalance 100.
const CIFAR: [(usize, usize, f64, f64, f64); 8] = [
    (10, 100, 0.0, 1.2, 1.0),
    (10, 50, 0.0, 1.2, 1.0),
    (10, 10, 0.2, 1.0, 2.0),
    (10, 1, 0.0, 1.2, 1.0),
    (100, 100, 0.0, 1.2, 4.0),
    (100, 50, 0.2, 1.2, 6.0),
    (100, 10, 0.2, 1.2, 4.0),
    (100, 1, 0.0, 1.2, 4.0),
];

/// The methods that balanced data has presets of: where classes are equal, those that weigh, adjust or resample them are
/// the plain ones.
const BALANCED: [&str; 3] = ["glmc", "ce", "mixup"];

/// All presets. Those of CIFAR are named by their data, and by their method unless that is GLMC. GLMC's exist twice: the
/// paper's network (width 64), and with `-w16` the classic ResNet-32, a sixteenth of the work.
pub fn presets() -> Vec<Preset> {
    let glmc = METHODS[0];
    let demo = Preset {
        name: "demo".into(),
        data: DataSet::Demo,
        method: glmc,
        model: "resnet20",
        width: 8,
        training: Training { epochs: 16, batch: 32, lr: 0.1, weight_decay: 5e-4, ..glmc.training },
        published: None,
        then: Then::Nothing,
        source: "",
        gamma: 1.0,
        k: 1.0,
        resample: 0.2,
        more: "",
        differs: "",
    };
    let on_cifar = |method: &'static Method, width: usize, suffix: &str, then: Then| {
        let suffix = suffix.to_string();
        let on_balanced = BALANCED.contains(&method.name) && matches!(then, Then::Nothing);
        let published = match then {
            Then::Nothing => &method.published,
            Then::Stage(stage) => &stage.published,
            Then::TauNorm(_) => &TAU_NORM,
        };
        CIFAR.iter().filter(move |row| row.1 > 1 || on_balanced).map(move |&row| {
            let (classes, imbalance, resample, k, gamma) = row;
            let kind = if imbalance == 1 { "balanced".into() } else { format!("lt-if{imbalance}") };
            let figures = if classes == 10 { published.cifar10 } else { published.cifar100 };
            let figure = [100, 50, 10].iter().position(|of| *of == imbalance).and_then(|at| figures[at]);
            Preset {
                name: format!("cifar{classes}-{kind}{suffix}"),
                data: DataSet::Cifar { classes, imbalance },
                method,
                model: "resnet32",
                width,
                training: method.training,
                published: figure.filter(|_| width == published.width),
                then,
                source: published.source,
                gamma,
                k,
                resample,
                more: "",
                differs: "",
            }
        })
    };
    let of_one_stage = METHODS[1..].iter().filter(|method| STAGED.iter().all(|(name, ..)| *name != method.name));
    let others = of_one_stage
        .flat_map(|method| on_cifar(method, method.published.width, &format!("-{}", method.name), Then::Nothing));
    let staged = STAGED.iter().flat_map(|(name, first, then)| {
        let first = named(first);
        let then = if *then == "tau-norm" { Then::TauNorm("1") } else { stage(then) };
        on_cifar(first, first.published.width, &format!("-{name}"), then)
    });
    let glmc =
        [(64, ""), (16, "-w16")].into_iter().flat_map(|(width, name)| on_cifar(glmc, width, name, Then::Nothing));
    [demo].into_iter().chain(glmc).chain(others).chain(staged).chain(resnet34()).chain(photographs::presets()).collect()
}

/// The method of that name, which is one of the table.
fn named(name: &str) -> &'static Method {
    METHODS.iter().find(|method| method.name == name).expect("a test makes every preset")
}

/// The second stage of that name, which is one of the table.
fn stage(name: &str) -> Then {
    Then::Stage(SECOND_STAGES.iter().find(|stage| stage.name == name).expect("a test makes every preset"))
}

/// Weight balancing on the network that it was published with: all figures are of the mean of each image and its mirror image.
fn resnet34() -> impl Iterator<Item = Preset> {
    let wb = named("wb");
    [(100, 53.35), (50, 57.71), (10, 68.67)].into_iter().map(move |(imbalance, top1)| Preset {
        name: format!("cifar100-lt-if{imbalance}-wb-resnet34"),
        data: DataSet::Cifar { classes: 100, imbalance },
        method: wb,
        model: "resnet34",
        width: 64,
        training: wb.training,
        published: Some(top1),
        then: stage("wb"),
        source: "Alshammari et al., CVPR 2022, by mirror images too",
        gamma: 1.0,
        k: 1.2,
        resample: 0.0,
        more: "eval_flip = true",
        differs: match imbalance {
            100 => "their code's own run: 47.9 after the first stage, then 53.1",
            _ => "",
        },
    })
}

/// The preset of that name.
///
/// # Errors
/// When there is none; the message names those that are near.
pub fn preset(name: &str) -> Result<Preset> {
    let all = presets();
    if let Some(found) = all.iter().find(|preset| preset.name == name) {
        return Ok(found.clone());
    }
    let hint = match name.rsplit_once("-lt-if").and_then(|(_, rest)| rest.split_once('-')) {
        Some((_, of)) if method(of).is_err() => {
            let staged = STAGED.iter().map(|(name, ..)| *name).filter(|name| method(name).is_err());
            let methods: Vec<&str> = METHODS.iter().map(|method| method.name).chain(staged).collect();
            format!("no method is called {of:?}: known are {}", methods.join(", "))
        }
        _ => {
            let known = all.iter().filter(|preset| *preset.method == *METHODS[0]).map(|preset| preset.name.as_str());
            let known = known.collect::<Vec<_>>().join(", ");
            format!("known are {known}, and those of other methods (train --list-presets)")
        }
    };
    Err(Error::Usage(format!("unknown preset {name:?}: {hint}")))
}

impl Preset {
    /// Method, data, network, and where the published figure stands.
    pub fn description(&self) -> String {
        let Preset { data, method, model, width, training, published, then, source, differs, .. } = self;
        let then = match then {
            Then::Nothing => String::new(),
            Then::Stage(stage) => format!(", then {}", stage.title),
            Then::TauNorm(tau) => format!(", then posthoc --tau-norm {tau}"),
        };
        let (title, data, epochs) = (method.title, data.title(), training.epochs);
        let what = format!("{title}{then}; {data}; {model} width {width}, {epochs} epochs");
        let source = if published.is_some() || source.starts_with("ours") { source } else { "" };
        [&what, source, differs].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// SAM where CIFAR-100 has another rho than the method by itself.
    fn sam(&self) -> Option<Sam> {
        let hundred = matches!(self.data, DataSet::Cifar { classes: 100, .. });
        self.method.sam.filter(|sam| hundred && sam.rho[0] != sam.rho[1]).map(|sam| Sam::of(sam, true))
    }

    pub fn settings(&self) -> Settings {
        let Training { epochs, batch, lr, warmup, warmup_from, warmup_every_step, set, weight_decay, .. } =
            self.training;
        let more: Settings = toml::from_str(self.more).expect("a test reads every preset");
        let settings = Settings {
            model: Some(self.model.into()),
            width: Some(self.width),
            method: Some(self.method),
            epochs: Some(epochs),
            batch: Some(batch),
            lr: Some(lr),
            lr_schedule: Some(self.training.decay()),
            warmup_epochs: Some(warmup),
            warmup_from: Some(warmup_from),
            warmup_every_step: Some(warmup_every_step),
            lr_set: Some(set),
            weight_decay: Some(weight_decay),
            gamma: Some(self.gamma),
            k: Some(self.k),
            resample: Some(self.resample),
            sam: self.sam(),
            ..Settings::default()
        };
        more.or(settings)
    }
}
