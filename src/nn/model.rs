//! An encoder and the heads that a method trains on its features.

use serde::{Deserialize, Serialize};

use super::encoder::{self, Encoder, EncoderConfig};
use super::layers::{Linear, Recorder};
use super::parameters::Specs;
use crate::error::{Error, Result};
use crate::tape::Var;

/// What network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// A name of [`encoder::FAMILIES`].
    pub name: String,
    /// Channels of the first stage. 16 is the classic CIFAR ResNet, 64 what the GLMC paper's tables use.
    pub width: usize,
    pub classes: usize,
    /// The heads, in the order of PyTorch's state dict.
    pub heads: &'static [HeadSpec],
    /// Width h of the projection and prediction vectors; `None` takes the encoder's published one.
    pub hidden: Option<usize>,
}

/// An affine head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSpec {
    /// Its name in PyTorch's state dict.
    pub name: &'static str,
    /// What it reads.
    pub inputs: Extent,
    /// What it puts out.
    pub outputs: Extent,
}

/// The extents that heads have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The encoder's features.
    Features,
    /// One value per class.
    Classes,
    /// Width h of the projection and prediction vectors.
    Hidden,
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

impl HeadKind {
    /// The head's name in PyTorch's state dict.
    pub fn name(self) -> &'static str {
        match self {
            HeadKind::FcCb => "fc_cb",
            HeadKind::Fc => "fc",
        }
    }
}

impl std::fmt::Display for HeadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A network's description: its parameters are declared, nothing is allocated.
#[derive(Debug)]
pub struct Model {
    encoder: Box<dyn Encoder>,
    heads: Vec<(&'static str, Linear)>,
    specs: Specs,
}

impl Model {
    /// Describes a network for a backend whose stem wants `stem_channels` input channels.
    ///
    /// # Errors
    /// When the name is unknown, or a number is zero or absurd.
    pub fn new(config: &ModelConfig, stem_channels: usize) -> Result<Model> {
        let family = encoder::family(&config.name)?;
        if !(1..=1024).contains(&config.width) {
            return Err(Error::Config(format!("width {} is not in 1..=1024", config.width)));
        }
        if config.classes < 2 {
            return Err(Error::Config(format!("{} classes: at least two are needed", config.classes)));
        }
        let hidden = config.hidden.unwrap_or(family.hidden);
        if !(1..=1 << 14).contains(&hidden) {
            return Err(Error::Config(format!("hidden width {hidden} is not in 1..=16384")));
        }
        let mut specs = Specs::default();
        let encoder = (family.build)(&config.name, &mut specs, EncoderConfig { width: config.width, stem_channels });
        let extent = |extent: Extent| match extent {
            Extent::Features => encoder.features(),
            Extent::Classes => config.classes,
            Extent::Hidden => hidden,
        };
        let declare = |head: &HeadSpec| {
            (head.name, Linear::new(&mut specs, head.name, extent(head.inputs), extent(head.outputs)))
        };
        let heads = config.heads.iter().map(declare).collect();
        Ok(Model { encoder, heads, specs })
    }

    /// The declared parameters.
    pub fn specs(&self) -> &Specs {
        &self.specs
    }

    /// Records the encoder on images (batch, height, width, stem channels); returns features (batch, features).
    ///
    /// # Errors
    /// When the images do not fit the network.
    pub fn record_features(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        self.encoder.record(r, images)
    }

    /// Records one head on what it reads, (batch, inputs); returns (batch, outputs).
    ///
    /// # Errors
    /// When the model does not have that head.
    pub fn record_head(&self, r: &mut Recorder<'_>, name: &str, x: Var) -> Result<Var> {
        match self.heads.iter().find(|(head, _)| *head == name) {
            Some((_, layer)) => layer.record(r, x),
            None => {
                let names: Vec<&str> = self.heads.iter().map(|(head, _)| *head).collect();
                Err(Error::Config(format!("this model was trained without {name}; its heads: {}", names.join(", "))))
            }
        }
    }
}
