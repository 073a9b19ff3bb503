//! An encoder and its heads, as the published GLMC model has them.

use serde::{Deserialize, Serialize};

use super::layers::{Linear, Recorder};
use super::parameters::Specs;
use super::resnet::{self, CifarResNet};
use crate::error::{Error, Result};
use crate::tape::Var;

/// What network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// `resnet20` to `resnet110`.
    pub name: String,
    /// Channels of the first stage. 16 is the classic CIFAR ResNet, 64 what the GLMC paper's tables use.
    pub width: usize,
    /// Classes.
    pub classes: usize,
    /// Which heads.
    pub heads: Heads,
    /// Width h of the projection and prediction vectors; [`HIDDEN`] for the CIFAR networks.
    pub hidden: usize,
}

/// Which heads a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// `fc`, `fc_cb`, `projection_head`, `contrast_head`: GLMC.
    Glmc,
    /// `fc` alone: plain cross-entropy.
    Classifier,
}

/// A head that classifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// The rebalanced classifier: for long-tailed data.
    #[value(name = "fc_cb")]
    FcCb,
    /// The conventional classifier: for balanced data, and for plain cross-entropy.
    #[value(name = "fc")]
    Fc,
}

impl std::fmt::Display for HeadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == HeadKind::FcCb { "fc_cb" } else { "fc" })
    }
}

/// Width h of the projection and prediction vectors that the published CIFAR models have.
pub const HIDDEN: usize = 128;

/// A network's description: its parameters are declared, nothing is allocated.
#[derive(Clone, Debug)]
pub struct Model {
    encoder: CifarResNet,
    fc: Linear,
    glmc: Option<GlmcHeads>,
    specs: Specs,
}

#[derive(Clone, Debug)]
struct GlmcHeads {
    fc_cb: Linear,
    projection_head: Linear,
    contrast_head: Linear,
}

/// What the training heads put out, rows of the first view first.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// (views * batch, classes): the conventional classifier.
    pub logits: Var,
    /// What only GLMC has.
    pub glmc: Option<GlmcOutputs>,
}

/// The outputs of GLMC's other heads.
#[derive(Clone, Copy, Debug)]
pub struct GlmcOutputs {
    /// (views * batch, classes): the rebalanced classifier.
    pub logits_cb: Var,
    /// (views * batch, hidden): projections h.
    pub h: Var,
    /// (views * batch, hidden): predictions u.
    pub u: Var,
}

impl Model {
    /// Describes a network for a backend whose stem wants `stem_channels` input channels.
    ///
    /// # Errors
    /// When the name is unknown, or a number is zero or absurd.
    pub fn new(config: &ModelConfig, stem_channels: usize) -> Result<Model> {
        let blocks = resnet::blocks_per_stage(&config.name)
            .ok_or_else(|| Error::Config(format!("unknown model {:?}: known are {}", config.name, resnet::NAMES)))?;
        if !(1..=1024).contains(&config.width) {
            return Err(Error::Config(format!("width {} is not in 1..=1024", config.width)));
        }
        if config.classes < 2 {
            return Err(Error::Config(format!("{} classes: at least two are needed", config.classes)));
        }
        if !(1..=1 << 14).contains(&config.hidden) {
            return Err(Error::Config(format!("hidden width {} is not in 1..=16384", config.hidden)));
        }
        let mut specs = Specs::default();
        let encoder = CifarResNet::new(&mut specs, blocks, config.width, stem_channels);
        let features = encoder.features;
        let fc = Linear::new(&mut specs, "fc", features, config.classes);
        let glmc = (config.heads == Heads::Glmc).then(|| GlmcHeads {
            fc_cb: Linear::new(&mut specs, "fc_cb", features, config.classes),
            contrast_head: Linear::new(&mut specs, "contrast_head.0", config.hidden, config.hidden),
            projection_head: Linear::new(&mut specs, "projection_head.0", features, config.hidden),
        });
        Ok(Model { encoder, fc, glmc, specs })
    }

    /// The declared parameters.
    pub fn specs(&self) -> &Specs {
        &self.specs
    }

    /// Records encoder and all heads for training.
    pub fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Outputs> {
        let features = self.encoder.record(r, images)?;
        let logits = self.fc.record(r, features)?;
        let mut glmc = None;
        if let Some(heads) = &self.glmc {
            let logits_cb = heads.fc_cb.record(r, features)?;
            let h = heads.projection_head.record(r, features)?;
            let u = heads.contrast_head.record(r, h)?;
            glmc = Some(GlmcOutputs { logits_cb, h, u });
        }
        Ok(Outputs { logits, glmc })
    }

    /// Records encoder and one classifier; returns the logits (batch, classes).
    ///
    /// # Errors
    /// When the model does not have that head.
    pub fn record_classifier(&self, r: &mut Recorder<'_>, images: Var, head: HeadKind) -> Result<Var> {
        let layer = match (head, &self.glmc) {
            (HeadKind::Fc, _) => &self.fc,
            (HeadKind::FcCb, Some(heads)) => &heads.fc_cb,
            (HeadKind::FcCb, None) => {
                return Err(Error::Config("this model was trained without fc_cb: take --head fc".into()));
            }
        };
        let features = self.encoder.record(r, images)?;
        layer.record(r, features)
    }
}
