//! Encoders: networks without their heads, as descriptions that declare parameters and record themselves.

use serde::{Deserialize, Serialize};

use super::cifar_resnet;
use super::layers::Recorder;
use super::parameters::Specs;
use super::resnet;
use crate::error::{Error, Result};
use crate::tape::Var;

/// From images to features.
pub trait Encoder: std::fmt::Debug + Send + Sync {
    /// Features that come out.
    fn features(&self) -> usize;

    /// Records the network on images (batch, height, width, stem channels); returns features (batch, features), in the
    /// accumulation type; of a network with two branches in training a row for both views of a sample.
    ///
    /// # Errors
    /// When the images do not fit the network.
    fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var>;
}

/// What an encoder is built from.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    /// Channels of the first stage.
    pub width: usize,
    /// Channels of the images as stored: 3, or more where a backend's stem wants padding.
    pub stem_channels: usize,
    /// Whether the last block exists twice: one sees the first view, the other the second, and their features, weighed by the
    /// step's shares, lie side by side (BBN). In evaluation both see every image, and features are as they are.
    pub branches: bool,
    /// What images meet first.
    pub stem: Stem,
}

/// What a network begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 3x3 convolution.
    #[default]
    Cifar,
    /// A 7x7 convolution with stride 2 and padding 3, then the largest value of 3x3 pixels, stride 2, padding 1.
    Imagenet,
}

impl std::fmt::Display for Stem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stem::Cifar => "cifar",
            Stem::Imagenet => "imagenet",
        })
    }
}

/// Rows or columns of an image up to which a network that has both stems takes that of CIFAR.
const SMALL: usize = 64;

/// Networks of one design. A new design is one file, and one row in [`FAMILIES`].
pub struct Family {
    /// Their names.
    pub names: &'static [&'static str],
    /// Width h of the projection and prediction vectors that the published model has on such an encoder.
    pub hidden: usize,
    /// Whether they have both stems, or that of CIFAR alone.
    pub stems: bool,
    /// Declares the parameters of one of them; refuses what its design does not have.
    pub build: fn(&str, &mut Specs, EncoderConfig) -> Result<Box<dyn Encoder>>,
}

/// The stem of a network on images of `side` rows or columns, the fewer, if it has a choice: the one that was asked for, else that
/// of CIFAR for images of at most 64 pixels. `None` where there is no choice.
///
/// # Errors
/// When the network is unknown, or does not have the stem that was asked for.
pub fn stem(name: &str, asked: Option<Stem>, side: usize) -> Result<Option<Stem>> {
    match (family(name)?.stems, asked) {
        (true, None) if side > SMALL => Ok(Some(Stem::Imagenet)),
        (true, asked) => Ok(Some(asked.unwrap_or_default())),
        (false, Some(Stem::Imagenet)) => {
            Err(Error::Config(format!("{name} is made for small images and has no imagenet stem: leave stem out")))
        }
        (false, _) => Ok(None),
    }
}

/// All designs.
pub const FAMILIES: &[Family] = &[cifar_resnet::FAMILY, resnet::FAMILY];

/// The names of all networks, for messages and help.
pub fn names() -> String {
    FAMILIES.iter().flat_map(|family| family.names).copied().collect::<Vec<_>>().join(", ")
}

/// The design that a network belongs to.
///
/// # Errors
/// When no design has a network of that name; the message lists those that there are.
pub fn family(name: &str) -> Result<&'static Family> {
    let family = FAMILIES.iter().find(|family| family.names.contains(&name));
    family.ok_or_else(|| Error::Config(format!("unknown model {name:?}: known are {}", names())))
}
