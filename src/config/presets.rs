//! The published settings (GLMC paper and its code), and the demo.

use super::Settings;
use crate::error::{Error, Result};
use crate::method::{Method, glmc::Glmc};

/// The data that a preset is meant for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DataSet {
    /// A synthetic long-tailed set, drawn on the spot.
    Demo,
    /// CIFAR with the exponential profile.
    Cifar {
        /// 10 or 100.
        classes: usize,
        /// Largest class over smallest class.
        imbalance: usize,
    },
}

/// A row of the table of presets.
#[derive(Clone, Debug)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: String,
    /// What it is meant for.
    pub data: DataSet,
    method: &'static dyn Method,
    model: &'static str,
    width: usize,
    epochs: usize,
    batch: usize,
    lr: f64,
    weight_decay: f64,
    gamma: f64,
    k: f64,
    resample: f64,
}

/// GLMC's settings for CIFAR (README of the published code): classes, imbalance, q, k, gamma.
const CIFAR: [(usize, usize, f64, f64, f64); 6] = [
    (10, 100, 0.0, 1.2, 1.0),
    (10, 50, 0.0, 1.2, 1.0),
    (10, 10, 0.2, 1.0, 2.0),
    (100, 100, 0.0, 1.2, 4.0),
    (100, 50, 0.2, 1.2, 6.0),
    (100, 10, 0.2, 1.2, 4.0),
];

/// All presets. Those of CIFAR exist twice: the paper's network (width 64), and with `-w16` the classic ResNet-32, a
/// sixteenth of the work.
pub fn presets() -> Vec<Preset> {
    let demo = Preset {
        name: "demo".into(),
        data: DataSet::Demo,
        method: &Glmc,
        model: "resnet20",
        width: 8,
        epochs: 16,
        batch: 32,
        lr: 0.1,
        weight_decay: 5e-4,
        gamma: 1.0,
        k: 1.0,
        resample: 0.2,
    };
    let cifar = [(64, ""), (16, "-w16")].into_iter().flat_map(|(width, suffix)| {
        CIFAR.iter().map(move |&(classes, imbalance, resample, k, gamma)| Preset {
            name: format!("cifar{classes}-lt-if{imbalance}{suffix}"),
            data: DataSet::Cifar { classes, imbalance },
            method: &Glmc,
            model: "resnet32",
            width,
            epochs: 200,
            batch: 64,
            lr: 0.01,
            weight_decay: 5e-3,
            gamma,
            k,
            resample,
        })
    });
    std::iter::once(demo).chain(cifar).collect()
}

/// The preset of that name.
///
/// # Errors
/// When there is none.
pub fn preset(name: &str) -> Result<Preset> {
    let all = presets();
    let known = || all.iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(", ");
    let unknown = || Error::Usage(format!("unknown preset {name:?}: known are {}", known()));
    all.iter().find(|preset| preset.name == name).cloned().ok_or_else(unknown)
}

impl Preset {
    pub fn settings(&self) -> Settings {
        Settings {
            model: Some(self.model.into()),
            width: Some(self.width),
            method: Some(self.method),
            epochs: Some(self.epochs),
            batch: Some(self.batch),
            lr: Some(self.lr),
            weight_decay: Some(self.weight_decay),
            gamma: Some(self.gamma),
            k: Some(self.k),
            resample: Some(self.resample),
            ..Settings::default()
        }
    }

    /// Data and network in one line.
    pub fn description(&self) -> String {
        match self.data {
            DataSet::Demo => {
                "a synthetic long-tailed set, made on the spot, and a small network: a minute on a laptop".into()
            }
            DataSet::Cifar { classes, imbalance } => format!(
                "CIFAR-{classes}-LT, imbalance {imbalance}, {} width {}, {} epochs",
                self.model, self.width, self.epochs
            ),
        }
    }
}
